//! Frozen features of a split, by one door ([`FeatureSource`]): made by the encoders when they are asked for, kept in memory or on disk.
//!
//! An image's features do not depend on the others of its batch. Hidden states do, by rounding, through the padding: those that are kept are
//! computed in groups that do not depend on the course of a run, so a resumed one has the same features to the bit.

mod entry;
mod forwards;
mod kept;
mod memory;
mod on_disk;
mod room;
mod sent;
mod source;
mod store;
mod whole;

use std::path::PathBuf;

pub use forwards::Forwards;
pub use kept::cache_folder;
pub use memory::Pool;
pub use on_disk::OnDisk;
pub use room::{hidden_bytes, image_bytes};
pub use sent::{send, to_device};
pub use source::{FeatureSource, Use};
pub use store::StoreError;

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

impl FeatureConfig {
    /// Samples of one forward of a speech encoder that takes `rate` a second, with the padding: as many as a full one of training has.
    #[must_use]
    pub fn most_samples(&self, rate: u32) -> i64 {
        self.encoders.speech.batch_size * (self.audio.max_seconds * f64::from(rate)).ceil() as i64
    }
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
    /// The folder of features that are kept on disk cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no room for them.
    #[error(
        "{}: {what} take some {needed:.1} GB and {free:.1} GB are free; name another folder with data.cache_dir, or set encoders.*.cache = \
         \"none\"", path.display()
    )]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// Which.
        what: String,
        /// What they take, in GB.
        needed: f64,
        /// What is free, in GB.
        free: f64,
    },
    /// libtorch could not move or keep features.
    #[error("frozen features: {0}; if memory ran out, set encoders.speech.cache or encoders.image.cache to \"none\"")]
    Libtorch(#[from] LibtorchError),
    /// An utterance of which training uses random windows cannot be kept.
    #[error(
        "{}: {seconds:.1} s is longer than audio.max_seconds = {limit}, and random windows of it cannot be kept; raise \
         audio.max_seconds or set encoders.speech.cache = \"none\"", path.display()
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
