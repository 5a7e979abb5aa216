//! `[encoders.speech]`, `[encoders.image]` and `[encoders.text]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Precision;
use crate::{Range, between, section};

/// Where frozen features are kept once they are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Nowhere.
    #[default]
    None,
    /// In the memory of each process, as long as it runs.
    Memory,
    /// In files.
    Disk,
}

impl<'de> Deserialize<'de> for Cache {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            /// As version 0.1 had it.
            Flag(bool),
            Name(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Flag(false)) => Ok(Self::None),
            Ok(Written::Flag(true)) => Ok(Self::Memory),
            Ok(Written::Name(name)) if name == "none" => Ok(Self::None),
            Ok(Written::Name(name)) if name == "memory" => Ok(Self::Memory),
            Ok(Written::Name(name)) if name == "disk" => Ok(Self::Disk),
            _ => Err(serde::de::Error::custom("must be \"none\", \"memory\" or \"disk\"")),
        }
    }
}

/// `[encoders]`: the frozen encoders.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncodersConfig {
    /// HuBERT.
    pub speech: SpeechEncoderConfig,
    /// CLIP's image tower.
    pub image: ImageEncoderConfig,
    /// CLIP's text tower, where texts or keywords are read.
    pub text: TextEncoderConfig,
}

section! {
    /// `[encoders.speech]`
    pub struct SpeechEncoderConfig {
        /// TorchScript file of the frozen speech encoder (HuBERT-Large); required.
        Here, Range::Path("\"hubert.pt\"") => path: Option<PathBuf> = None;
        /// Utterances in one forward of the frozen encoder; bounds memory, changes results by rounding alone.
        Inexact, between(1, 1 << 16) => batch_size: i64 = 32;
        /// In one forward no utterance is shorter than the longest by more than this part of it, so that little is padding; 1: any are.
        /// Changes results by rounding alone.
        Inexact, Range::Share => spread: f64 = 0.15;
        /// Kind of its numbers: "file" (that of the file), "f32", "tf32", "bf16" or "f16".
        Fixed, Range::Any => dtype: Precision = Precision::File;
        /// Keep the hidden states of all layers, computed once: "none", "memory" or "disk"; for small sets of short utterances.
        Inexact, Range::Any => cache: Cache = Cache::None;
    }
}

section! {
    /// `[encoders.image]`
    pub struct ImageEncoderConfig {
        /// TorchScript file of the frozen image encoder (CLIP ViT-L/14); required.
        Here, Range::Path("\"clip.pt\"") => path: Option<PathBuf> = None;
        /// Images in one forward of the frozen encoder; bounds memory, changes results by rounding alone.
        Inexact, between(1, 1 << 16) => batch_size: i64 = 32;
        /// Kind of its numbers: "file" (that of the file), "f32", "tf32", "bf16" or "f16".
        Fixed, Range::Any => dtype: Precision = Precision::File;
        /// Keep the image features, computed once: "none", "memory" (of the training data, in each process) or "disk".
        Here, Range::Any => cache: Cache = Cache::None;
    }
}

section! {
    /// `[encoders.text]`
    pub struct TextEncoderConfig {
        /// TorchScript file of the frozen text encoder (CLIP's); needed for speech.head = "cascaded", loss.text and queries in words.
        Here, Range::Path("\"clip_text.pt\"") => path: Option<PathBuf> = None;
        /// Texts in one forward of the frozen encoder; bounds memory, changes results by rounding alone.
        Inexact, between(1, 1 << 16) => batch_size: i64 = 64;
        /// Kind of its numbers: "file" (that of the file), "f32", "tf32", "bf16" or "f16".
        Fixed, Range::Any => dtype: Precision = Precision::File;
    }
}
