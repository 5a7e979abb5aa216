//! A training tried out: everything that can fail fails now, and nothing is written.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::ready::Window;
use super::{Session, TrainError};
use crate::data::Split;
use crate::encoders::Cache;
use crate::eval::EvalSet;
use crate::features::{FeatureError, FeatureSource, StoreError, Use, cache_folder, hidden_bytes, image_bytes};
use crate::telemetry::{existing, free_disk, free_memory, peak_memory};

/// Images of the development split that are evaluated.
const IMAGES: usize = 8;

/// What a dry run found.
#[derive(Clone, Debug, PartialEq)]
pub struct DryRun {
    /// Trained parameters.
    pub parameters: i64,
    /// Images and utterances of the training split.
    pub training: (usize, usize),
    /// Of the development split.
    pub development: (usize, usize),
    /// L of the first batch; NaN where that batch is passed over.
    pub loss: f64,
    /// Seconds for reading and encoding that batch, the first of its kind, its gradient and the update.
    pub step_seconds: f64,
    /// Bytes of all checkpoints that are kept while a new one is written.
    pub checkpoint_bytes: u64,
    /// Bytes free for them, where the system tells.
    pub free_bytes: Option<u64>,
    /// Bytes of the features that are kept in the memory of this machine.
    pub cache_bytes: u64,
    /// Bytes of the features that are kept on disk, with those that are there already.
    pub disk_bytes: u64,
    /// Bytes free for them, where the system tells.
    pub free_disk: Option<u64>,
    /// Bytes of memory that are free, where the system tells.
    pub free_memory: Option<u64>,
    /// The largest memory of this process so far.
    pub peak_memory: Option<u64>,
}

impl Session<'_> {
    /// Checks what a run whose checkpoints go below `output` needs: data, headers of the development split, room on the disk and in
    /// memory, one update, one small evaluation.
    ///
    /// # Errors
    /// Those that the run would have had.
    pub fn dry_run(&mut self, output: &Path) -> Result<DryRun, TrainError> {
        self.catching(|session| session.try_dry_run(output))
    }

    fn try_dry_run(&mut self, output: &Path) -> Result<DryRun, TrainError> {
        let (cache_bytes, disk_bytes) = (self.cache_bytes(Cache::Memory), self.cache_bytes(Cache::Disk));
        let store = existing(&cache_folder(&self.recipe.features.data)).to_owned();
        check_folder(&store, disk_bytes)?;
        // Nothing is written: what a run would keep on disk is made anew here.
        let encoders = &mut self.recipe.features.encoders;
        if encoders.image.cache == Cache::Disk {
            encoders.image.cache = Cache::None;
        }
        if encoders.speech.cache == Cache::Disk {
            encoders.speech.cache = Cache::Memory;
        }
        self.prepare()?;
        self.check_disk(output);
        self.check_memory();
        let source =
            FeatureSource::new(self.encoders, &self.split, &self.recipe.features, Use::Training, self.crew, None)?;
        source.check_kept()?;
        let begun = Instant::now();
        let step = self.state.step;
        let mut feed = self.feed(&source, step..step + 1);
        let ready = self.ready(step, &mut feed, &source, &mut Window::new())?;
        let gradient = self.taught(&ready, self.recipe.loss.distill)?;
        let figures = self.update(&ready, &gradient)?;
        let step_seconds = begun.elapsed().as_secs_f64();

        let few = Arc::new(self.dev_split.head(IMAGES));
        let mut set = EvalSet::new(&few, self.encoders, &self.recipe.features, self.crew, None)?;
        let embeddings = set.embed(self.model())?;
        set.rank(&embeddings)?;
        Ok(DryRun {
            parameters: self.model.parameters().count(),
            training: (self.split.images.len(), self.split.utterances.len()),
            development: (self.dev_split.images.len(), self.dev_split.utterances.len()),
            loss: figures.map_or(f64::NAN, |figures| figures.loss),
            step_seconds,
            checkpoint_bytes: self.kept_bytes(),
            free_bytes: free_disk(output),
            cache_bytes,
            disk_bytes,
            free_disk: free_disk(&store),
            free_memory: free_memory(),
            peak_memory: peak_memory(),
        })
    }

    /// Warns where what is kept in memory is more than there is.
    pub(super) fn check_memory(&self) {
        let (needed, free) = (self.cache_bytes(Cache::Memory), free_memory());
        if let Some(free) = free.filter(|free| *free < needed && self.crew.world.is_first()) {
            tracing::warn!(
                "encoders.*.cache will take some {:.1} GB of memory, {:.1} GB are free",
                needed as f64 / 1e9,
                free as f64 / 1e9
            );
        }
    }

    /// What the features that are kept in `place` take on this machine: of memory, each process has those of all training data, and its
    /// share of the hidden states of the development split; of a disk, all have the same.
    fn cache_bytes(&self, place: Cache) -> u64 {
        let (config, world) = (&self.recipe.features, self.crew.world);
        let in_memory = (world.here() as u64, world.size() as u64);
        let (here, all) = if place == Cache::Memory { in_memory } else { (1, 1) };
        let mut bytes = 0;
        if config.encoders.image.cache == place {
            // Of the development split evaluation keeps them on disk only.
            let development = if place == Cache::Disk { self.dev_split.images.len() } else { 0 };
            bytes += here * image_bytes(self.encoders, self.split.images.len() + development);
        }
        if config.encoders.speech.cache == place {
            let of = |split: &Split, seconds: f64| hidden_bytes(self.encoders, split, split.utterances.len(), seconds);
            bytes += here * of(&self.split, config.audio.max_seconds);
            bytes += here * of(&self.dev_split, config.audio.eval_max_seconds) / all;
        }
        bytes
    }
}

/// An error where features are to be kept below `there`, which is no folder or cannot be written.
fn check_folder(there: &Path, bytes: u64) -> Result<(), FeatureError> {
    let is_writable = || rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok();
    if bytes == 0 || (there.is_dir() && is_writable()) {
        return Ok(());
    }
    let source = std::io::Error::other("no folder that can be written");
    Err(StoreError::Files { path: there.to_owned(), source }.into())
}

impl fmt::Display for DryRun {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let giga = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
        let of = |free: Option<u64>| free.map_or_else(String::new, |free| format!(", {} free", giga(free)));
        let (images, utterances) = self.training;
        writeln!(out, "training       {images} images, {utterances} utterances")?;
        let (images, utterances) = self.development;
        writeln!(out, "development    {images} images, {utterances} utterances, every header read")?;
        writeln!(out, "parameters     {}", self.parameters)?;
        writeln!(
            out,
            "first step     loss {:.4}, {:.2} s (reading, encoders, gradient, update)",
            self.loss, self.step_seconds
        )?;
        writeln!(out, "evaluation     of a few images works")?;
        writeln!(out, "checkpoints    {}{}", giga(self.checkpoint_bytes), of(self.free_bytes))?;
        writeln!(out, "kept features  {} of memory{}", giga(self.cache_bytes), of(self.free_memory))?;
        if self.disk_bytes > 0 {
            writeln!(out, "kept on disk   {}{}", giga(self.disk_bytes), of(self.free_disk))?;
        }
        if let Some(peak) = self.peak_memory {
            writeln!(out, "peak memory    {} so far", giga(peak))?;
        }
        writeln!(out, "nothing was written")
    }
}
