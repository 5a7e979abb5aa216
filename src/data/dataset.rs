//! A data set in memory: images, utterances, splits.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{DataError, manifest};
use crate::config::DataConfig;

/// An image of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its file.
    pub path: PathBuf,
    /// Its split.
    pub split: String,
    /// Images of one family differ in a detail; see the demo.
    pub family: Option<String>,
}

/// A spoken caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Utterance {
    /// Its file.
    pub audio: PathBuf,
    /// Index of its image.
    pub image: usize,
    /// What is said.
    pub text: Option<String>,
    /// Who says it.
    pub speaker: Option<String>,
}

/// A file that was left out of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The error, which names the file.
    pub why: String,
}

/// Images and utterances of a whole data set.
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
    /// Reads the index of a data set.
    ///
    /// # Errors
    /// When it cannot be read or is not of its kind.
    pub fn load(config: &DataConfig) -> Result<Self, DataError> {
        let index = config.path.clone().unwrap_or_default();
        let folder = index.parent().unwrap_or(Path::new(".")).to_owned();
        let root = config.root.clone().unwrap_or_else(|| folder.clone());
        if config.root.is_some() && !root.is_dir() {
            let why = "no such folder: data.root must name the folder that the manifest's paths start from".to_owned();
            return Err(DataError::Unreadable { path: root, why });
        }
        let name = config.name.clone().or_else(|| Some(folder.file_name()?.to_string_lossy().into_owned()));
        manifest::read(&index, &root, name.unwrap_or_else(|| "data".to_owned()))
    }

    /// Names of the splits, sorted.
    #[must_use]
    pub fn splits(&self) -> Vec<String> {
        self.images.iter().map(|image| image.split.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The split `name`; "dev" and "val" mean the same.
    ///
    /// # Errors
    /// When there is none of that name, or it has no captions.
    pub fn split(&self, name: &str) -> Result<Split, DataError> {
        let known = self.splits();
        let aliases: &[&str] = if matches!(name, "dev" | "val") { &["dev", "val"] } else { &[] };
        let found = known.iter().find(|split| *split == name || aliases.contains(&split.as_str()));
        let Some(found) = found else {
            return Err(DataError::NoSplit { path: self.index.clone(), split: name.to_owned(), known });
        };
        let mut place = vec![None; self.images.len()];
        let mut images = Vec::new();
        for (index, image) in self.images.iter().enumerate() {
            if image.split == *found {
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
