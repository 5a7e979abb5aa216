//! Standing indices of sounds and pictures, and queries to them.

mod graph;
mod index;
mod linking;
mod update;
mod vectors;

use std::path::PathBuf;

pub use graph::{GraphConfig, GraphHead};
pub use index::{Entry, Hit, Index};
pub use update::{Plan, Update};
pub use vectors::Rows;

/// Rows of a graph that a query looks at, if nothing else is said.
pub const EFFORT: usize = 256;

/// An index cannot be made, read or asked.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// There is none.
    #[error("{}: no index; make it with cmd search index FOLDER --out {}", path.display(), path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file of it is not what it should be.
    #[error("{}: {why}; make the index again with cmd search index", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The graph of neighbours failed.
    #[error("the graph of neighbours failed: {why}; ask with --exact, or make the index again with cmd search index")]
    Graph {
        /// Why.
        why: String,
    },
    /// It cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
