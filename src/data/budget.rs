//! Memory that all threads together may take for decoding: many large files at once must not take the machine.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes for all threads.
const TOTAL: u64 = 2 << 30;

static TAKEN: Mutex<u64> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// Bytes taken, until this is dropped.
#[derive(Debug)]
pub(super) struct Budget(u64);

impl Budget {
    /// Waits until `bytes` are free; more than all there are is taken as all.
    pub(super) fn take(bytes: u64) -> Self {
        let bytes = bytes.min(TOTAL);
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken + bytes > TOTAL {
            taken = GIVEN_BACK.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += bytes;
        Self(bytes)
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        GIVEN_BACK.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is() {
        static NOW: AtomicU64 = AtomicU64::new(0);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(|| {
                    for _ in 0..50 {
                        let taken = Budget::take(TOTAL / 3 + 1);
                        assert!(NOW.fetch_add(1, Ordering::SeqCst) < 2);
                        NOW.fetch_sub(1, Ordering::SeqCst);
                        drop(taken);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        drop(Budget::take(u64::MAX));
    }
}
