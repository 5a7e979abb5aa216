//! What a person sees while the program works: log lines and progress, both on standard error.

mod log;
mod progress;

pub use log::start_logging;
pub use progress::Progress;
