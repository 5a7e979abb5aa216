//! What can go wrong in a command, and its exit status.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::data::DataError;
use crate::distributed::DistributedError;
use crate::encoders::EncoderError;
use crate::eval::{EvalError, RecallError, VectorsError};
use crate::features::FeatureError;
use crate::report::{CardError, ReportError};
use crate::search::SearchError;
use crate::serve::ServeError;
use crate::signals::Interrupted;
use crate::sweep::SweepError;
use crate::train::TrainError;

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
    /// Frozen features.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// An evaluation.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// Embeddings in files.
    #[error(transparent)]
    Vectors(#[from] VectorsError),
    /// A model's card.
    #[error(transparent)]
    Card(#[from] CardError),
    /// An index.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// A server.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A sweep.
    #[error(transparent)]
    Sweep(#[from] SweepError),
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
}

/// Failed while running.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// A loss or gradient that is not finite.
const NOT_FINITE: u8 = 3;

impl Error {
    /// 1 failed while running, 2 wrong usage or configuration, 3 not finite, 130 interrupted, 143 terminated, 129 hung up.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::Vectors(_) => USAGE,
            Self::Data(error) => of_data(error),
            Self::Distributed(error) => of_distributed(error),
            Self::Encoder(error) => of_encoder(error),
            Self::Feature(error) => of_feature(error),
            Self::Checkpoint(error) => of_checkpoint(error),
            Self::Train(error) => of_train(error),
            Self::Eval(error) => of_eval(error),
            Self::Sweep(error) => of_sweep(error),
            Self::Card(error) => of_card(error),
            Self::Report(error) => of_report(error),
            Self::Search(error) => of_search(error),
            Self::Serve(ServeError::Listen { .. }) => USAGE,
            Self::Serve(ServeError::Threads(_)) => FAILED,
            Self::Interrupted(signal) => signal.exit_status(),
            Self::Output { .. } => FAILED,
        }
    }

    /// For `map_err` of writing `path`.
    pub fn output(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Output { path, source }
    }
}

fn of_data(error: &DataError) -> u8 {
    if error.is_usage() { USAGE } else { FAILED }
}

fn of_distributed(error: &DistributedError) -> u8 {
    match error {
        DistributedError::Environment { .. } => USAGE,
        DistributedError::Ended { status, .. } => *status,
        DistributedError::Interrupted(signal) => signal.exit_status(),
        _ => FAILED,
    }
}

fn of_encoder(error: &EncoderError) -> u8 {
    if matches!(error, EncoderError::Forward { .. }) { FAILED } else { USAGE }
}

fn of_checkpoint(error: &CheckpointError) -> u8 {
    if matches!(error, CheckpointError::Write { .. }) { FAILED } else { USAGE }
}

fn of_feature(error: &FeatureError) -> u8 {
    match error {
        FeatureError::Data(error) => of_data(error),
        FeatureError::Encoder(error) => of_encoder(error),
        FeatureError::Distributed(error) => of_distributed(error),
        FeatureError::TooLong { .. } | FeatureError::Store(_) | FeatureError::NoRoom { .. } => USAGE,
        FeatureError::Libtorch(_) => FAILED,
    }
}

fn of_eval(error: &EvalError) -> u8 {
    match error {
        EvalError::Feature(error) => of_feature(error),
        EvalError::Distributed(error) => of_distributed(error),
        EvalError::NoFrames | EvalError::Texts { .. } => USAGE,
        EvalError::Recall(RecallError::NotFinite | RecallError::Empty) | EvalError::Libtorch(_) => FAILED,
    }
}

fn of_card(error: &CardError) -> u8 {
    match error {
        CardError::Checkpoint(error) => of_checkpoint(error),
        CardError::Results(error) => of_report(error),
        CardError::Write { .. } => FAILED,
    }
}

fn of_search(error: &SearchError) -> u8 {
    match error {
        SearchError::Missing { .. } | SearchError::Damaged { .. } => USAGE,
        SearchError::Write { .. } | SearchError::Graph { .. } => FAILED,
    }
}

fn of_report(error: &ReportError) -> u8 {
    match error {
        ReportError::Read { .. } => USAGE,
        ReportError::Data(error) => of_data(error),
        ReportError::Libtorch(_) | ReportError::Chart { .. } => FAILED,
    }
}

fn of_sweep(error: &SweepError) -> u8 {
    match error {
        SweepError::Plan { .. } => USAGE,
        SweepError::Train(error) => of_train(error),
        SweepError::Eval(error) => of_eval(error),
        SweepError::Feature(error) => of_feature(error),
        SweepError::Data(error) => of_data(error),
        SweepError::Checkpoint(error) => of_checkpoint(error),
        SweepError::Outcome { .. } => FAILED,
    }
}

fn of_train(error: &TrainError) -> u8 {
    match error {
        TrainError::Recipe(_) => USAGE,
        TrainError::Data(error) => of_data(error),
        TrainError::Feature(error) => of_feature(error),
        TrainError::Eval(error) => of_eval(error),
        TrainError::Checkpoint(error) => of_checkpoint(error),
        TrainError::Distributed(error) => of_distributed(error),
        TrainError::NotFinite { .. } => NOT_FINITE,
        TrainError::OneImageOnly
        | TrainError::Sink(_)
        | TrainError::Unreadable { .. }
        | TrainError::Libtorch { .. } => FAILED,
    }
}
