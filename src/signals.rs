//! SIGINT and SIGTERM: the first asks long work to stop at the next safe point, the second leaves at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// A signal asked the work to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", if self.signal == SIGINT { "interrupted" } else { "terminated" })]
pub struct Interrupted {
    /// Its number.
    pub signal: i32,
}

impl Interrupted {
    /// 130 for SIGINT, 143 for SIGTERM.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        128 + self.signal as u8
    }
}

/// Signals that came in.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    interrupted: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to listen.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> std::io::Result<Self> {
        let signals = Self::default();
        for (signal, flag) in [(SIGINT, &signals.interrupted), (SIGTERM, &signals.terminated)] {
            // In this order: at the second signal the flag is set already.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, flag.clone())?;
            signal_hook::flag::register(signal, flag.clone())?;
        }
        Ok(signals)
    }

    /// An error once a signal has come.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.terminated.load(Ordering::Relaxed) {
            Err(Interrupted { signal: SIGTERM })
        } else if self.interrupted.load(Ordering::Relaxed) {
            Err(Interrupted { signal: SIGINT })
        } else {
            Ok(())
        }
    }
}
