//! Training (Section 3.1): a session composes it, the loop makes updates, a step is the gradient of one batch.

mod adam;
mod agree;
mod average;
mod bank;
mod captions;
mod dry_run;
mod feed;
mod figures;
mod finite;
mod metrics;
mod ready;
mod recipe;
mod schedule;
mod section;
mod session;
mod sinks;
pub mod step;
mod tensorboard;
mod updates;

pub use adam::{Adam, AdamSettings};
pub use dry_run::DryRun;
pub use metrics::Metrics;
pub use recipe::{Identity, Recipe};
pub use schedule::Schedule;
pub use section::{
    CmdConfig, CmdTemperature, FusionConfig, FusionStart, Head, ImageBank, InitFusion, KeywordLayer, KeywordVocabulary,
    LogConfig, LossConfig, MixedData, NoiseConfig, OnNan, OptimConfig, SpeechConfig, TrainConfig,
};
pub use session::Session;
pub use sinks::{Sink, SinkError, TrainRecord};
pub use tensorboard::TensorBoard;

use crate::checkpoint::CheckpointError;
use crate::data::DataError;
use crate::distributed::DistributedError;
use crate::eval::EvalError;
use crate::features::FeatureError;
use crate::model::LibtorchError;

/// A training cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Settings, data, encoders and processes do not go together.
    #[error("{0}")]
    Recipe(String),
    /// A data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No batch has donors.
    #[error(
        "a training batch holds a single image, so cross-modal denoising finds no donor patches: raise train.batch_size, train on \
         more images, or turn denoising off with cmd.alpha = 0"
    )]
    OneImageOnly,
    /// Frozen features.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// An evaluation.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Figures cannot be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Another process is gone, or a signal came.
    #[error(transparent)]
    Distributed(#[from] DistributedError),
    /// libtorch failed within an update, for instance for want of memory.
    #[error("step {step}: libtorch failed: {error}{}", memory_advice(error))]
    Libtorch {
        /// The update, counted from 1.
        step: u64,
        /// What libtorch says.
        error: LibtorchError,
    },
    /// Too much of the training split cannot be read.
    #[error(
        "{count} of {of} training utterances cannot be read, more than data.max_unreadable = {most}: run `cmd data check` on the data set, \
         or raise data.max_unreadable"
    )]
    Unreadable {
        /// Distinct utterances that could not be read since training began or went on.
        count: usize,
        /// All of them.
        of: usize,
        /// `data.max_unreadable`.
        most: f64,
    },
    /// The loss or the gradient is NaN or infinite.
    #[error(
        "step {step}: {what} is not finite ({rows}); stopped before the update, the last checkpoint is good; a lower optim.lr may help, \
         or {or}"
    )]
    NotFinite {
        /// The update, counted from 1.
        step: u64,
        /// "the loss" or "the gradient".
        what: &'static str,
        /// The rows of the batch that are to blame.
        rows: String,
        /// What else may help.
        or: String,
    },
}

fn memory_advice(error: &LibtorchError) -> &'static str {
    if error.is_out_of_memory() {
        "; go on with --resume and a lower audio.max_seconds or encoders.speech.batch_size, or with more processes (--nproc), which \
         share train.batch_size out"
    } else {
        ""
    }
}
