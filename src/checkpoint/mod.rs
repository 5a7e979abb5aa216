//! What a run leaves on the disk and goes on from: the bytes of a checkpoint, its state, the folder of a run, the lock on it.

mod bytes;
mod disk;
mod folder;
mod link;
mod lock;
mod run_dir;
mod state;

use std::path::PathBuf;

pub use disk::{stream_whole, write_whole};
pub use folder::{Checkpoint, Moments, Saved};
pub use lock::RunLock;
pub use run_dir::RunDir;
pub use state::{BestScore, Fingerprint, State};

/// A checkpoint or a run cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is none at the place that was named.
    #[error("{}: {why}", path.display())]
    Missing {
        /// The place.
        path: PathBuf,
        /// What was looked for.
        why: String,
    },
    /// It is damaged, or none at all.
    #[error("{}: not a checkpoint of this program: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It does not go with the encoders, the data or the configuration of this run.
    #[error("{}: {why}", path.display())]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// Both sides.
        why: String,
    },
    /// Not a name for a run.
    #[error("--name {name:?}: {why}; a run's name is one plain name of a folder, for instance flickr8k-1")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another process works on the run.
    #[error("{}: another process trains this run ({holder}); wait for it, stop it, or start another run", path.display())]
    Locked {
        /// The run.
        path: PathBuf,
        /// Who holds the lock.
        holder: String,
    },
    /// Something cannot be written.
    #[error("{}: {source}{}", path.display(), disk::advice(source))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl CheckpointError {
    /// For `map_err` of writing `path`.
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }
}
