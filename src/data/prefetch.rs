//! Threads that work ahead, item by item: groups come out in order, whatever the number of threads.

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

/// Groups of items, read item by item on any thread and joined by the thread that reads the last one.
pub trait Groups: Send + Sync + 'static {
    /// What is read.
    type Item: Send + 'static;
    /// What comes out.
    type Group: Send + 'static;

    /// Items of a group.
    fn size(&self, group: u64) -> usize;

    /// Reads one of them.
    fn read(&self, group: u64, item: usize) -> Self::Item;

    /// Memory that an item takes until its group has been used.
    fn bytes(&self, item: &Self::Item) -> usize;

    /// Joins the items of a group, in their order.
    fn join(&self, group: u64, items: Vec<Self::Item>) -> Self::Group;
}

/// How far threads work ahead.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// Threads; 0: one a core.
    pub threads: usize,
    /// Groups, at least one.
    pub groups: usize,
    /// Bytes of items that wait for their group to be used. The group that is wanted next is read whatever it takes.
    pub bytes: usize,
    /// How far the threads give way to others, from 0 to 19 (Linux).
    pub nice: i32,
}

/// An iterator over the groups of a range, read on threads before they are asked for.
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
    /// The next item that a thread takes.
    next: (u64, usize),
    /// The next group that the consumer takes.
    wanted: u64,
    /// Groups that are joined or broken, and the bytes that they hold.
    done: BTreeMap<u64, (std::thread::Result<T>, usize)>,
    /// Bytes of all items that wait.
    held: usize,
    stopped: bool,
}

