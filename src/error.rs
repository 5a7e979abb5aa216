//! What can go wrong in a command, and its exit status.

use std::path::PathBuf;

use crate::config::ConfigError;
use crate::data::DataError;
use crate::distributed::DistributedError;
use crate::encoders::EncoderError;
use crate::eval::RecallError;
use crate::model::OneImageOnly;
use crate::signals::Interrupted;
use crate::train::CheckpointError;

/// An error of a command; each says in one line what is wrong, where, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A data set, or a file of it.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Several processes.
    #[error(transparent)]
    Distributed(#[from] DistributedError),
    /// A frozen encoder.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Scores that cannot be ranked.
    #[error(transparent)]
    Recall(#[from] RecallError),
    /// A batch without donors.
    #[error(transparent)]
    OneImageOnly(#[from] OneImageOnly),
    /// A signal.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The command line, beyond what its parser sees.
    #[error("{0}")]
    Usage(String),
    /// Something cannot be written.
    #[error("{}: {source}", path.display())]
    Output {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The loss or the gradient is NaN or infinite.
    #[error(
        "step {step}: {what} is not finite; stopped before the update, the last checkpoint is good; the batch held {files}; a lower optim.lr may help"
    )]
    NotFinite {
        /// The update, counted from 1.
        step: u64,
        /// "the loss" or "the gradient".
        what: &'static str,
        /// Files of the batch.
        files: String,
    },
}

impl Error {
    /// 1 failed while running, 2 wrong usage or configuration, 3 not finite, 130 interrupted, 143 terminated.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::Checkpoint(_) => 2,
            Self::Data(error) => 1 + u8::from(error.is_usage()),
            Self::Distributed(DistributedError::Environment { .. }) => 2,
            Self::Distributed(DistributedError::Ended { status, .. }) => *status,
            Self::Distributed(_) => 1,
            Self::Encoder(EncoderError::Forward { .. }) => 1,
            Self::Encoder(_) => 2,
            Self::Output { .. } | Self::Recall(_) | Self::OneImageOnly(_) => 1,
            Self::NotFinite { .. } => 3,
            Self::Interrupted(signal) => signal.exit_status(),
        }
    }

    /// For `map_err` of writing `path`.
    pub fn output(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Output { path, source }
    }
}
