//! Several processes that train one model: PyTorch's own collectives (c10d), who takes part, and a launcher.

mod c10d;
mod crew;
mod launch;
mod rank;
mod section;
mod world;

pub use c10d::nccl_versions;
pub use crew::Crew;
pub use launch::{Nodes, launch};
pub use rank::Rank;
pub use section::{Backend, DistributedConfig};
pub use world::World;

use crate::signals::Interrupted;

/// Processes cannot work together.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DistributedError {
    /// The environment names no valid place in a group.
    #[error("{name}={value}: {why}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// The group cannot be formed.
    #[error("rank {rank} of {size} cannot join the others at {address} within {seconds} s: {why}")]
    Join {
        /// This process.
        rank: usize,
        /// All processes.
        size: usize,
        /// Where they meet.
        address: String,
        /// Time that was waited.
        seconds: u64,
        /// libtorch's reason.
        why: String,
    },
    /// A collective failed: usually another process is gone.
    #[error("rank {rank} lost the others in {what}: {why}")]
    Lost {
        /// This process.
        rank: usize,
        /// The collective.
        what: &'static str,
        /// libtorch's reason.
        why: String,
    },
    /// The processes do not run the same thing.
    #[error(
        "rank {rank} has another {what} than rank 0; start all processes with the same configuration, data and encoders"
    )]
    Differs {
        /// This process.
        rank: usize,
        /// What differs.
        what: &'static str,
    },
    /// A process that was launched ended.
    #[error("rank {rank} {how}; the others were stopped")]
    Ended {
        /// The process.
        rank: usize,
        /// "was killed by signal 9", "ended with status 1".
        how: String,
        /// Its exit status, 1 after a signal.
        status: u8,
    },
    /// Processes cannot be started or waited for.
    #[error("{what}: {why}")]
    Launch {
        /// The program or process.
        what: String,
        /// Why.
        why: String,
    },
    /// A signal came to one of the processes.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}
