//! A training tried out: everything that can fail fails now, and nothing is written.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::{Session, TrainError};
use crate::checkpoint::free_bytes;
use crate::data::{Header, Split};
use crate::eval::EvalSet;
use crate::features::{FeatureSource, Use};

/// Images of the development split that are evaluated.
const IMAGES: usize = 8;
/// Utterances whose headers tell the mean length.
const MEASURED: usize = 200;

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
        self.prepare()?;
        self.check_disk(output);
        self.check_memory();
        let source = FeatureSource::new(self.encoders, &self.split, &self.recipe.features, Use::Training, self.crew);
        source.check_kept()?;
        let begun = Instant::now();
        let step = self.state.step;
        let batch = self.batches(&source, step..step + 1).next().transpose()?;
        let batch = batch.ok_or_else(|| TrainError::Recipe("there is no step left to make".to_owned()))?;
        let news = self.exchange(Some(&batch))?;
        let update = self.update(batch, &news, &source)?;
        let step_seconds = begun.elapsed().as_secs_f64();

        let few = Arc::new(self.dev_split.head(IMAGES));
        let mut set = EvalSet::new(&few, self.encoders, &self.recipe.features, self.crew)?;
        let embeddings = set.embed(&self.model)?;
        set.rank(&embeddings)?;
        Ok(DryRun {
            parameters: self.model.parameters().count(),
            training: (self.split.images.len(), self.split.utterances.len()),
            development: (self.dev_split.images.len(), self.dev_split.utterances.len()),
            loss: update.map_or(f64::NAN, |update| update.loss),
            step_seconds,
            checkpoint_bytes: self.kept_bytes(),
            free_bytes: free_bytes(output),
            cache_bytes: self.cache_bytes(),
            free_memory: proc_bytes("/proc/meminfo", "MemAvailable:"),
            peak_memory: proc_bytes("/proc/self/status", "VmHWM:"),
        })
    }

    /// Warns where what is kept in memory is more than there is.
    pub(super) fn check_memory(&self) {
        let (needed, free) = (self.cache_bytes(), proc_bytes("/proc/meminfo", "MemAvailable:"));
        if let Some(free) = free.filter(|free| *free < needed && self.crew.world.is_first()) {
            tracing::warn!(
                "encoders.*.cache will take some {:.1} GB of memory, {:.1} GB are free",
                needed as f64 / 1e9,
                free as f64 / 1e9
            );
        }
    }

    /// Memory that `encoders.*.cache` takes on this machine, from the mean length of some utterances: each process keeps the features of
    /// all training data, and its share of the hidden states of the development split.
    fn cache_bytes(&self) -> u64 {
        let (encoders, world) = (&self.recipe.features.encoders, self.crew.world);
        let (here, all) = (world.here() as u64, world.size() as u64);
        let mut bytes = 0;
        if encoders.image.cache {
            let spec = self.encoders.image().spec();
            bytes += here * self.split.images.len() as u64 * ((1 + spec.patches()) * spec.width) as u64 * 4;
        }
        if encoders.speech.cache {
            let audio = &self.recipe.features.audio;
            bytes += here * self.hidden_bytes(&self.split, audio.max_seconds);
            bytes += here * self.hidden_bytes(&self.dev_split, audio.eval_max_seconds) / all;
        }
        bytes
    }

    /// Bytes of the hidden states of `split`, of which at most `limit` seconds each count.
    fn hidden_bytes(&self, split: &Split, limit: f64) -> u64 {
        let (spec, utterances) = (self.encoders.speech().spec(), &split.utterances);
        let every = utterances.len().div_ceil(MEASURED).max(1);
        let headers = utterances.iter().step_by(every).filter_map(|utterance| Header::read(&utterance.audio).ok());
        let seconds: Vec<f64> = headers.filter_map(|header| Some(header.seconds()?.min(limit))).collect();
        let mean = seconds.iter().sum::<f64>() / seconds.len().max(1) as f64;
        let frames = mean * spec.sample_rate as f64 / spec.hop as f64;
        (utterances.len() as f64 * frames * (4 * spec.layers * spec.width) as f64) as u64
    }
}

/// A line of one of the kernel's tables, which counts in kB.
fn proc_bytes(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(1024 * line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?)
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
        if let Some(peak) = self.peak_memory {
            writeln!(out, "peak memory    {} so far", giga(peak))?;
        }
        writeln!(out, "nothing was written")
    }
}
