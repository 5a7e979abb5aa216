//! Results of a split, as they are written to JSON.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tch::Device;

use super::{Embeddings, EvalError, Ranks, Recalls, Similarities, Vectors};
use crate::data::Split;
use crate::distributed::World;
use crate::model::catch_libtorch;

/// Figures of one split.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SplitResult {
    /// Name of the data set.
    pub dataset: String,
    /// Name of the split.
    pub split: String,
    /// Images in the gallery.
    pub images: usize,
    /// Utterances.
    pub utterances: usize,
    /// Files that were left out.
    pub skipped: usize,
    /// Why, each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped_files: Vec<String>,
    /// Images whose content another one of the gallery has too, beyond one of each.
    #[serde(default)]
    pub duplicates: usize,
    /// What was done beyond the plain protocol, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Recalls in both directions.
    #[serde(flatten)]
    pub recalls: Recalls,
    /// For data sets whose images come in families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_family: Option<InFamily>,
}

/// What goes beyond the plain protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Protocol {
    /// See [`super::Reranking`].
    Rerank {
        /// Candidates of each query.
        k: usize,
        /// λ.
        mix: f64,
        /// The split that it was chosen on; none if it was given.
        mix_from: Option<String>,
        /// Milliseconds a query.
        milliseconds: f64,
    },
    /// See [`super::QueryBank`].
    QueryBank {
        /// The split that the bank is of.
        split: String,
        /// Utterances in it.
        utterances: usize,
        /// Images in it.
        images: usize,
        /// β.
        beta: f64,
    },
    /// Words in the place of speech, by the frozen text encoder (see [`super::Texts`]).
    Text {
        /// What they are: captions, or the name of a recogniser.
        of: String,
    },
    /// Speech and what is said: texts in the place of images.
    SpeechText {
        /// Different texts.
        texts: usize,
    },
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Rerank { k, mix, .. } => write!(out, "reranked {k}, mix {mix:.2}"),
            Self::QueryBank { split, .. } => write!(out, "query bank {split}"),
            Self::Text { of } => write!(out, "{of} as words"),
            Self::SpeechText { texts } => write!(out, "speech <-> {texts} texts"),
        }
    }
}

/// How often the right image is ranked first among the images of its family, which differ from it in one detail.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InFamily {
    /// In percent of the utterances.
    pub accuracy: f64,
    /// Families with more than one image.
    pub families: usize,
    /// Accuracy of a guess, in percent.
    pub chance: f64,
}

impl SplitResult {
    /// This result with the figures of other ranks of the same embeddings.
    ///
    /// # Errors
    /// When there is nothing to rank.
    pub fn by(&self, protocol: Protocol, ranks: &Ranks, owners: &[usize]) -> Result<Self, EvalError> {
        let recalls = Recalls::new(ranks, owners)?;
        Ok(Self { protocol: Some(protocol), recalls, in_family: None, ..self.clone() })
    }

    /// Ranks `vectors`, called `name`, with scores made on `device`.
    ///
    /// # Errors
    /// When scores are NaN or infinite, or libtorch fails.
    pub fn of_vectors(name: &str, vectors: &Vectors, device: Device) -> Result<(Self, Ranks), EvalError> {
        catch_libtorch(|| {
            let scores = Similarities::of_embeddings(&vectors.speech, &vectors.images, device);
            let ranks = Ranks::new(&scores, &vectors.owners, &World::alone())?;
            let result = Self {
                dataset: name.to_owned(),
                split: "embeddings".to_owned(),
                images: vectors.image_ids.len(),
                utterances: vectors.owners.len(),
                skipped: 0,
                skipped_files: Vec::new(),
                duplicates: 0,
                protocol: None,
                recalls: Recalls::new(&ranks, &vectors.owners)?,
                in_family: None,
            };
            Ok((result, ranks))
        })?
    }

    /// Ranks the embeddings of `split`, with scores made on `device`; processes share that out.
    ///
    /// # Errors
    /// When scores are NaN or infinite, nothing could be embedded, libtorch fails, or another process is gone.
    pub(super) fn new(
        split: &Split,
        embeddings: &Embeddings,
        device: Device,
        world: &World,
    ) -> Result<(Self, Ranks), EvalError> {
        catch_libtorch(|| {
            let scores = Similarities::of_embeddings(&embeddings.speech, &embeddings.images, device);
            let ranks = Ranks::new(&scores, &embeddings.owners, world)?;
            let result = Self {
                dataset: split.dataset.clone(),
                split: split.name.clone(),
                images: embeddings.gallery.len(),
                utterances: embeddings.utterances.len(),
                skipped: embeddings.skipped.len(),
                skipped_files: embeddings.skipped.iter().map(|skipped| skipped.why.clone()).collect(),
                duplicates: embeddings.copies,
                protocol: None,
                recalls: Recalls::new(&ranks, &embeddings.owners)?,
                in_family: InFamily::new(split, embeddings, &scores),
            };
            Ok((result, ranks))
        })?
    }
}

impl InFamily {
    fn new(split: &Split, embeddings: &Embeddings, scores: &Similarities) -> Option<Self> {
        let mut families: HashMap<&str, Vec<usize>> = HashMap::new();
        for (row, image) in embeddings.gallery.iter().enumerate() {
            if let Some(family) = &split.images[*image].family {
                families.entry(family).or_default().push(row);
            }
        }
        families.retain(|_, rows| rows.len() > 1);
        if families.is_empty() {
            return None;
        }
        let family_of: HashMap<usize, &Vec<usize>> =
            families.values().flat_map(|rows| rows.iter().map(move |row| (*row, rows))).collect();
        let (mut asked, mut right, mut chance) = (0, 0, 0.0);
        for (utterance, own) in embeddings.owners.iter().enumerate() {
            if let Some(family) = family_of.get(own) {
                let score = scores.score(utterance, *own);
                asked += 1;
                chance += 1.0 / family.len() as f64;
                right += usize::from(family.iter().all(|row| row == own || scores.score(utterance, *row) < score));
            }
        }
        let percent = |count: f64| 100.0 * count / f64::from(asked);
        (asked > 0).then(|| Self { accuracy: percent(right as f64), families: families.len(), chance: percent(chance) })
    }
}
