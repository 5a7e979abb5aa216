//! A trained model with its frozen encoders, as the command line names it.

use std::path::{Path, PathBuf};

use tch::Device;

use super::device::{Local, device};
use super::error::Error;
use super::eval::load_config;
use crate::checkpoint::{Checkpoint, CheckpointError, RunDir};
use crate::config::{Config, ConfigError, Needs, Override};
use crate::data::{Content, GroupReader, Medium, OnError, Weight, stamp};
use crate::encoders::{Encoders, TextEncoder};
use crate::eval::{Embedded, Embedder};
use crate::model::CmdModel;
use crate::search::Index;
use crate::telemetry::warn_once;

/// Which checkpoint, where.
#[derive(Debug, clap::Args)]
pub(super) struct ModelArgs {
    /// A run, a checkpoint's folder or its model.safetensors; by default the best checkpoint of the latest run.
    #[arg(long, value_name = "DIR_OR_FILE")]
    pub(super) checkpoint: Option<PathBuf>,
    /// Overrides a key of the configuration; relative paths start from the current folder. Repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Folder in which runs are kept.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub(super) output: PathBuf,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
}

impl ModelArgs {
    pub(super) fn overrides(&self) -> Result<Vec<Override>, ConfigError> {
        self.overrides.iter().map(|text| text.parse()).collect()
    }

    pub(super) fn device(&self) -> Result<Device, Error> {
        device(&self.device, Local::ALONE)
    }

    /// The checkpoint, by default the one that `known` names, and its run.
    pub(super) fn find(&self, known: Option<&Path>) -> Result<(Checkpoint, Option<RunDir>), CheckpointError> {
        RunDir::find(self.checkpoint.as_deref().or(known).unwrap_or(Path::new("latest")), &self.output)
    }
}

/// Options that name a model with its encoders.
#[derive(Debug, clap::Args)]
pub(super) struct TrainedArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Configuration with the encoders, and the data where a split is named; by default the run's own.
    #[arg(long, value_name = "CONFIG")]
    data: Option<PathBuf>,
}

/// Files that are embedded at once, and behind which a run that was stopped goes on.
const GROUP: usize = 64;

/// How files are embedded.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// With their frames.
    pub(super) frames: bool,
    /// Without those that cannot be read.
    pub(super) skips: bool,
}

/// A file that was read.
struct Taken {
    stamp: (u64, u64),
    /// Or why it is left out.
    content: Result<Content, String>,
}

impl Weight for Taken {
    fn weight(&self) -> usize {
        self.content.as_ref().map_or(0, Weight::weight)
    }
}

/// The model.
pub(super) struct Trained {
    pub(super) checkpoint: Checkpoint,
    pub(super) config: Config,
    pub(super) model: CmdModel,
    pub(super) encoders: Encoders,
}

impl TrainedArgs {
    /// Folder in which runs are kept.
    pub(super) fn output(&self) -> &Path {
        &self.model.output
    }

    /// Loads it, by default the one that `known` names.
    pub(super) fn load(&self, known: Option<&Path>) -> Result<Trained, Error> {
        let (overrides, device) = (self.model.overrides()?, self.model.device()?);
        let (checkpoint, run) = self.model.find(known)?;
        let own = run.as_ref().map(|run| Config::load(&run.config(), &[], Needs::Encoders)).transpose()?;
        let config = match (&self.data, &run) {
            (Some(path), _) => load_config(path, &overrides, own.as_ref())?,
            (None, Some(run)) => Config::load(&run.config(), &overrides, Needs::Encoders)?,
            (None, None) => {
                let why = "this checkpoint lies in no run, so name a configuration with its encoders: --data CONFIG";
                return Err(CheckpointError::Missing { path: checkpoint.path().to_owned(), why: why.to_owned() }.into());
            }
        };
        let mut model = checkpoint.load(device)?;
        let encoders = Encoders::load(&config.encoders, device)?;
        checkpoint.connect(&mut model, &encoders)?;
        Ok(Trained { checkpoint, config, model, encoders })
    }
}

impl Trained {
    /// The name of its run, or else of its file.
    pub(super) fn name(&self) -> String {
        name_of_run(self.checkpoint.path())
    }

