//! Retrieval.

mod recall;

pub use recall::{Direction, Intervals, Mean, RecallError, Recalls, Similarities};
