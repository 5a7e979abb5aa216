//! Speech-image retrieval with cross-modal denoising (CMD), after Zhou et al., "Cross-Modal Denoising: A Novel Training Paradigm
//! for Enhancing Speech-Image Retrieval".
//!
//! The way of a sample: a file ([`data`]) becomes a waveform or pixels, a batch, frozen features ([`features`], made by [`encoders`]),
//! S_cls, I_cls and patches, losses ([`model`]), gradients and a step ([`train`]), a checkpoint ([`checkpoint`]); a trained model is
//! ranked on a split ([`eval`]). [`cli`] is the program around it.

pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod distributed;
pub mod draw;
pub mod encoders;
pub mod eval;
pub mod features;
mod keys;
pub mod model;
pub mod report;
pub mod search;
pub mod serve;
pub mod signals;
pub mod sweep;
pub mod telemetry;
pub mod train;

/// Version of the package and, where it was built in a git repository, the commit that was checked out.
pub const VERSION: &str = env!("CMD_VERSION");

pub use keys::{Key, Range, Resume, at_least, between};
