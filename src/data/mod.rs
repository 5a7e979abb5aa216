//! From files to batches: a data set's index, audio and images, the order of training, and threads that read ahead.

mod audio;
mod audit;
mod batch;
mod budget;
mod builder;
mod copies;
mod dataset;
mod files;
mod groups;
mod guard;
mod kept;
mod kinds;
mod order;
mod picture;
mod prefetch;
mod section;
mod tensors;

use std::path::PathBuf;

pub use audio::{Audio, Clip, Header, Recording};
pub use audit::{Audit, BadFile, SplitCounts};
pub use batch::{Batch, BatchPlan, Given, KnownSpeech, Replaced, Rows, TrainingBatches};
pub use dataset::{Dataset, Image, Part, Skipped, Split, Utterance};
pub use files::{Content, Medium, files_below, stamp};
pub use groups::{GroupReader, Weight};
pub use kept::{Bytes, Kept, Row};
pub use kinds::{IndexText, read_text, write_manifest};
pub use order::{Order, Position};
pub use picture::{Picture, PictureForm};
pub use prefetch::{Ahead, Groups, Next, Prefetch, has_stuck_reader};
pub use section::{AudioConfig, DataConfig, DataKind, OnError};
pub use tensors::{AudioForm, Pixels, Waveforms, stack_images, stack_speech};

/// A data set, or a file of one, cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be opened or read.
    #[error("{}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// An audio file or image is broken or of a kind that is not read.
    #[error("{}: {why}", path.display())]
    Sample {
        /// The file.
        path: PathBuf,
        /// What is wrong and how to mend it.
        why: String,
    },
    /// A line of an index is not as it should be.
    #[error("{}:{line}: {why}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong and what would be right.
        why: String,
    },
    /// No such split.
    #[error("{}: no split {split}; it has {}", path.display(), if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    NoSplit {
        /// The index.
        path: PathBuf,
        /// The split that was asked for.
        split: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A split without captions.
    #[error("{}: split {split} has no captions, so there is nothing to retrieve", path.display())]
    EmptySplit {
        /// The index.
        path: PathBuf,
        /// The split.
        split: String,
    },
    /// So many samples are bad that no batch can be filled.
    #[error("no readable sample was found in {tries} draws; the last was {last}; run `cmd data check` on the data set")]
    NothingReadable {
        /// Draws made.
        tries: usize,
        /// The last error.
        last: Box<DataError>,
    },
}

impl DataError {
    /// What is wrong, without the file's name.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Self::Unreadable { why, .. } | Self::Sample { why, .. } | Self::Index { why, .. } => why.clone(),
            other => other.to_string(),
        }
    }

    /// Whether the index itself is at fault, rather than a sample in it.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Unreadable { .. } | Self::Index { .. } | Self::NoSplit { .. } | Self::EmptySplit { .. })
    }
}
