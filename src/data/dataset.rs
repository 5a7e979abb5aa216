//! A data set in memory: images, utterances, splits.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::DataError;
use crate::draw::{Draw, Purpose};

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

impl Utterance {
    /// What is said, or else the name of its file.
    #[must_use]
    pub fn said(&self) -> String {
        let name = || self.audio.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        self.text.as_deref().map_or_else(name, str::to_owned)
    }
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
    /// Training splits of other data sets that are trained on too, and how often an epoch holds each.
    pub mixed: Vec<(Split, f64)>,
}

/// A part of a training split that comes from one data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Its utterances, at least one.
    pub samples: usize,
    /// How often an epoch holds each of them.
    pub weight: f64,
}

impl Part {
    /// Samples of it in an epoch, at least one.
    #[must_use]
    pub fn in_epoch(&self) -> usize {
        ((self.samples as f64 * self.weight).round() as usize).max(1)
    }
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
    /// The data sets that they are of, one behind the other.
    pub parts: Vec<Part>,
}

impl Dataset {
    /// Trains on the training split of `other` too, `weight` times an epoch. The other splits stay this one's own.
    ///
    /// # Errors
    /// When `other` has none.
    pub fn mix(&mut self, other: &Self, weight: f64) -> Result<(), DataError> {
        self.mixed.push((other.split("train")?, weight));
        let mut hasher = blake3::Hasher::new();
        for part in [self.fingerprint.as_bytes(), other.fingerprint.as_bytes(), &weight.to_le_bytes()] {
            hasher.update(part);
        }
        self.fingerprint = hasher.finalize().to_hex().to_string();
        Ok(())
    }

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
        let (images, utterances) = chosen(&self.images, &self.utterances, |image| *self.images[image].split == **found);
        if utterances.is_empty() {
            return Err(DataError::EmptySplit { path: self.index.clone(), split: found.clone() });
        }
        let parts = vec![Part { samples: utterances.len(), weight: 1.0 }];
        let mut split = Split { dataset: self.name.clone(), name: found.clone(), images, utterances, parts };
        if found == "train" {
            self.mixed.iter().for_each(|(other, weight)| split.append(other, *weight));
        }
        Ok(split)
    }
}

impl Split {
    /// Puts the images and utterances of `other` behind its own.
    fn append(&mut self, other: &Self, weight: f64) {
        let first = self.images.len();
        self.dataset = format!("{} + {}", self.dataset, other.dataset);
        self.images.extend(other.images.iter().cloned());
        let behind = |utterance: &Utterance| Utterance { image: first + utterance.image, ..utterance.clone() };
        self.utterances.extend(other.utterances.iter().map(behind));
        self.parts.push(Part { samples: other.utterances.len(), weight });
    }

    /// Samples of an epoch.
    #[must_use]
    pub fn in_epoch(&self) -> usize {
        self.parts.iter().map(Part::in_epoch).sum()
    }

    /// `count` of its images that are spoken of, drawn by `seed`, with all their utterances; all images if it has no more.
    #[must_use]
    pub fn drawn(&self, count: usize, seed: u64) -> Self {
        let mut is_spoken_of = vec![false; self.images.len()];
        self.utterances.iter().for_each(|utterance| is_spoken_of[utterance.image] = true);
        let order = Draw::new(seed, Purpose::Images, [0, 0]).permutation(self.images.len());
        let chosen = order.into_iter().map(|image| image as usize).filter(|image| is_spoken_of[*image]).take(count);
        let mut is_chosen = vec![false; self.images.len()];
        chosen.for_each(|image| is_chosen[image] = true);
        self.only(|image| is_chosen[image])
    }

    /// The images that are `wanted`, with their utterances.
    fn only(&self, wanted: impl Fn(usize) -> bool) -> Self {
        let (mut parts, mut rest) = (Vec::new(), &self.utterances[..]);
        for part in &self.parts {
            let (own, others) = rest.split_at(part.samples);
            let samples = own.iter().filter(|utterance| wanted(utterance.image)).count();
            parts.extend((samples > 0).then_some(Part { samples, ..*part }));
            rest = others;
        }
        let (images, utterances) = chosen(&self.images, &self.utterances, wanted);
        Self { dataset: self.dataset.clone(), name: self.name.clone(), images, utterances, parts }
    }

    /// Its first `count` images that are spoken of, with their utterances.
    #[must_use]
    pub fn head(&self, count: usize) -> Self {
        let mut chosen = HashSet::new();
        for utterance in &self.utterances {
            if chosen.len() < count {
                chosen.insert(utterance.image);
            }
        }
        self.only(|image| chosen.contains(&image))
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

/// The images that are `wanted`, and their utterances with indices into those.
fn chosen(images: &[Image], utterances: &[Utterance], wanted: impl Fn(usize) -> bool) -> (Vec<Image>, Vec<Utterance>) {
    let mut place = vec![None; images.len()];
    let mut kept = Vec::new();
    for (index, image) in images.iter().enumerate().filter(|(index, _)| wanted(*index)) {
        place[index] = Some(kept.len());
        kept.push(image.clone());
    }
    let utterances =
        utterances.iter().filter_map(|one| Some(Utterance { image: place[one.image]?, ..one.clone() })).collect();
    (kept, utterances)
}
