//! The multimodal fusion encoder Omega (Eq. 1-2): attentive pooling of the noisy patches by the speech embedding, a fully
//! connected layer and a layer normalisation. It exists for training and re-ranking only.
//!
//! Eq. 1-2 have no learned Q, K, V. With a unit-norm query the softmax would then stay close to uniform, so a LayerNorm shared
//! by query and patches goes first ([`QueryNorm::LayerNorm`]), as in X-Pool, from which the equations derive.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::layers::{LayerNorm, Linear, l2_normalise};
use super::parameters::{ParameterSpec, Parameters};

/// What stands before the attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryNorm {
    /// One LayerNorm, shared by the query and the patches.
    #[default]
    LayerNorm,
    /// Nothing: Eq. 1 to the letter.
    None,
}

/// Denoised image features and how they came about.
#[derive(Debug)]
pub struct Fused {
    /// F^I', L2-normalised: [B, E] paired, [B, B, E] (speech k, image j) all.
    pub denoised: Tensor,
    /// Softmax over the patches: [B, N] paired, [B, B, N] all.
    pub attention: Tensor,
}

/// Attentive pooling, FC and LayerNorm.
#[derive(Debug)]
pub struct FusionEncoder {
    query_norm: Option<LayerNorm>,
    fc: Linear,
    norm: LayerNorm,
}

impl FusionEncoder {
    pub(super) fn specs(e: i64, query_norm: QueryNorm) -> Vec<ParameterSpec> {
        let mut specs = Vec::new();
        if query_norm == QueryNorm::LayerNorm {
            specs.extend(LayerNorm::specs("fusion.query_norm", e));
        }
        specs.extend(Linear::specs("fusion.fc", e, e));
        specs.extend(LayerNorm::specs("fusion.norm", e));
        specs
    }

    pub(super) fn bind(parameters: &Parameters, query_norm: QueryNorm) -> Self {
        Self {
            query_norm: (query_norm == QueryNorm::LayerNorm).then(|| LayerNorm::bind(parameters, "fusion.query_norm")),
            fc: Linear::bind(parameters, "fusion.fc"),
            norm: LayerNorm::bind(parameters, "fusion.norm"),
        }
    }

    /// One that has learned nothing, for patches of width `e`: its attention is Eq. 1 after a LayerNorm without weights.
    #[must_use]
    pub fn unlearned(e: i64, device: Device) -> Self {
        let query_norm = QueryNorm::LayerNorm;
        Self::bind(&Parameters::new(Self::specs(e, query_norm), 0, device), query_norm)
    }

    /// Sets FC to 0.
    pub(super) fn zero(&self) {
        for values in [&self.fc.weight, &self.fc.bias] {
            let _ = values.detach().zero_();
        }
    }

    /// Each image is pooled with its own speech: `speech` [B, E], `patches` [B, N, E].
    #[must_use]
    pub fn paired(&self, speech: &Tensor, patches: &Tensor) -> Fused {
        let (query, patches) = self.normalised(speech, patches);
        let query = query.unsqueeze(1);
        let fused = self.pool(&query.matmul(&patches.transpose(1, 2)), &patches);
        Fused { denoised: fused.denoised.squeeze_dim(1), attention: fused.attention.squeeze_dim(1) }
    }

    /// Each image is pooled with every speech: `speech` [B, E], `patches` [B, N, E]; nothing larger than [B, B, N] and
    /// [B, B, E] is made.
    #[must_use]
    pub fn all(&self, speech: &Tensor, patches: &Tensor) -> Fused {
        let (query, patches) = self.normalised(speech, patches);
        // Images first: [B images, B speech, N]
        let fused = self.pool(&query.unsqueeze(0).matmul(&patches.transpose(1, 2)), &patches);
        Fused { denoised: fused.denoised.transpose(0, 1), attention: fused.attention.transpose(0, 1) }
    }

    /// S·F(S, patches) of every utterance with one image: `speech` [Q, E], `patches` [N, E] -> `[Q]`.
    pub fn scores(&self, speech: &Tensor, patches: &Tensor) -> Tensor {
        let denoised = self.all(speech, &patches.unsqueeze(0)).denoised.squeeze_dim(1);
        (denoised * speech).sum_dim_intlist([-1i64].as_slice(), false, None)
    }

    fn normalised(&self, speech: &Tensor, patches: &Tensor) -> (Tensor, Tensor) {
        let patches = patches.to_kind(Kind::Float);
        match &self.query_norm {
            Some(norm) => (norm.forward(speech), norm.forward(&patches)),
            None => (speech.shallow_clone(), patches),
        }
    }

    /// Eq. 1-2 for Q queries an image: `scores` [B, Q, N], `patches` [B, N, E] -> [B, Q, E].
    fn pool(&self, scores: &Tensor, patches: &Tensor) -> Fused {
        let width = patches.size()[2] as f64;
        let attention = (scores / width.sqrt()).softmax(-1, None);
        let attended = attention.matmul(patches);
        let denoised = self.norm.forward(&(self.fc.forward(&attended) + attended));
        Fused { denoised: l2_normalise(&denoised), attention }
    }
}

/// Mean entropy of attention rows relative to log N: 1 is uniform, 0 a single patch.
pub(super) fn relative_entropy(attention: &Tensor) -> Tensor {
    let patches = attention.size()[attention.dim() - 1] as f64;
    let attention = attention.detach();
    let entropy = -(&attention * attention.clamp_min(1e-30).log()).sum_dim_intlist([-1i64].as_slice(), false, None);
    entropy.mean(None) / patches.ln()
}
