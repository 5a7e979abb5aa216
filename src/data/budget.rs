//! Memory that all threads together may take for decoding: many large files at once must not take the machine.

use std::sync::{Condvar, Mutex, PoisonError};

/// For the bytes of files that are read whole.
pub(super) static FILES: Pool = Pool::new(2 << 30);
/// For what is decoded. Who waits for this may hold a part of [`FILES`], never the other way round.
pub(super) static SAMPLES: Pool = Pool::new(2 << 30);

/// Bytes for all threads.
#[derive(Debug)]
pub(super) struct Pool {
    total: u64,
    taken: Mutex<u64>,
    given_back: Condvar,
}

/// Bytes taken from a pool, until this is dropped.
#[derive(Debug)]
pub(super) struct Budget {
    pool: &'static Pool,
    bytes: u64,
}

impl Pool {
    const fn new(total: u64) -> Self {
        Self { total, taken: Mutex::new(0), given_back: Condvar::new() }
    }

    /// Waits until `bytes` are free; more than all there are is taken as all.
    pub(super) fn take(&'static self, bytes: u64) -> Budget {
        let bytes = bytes.min(self.total);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken + bytes > self.total {
            taken = self.given_back.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += bytes;
        Budget { pool: self, bytes }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        *self.pool.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.pool.given_back.notify_all();
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
                        let taken = SAMPLES.take(SAMPLES.total / 3 + 1);
                        assert!(NOW.fetch_add(1, Ordering::SeqCst) < 2);
                        NOW.fetch_sub(1, Ordering::SeqCst);
                        drop(taken);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        drop(SAMPLES.take(u64::MAX));
    }
}
