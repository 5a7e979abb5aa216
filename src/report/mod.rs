//! What is told of runs to others: a page, and the card of a model.

mod audit;
mod card;
mod chart;
mod curves;
mod explained;
mod found;
mod gallery;
mod layers;
mod log;
mod page;
mod published;
mod queries;
mod results;
mod runs;
mod shade;
mod tables;

use std::path::PathBuf;

pub use card::{CardError, ModelCard};
pub use explained::{Explained, Neighbour, Seen, explained_page};
pub use found::{Asked, Query, found_page};
pub use gallery::Gallery;
pub use layers::layer_bars;
pub use log::{RunLog, Start, tell_apart, title};
pub use page::{Against, Page};
pub use results::{Row, read_results};
pub use shade::overlay;

use crate::data::DataError;
use crate::model::LibtorchError;

/// A report cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file of a run, or of results, cannot be read.
    #[error("{}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A picture cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// libtorch failed.
    #[error("report: libtorch failed: {0}")]
    Libtorch(#[from] LibtorchError),
    /// A curve cannot be drawn.
    #[error("{what}: cannot be drawn: {why}")]
    Chart {
        /// Of what.
        what: String,
        /// Why.
        why: String,
    },
}
