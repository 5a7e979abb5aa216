//! Adam with L2 weight decay (Kingma and Ba, 2015; Section 3.1 of the paper), as `torch.optim.Adam`. Our own, because the state
//! of tch's optimizers can be neither saved nor restored.

use tch::Tensor;

use crate::checkpoint::Moments;

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

    /// One update of `flat` `[P]` with `gradient` `[P]`.
    pub fn update(&mut self, flat: &mut Tensor, gradient: &Tensor, lr: f64) {
        let AdamSettings { weight_decay, betas: [beta1, beta2], eps } = self.settings;
        let Moments { step, exp_avg, exp_avg_sq } = &mut self.moments;
        *step += 1;
        tch::no_grad(|| {
            let gradient = gradient + &*flat * weight_decay;
            let _ = exp_avg.g_mul_scalar_(beta1).g_add_(&(&gradient * (1.0 - beta1)));
            let _ = exp_avg_sq.g_mul_scalar_(beta2).g_add_(&(gradient.square() * (1.0 - beta2)));
            let correction1 = 1.0 - beta1.powi(*step as i32);
            let correction2 = 1.0 - beta2.powi(*step as i32);
            let denominator = exp_avg_sq.sqrt() / correction2.sqrt() + eps;
            let _ = flat.g_sub_(&(&*exp_avg / denominator * (lr / correction1)));
        });
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
