//! The batches of a training, one after the other, where it helps with their features already made.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::TrainError;
use crate::data::{Batch, Next, Prefetch, TrainingBatches};
use crate::features::Forwards;
use crate::model::Encoded;

/// A batch that was read.
pub(super) struct Fed {
    pub(super) batch: Batch,
    /// Its features, where they were made ahead.
    pub(super) encoded: Option<Encoded>,
    /// Seconds that its reading was waited for.
    pub(super) waited: f64,
}

/// Where batches come from.
pub(super) enum Feed {
    /// The threads that read.
    Read(TrainingBatches),
    /// A thread that makes features.
    Ahead(EncodedAhead),
}

/// Batches with their features, made on a thread of its own: those of the next one while this one is exchanged, so that no process stands
/// still until another one's features are there. One batch of features waits, and one is in use.
pub(super) struct EncodedAhead {
    batches: Prefetch<Option<Result<Fed, TrainError>>>,
    is_over: Arc<AtomicBool>,
}

impl EncodedAhead {
    /// Of `batches`, which are those of `steps`.
    pub(super) fn new(steps: std::ops::Range<u64>, batches: TrainingBatches, forwards: Forwards) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (batches, over) = (Mutex::new(batches), is_over.clone());
        let make = move |_| {
            let mut batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
            let fed = read(&mut batches, || over.load(Ordering::Relaxed)).transpose()?;
            Some(fed.and_then(|fed| {
                let (encoded, _) = forwards.encode(&fed.batch, &[])?;
                Ok(Fed { encoded: Some(encoded), ..fed })
            }))
        };
        Self { batches: Prefetch::new(steps, 1, 1, make), is_over }
    }
}

impl Drop for EncodedAhead {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Feed {
    /// The next batch, or none if it is not there and `gives_up` says to wait no longer.
    ///
    /// # Errors
    /// When a file cannot be read and that counts as a failure, or an encoder fails.
    pub(super) fn next_unless(&mut self, gives_up: impl Fn() -> bool) -> Result<Option<Fed>, TrainError> {
        match self {
            Self::Read(batches) => read(batches, gives_up),
            Self::Ahead(EncodedAhead { batches, .. }) => given(batches.next_unless(gives_up)).flatten().transpose(),
        }
    }
}

fn read(batches: &mut TrainingBatches, gives_up: impl Fn() -> bool) -> Result<Option<Fed>, TrainError> {
    let begun = Instant::now();
    let _span = tracing::debug_span!("wait for batch").entered();
    let batch = given(batches.next_unless(gives_up)).transpose()?;
    Ok(batch.map(|batch| Fed { batch, encoded: None, waited: begun.elapsed().as_secs_f64() }))
}

fn given<T>(next: Next<T>) -> Option<T> {
    match next {
        Next::Result(given) => Some(given),
        Next::GivenUp => None,
        Next::End => unreachable!("there is a batch for every step"),
    }
}
