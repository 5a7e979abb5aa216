//! Threads that work ahead: results come out in order, whatever the number of threads.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two looks at whether to wait any longer.
const LOOK: Duration = Duration::from_millis(100);
/// Time that threads have to end what they are at.
const PATIENCE: Duration = Duration::from_secs(2);

static LEFT_BEHIND: AtomicBool = AtomicBool::new(false);

/// An iterator over `work(start)`, `work(start + 1)`, ... `work(end - 1)`, computed on threads at most `ahead` results before they
/// are asked for.
pub struct Prefetch<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
    end: u64,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// The next number that a thread takes.
    next: u64,
    /// The next number that the consumer takes.
    wanted: u64,
    done: BTreeMap<u64, std::thread::Result<T>>,
    stopped: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts `threads` threads (0: one a core).
    pub fn new(
        range: std::ops::Range<u64>,
        threads: usize,
        ahead: usize,
        work: impl Fn(u64) -> T + Send + Sync + 'static,
    ) -> Self {
        let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        let state = State { next: range.start, wanted: range.start, done: BTreeMap::new(), stopped: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (work, end, ahead) = (Arc::new(work), range.end, ahead.max(1) as u64);
        let threads = (0..threads)
            .map(|_| {
                let (shared, work) = (shared.clone(), work.clone());
                std::thread::spawn(move || {
                    while let Some(number) = shared.take(end, ahead) {
                        let result = catch_unwind(AssertUnwindSafe(|| work(number)));
                        shared.lock().done.insert(number, result);
                        shared.changed.notify_all();
                    }
                })
            })
            .collect();
        Self { shared, threads, end }
    }
}

impl<T> Shared<T> {
    /// The next number to work on, as soon as it is near enough to what is wanted.
    fn take(&self, end: u64, ahead: u64) -> Option<u64> {
        let mut state = self.lock();
        while !state.stopped && state.next < end && state.next >= state.wanted + ahead {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped || state.next >= end {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// A result.
    Result(T),
    /// It is not there yet, and shall not be waited for.
    GivenUp,
    /// There is none.
    End,
}

impl<T> Prefetch<T> {
    /// The next result. While it is not there, `gives_up` is asked again and again whether to wait for it: a read may never come back.
    pub fn next_unless(&mut self, gives_up: impl Fn() -> bool) -> Next<T> {
        let mut state = self.shared.lock();
        if state.wanted >= self.end {
            return Next::End;
        }
        let wanted = state.wanted;
        let result = loop {
            match state.done.remove(&wanted) {
                Some(result) => break result,
                None if gives_up() => return Next::GivenUp,
                None => {
                    let waited = self.shared.changed.wait_timeout(state, LOOK);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        };
        state.wanted += 1;
        drop(state);
        self.shared.changed.notify_all();
        Next::Result(result.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self.next_unless(|| false) {
            Next::Result(result) => Some(result),
            Next::GivenUp | Next::End => None,
        }
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        let until = Instant::now() + PATIENCE;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                LEFT_BEHIND.store(true, Ordering::SeqCst);
            }
        }
    }
}

/// Whether a thread hangs in a read that never came back; the program must then leave without waiting for it.
#[must_use]
pub fn has_stuck_reader() -> bool {
    LEFT_BEHIND.load(Ordering::SeqCst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_from_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let squares: Vec<u64> = Prefetch::new(3..200, threads, 4, |n| n * n).collect();
            assert!(squares.into_iter().eq((3..200).map(|n| n * n)));
        }
    }

    #[test]
    fn it_works_no_further_ahead_than_asked() {
        let seen = Arc::new(Mutex::new(0));
        let most = seen.clone();
        let mut ahead = Prefetch::new(0..1000, 3, 5, move |n| {
            let mut most = most.lock().expect("no panic");
            *most = n.max(*most);
        });
        ahead.next();
        std::thread::sleep(Duration::from_millis(50));
        assert!(*seen.lock().expect("no panic") <= 5);
    }

    #[test]
    fn a_panic_reaches_the_consumer() {
        let mut broken = Prefetch::new(0..3, 2, 2, |n| assert!(n != 1, "one"));
        broken.next();
        assert!(catch_unwind(AssertUnwindSafe(|| broken.next())).is_err());
    }
    #[test]
    fn a_result_that_never_comes_is_given_up() {
        let mut stuck = Prefetch::new(0..2, 1, 1, |n| {
            if n == 1 {
                std::thread::sleep(Duration::from_secs(3600));
            }
            n
        });
        assert_eq!(stuck.next(), Some(0));
        let begun = Instant::now();
        assert_eq!(stuck.next_unless(|| begun.elapsed() > LOOK), Next::GivenUp);
        drop(stuck);
        assert!(has_stuck_reader());
    }
}
