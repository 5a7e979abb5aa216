//! `[encoders.speech]` and `[encoders.image]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Range, between, section};

/// `[encoders]`: the two frozen encoders.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncodersConfig {
    /// HuBERT.
    pub speech: SpeechEncoderConfig,
    /// CLIP's image tower.
    pub image: ImageEncoderConfig,
}

section! {
    /// `[encoders.speech]`
    pub struct SpeechEncoderConfig {
        /// TorchScript file of the frozen speech encoder (HuBERT-Large); required.
        Here, Range::Path("\"hubert.pt\"") => path: Option<PathBuf> = None;
        /// Utterances in one forward of the frozen encoder; bounds memory, changes results by rounding alone.
        Inexact, between(1, 1 << 16) => batch_size: i64 = 32;
        /// Keep the hidden states of training and development data in memory, computed once: for small sets of short utterances.
        Inexact, Range::Any => cache: bool = false;
    }
}

section! {
    /// `[encoders.image]`
    pub struct ImageEncoderConfig {
        /// TorchScript file of the frozen image encoder (CLIP ViT-L/14); required.
        Here, Range::Path("\"clip.pt\"") => path: Option<PathBuf> = None;
        /// Images in one forward of the frozen encoder; bounds memory, changes results by rounding alone.
        Inexact, between(1, 1 << 16) => batch_size: i64 = 32;
        /// Keep the image features of the training data in memory, computed once.
        Inexact, Range::Any => cache: bool = false;
    }
}
