//! Many trainings in one process: any keys over any values and seeds, on frozen features that are computed once. A run that is finished is
//! not repeated, one that was interrupted goes on.
//!
//! [`Plan`] (the file) gives settings; each with each seed is a [`Job`]; its [`Outcome`] lies in the run's folder; a [`Summary`] compares
//! settings with the first.

mod job;
mod outcome;
mod plan;
mod plot;
mod summary;

use std::path::PathBuf;

pub use job::{Job, Workplace};
pub use outcome::{Outcome, Scores};
pub use plan::{Plan, Setting};
pub use plot::plot;
pub use summary::{Difference, Figures, Row, Summary};

use crate::checkpoint::CheckpointError;
use crate::data::DataError;
use crate::eval::{EvalError, RecallError};
use crate::features::FeatureError;
use crate::train::TrainError;

impl SweepError {
    /// Whether it says that one run's numbers are not finite, which is a result of its own.
    #[must_use]
    pub fn is_not_finite(&self) -> bool {
        let broken = |error: &EvalError| matches!(error, EvalError::Recall(RecallError::NotFinite));
        match self {
            Self::Train(TrainError::NotFinite { .. }) => true,
            Self::Train(TrainError::Eval(error)) | Self::Eval(error) => broken(error),
            _ => false,
        }
    }
}

/// A sweep cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Its file is not as it should be.
    #[error("{}: {why}", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// An evaluation.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// Frozen features.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// A data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A run's folder.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What an earlier sweep left of a run is damaged.
    #[error("{}: {why}; remove it, or name another folder with --output", path.display())]
    Outcome {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}
