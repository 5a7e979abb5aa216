//! A page to speak to, and an API behind it: an index is asked by what comes over HTTP.
//!
//! Requests are read and decoded by many threads; one thread, which calls [`Desk::work`], has the model, and embeds what waits in one batch.

mod access;
mod answers;
mod api;
mod assets;
mod desk;
mod listener;
mod metrics;
mod openapi;
mod problem;
mod ranged;
mod shelf;
mod upload;
mod utterance;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

pub use desk::Desk;
pub use listener::Server;
pub use shelf::{About, Shelf};

/// What the server allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a body.
    pub bytes: u64,
    /// Seconds of an utterance.
    pub seconds: f64,
    /// Requests that wait for the model; more are told to come back.
    pub queue: usize,
    /// Requests of one forward.
    pub batch: NonZeroUsize,
    /// Connections at once; more wait to be taken.
    pub connections: usize,
    /// Time in which a body has to come.
    pub body_time: Duration,
    /// Time in which a file has to be decoded.
    pub decode_time: Duration,
}

/// Most results of a query.
const MOST_RESULTS: usize = 100;

/// The server cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("{address}: {source}; name another one with --port or --address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Threads cannot be made.
    #[error("threads of the server: {0}")]
    Threads(std::io::Error),
}
