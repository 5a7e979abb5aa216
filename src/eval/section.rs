//! `[eval]`.

use crate::{Range, section};

section! {
    /// `[eval]`: evaluation during training.
    pub struct EvalConfig {
        /// Split that chooses the best checkpoint ("dev" and "val" mean the same where a data set has one of them).
        Fixed, Range::Any => split: String = "dev".to_owned();
    }
}
