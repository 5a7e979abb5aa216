//! The kind of numbers that a frozen encoder computes in.

use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::model::allow_tf32;

/// The kind of an encoder's weights and features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// That of its file.
    #[default]
    File,
    /// 32 bits.
    F32,
    /// 32 bits, of which CUDA multiplies matrices with 10 bits of mantissa.
    Tf32,
    /// bfloat16.
    Bf16,
    /// 16 bits with 10 bits of mantissa.
    F16,
}

impl Precision {
    /// The kind that weights are brought to.
    pub(super) fn kind(self) -> Option<Kind> {
        match self {
            Self::File => None,
            Self::F32 | Self::Tf32 => Some(Kind::Float),
            Self::Bf16 => Some(Kind::BFloat16),
            Self::F16 => Some(Kind::Half),
        }
    }

    /// Says to libtorch how matrices of 32 bits are multiplied from now on.
    pub(super) fn apply(self) {
        allow_tf32(self == Self::Tf32);
    }
}
