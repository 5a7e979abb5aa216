//! The frozen encoders (Section 2.1): HuBERT for speech, CLIP for images, each a TorchScript file of a fixed form
//! (`docs/encoders.md`), behind the trait [`FrozenEncoder`].

mod check;
mod pair;
mod precision;
mod section;
mod spec;
mod torchscript;

use std::path::PathBuf;

use tch::{Kind, Tensor};

pub use pair::Encoders;
pub use precision::Precision;
pub use section::{Cache, EncodersConfig, ImageEncoderConfig, SpeechEncoderConfig};
pub use spec::{ImageSpec, SpeechSpec};
pub use torchscript::TorchScript;

/// A frozen encoder; its outputs carry no gradient.
pub trait FrozenEncoder {
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
        /// "speech" or "image".
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
    /// The other encoder.
    #[error("{}: {key} names a {found} encoder where a {expected} encoder is needed; are the two paths swapped?", path.display())]
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
