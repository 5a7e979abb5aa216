//! Retrieval: embeddings of a split, recalls in both directions, tables and pictures. The fusion encoder exists for re-ranking alone.

mod attention;
mod breakdown;
mod compare;
mod embedder;
mod embeddings;
mod examples;
mod exports;
mod forms;
mod growing;
mod interval;
mod keywords;
mod look;
mod mteb;
mod nearest;
mod picture;
mod querybank;
mod ranks;
mod recall;
mod rerank;
mod result;
mod section;
mod sheet;
mod table;
mod texts;
mod vectors;

pub use attention::{Attention, attend};
pub use breakdown::{Breakdown, Grouping};
pub use compare::{Comparison, Difference, Differences};
pub use embedder::Embedder;
pub use embeddings::{Embeddings, EvalSet};
pub use examples::spread;
pub use exports::{export_ranks, export_trec};
pub use forms::{Form, json_line, npy_header};
pub use growing::{Embedded, Growing};
pub use interval::percentile_interval;
pub use keywords::{Heard, Keyword};
pub use look::{Look, LookPart};
pub use mteb::export_mteb;
pub use nearest::{nearest, nearest_to};
pub use picture::retrieval_picture;
pub use querybank::{BETA, QueryBank};
pub use ranks::{Ranks, Similarities};
pub use recall::{Direction, Intervals, Mean, RecallError, Recalls};
pub use rerank::Reranking;
pub use result::{InFamily, Protocol, SplitResult};
pub use section::EvalConfig;
pub use sheet::RetrievalSheet;
pub use table::table;
pub use texts::Texts;
pub use vectors::{Score, Vectors, VectorsError};

use crate::data::DataError;
use crate::distributed::DistributedError;
use crate::features::FeatureError;
use crate::model::LibtorchError;

/// A split cannot be embedded or ranked.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// Its frozen features cannot be had.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// Another process is gone, or a signal came.
    #[error(transparent)]
    Distributed(#[from] DistributedError),
    /// Its scores cannot be ranked.
    #[error(transparent)]
    Recall(#[from] RecallError),
    /// libtorch failed.
    #[error("evaluation: libtorch failed: {error}{advice}", error = .0, advice = memory_advice(.0))]
    Libtorch(#[from] LibtorchError),
    /// Frames were asked for of a head that gives none.
    #[error("a cascaded head gives keywords and no frames: ask for its embeddings without frames")]
    NoFrames,
    /// Words are missing that queries are to be made of.
    #[error("{what}: {why}")]
    Texts {
        /// What asked for them.
        what: String,
        /// What is missing.
        why: String,
    },
}

fn memory_advice(error: &LibtorchError) -> &'static str {
    if error.is_out_of_memory() { "; lower encoders.speech.batch_size or audio.eval_max_seconds" } else { "" }
}

impl From<DataError> for EvalError {
    fn from(error: DataError) -> Self {
        Self::Feature(error.into())
    }
}
