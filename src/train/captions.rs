//! What is said in a training split, in words: the text anchor (`loss.text`), and the vocabulary of keywords.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tch::Tensor;

use super::TrainError;
use crate::data::{Split, Utterance};
use crate::encoders::{Encoders, TextEncoder, is_blank};
use crate::features::FeatureError;
use crate::model::Vocabulary;

/// The captions of a split, each of which has one.
pub(super) struct Captions<'a> {
    encoder: &'a TextEncoder,
    texts: Vec<Arc<str>>,
    /// Of each utterance, the first that says the same.
    ids: Vec<i64>,
    /// b.
    weight: f64,
}

impl<'a> Captions<'a> {
    /// Those of `split`, to count with `weight`.
    ///
    /// # Errors
    /// When an utterance has none, or there is no text encoder.
    pub(super) fn new(encoders: &'a Encoders, split: &Split, weight: f64) -> Result<Self, TrainError> {
        let encoder = encoders.text("loss.text").map_err(FeatureError::from)?;
        let texts = texts(split, "loss.text")?;
        let mut first = HashMap::new();
        let ids = texts.iter().zip(0..).map(|(text, number)| *first.entry(text.clone()).or_insert(number)).collect();
        Ok(Self { encoder, texts, ids, weight })
    }

    /// b.
    pub(super) fn weight(&self) -> f64 {
        self.weight
    }

    /// Of each utterance, a number that those share that say the same.
    pub(super) fn ids(&self, utterances: &[usize]) -> Vec<i64> {
        utterances.iter().map(|utterance| self.ids[*utterance]).collect()
    }

    /// The text encoder's embeddings, [b, E], L2-normalised.
    pub(super) fn embed(&self, utterances: &[usize]) -> Result<Tensor, TrainError> {
        let texts: Vec<&str> = utterances.iter().map(|utterance| &*self.texts[*utterance]).collect();
        Ok(self.encoder.embed(&texts).map_err(FeatureError::from)?)
    }
}

/// The tokens of `encoder` that the captions of `split` hold.
///
/// # Errors
/// When an utterance has no caption, or none holds two tokens.
pub(super) fn vocabulary(encoder: &TextEncoder, split: &Split) -> Result<Vocabulary, TrainError> {
    let what = "speech.keyword_vocabulary = \"captions\"";
    let distinct: BTreeSet<Arc<str>> = texts(split, what)?.into_iter().collect();
    let used: BTreeSet<i64> = distinct.iter().flat_map(|text| encoder.tokenizer().ids(text)).collect();
    let all = encoder.vocabulary();
    let rows: Vec<i64> = (0..).zip(&all.ids).filter(|(_, id)| used.contains(id)).map(|(row, _)| row).collect();
    if rows.len() < 2 {
        return Err(TrainError::Recipe(format!("{what}: the captions hold fewer than two tokens of the text encoder")));
    }
    let vectors = all.vectors.index_select(0, &Tensor::from_slice(&rows).to_device(all.vectors.device()));
    Ok(Vocabulary { ids: rows.iter().map(|row| all.ids[*row as usize]).collect(), vectors })
}

fn texts(split: &Split, what: &str) -> Result<Vec<Arc<str>>, TrainError> {
    let text = |utterance: &Utterance| {
        utterance.text.clone().filter(|text| !is_blank(text)).ok_or_else(|| {
            TrainError::Recipe(format!(
                "{what} needs the caption of every training utterance, and {} has none",
                utterance.audio.display()
            ))
        })
    };
    split.utterances.iter().map(text).collect()
}
