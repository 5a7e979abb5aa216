//! Adam with L2 weight decay (Kingma and Ba, 2015; Section 3.1 of the paper), as `torch.optim.Adam`. Our own, because the state
//! of tch's optimizers can be neither saved nor restored.

use tch::Tensor;

use crate::checkpoint::Moments;
use crate::model::{AdamUpdate, LibtorchError};

/// Constants of Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// Added to the gradient as `weight_decay` · parameter.
    pub weight_decay: f64,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// Moments over a flat buffer of parameters, and the number of updates made.
#[derive(Debug)]
pub struct Adam {
    settings: AdamSettings,
    moments: Moments,
}

impl Adam {
    /// A fresh optimizer for the values in `flat` `[P]`.
    #[must_use]
    pub fn new(settings: AdamSettings, flat: &Tensor) -> Self {
        let zeros = || flat.detach().zeros_like();
        Self::restore(settings, Moments { step: 0, exp_avg: zeros(), exp_avg_sq: zeros() })
    }

    /// The optimizer with these moments.
    #[must_use]
    pub fn restore(settings: AdamSettings, moments: Moments) -> Self {
        Self { settings, moments }
    }

    /// One update of `flat` `[P]` with `scale` · `gradient` `[P]`, in which nothing of use is left.
    ///
    /// # Errors
    /// When libtorch cannot.
    pub fn update(
        &mut self,
        flat: &mut Tensor,
        gradient: &mut Tensor,
        scale: f64,
        lr: f64,
    ) -> Result<(), LibtorchError> {
        let AdamSettings { weight_decay, betas, eps } = self.settings;
        let Moments { step, exp_avg, exp_avg_sq } = &mut self.moments;
        *step += 1;
        let update = AdamUpdate { step: *step as u64, lr, betas, weight_decay, eps, scale };
        update.make(flat, gradient, exp_avg, exp_avg_sq)
    }

    /// What it carries from update to update.
    #[must_use]
    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// What it carries from update to update, to change it.
    pub fn moments_mut(&mut self) -> &mut Moments {
        &mut self.moments
    }
}
