//! What a person sees while the program works, log lines and progress on standard error and TensorBoard's event files; and what the machine
//! has to work with.

mod event_file;
mod log;
mod machine;
mod once;
mod progress;

pub use event_file::EventFile;
pub use log::{Profile, start_logging};
pub use machine::{existing, free_disk, free_memory, keep_memory, peak_memory, processor_features, whole_memory};
pub use once::warn_once;
pub use progress::Progress;
