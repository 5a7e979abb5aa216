//! Retrieval: embeddings of a split, recalls in both directions, tables and pictures. The fusion encoder does not exist here.

mod embeddings;
mod picture;
mod recall;
mod result;
mod table;

pub use embeddings::{Embeddings, EvalSet};
pub use picture::retrieval_picture;
pub use recall::{Direction, Intervals, Mean, RecallError, Recalls, Similarities};
pub use result::{InFamily, SplitResult};
pub use table::table;
