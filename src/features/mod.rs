//! Frozen features of a split, by one door ([`FeatureSource`]): made by the encoders when they are asked for, or kept in memory.
//!
//! What is kept is computed in groups that do not depend on the course of a run, so a resumed run has the same features to the bit.

mod memory;
mod source;

use std::path::PathBuf;

pub use source::{FeatureSource, Use};

use crate::data::{AudioConfig, DataConfig, DataError};
use crate::distributed::DistributedError;
use crate::encoders::{EncoderError, EncodersConfig};
use crate::model::LibtorchError;

/// How frozen features are come by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureConfig {
    /// How files are read.
    pub data: DataConfig,
    /// Lengths of audio.
    pub audio: AudioConfig,
    /// Sizes of forwards, and what is kept.
    pub encoders: EncodersConfig,
}

/// Features cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// A file cannot be read, and that counts as a failure.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A frozen encoder failed.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// A signal came to one of the processes, or one of them is gone.
    #[error(transparent)]
    Distributed(#[from] DistributedError),
    /// libtorch could not move or keep features.
    #[error("frozen features: {0}; if memory ran out, set encoders.speech.cache or encoders.image.cache to false")]
    Libtorch(#[from] LibtorchError),
    /// An utterance of which training uses random windows cannot be kept.
    #[error(
        "{}: {seconds:.1} s is longer than audio.max_seconds = {limit}, and random windows of it cannot be kept in memory; raise \
         audio.max_seconds or set encoders.speech.cache = false", path.display()
    )]
    TooLong {
        /// The utterance.
        path: PathBuf,
        /// Its length.
        seconds: f64,
        /// `audio.max_seconds`.
        limit: f64,
    },
}
