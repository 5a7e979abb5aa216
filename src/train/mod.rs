//! Training (Section 3.1): the loop, Adam and its schedule, what a run leaves on the disk.

mod adam;
mod checkpoint;
mod features;
mod metrics;
mod run_dir;
mod schedule;
mod trainer;

pub use adam::{Adam, AdamSettings};
pub use checkpoint::{Best, Checkpoint, CheckpointError, Source, State};
pub use features::FeatureSource;
pub use metrics::{Metrics, TrainRecord};
pub use run_dir::RunDir;
pub use schedule::Schedule;
pub use trainer::Trainer;
