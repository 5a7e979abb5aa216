//! Whole splits, read ahead in groups whose composition depends on the data alone.

use super::prefetch::Next;
use super::{Audio, DataConfig, DataError, Given, Groups, OnError, Picture, Prefetch, Split};
use crate::telemetry::{Progress, warn_once};

/// How a whole split is read.
#[derive(Clone, Copy)]
pub struct GroupReader<'a> {
    /// Threads and groups ahead.
    pub data: &'a DataConfig,
    /// What an unreadable file means.
    pub on_error: OnError,
    /// Whether to wait no longer for a file that does not come.
    pub is_stopped: &'a dyn Fn() -> bool,
}

impl GroupReader<'_> {
    /// Reads every index of `groups` with `read`, and hands what could be read of each group to `visit`. Before each, `agree` says
    /// whether to go on; it must be an error once `is_stopped`. Returns what could not be read. Progress shows `what` in `unit`.
    ///
    /// # Errors
    /// When a file cannot be read and that counts as a failure, or when `agree` or `visit` fails.
    pub fn for_each<T: Weight + Send + 'static, E: From<DataError>>(
        &self,
        (what, unit): (&str, &'static str),
        groups: Vec<Vec<usize>>,
        read: impl Fn(usize) -> Result<T, DataError> + Send + Sync + 'static,
        agree: &dyn Fn() -> Result<(), E>,
        mut visit: impl FnMut(&[(usize, T)]) -> Result<(), E>,
    ) -> Result<Vec<(usize, DataError)>, E> {
        let total: usize = groups.iter().map(Vec::len).sum();
        let mut progress = Progress::new(what, unit, 0, total as u64);
        let mut unreadable = Vec::new();
        let count = groups.len() as u64;
        let mut results = Prefetch::of(0..count, Reading { groups, read }, self.data.ahead());
        loop {
            let next = results.next_unless(self.is_stopped);
            if matches!(next, Next::End) {
                break;
            }
            agree()?;
            let Next::Result(group) = next else { continue };
            progress.advance(group.len() as u64, String::new);
            let mut readable = Vec::with_capacity(group.len());
            for (index, result) in group {
                match result {
                    Ok(sample) => readable.push((index, sample)),
                    Err(error) if self.on_error == OnError::Fail => return Err(error.into()),
                    Err(error) => {
                        warn_once(format!("skipped: {error}"));
                        unreadable.push((index, error));
                    }
                }
            }
            if !readable.is_empty() {
                visit(&readable)?;
            }
        }
        tracing::debug!("{what}: {total} {unit} in {:.1} s", progress.seconds());
        Ok(unreadable)
    }
}

/// Memory that something which was read takes.
pub trait Weight {
    /// Bytes.
    fn weight(&self) -> usize;
}

impl Weight for Audio {
    fn weight(&self) -> usize {
        4 * self.samples.len()
    }
}

impl Weight for Picture {
    fn weight(&self) -> usize {
        self.planes.len()
    }
}

impl<T: Weight> Weight for Given<T> {
    fn weight(&self) -> usize {
        match self {
            Self::Read(what) => what.weight(),
            Self::Known(row) => row.bytes.len(),
        }
    }
}

impl Weight for () {
    fn weight(&self) -> usize {
        0
    }
}

impl Weight for Option<f64> {
    fn weight(&self) -> usize {
        0
    }
}

/// Groups that are being read.
struct Reading<F> {
    groups: Vec<Vec<usize>>,
    read: F,
}

impl<T, F> Groups for Reading<F>
where
    T: Weight + Send + 'static,
    F: Fn(usize) -> Result<T, DataError> + Send + Sync + 'static,
{
    type Item = (usize, Result<T, DataError>);
    type Group = Vec<Self::Item>;

    fn size(&self, group: u64) -> usize {
        self.groups[group as usize].len()
    }

    fn read(&self, group: u64, item: usize) -> Self::Item {
        let index = self.groups[group as usize][item];
        (index, (self.read)(index))
    }

    fn bytes(&self, (_, read): &Self::Item) -> usize {
        read.as_ref().map_or(0, Weight::weight)
    }

    fn join(&self, _: u64, items: Vec<Self::Item>) -> Self::Group {
        items
    }
}

impl Split {
    /// All utterances in groups of `size`, of about equal length within each: ordered by the size of their files.
    #[must_use]
    pub fn utterances_by_length(&self, size: usize) -> Vec<Vec<usize>> {
        let bytes = |index: &usize| std::fs::metadata(&self.utterances[*index].audio).map_or(0, |file| file.len());
        let mut order: Vec<usize> = (0..self.utterances.len()).collect();
        order.sort_by_cached_key(bytes);
        order.chunks(size).map(<[usize]>::to_vec).collect()
    }

    /// All images in groups of `size`.
    #[must_use]
    pub fn images_in_groups(&self, size: usize) -> Vec<Vec<usize>> {
        let order: Vec<usize> = (0..self.images.len()).collect();
        order.chunks(size).map(<[usize]>::to_vec).collect()
    }
}
