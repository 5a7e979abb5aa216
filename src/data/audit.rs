//! What `cmd data check` finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::Dataset;

/// Counts of one split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SplitCounts {
    /// Images.
    pub images: usize,
    /// Utterances.
    pub utterances: usize,
    /// Images that nobody speaks of.
    pub images_without_captions: usize,
}

/// A data set's counts and missing files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Name of the data set.
    pub dataset: String,
    /// By the name of the split.
    pub splits: BTreeMap<String, SplitCounts>,
    /// Files that are not there.
    pub missing: BTreeSet<PathBuf>,
}

impl Audit {
    /// Audits `dataset`.
    #[must_use]
    pub fn new(dataset: &Dataset) -> Self {
        let mut captions = vec![0usize; dataset.images.len()];
        for utterance in &dataset.utterances {
            captions[utterance.image] += 1;
        }
        let mut splits: BTreeMap<String, SplitCounts> = BTreeMap::new();
        for (image, captions) in dataset.images.iter().zip(captions) {
            let counts = splits.entry(image.split.clone()).or_default();
            counts.images += 1;
            counts.utterances += captions;
            counts.images_without_captions += usize::from(captions == 0);
        }
        let files = dataset.images.iter().map(|image| &image.path);
        let files = files.chain(dataset.utterances.iter().map(|utterance| &utterance.audio));
        let missing = files.filter(|file| !file.is_file()).cloned().collect();
        Self { dataset: dataset.name.clone(), splits, missing }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        for (split, counts) in &self.splits {
            write!(out, "{} {split}: {} images, {} utterances", self.dataset, counts.images, counts.utterances)?;
            if counts.images_without_captions > 0 {
                write!(out, ", {} images without captions", counts.images_without_captions)?;
            }
            writeln!(out)?;
        }
        for file in &self.missing {
            writeln!(out, "missing: {}", file.display())?;
        }
        writeln!(out, "{} files missing", self.missing.len())
    }
}
