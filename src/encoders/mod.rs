//! The frozen encoders (Section 2.1): HuBERT for speech, CLIP for images, and where words are read CLIP for texts, each a TorchScript file of a fixed
//! form (`docs/encoders.md`), behind the trait [`FrozenEncoder`].

mod bpe;
mod charmap;
mod check;
mod mended;
mod mojibake;
mod pair;
mod precision;
mod section;
mod spec;
mod text;
mod tokenizer;
mod torchscript;
mod trio;

use std::path::PathBuf;

use tch::{Kind, Tensor};

pub use pair::Pair;
pub use precision::Precision;
pub use section::{Cache, EncodersConfig, ImageEncoderConfig, SpeechEncoderConfig, TextEncoderConfig};
pub use spec::{ImageSpec, SpeechSpec, TextSpec};
pub use text::TextEncoder;
pub use tokenizer::{Tokenizer, is_blank};
pub use torchscript::TorchScript;
pub use trio::Encoders;

/// A frozen encoder; its outputs carry no gradient.
pub trait FrozenEncoder: Send + Sync {
    /// What it says of itself.
    type Spec;
    /// What goes in, on any device.
    type Input;
    /// What comes out, on the encoder's device.
    type Features;

    /// What the encoder says of itself.
    fn spec(&self) -> &Self::Spec;

    /// BLAKE3 of the encoder's file.
    fn fingerprint(&self) -> &str;

    /// The kind of its features.
    fn kind(&self) -> Kind;

    /// How it computes them.
    fn precision(&self) -> Precision;

    /// The error of a forward that failed for the reason `why`.
    fn failed(&self, why: String) -> EncoderError;

    /// One forward.
    ///
    /// # Errors
    /// When the module fails, for instance for want of memory.
    fn forward(&self, input: &Self::Input) -> Result<Self::Features, EncoderError>;
}

/// Hidden states of a batch of utterances.
#[derive(Debug)]
pub struct SpeechStates {
    /// [L, B, T, D].
    pub hidden: Tensor,
    /// i64 `[B]`: valid frames.
    pub frames: Tensor,
}

/// Features of a batch of images.
#[derive(Debug)]
pub struct ImageStates {
    /// [B, E], not normalised.
    pub cls: Tensor,
    /// [B, N, E].
    pub patches: Tensor,
}

/// An encoder's file cannot be used, or a forward failed.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// It cannot be opened.
    #[error("{}: {source}: {key} must name the TorchScript file of the frozen {modality} encoder", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// The configuration's key.
        key: String,
        /// "speech", "image" or "text".
        modality: &'static str,
    },
    /// libtorch cannot read it.
    #[error("{}: not a TorchScript file ({why}); {key} must name one made by torch.jit.script and save", path.display())]
    NotTorchScript {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
        /// The configuration's key.
        key: String,
    },
    /// None was named where one is needed.
    #[error(
        "{what} needs a frozen text encoder: encoders.text.path must name its TorchScript file, made by scripts/export_clip.py --text"
    )]
    NoText {
        /// What needs it.
        what: String,
    },
    /// Not the text encoder that a model's keywords are of.
    #[error("{}: is not the text encoder that this model's keywords are of: {why}", path.display())]
    OtherText {
        /// The text encoder's file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The text encoder's embeddings are no neighbours of the image encoder's.
    #[error("{}: its embeddings are {text} wide and those of encoders.image.path {image}; both must come from the same CLIP", path.display())]
    Widths {
        /// The text encoder's file.
        path: PathBuf,
        /// Its E.
        text: i64,
        /// The image encoder's E.
        image: i64,
    },
    /// The other encoder.
    #[error("{}: {key} names a frozen {found} encoder where the {expected} encoder is needed; are two paths swapped?", path.display())]
    Swapped {
        /// The file.
        path: PathBuf,
        /// The configuration's key.
        key: String,
        /// What it says it is.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// It does not do what `docs/encoders.md` asks for.
    #[error("{}: breaks the encoder contract: {why}", path.display())]
    Contract {
        /// The file.
        path: PathBuf,
        /// What it does and what it should do.
        why: String,
    },
    /// A forward failed.
    #[error("{}: the frozen encoder failed on a batch: {why}; if memory ran out, lower {key}", path.display())]
    Forward {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
        /// The configuration's key for the batch size.
        key: String,
    },
}
