//! `[distributed]`.

use serde::{Deserialize, Serialize};

use crate::{Range, at_least, section};

/// What carries tensors between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// NCCL on CUDA where the program has it, else Gloo.
    Auto,
    /// NCCL, from device to device.
    Nccl,
    /// Gloo, through the memory of the hosts.
    Gloo,
}

section! {
    /// `[distributed]`: several processes.
    pub struct DistributedConfig {
        /// How long a process waits for the others, in seconds, at the start and in every step, before it gives up.
        Here, at_least(1) => timeout_seconds: i64 = 600;
        /// What carries tensors between processes: "nccl" (CUDA), "gloo" (through the hosts' memory, for CUDA too) or "auto": the first where
        /// it can be.
        Here, Range::Any => backend: Backend = Backend::Auto;
    }
}
