//! Images of equal content under several names: in one split they make right answers wrong, in several they were trained on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{Dataset, Prefetch, Split};

/// Files that a thread takes at once.
const GROUP: usize = 64;

/// Files by content: those that are equal, byte for byte.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// By size and BLAKE3.
    groups: HashMap<(u64, blake3::Hash), Vec<usize>>,
}

impl Contents {
    /// Compares `files`. Only files of one size can be equal, and of those only groups for which `counts` says so are read.
    pub(super) fn new(files: &[Arc<Path>], workers: usize, counts: impl Fn(&[usize]) -> bool) -> Self {
        let size =
            |path: &Path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|found| found.len());
        let sizes: Vec<Option<u64>> = on_all_cores(files, workers, move |path| size(path));
        let mut of_size: HashMap<u64, Vec<usize>> = HashMap::new();
        for (index, size) in sizes.iter().enumerate() {
            if let Some(size) = size {
                of_size.entry(*size).or_default().push(index);
            }
        }
        let alike: Vec<usize> =
            of_size.into_values().filter(|alike| alike.len() > 1 && counts(alike)).flatten().collect();
        let paths: Vec<Arc<Path>> = alike.iter().map(|index| files[*index].clone()).collect();
        let hash = |path: &Path| {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(std::fs::File::open(path).ok()?).ok()?;
            Some(hasher.finalize())
        };
        let mut groups: HashMap<(u64, blake3::Hash), Vec<usize>> = HashMap::new();
        for (index, hash) in alike.into_iter().zip(on_all_cores(&paths, workers, hash)) {
            if let (Some(size), Some(hash)) = (sizes[index], hash) {
                groups.entry((size, hash)).or_default().push(index);
            }
        }
        groups.retain(|_, group| group.len() > 1);
        groups.values_mut().for_each(|group| group.sort_unstable());
        Self { groups }
    }

    /// The groups of equal files, as indices.
    pub(super) fn equal(&self) -> Vec<&[usize]> {
        let mut groups: Vec<&[usize]> = self.groups.values().map(Vec::as_slice).collect();
        groups.sort_unstable();
        groups
    }
}

/// `work` on every file, in their order.
fn on_all_cores<T: Send + 'static>(
    files: &[Arc<Path>],
    workers: usize,
    work: impl Fn(&Path) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let files: Arc<[Arc<Path>]> = files.into();
    let groups = files.len().div_ceil(GROUP) as u64;
    let results = Prefetch::new(0..groups, workers, 64, move |number| -> Vec<T> {
        let start = number as usize * GROUP;
        files[start..(start + GROUP).min(files.len())].iter().map(|path| work(path)).collect()
    });
    results.flatten().collect()
}

impl Split {
    /// Groups of images of equal content, as indices.
    #[must_use]
    pub fn copies(&self, workers: usize) -> Vec<Vec<usize>> {
        let files: Vec<Arc<Path>> = self.images.iter().map(|image| image.path.clone()).collect();
        Contents::new(&files, workers, |_| true).equal().into_iter().map(<[usize]>::to_vec).collect()
    }

    /// Images of this split whose content an image of the training split of `dataset` has too.
    #[must_use]
    pub fn leaked(&self, dataset: &Dataset, workers: usize) -> Vec<&Path> {
        let training = dataset.images.iter().filter(|image| &*image.split == "train" && *image.split != *self.name);
        let mut files: Vec<Arc<Path>> = self.images.iter().map(|image| image.path.clone()).collect();
        let own = files.len();
        files.extend(training.map(|image| image.path.clone()));
        let is_on_both_sides =
            |group: &[usize]| group.iter().any(|index| *index < own) && group.iter().any(|index| *index >= own);
        let contents = Contents::new(&files, workers, is_on_both_sides);
        let leaks = contents.equal().into_iter().filter(|group| is_on_both_sides(group));
        let mut found: Vec<&Path> = leaks.flatten().filter_map(|index| Some(&*self.images.get(*index)?.path)).collect();
        found.sort_unstable();
        found
    }

    /// What [`Self::leaked`] means to recalls, where there are any.
    #[must_use]
    pub fn leak_warning(&self, dataset: &Dataset, workers: usize) -> Option<String> {
        let leaked = self.leaked(dataset, workers);
        leaked.first().map(|first| {
            let (count, split) = (leaked.len(), &self.name);
            format!(
                "{count} images of split {split} are training images too, the first is {}: its recalls say little",
                first.display()
            )
        })
    }
}
