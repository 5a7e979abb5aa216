//! Averaged weights (`train.ema`): θ_m <- m θ_m + (1 - m) θ after every update, from θ at the start, the temperature too. They are evaluated and
//! kept as the model; θ is kept beside the optimizer's moments.

use tch::Tensor;

use crate::model::CmdModel;

/// An average of the weights of a model along its training.
#[derive(Debug)]
pub(super) struct Average {
    model: CmdModel,
    /// m.
    decay: f64,
}

impl Average {
    /// The average at the start of `model`.
    pub(super) fn new(model: &CmdModel, decay: f64) -> Self {
        Self { model: model.twin(), decay }
    }

    /// Begins anew from the weights of `model`.
    pub(super) fn start(&self, model: &CmdModel) {
        tch::no_grad(|| self.flat().copy_(model.parameters().flat()));
    }

    /// Has what a cascaded head of `model` holds beside its parameters.
    pub(super) fn share(&mut self, model: &CmdModel) {
        self.model.share_keywords(model);
    }

    /// Takes in the weights of `model` after an update.
    pub(super) fn update(&self, model: &CmdModel) {
        tch::no_grad(|| {
            let _ = self.flat().lerp_(model.parameters().flat(), 1.0 - self.decay);
        });
    }

    /// The model with the averaged weights.
    pub(super) fn model(&self) -> &CmdModel {
        &self.model
    }

    /// All its values, `[P]`.
    pub(super) fn flat(&self) -> Tensor {
        self.model.parameters().flat().shallow_clone()
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::{HeadKind, ModelConfig, QueryNorm};

    #[test]
    fn the_average_follows_its_formula() {
        let config = ModelConfig {
            layers: 2,
            speech_width: 4,
            width: 3,
            heads: 2,
            normalize_layers: true,
            fusion: Some(QueryNorm::LayerNorm),
            own_temperature: false,
            head: HeadKind::Parallel,
        };
        let [model, other] = [0, 1].map(|seed| CmdModel::new(config.clone(), seed, Device::Cpu));
        let average = Average::new(&model, 0.75);
        assert!(average.flat().equal(model.parameters().flat()));
        average.update(&other);
        let expected = model.parameters().flat() * 0.75 + other.parameters().flat() * 0.25;
        assert!((average.flat() - expected).abs().max().double_value(&[]) < 1e-7);
        average.start(&other);
        assert!(average.flat().equal(other.parameters().flat()) && !model.parameters().flat().equal(&average.flat()));
    }
}
