//! Images of equal content under several names: in one split they make right answers wrong, in several they were trained on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{Dataset, Prefetch, Split};

/// Files that a thread takes at once.
const GROUP: usize = 64;

/// Groups of `files` of equal content, as indices in ascending order. Only files of one size can be equal, and of those only groups for
/// which `counts` says so are read and compared by their BLAKE3.
fn equal_files(files: &[Arc<Path>], workers: usize, counts: impl Fn(&[usize]) -> bool) -> Vec<Vec<usize>> {
    let size = |path: &Path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|found| found.len());
    let mut of_size: HashMap<u64, Vec<usize>> = HashMap::new();
    for (index, size) in on_all_cores(files, workers, size).into_iter().enumerate() {
        if let Some(size) = size {
            of_size.entry(size).or_default().push(index);
        }
    }
    let alike: Vec<usize> = of_size.into_values().filter(|alike| alike.len() > 1 && counts(alike)).flatten().collect();
    let paths: Vec<Arc<Path>> = alike.iter().map(|index| files[*index].clone()).collect();
    let hash = |path: &Path| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(path).ok()?).ok()?;
        Some(hasher.finalize())
    };
    let mut of_hash: HashMap<blake3::Hash, Vec<usize>> = HashMap::new();
    for (index, hash) in alike.into_iter().zip(on_all_cores(&paths, workers, hash)) {
        if let Some(hash) = hash {
            of_hash.entry(hash).or_default().push(index);
        }
    }
    let mut groups: Vec<Vec<usize>> = of_hash.into_values().filter(|group| group.len() > 1).collect();
    groups.iter_mut().for_each(|group| group.sort_unstable());
    groups.sort_unstable();
    groups
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
        equal_files(&files, workers, |_| true)
    }

    /// Images of this split whose content an image of the training split of `dataset` has too.
    #[must_use]
    pub fn leaked(&self, dataset: &Dataset, workers: usize) -> Vec<&Path> {
        let training = dataset.images.iter().filter(|image| &*image.split == "train" && *image.split != *self.name);
        let training = training.chain(dataset.mixed.iter().flat_map(|(other, _)| &other.images));
        let mut files: Vec<Arc<Path>> = self.images.iter().map(|image| image.path.clone()).collect();
        let own = files.len();
        files.extend(training.map(|image| image.path.clone()));
        let is_on_both_sides =
            |group: &[usize]| group.iter().any(|index| *index < own) && group.iter().any(|index| *index >= own);
        let groups = equal_files(&files, workers, is_on_both_sides);
        let leaks = groups.into_iter().filter(|group| is_on_both_sides(group));
        let mut found: Vec<&Path> = leaks.flatten().filter_map(|index| Some(&*self.images.get(index)?.path)).collect();
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
