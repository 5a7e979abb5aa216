//! What a person sees while the program works: log lines and progress, both on standard error.

mod log;
mod once;
mod progress;

pub use log::start_logging;
pub use once::warn_once;
pub use progress::Progress;