/// Items of groups of which some are still being read.
type Parts<I> = Mutex<BTreeMap<u64, (Vec<Option<I>>, usize)>>;

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Prefetch<T> {
    /// Works on the groups of `range`.
    pub fn of(range: std::ops::Range<u64>, groups: impl Groups<Group = T>, ahead: Ahead) -> Self {
        let state =
            State { next: (range.start, 0), wanted: range.start, done: BTreeMap::new(), held: 0, stopped: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (groups, parts, end) = (Arc::new(groups), Arc::new(Parts::default()), range.end);
        let count = match ahead.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let threads = (0..count)
            .map(|_| {
                let (shared, groups, parts) = (shared.clone(), groups.clone(), parts.clone());
                std::thread::spawn(move || {
                    give_way(ahead.nice);
                    while let Some((group, item)) = shared.take(end, ahead, &*groups) {
                        shared.work(&*groups, &parts, group, item);
                    }
                })
            })
            .collect();
        Self { shared, threads, end }
    }

    /// `work(start)`, `work(start + 1)`, ... `work(end - 1)` on `threads` threads (0: one a core), at most `ahead` of them before they
    /// are asked for.
    pub fn new(
        range: std::ops::Range<u64>,
        threads: usize,
        ahead: usize,
        work: impl Fn(u64) -> T + Send + Sync + 'static,
    ) -> Self {
        Self::of(range, Single(work), Ahead { threads, groups: ahead, bytes: usize::MAX, nice: 0 })
    }
}

/// Lets the system run other threads before this one. Elsewhere than on Linux a priority is that of the whole process.
fn give_way(nice: i32) {
    if cfg!(target_os = "linux") && nice > 0 {
        let _ = rustix::process::nice(nice);
    }
}

/// Groups of one item.
struct Single<F>(F);

impl<T: Send + 'static, F: Fn(u64) -> T + Send + Sync + 'static> Groups for Single<F> {
    type Item = T;
    type Group = T;

    fn size(&self, _: u64) -> usize {
        1
    }

    fn read(&self, group: u64, _: usize) -> T {
        (self.0)(group)
    }

    fn bytes(&self, _: &T) -> usize {
        0
    }

    #[expect(clippy::expect_used, reason = "a group has one item")]
    fn join(&self, _: u64, mut items: Vec<T>) -> T {
        items.pop().expect("an item")
    }
}

impl<T> Shared<T> {
    /// The next item to read, as soon as its group is near enough to what is wanted; of an empty group there is none.
    fn take(&self, end: u64, ahead: Ahead, groups: &impl Groups) -> Option<(u64, Option<usize>)> {
        let mut state = self.lock();
        let is_near = |state: &State<T>| {
            let group = state.next.0;
            group == state.wanted || (group < state.wanted + ahead.groups.max(1) as u64 && state.held < ahead.bytes)
        };
        while !state.stopped && state.next.0 < end && !is_near(&state) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped || state.next.0 >= end {
            return None;
        }
        let ((group, item), size) = (state.next, groups.size(state.next.0));
        state.next = if item + 1 < size { (group, item + 1) } else { (group + 1, 0) };
        Some((group, (item < size).then_some(item)))
    }

    /// Reads an item, and joins its group if it is the last one that was missing.
    fn work<G: Groups<Group = T>>(&self, groups: &G, parts: &Parts<G::Item>, group: u64, item: Option<usize>) {
        let read = catch_unwind(AssertUnwindSafe(|| {
            let Some(item) = item else { return Some((Vec::new(), 0)) };
            let _span = tracing::debug_span!("read").entered();
            let read = groups.read(group, item);
            let bytes = groups.bytes(&read);
            self.lock().held += bytes;
            let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
            let (items, total) = parts.entry(group).or_insert_with(|| {
                let empty = (0..groups.size(group)).map(|_| None).collect();
                (empty, 0)
            });
            items[item] = Some(read);
            *total += bytes;
            if items.iter().all(Option::is_some) { parts.remove(&group) } else { None }
        }));
        let done = match read {
            Ok(None) => return,
            Ok(Some((items, bytes))) => {
                let items = items.into_iter().flatten().collect();
                let _span = tracing::debug_span!("assemble").entered();
                (catch_unwind(AssertUnwindSafe(|| groups.join(group, items))), bytes)
            }
            Err(panic) => (Err(panic), 0),
        };
        self.lock().done.entry(group).or_insert(done);
        self.changed.notify_all();
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
        let (result, bytes) = loop {
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
        state.held -= bytes;
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

    /// Group n has n items, n of each.
    struct Repeated;

    impl Groups for Repeated {
        type Item = u64;
        type Group = Vec<u64>;

        fn size(&self, group: u64) -> usize {
            group as usize % 5
        }

        fn read(&self, group: u64, item: usize) -> u64 {
            std::thread::sleep(Duration::from_micros((group * 7 + item as u64 * 13) % 50));
            group * 10 + item as u64
        }

        fn bytes(&self, _: &u64) -> usize {
            100
        }

        fn join(&self, _: u64, items: Vec<u64>) -> Vec<u64> {
            items
        }
    }

    #[test]
    fn groups_of_any_size_are_joined_in_order() {
        for (threads, groups, bytes) in [(1, 1, 0), (3, 4, 150), (5, 100, usize::MAX)] {
            let found: Vec<Vec<u64>> =
                Prefetch::of(0..60, Repeated, Ahead { threads, groups, bytes, nice: 0 }).collect();
            assert!(
                found
                    .into_iter()
                    .eq((0..60).map(|group| (0..group % 5).map(|item| group * 10 + item).collect::<Vec<u64>>()))
            );
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_give_way_and_the_consumer_does_not() {
        let priority = |_| rustix::process::getpriority_process(None).expect("a priority");
        let own = priority(0);
        let ahead = Ahead { threads: 2, groups: 2, bytes: usize::MAX, nice: 7 };
        let found: Vec<i32> = Prefetch::of(0..9, Single(priority), ahead).collect();
        assert_eq!((found, priority(0)), (vec![(own + 7).min(19); 9], own));
    }

    #[test]
    fn no_more_bytes_wait_than_may() {
        let ahead = Ahead { threads: 2, groups: 1000, bytes: 500, nice: 0 };
        let mut groups = Prefetch::of(0..1000, Repeated, ahead);
        groups.next();
        std::thread::sleep(Duration::from_millis(50));
        // Two threads may have read one item each when the limit was reached.
        assert!(groups.shared.lock().held <= 700);
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
