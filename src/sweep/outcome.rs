//! What a run of a sweep came to, kept in its folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SweepError;
use crate::checkpoint::{CheckpointError, write_whole};
use crate::eval::{Ranks, SplitResult};

/// A finished run: ranks on the splits that a sweep scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Step of the best checkpoint, which is scored.
    pub step: u64,
    /// BLAKE3 of the data set's index and of the encoders that are used.
    pub sources: Vec<String>,
    /// By the name of the split.
    pub splits: BTreeMap<String, Scores>,
}

/// Ranks on a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// In percent, for data sets whose images come in families.
    pub in_family: Option<f64>,
    /// Rank of the right image of each utterance.
    pub speech: Vec<usize>,
    /// Best rank of the right utterances of each image; 0 where nobody speaks of it.
    pub images: Vec<usize>,
    /// Image of each utterance.
    pub owners: Vec<usize>,
}

impl Outcome {
    /// Whether all of `splits` are scored.
    #[must_use]
    pub fn has(&self, splits: &[String]) -> bool {
        splits.iter().all(|split| self.splits.contains_key(split))
    }

    /// The outcome in the file `path`, if there is one.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, SweepError> {
        let damaged = |why: String| SweepError::Outcome { path: path.to_owned(), why };
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| damaged(error.to_string()))?,
        };
        let outcome: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if outcome.splits.values().all(Scores::fit) {
            Ok(Some(outcome))
        } else {
            Err(damaged("its ranks do not fit together".to_owned()))
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::from);
        bytes.and_then(|bytes| write_whole(path, &bytes)).map_err(CheckpointError::write(path))
    }
}

impl Scores {
    pub(super) fn new(result: &SplitResult, ranks: Ranks, owners: Vec<usize>) -> Self {
        let in_family = result.in_family.map(|family| family.accuracy);
        Self { in_family, speech: ranks.speech, images: ranks.images, owners }
    }

    fn fit(&self) -> bool {
        let Self { speech, images, owners, .. } = self;
        speech.len() == owners.len() && !owners.is_empty() && owners.iter().all(|owner| *owner < images.len())
    }

    /// Of each image: its utterances, those that found it first, and, if anybody speaks of it, whether it found one of them first.
    pub(super) fn hits(&self) -> Vec<Hits> {
        let mut hits: Vec<Hits> = self
            .images
            .iter()
            .map(|rank| Hits { images: u32::from(*rank > 0), found_speech: u32::from(*rank == 1), ..Hits::default() })
            .collect();
        for (owner, rank) in self.owners.iter().zip(&self.speech) {
            hits[*owner].utterances += 1;
            hits[*owner].found_image += u32::from(*rank == 1);
        }
        hits
    }
}

/// Queries of an image, or of several, and those whose right item is first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Hits {
    utterances: u32,
    found_image: u32,
    images: u32,
    found_speech: u32,
}

impl Hits {
    /// Those of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            utterances: self.utterances + other.utterances,
            found_image: self.found_image + other.found_image,
            images: self.images + other.images,
            found_speech: self.found_speech + other.found_speech,
        }
    }

    /// Recall at 1 from speech to image and from image to speech, in percent.
    pub(super) fn recalls(self) -> [f64; 2] {
        let percent = |found: u32, of: u32| 100.0 * f64::from(found) / f64::from(of.max(1));
        [percent(self.found_image, self.utterances), percent(self.found_speech, self.images)]
    }

    /// Mean R@1.
    pub(super) fn mean(self) -> f64 {
        let [speech, images] = self.recalls();
        (speech + images) / 2.0
    }
}
