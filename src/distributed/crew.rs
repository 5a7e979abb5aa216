//! The processes of a run and the signals that come to any of them.

use super::{DistributedError, World};
use crate::signals::{Interrupted, Signals};

/// Those who work together.
#[derive(Clone, Copy, Debug)]
pub struct Crew<'a> {
    /// The processes.
    pub world: &'a World,
    /// Signals to this one.
    pub signals: &'a Signals,
}

impl Crew<'_> {
    /// An error in every process once a signal to stop has come to one of them. All processes have to call this equally often.
    ///
    /// # Errors
    /// See above, and when another process is gone.
    pub fn check(&self) -> Result<(), DistributedError> {
        let own = self.own_signal();
        let signal = match self.world.size() {
            1 => own,
            _ => self.world.gather_numbers(&[own])?.into_iter().max().unwrap_or(0),
        };
        if signal == 0 { Ok(()) } else { Err(Interrupted { signal: signal as i32 }.into()) }
    }

    /// Whether a signal to stop has come to this process.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.own_signal() != 0
    }

    /// The signal that came to this process, 0 for none.
    #[must_use]
    pub fn own_signal(&self) -> i64 {
        self.signals.check().err().map_or(0, |interrupted| i64::from(interrupted.signal))
    }
}
