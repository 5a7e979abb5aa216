//! `state.json`: where a run stands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the files of a checkpoint.
pub(super) const FORMAT: u32 = 1;

/// Name and BLAKE3 of something that a checkpoint depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Its name.
    pub name: String,
    /// BLAKE3 of its file.
    pub fingerprint: String,
}

impl Fingerprint {
    /// Name and BLAKE3.
    #[must_use]
    pub fn new(name: &str, fingerprint: &str) -> Self {
        Self { name: name.to_owned(), fingerprint: fingerprint.to_owned() }
    }

    /// Both, for a message.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} ({})", self.name, self.fingerprint.get(..12).unwrap_or(&self.fingerprint))
    }
}

/// Step and score of the best checkpoint so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestScore {
    /// Updates made.
    pub step: u64,
    /// Mean R@1 on the development split, in percent.
    pub mean_r1: f64,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the files.
    pub format: u32,
    /// Version of the program.
    pub version: String,
    /// Updates made.
    pub step: u64,
    /// Epoch of the next sample.
    pub epoch: u64,
    /// Place of the next sample in it.
    pub position: u64,
    /// Seed of every draw; each is keyed by it and by where it stands, so that there is no other generator state.
    pub seed: u64,
    /// BLAKE3 of the keys that must not change; none in a state of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// Times that a sample could not be read and was replaced.
    #[serde(default)]
    pub skipped: u64,
    /// Batches that were passed over because a loss or gradient was not finite.
    #[serde(default)]
    pub nan_batches: u64,
    /// Steps that were made without L_cmd because the batch held a single image.
    #[serde(default)]
    pub without_cmd: u64,
    /// The step after which the last evaluation was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_evaluation: Option<u64>,
    /// Whether the evaluation that is due at this step has been made.
    pub evaluated: bool,
    /// The best checkpoint so far.
    pub best: Option<BestScore>,
    /// The training data.
    pub data: Fingerprint,
    /// The frozen speech encoder.
    pub speech_encoder: Fingerprint,
    /// The frozen image encoder.
    pub image_encoder: Fingerprint,
    /// The frozen text encoder, where the training read words or keywords.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<Fingerprint>,
    /// BLAKE3 of the other files of the checkpoint.
    pub files: BTreeMap<String, String>,
}

impl State {
    /// The start of a run.
    #[must_use]
    pub fn new(seed: u64, data: Fingerprint, speech_encoder: Fingerprint, image_encoder: Fingerprint) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            step: 0,
            epoch: 0,
            position: 0,
            seed,
            configuration: None,
            skipped: 0,
            nan_batches: 0,
            without_cmd: 0,
            last_evaluation: None,
            evaluated: true,
            best: None,
            data,
            speech_encoder,
            image_encoder,
            text_encoder: None,
            files: BTreeMap::new(),
        }
    }
}
