//! What the API answers.

use serde::Serialize;
use utoipa::ToSchema;

use crate::data::Medium;
use crate::eval::{Attention, Keyword, Look};
use crate::search::Entry;

/// What is served.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Told {
    pub(super) version: &'static str,
    pub(super) checkpoint: String,
    pub(super) index: String,
    /// Pictures in the index.
    pub(super) images: usize,
    /// Utterances in it.
    pub(super) speech: usize,
    /// Whether utterances can be asked where they look.
    pub(super) attention: bool,
    /// Whether keywords are heard in utterances.
    pub(super) keywords: bool,
    /// Whether words can ask.
    pub(super) text: bool,
    pub(super) limits: Allowed,
    /// Some utterances of the index.
    pub(super) examples: Vec<Item>,
    /// Some pictures of it.
    pub(super) pictures: Vec<Item>,
}

/// What a request may hold.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Allowed {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) megapixels: i64,
    pub(super) results: usize,
    /// Characters of a query in words.
    pub(super) characters: usize,
}

/// A file of the index.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Item {
    /// Its number in the index.
    pub(super) id: usize,
    pub(super) name: String,
    /// "speech" or "image".
    #[schema(value_type = String)]
    pub(super) medium: Medium,
    /// Cosine with the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) score: Option<f32>,
    /// What is said, where that is known.
    pub(super) said: Option<String>,
    /// Where its picture is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) picture: Option<String>,
    /// Where it is heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sound: Option<String>,
}

impl Item {
    pub(super) fn new(id: usize, entry: &Entry, score: Option<f32>) -> Self {
        let name = entry.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let at = |medium, what| (entry.medium == medium).then(|| format!("/api/items/{id}/{what}"));
        let (picture, sound) = (at(Medium::Image, "picture"), at(Medium::Speech, "sound"));
        Self { id, name, medium: entry.medium, score, said: entry.said.clone(), picture, sound }
    }
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answer {
    pub(super) query: Asked,
    pub(super) milliseconds: u64,
    /// The nearest first.
    pub(super) found: Vec<Item>,
}

/// What asked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Asked {
    /// "speech", "image" or "text".
    pub(super) medium: &'static str,
    /// Of a sound that was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seconds: Option<f64>,
    /// Of words: whether there were too many, and only the first were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cut: Option<bool>,
}

/// What is heard in an utterance.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Heard {
    /// The first that is heard first.
    pub(super) keywords: Vec<HeardWord>,
}

/// A keyword.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HeardWord {
    /// The token of the text encoder, as it is written.
    pub(super) word: String,
    /// Cosine of what is heard with the token's embedding.
    pub(super) score: f32,
    /// Seconds: between `from` and `to` the middle half of its attention lies.
    pub(super) from: f64,
    /// Seconds.
    pub(super) to: f64,
}

impl From<Vec<Keyword>> for Heard {
    fn from(keywords: Vec<Keyword>) -> Self {
        let word =
            |Keyword { word, cosine, span: [from, to], .. }: Keyword| HeardWord { word, score: cosine, from, to };
        Self { keywords: keywords.into_iter().map(word).collect() }
    }
}

/// Where an utterance looks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Looked {
    /// Rows and columns of patches.
    pub(super) grid: [usize; 2],
    /// Of the patches, row by row; they sum to 1.
    pub(super) weights: Vec<f32>,
    /// Of log N: 1 looks everywhere alike, 0 at one patch.
    pub(super) entropy: f64,
    /// Over time.
    pub(super) parts: Vec<LookedPart>,
}

/// Where a part of it looks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LookedPart {
    /// Seconds.
    pub(super) from: f64,
    /// Seconds.
    pub(super) to: f64,
    /// The keyword that it is, of a model that hears keywords.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) word: Option<String>,
    pub(super) weights: Vec<f32>,
}

impl From<Look> for Looked {
    fn from(look: Look) -> Self {
        let entropy = look.whole.relative_entropy();
        let Attention { grid, weights } = look.whole;
        let parts = look.parts.into_iter();
        let parts = parts.map(|part| LookedPart {
            from: part.from,
            to: part.to,
            word: part.word,
            weights: part.attention.weights,
        });
        Self { grid, weights, entropy, parts: parts.collect() }
    }
}
