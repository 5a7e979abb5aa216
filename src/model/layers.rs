//! Layers that the speech head and the fusion encoder share, with PyTorch's parameter names.

use tch::Tensor;

use super::parameters::{Initial, ParameterSpec, Parameters};

/// Epsilon of every layer normalisation (PyTorch's default).
const LAYER_NORM_EPS: f64 = 1e-5;

/// y = x Wᵀ + b.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl Linear {
    /// PyTorch's default start: uniform within ±1/√inputs.
    pub(super) fn specs(name: &str, inputs: i64, outputs: i64) -> [ParameterSpec; 2] {
        let start = Initial::Uniform(1.0 / (inputs as f64).sqrt());
        [
            ParameterSpec::new(format!("{name}.weight"), &[outputs, inputs], start),
            ParameterSpec::new(format!("{name}.bias"), &[outputs], start),
        ]
    }

    pub(super) fn bind(parameters: &Parameters, name: &str) -> Self {
        Self { weight: parameters.get(&format!("{name}.weight")), bias: parameters.get(&format!("{name}.bias")) }
    }

    /// [.., inputs] -> [.., outputs].
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}

/// Layer normalisation over the last dimension, with weight and bias.
#[derive(Debug)]
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub(super) fn specs(name: &str, width: i64) -> [ParameterSpec; 2] {
        [
            ParameterSpec::new(format!("{name}.weight"), &[width], Initial::Constant(1.0)),
            ParameterSpec::new(format!("{name}.bias"), &[width], Initial::Constant(0.0)),
        ]
    }

    pub(super) fn bind(parameters: &Parameters, name: &str) -> Self {
        Self { weight: parameters.get(&format!("{name}.weight")), bias: parameters.get(&format!("{name}.bias")) }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), LAYER_NORM_EPS, false)
    }
}

/// Layer normalisation over the last dimension without parameters; with the mean and 1/σ of each row, [.., 1].
pub(super) fn standardise(x: &Tensor) -> (Tensor, Tensor, Tensor) {
    let width = x.size()[x.dim() - 1];
    x.native_layer_norm([width], None::<&Tensor>, None::<&Tensor>, LAYER_NORM_EPS)
}

/// x / max(‖x‖₂, 1e-12) over the last dimension.
pub(super) fn l2_normalise(x: &Tensor) -> Tensor {
    x / x.norm_scalaropt_dim(2, [-1i64].as_slice(), true).clamp_min(1e-12)
}
