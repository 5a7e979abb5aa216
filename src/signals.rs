//! Signals. SIGINT, SIGTERM and a hang-up ask long work to stop at the next safe point; a second one, a second or more after the
//! first, leaves at once (a terminal and a scheduler may both send the first). SIGUSR1 asks for a checkpoint and goes on.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};

/// Signals that come within this time count as one.
const AS_ONE: Duration = Duration::from_secs(1);

/// A signal asked the work to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", match self.signal { SIGINT => "interrupted", SIGHUP => "hung up", _ => "terminated" })]
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
    /// The one that asked to stop; 0 before.
    stop: Arc<AtomicI32>,
    save: Arc<AtomicBool>,
    /// Whether there is nothing to lose.
    at_once: Arc<AtomicBool>,
}

/// As long as this lives, a signal to stop ends the program at once: there is nothing to lose, and what it waits for may never come.
#[derive(Debug)]
pub struct NothingToLose(Arc<AtomicBool>);

impl Drop for NothingToLose {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Signals {
    /// Starts to listen.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> std::io::Result<Self> {
        let signals = Self::default();
        // A file that grows beyond the limit is then an error of writing, instead of the end of the program.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        let stops: &[i32] = if is_ignored(SIGHUP) { &[SIGINT, SIGTERM] } else { &[SIGINT, SIGTERM, SIGHUP] };
        let mut coming = signal_hook::iterator::Signals::new(stops.iter().chain(&[SIGUSR1]))?;
        let Self { stop, save, at_once } = signals.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut first: Option<Instant> = None;
            for signal in coming.forever() {
                match first {
                    _ if signal == SIGUSR1 => save.store(true, Ordering::SeqCst),
                    None => {
                        first = Some(Instant::now());
                        stop.store(signal, Ordering::SeqCst);
                        if at_once.load(Ordering::SeqCst) {
                            let _ = writeln!(std::io::stderr(), "error: {}", Interrupted { signal });
                            signal_hook::low_level::exit(128 + signal);
                        }
                    }
                    Some(first) if first.elapsed() >= AS_ONE => signal_hook::low_level::exit(128 + signal),
                    Some(_) => {}
                }
            }
        })?;
        Ok(signals)
    }

    /// Until what this returns is dropped, a signal to stop ends the program at once.
    ///
    /// # Errors
    /// When one has come already.
    pub fn nothing_to_lose(&self) -> Result<NothingToLose, Interrupted> {
        self.at_once.store(true, Ordering::SeqCst);
        let guard = NothingToLose(self.at_once.clone());
        self.check().map(|()| guard)
    }

    /// An error once a signal to stop has come.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<(), Interrupted> {
        match self.stop.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Interrupted { signal }),
        }
    }

    /// Whether a checkpoint was asked for since the last call.
    #[must_use]
    pub fn take_save(&self) -> bool {
        self.save.swap(false, Ordering::SeqCst)
    }
}

/// Whether the process was started with `signal` ignored, as `nohup` does.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
