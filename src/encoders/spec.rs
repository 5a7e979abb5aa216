//! What an encoder says of itself: the JSON of its exported method `spec()`.

use serde::Deserialize;

/// Version of the contract between encoder files and the program.
pub(super) const FORMAT: i64 = 1;

/// A frozen speech encoder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SpeechSpec {
    /// Version of the contract.
    pub format: i64,
    /// Name.
    pub name: String,
    /// Where the weights come from.
    #[serde(default)]
    pub source: String,
    /// L: hidden states.
    pub layers: i64,
    /// D: width of each.
    pub width: i64,
    /// Samples a second.
    pub sample_rate: i64,
    /// Samples of the shortest input.
    pub min_samples: i64,
    /// Samples between frames.
    pub hop: i64,
}

/// A frozen image encoder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ImageSpec {
    /// Version of the contract.
    pub format: i64,
    /// Name.
    pub name: String,
    /// Where the weights come from.
    #[serde(default)]
    pub source: String,
    /// S: height and width of the input.
    pub size: i64,
    /// Rows and columns of patches, row-major.
    pub grid: [i64; 2],
    /// E: width of the output.
    pub width: i64,
}

impl ImageSpec {
    /// N.
    #[must_use]
    pub fn patches(&self) -> i64 {
        self.grid[0] * self.grid[1]
    }
}

/// A frozen text encoder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TextSpec {
    /// Version of the contract.
    pub format: i64,
    /// Name.
    pub name: String,
    /// Where the weights come from.
    #[serde(default)]
    pub source: String,
    /// Tokens of the longest text, with start and end.
    pub context: i64,
    /// E: width of the output.
    pub width: i64,
    /// W: width of a token's embedding.
    pub token_width: i64,
    /// Number of token ids.
    pub vocabulary: i64,
    /// Id before a text.
    pub start: i64,
    /// Id behind it.
    pub end: i64,
}
