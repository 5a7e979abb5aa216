//! `[distributed]`.

use crate::{at_least, section};

section! {
    /// `[distributed]`: several processes.
    pub struct DistributedConfig {
        /// How long a process waits for the others, in seconds, at the start and in every step, before it gives up.
        Here, at_least(1) => timeout_seconds: i64 = 600;
    }
}
