//! A trained model with its frozen encoders, as the command line names it.

use std::path::{Path, PathBuf};

use super::device::{Local, device};
use super::error::Error;
use super::eval::load_config;
use crate::checkpoint::{Checkpoint, CheckpointError, RunDir};
use crate::config::{Config, Needs, Override};
use crate::encoders::Encoders;
use crate::eval::Embedder;
use crate::model::CmdModel;

/// Options that name it.
#[derive(Debug, clap::Args)]
pub(super) struct TrainedArgs {
    /// A run, a checkpoint's folder or its model.safetensors; by default the best checkpoint of the latest run.
    #[arg(long, value_name = "DIR_OR_FILE")]
    pub(super) checkpoint: Option<PathBuf>,
    /// Configuration with the encoders, and the data where a split is named; by default the run's own.
    #[arg(long, value_name = "CONFIG")]
    pub(super) data: Option<PathBuf>,
    /// Overrides a key of the configuration; relative paths start from the current folder. Repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Folder in which runs are kept.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
}

/// The model.
pub(super) struct Trained {
    pub(super) checkpoint: Checkpoint,
    pub(super) config: Config,
    pub(super) model: CmdModel,
    pub(super) encoders: Encoders,
}

impl TrainedArgs {
    /// Loads it; the fusion encoder too, if it is asked for and was trained.
    pub(super) fn load(&self, with_fusion: bool) -> Result<Trained, Error> {
        let overrides: Vec<Override> = self.overrides.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let device = device(&self.device, Local::ALONE)?;
        let named = self.checkpoint.as_deref().unwrap_or(Path::new("latest"));
        let (checkpoint, run) = RunDir::find(named, &self.output)?;
        let own = run.as_ref().map(|run| Config::load(&run.config(), &[], Needs::Encoders)).transpose()?;
        let config = match (&self.data, &run) {
            (Some(path), _) => load_config(path, &overrides, own.as_ref())?,
            (None, Some(run)) => Config::load(&run.config(), &overrides, Needs::Encoders)?,
            (None, None) => {
                let why = "this checkpoint lies in no run, so name a configuration with its encoders: --data CONFIG";
                return Err(CheckpointError::Missing { path: checkpoint.path().to_owned(), why: why.to_owned() }.into());
            }
        };
        let model = if with_fusion { checkpoint.load(device)? } else { checkpoint.load_for_inference(device)? };
        let encoders = Encoders::load(&config.encoders, device)?;
        checkpoint.check_encoders(&model, &encoders)?;
        Ok(Trained { checkpoint, config, model, encoders })
    }
}

impl Trained {
    /// What makes embeddings with it.
    pub(super) fn embedder(&self) -> Embedder<'_> {
        Embedder::new(&self.encoders, &self.model, &self.config.features())
    }

    /// BLAKE3 of the checkpoint's weights and of both encoders: of everything that an embedding depends on beside its file.
    pub(super) fn fingerprint(&self) -> Result<String, Error> {
        let weights = std::fs::read(self.checkpoint.path()).map_err(Error::output(self.checkpoint.path()))?;
        let mut hash = blake3::Hasher::new();
        hash.update(blake3::hash(&weights).as_bytes());
        for fingerprint in [self.encoders.speech().fingerprint(), self.encoders.image().fingerprint()] {
            hash.update(fingerprint.as_bytes());
        }
        let encoders = &self.config.encoders;
        let how =
            format!("{:?} {:?} {}", encoders.speech.dtype, encoders.image.dtype, self.config.audio.eval_max_seconds);
        Ok(hash.update(how.as_bytes()).finalize().to_hex().to_string())
    }
}