    /// What makes embeddings with it.
    pub(super) fn embedder(&self) -> Embedder<'_> {
        Embedder::new(&self.encoders, &self.model, &self.config.features())
    }

    /// Checks that this model made the vectors of `index` in `folder`.
    pub(super) fn check_index(&self, index: &Index, folder: &Path) -> Result<(), Error> {
        if self.fingerprint()? == index.model() {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "{}: its vectors were made with another model or other encoders than {}; name the one with --checkpoint, or run cmd search index again",
            folder.display(),
            self.checkpoint.path().display()
        )))
    }

    /// BLAKE3 of the checkpoint's weights and of the encoders: of everything that an embedding depends on beside its file.
    pub(super) fn fingerprint(&self) -> Result<String, Error> {
        let weights = std::fs::read(self.checkpoint.path()).map_err(Error::output(self.checkpoint.path()))?;
        let mut hash = blake3::Hasher::new();
        hash.update(blake3::hash(&weights).as_bytes());
        let hears_keywords = self.model.speech().cascade().is_some();
        let text = hears_keywords.then(|| self.encoders.text("a cascaded head")).transpose()?;
        let fingerprints = [self.encoders.speech().fingerprint(), self.encoders.image().fingerprint()];
        for fingerprint in fingerprints.into_iter().chain(text.map(TextEncoder::fingerprint)) {
            hash.update(fingerprint.as_bytes());
        }
        let encoders = &self.config.encoders;
        let (seconds, megapixels) = (self.config.audio.eval_max_seconds, self.config.data.max_megapixels);
        let mut how = format!("{:?} {:?} {seconds} {megapixels}", encoders.speech.dtype, encoders.image.dtype);
        if hears_keywords {
            how += &format!(" {:?}", encoders.text.dtype);
        }
        Ok(hash.update(how.as_bytes()).finalize().to_hex().to_string())
    }

    /// Embeds `files` from the one at `done` on, and hands what was made of each group to `put`.
    pub(super) fn embed(
        &self,
        files: &[(PathBuf, Medium)],
        done: usize,
        how: How,
        mut put: impl FnMut(Vec<(Embedded, Vec<f32>)>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let embedder = self.embedder();
        let (audio, pictures, width) = (embedder.audio_form(), embedder.picture_form(), embedder.width());
        let all = files.to_vec();
        // What may be left out is read as the reason why it cannot be.
        let read = move |index: usize| {
            let (path, medium) = &all[index];
            // Of before: what is changed meanwhile is read again the next time.
            let stamp = stamp(path);
            let content = match Content::read(path, *medium, audio, pictures) {
                Err(error) if how.skips => {
                    warn_once(format!("skipped: {error}"));
                    Err(error.why())
                }
                content => Ok(content?),
            };
            Ok(Taken { stamp, content })
        };
        let indices: Vec<usize> = (done..files.len()).collect();
        let groups = indices.chunks(GROUP).map(<[usize]>::to_vec).collect();
        let reader = GroupReader { data: &self.config.data, on_error: OnError::Fail, is_stopped: &|| false };
        let agree = || Ok::<(), Error>(());
        reader.for_each(("embedding", "files"), groups, read, &agree, |group: &[(usize, Taken)]| {
            let contents: Vec<&Content> = group.iter().filter_map(|(_, taken)| taken.content.as_ref().ok()).collect();
            let mut rows = embedder.rows(&contents, how.frames)?.into_iter();
            let embedded = group.iter().map(|(index, Taken { stamp: (bytes, modified), content })| {
                let (file, medium) = files[*index].clone();
                let skipped = content.as_ref().err().cloned();
                let rows = if skipped.is_none() { rows.next().unwrap_or_default() } else { Vec::new() };
                let (bytes, modified) = (*bytes, *modified);
                (Embedded { file, medium, rows: rows.len() / width, bytes, modified, skipped }, rows)
            });
            put(embedded.collect())
        })?;
        Ok(())
    }
}

/// The name of the run that `checkpoint` lies in, or else its own.
pub(super) fn name_of_run(checkpoint: &Path) -> String {
    let run = checkpoint.ancestors().find(|folder| RunDir::is_run(folder)).unwrap_or(checkpoint);
    let run = std::fs::canonicalize(run).unwrap_or_else(|_| run.to_owned());
    run.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
