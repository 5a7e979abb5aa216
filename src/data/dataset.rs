//! A data set in memory: images, utterances, splits.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::DataError;

/// An image of a data set. Texts are shared between a data set and its splits: SpokenCOCO has 605,000 utterances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its file.
    pub path: Arc<Path>,
    /// Its split.
    pub split: Arc<str>,
    /// Images of one family differ in a detail; see the demo.
    pub family: Option<Arc<str>>,
}

/// A spoken caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Utterance {
    /// Its file.
    pub audio: Arc<Path>,
    /// Index of its image.
    pub image: usize,
    /// What is said.
    pub text: Option<Arc<str>>,
    /// Who says it.
    pub speaker: Option<Arc<str>>,
}

/// A file that was left out of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The error, which names the file.
    pub why: String,
}

/// Images and utterances of a whole data set; utterances stand in the order of their images.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Name in results.
    pub name: String,
    /// The index that it was read from.
    pub index: PathBuf,
    /// BLAKE3 of the index.
    pub fingerprint: String,
    /// All images, each once.
    pub images: Vec<Image>,
    /// All utterances.
    pub utterances: Vec<Utterance>,
    /// Entries of the index that belong to no image of a split, and why.
    pub left_out: Vec<String>,
}

/// One split: images and utterances with indices of its own.
#[derive(Clone, Debug)]
pub struct Split {
    /// Name of the data set.
    pub dataset: String,
    /// Name of the split.
    pub name: String,
    /// The gallery.
    pub images: Vec<Image>,
    /// All utterances; `image` is an index into `images`.
    pub utterances: Vec<Utterance>,
}

impl Dataset {
    /// Names of the splits, sorted.
    #[must_use]
    pub fn splits(&self) -> Vec<String> {
        let names: BTreeSet<&str> = self.images.iter().map(|image| &*image.split).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// The split `name`; where there is none of that name, "dev" and "val" mean the same.
    ///
    /// # Errors
    /// When there is none of that name, or it has no captions.
    pub fn split(&self, name: &str) -> Result<Split, DataError> {
        let known = self.splits();
        let alias = match name {
            "dev" => "val",
            "val" => "dev",
            _ => name,
        };
        let called = |name: &str| known.iter().find(|split| *split == name);
        let Some(found) = called(name).or_else(|| called(alias)) else {
            return Err(DataError::NoSplit { path: self.index.clone(), split: name.to_owned(), known });
        };
        let mut place = vec![None; self.images.len()];
        let mut images = Vec::new();
        for (index, image) in self.images.iter().enumerate() {
            if *image.split == **found {
                place[index] = Some(images.len());
                images.push(image.clone());
            }
        }
        let utterances: Vec<Utterance> = self
            .utterances
            .iter()
            .filter_map(|utterance| Some(Utterance { image: place[utterance.image]?, ..utterance.clone() }))
            .collect();
        if utterances.is_empty() {
            return Err(DataError::EmptySplit { path: self.index.clone(), split: found.clone() });
        }
        Ok(Split { dataset: self.name.clone(), name: found.clone(), images, utterances })
    }
}

impl Split {
    /// Its first `count` images that are spoken of, with their utterances.
    #[must_use]
    pub fn head(&self, count: usize) -> Self {
        let mut place = vec![None; self.images.len()];
        let mut images = Vec::new();
        let mut utterances = Vec::new();
        for utterance in &self.utterances {
            if place[utterance.image].is_none() {
                if images.len() == count {
                    continue;
                }
                place[utterance.image] = Some(images.len());
                images.push(self.images[utterance.image].clone());
            }
            if let Some(image) = place[utterance.image] {
                utterances.push(Utterance { image, ..utterance.clone() });
            }
        }
        Self { dataset: self.dataset.clone(), name: self.name.clone(), images, utterances }
    }

    /// Checks, before any time is spent, that the folders of its files are there, and of a thousand of its utterances the files.
    ///
    /// # Errors
    /// When a folder is missing, or a larger share of these files than `max_unreadable`; a single one never is too many.
    pub fn check_present(&self, max_unreadable: f64) -> Result<(), DataError> {
        let files = self.images.iter().map(|image| &image.path).chain(self.utterances.iter().map(|one| &one.audio));
        let mut folders: HashMap<&Path, usize> = HashMap::new();
        for folder in files.filter_map(|file| file.parent()) {
            *folders.entry(folder).or_default() += 1;
        }
        let absent = folders.into_iter().filter(|(folder, _)| !folder.is_dir() && !folder.as_os_str().is_empty()).min();
        if let Some((folder, count)) = absent {
            let why = format!("no such folder, and {count} files of split {} should lie in it", self.name);
            return Err(DataError::Unreadable { path: folder.to_owned(), why });
        }
        let chosen: Vec<&Utterance> =
            self.utterances.iter().step_by(self.utterances.len().div_ceil(1000).max(1)).collect();
        let is_absent =
            |utterance: &&&Utterance| !utterance.audio.exists() || !self.images[utterance.image].path.exists();
        let absent: Vec<&&Utterance> = chosen.iter().filter(is_absent).collect();
        match absent.first() {
            Some(first) if absent.len() > 1 && absent.len() as f64 > max_unreadable * chosen.len() as f64 => {
                let image = &self.images[first.image].path;
                let path = if first.audio.exists() { image } else { &first.audio };
                let (count, of, split) = (absent.len(), chosen.len(), &self.name);
                let why = format!(
                    "no such file, as of {count} of {of} utterances of split {split} that were looked for, more than data.max_unreadable = \
                     {max_unreadable}; run `cmd data check`, or name the folders with data.root and data.images"
                );
                Err(DataError::Unreadable { path: path.to_path_buf(), why })
            }
            _ => Ok(()),
        }
    }
}
