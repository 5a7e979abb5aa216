//! A data set in memory: images, utterances, splits.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::DataError;
use super::kinds::{flickr8k, manifest, spokencoco};
use crate::config::{DataConfig, DataKind};

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
    /// Reads the index of a data set.
    ///
    /// # Errors
    /// When it cannot be read or is not of its kind.
    pub fn load(config: &DataConfig) -> Result<Self, DataError> {
        let folders = [("data.root", "data set", &config.root), ("data.images", "images", &config.images)];
        for (key, what, folder) in folders {
            if let Some(path) = folder.as_ref().filter(|folder| !folder.is_dir()) {
                let why = format!("no such folder: {key} must name the folder of the {what}");
                return Err(DataError::Unreadable { path: path.clone(), why });
            }
        }
        let path = config.path.clone().unwrap_or_default();
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        let root = config.root.clone().unwrap_or(folder);
        let mut dataset = match config.kind {
            DataKind::Manifest => manifest::read(&path, &root),
            DataKind::Flickr8k => flickr8k::read(&root, config.images.as_deref()),
            DataKind::SpokenCoco => spokencoco::read(&root, config.images.as_deref(), config.karpathy.as_deref()),
        }?;
        let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        dataset.name = match (&config.name, config.kind) {
            (Some(name), _) => name.clone(),
            (None, DataKind::Manifest) => folder.unwrap_or_else(|| "data".to_owned()),
            (None, DataKind::Flickr8k) => "flickr8k".to_owned(),
            (None, DataKind::SpokenCoco) => "spokencoco".to_owned(),
        };
        if !dataset.left_out.is_empty() {
            let (count, first) = (dataset.left_out.len(), &dataset.left_out[0]);
            tracing::warn!("{}: {count} entries of the index left out; the first: {first}", dataset.name);
        }
        Ok(dataset)
    }

    /// Names of the splits, sorted.
    #[must_use]
    pub fn splits(&self) -> Vec<String> {
        let names: BTreeSet<&str> = self.images.iter().map(|image| &*image.split).collect();
        names.into_iter().map(str::to_owned).collect()
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

/// Collects a data set from an index in any order.
#[derive(Debug, Default)]
pub(super) struct Builder {
    images: Vec<Image>,
    utterances: Vec<Utterance>,
    /// By split and name in the index.
    known: HashMap<(Arc<str>, Arc<str>), usize>,
    /// Texts that stand in many places, once each.
    shared: HashMap<Box<str>, Arc<str>>,
    left_out: Vec<String>,
    hasher: blake3::Hasher,
}

impl Builder {
    /// Takes a file of the index into the fingerprint.
    pub(super) fn fingerprint(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// One text for all equal ones: for speakers, splits and families.
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.shared.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.shared.insert(text.into(), new.clone());
        new
    }

    /// The image `name` of `split`, whose file is `root`/`name`; the same one each time.
    pub(super) fn image(&mut self, split: &str, name: &str, root: &Path, family: Option<&str>) -> usize {
        let split = self.share(split);
        let key = (split.clone(), name.into());
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let family = family.map(|family| self.share(family));
        self.images.push(Image { path: root.join(name).into(), split, family });
        self.known.insert(key, self.images.len() - 1);
        self.images.len() - 1
    }

    /// An utterance about `image`.
    pub(super) fn utterance(&mut self, image: usize, audio: PathBuf, text: Option<&str>, speaker: Option<&str>) {
        let speaker = speaker.map(|speaker| self.share(speaker));
        self.utterances.push(Utterance { audio: audio.into(), image, text: text.map(Into::into), speaker });
    }

    /// Notes an entry that belongs to no image of a split.
    pub(super) fn leave_out(&mut self, why: String) {
        self.left_out.push(why);
    }

    /// The data set, in the order in which its images came.
    pub(super) fn finish(mut self, index: &Path) -> Dataset {
        self.utterances.sort_by_key(|utterance| utterance.image);
        self.utterances.shrink_to_fit();
        Dataset {
            name: String::new(),
            index: index.to_owned(),
            fingerprint: self.hasher.finalize().to_hex().to_string(),
            images: self.images,
            utterances: self.utterances,
            left_out: self.left_out,
        }
    }
}
