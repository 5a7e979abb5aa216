//! Adam with L2 weight decay (Kingma and Ba, 2015; Section 3.1 of the paper), as `torch.optim.Adam`. Our own, because the state
//! of tch's optimizers can be neither saved nor restored.

use tch::Tensor;

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
    step: i64,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
}

impl Adam {
    /// A fresh optimizer for the values in `flat` `[P]`.
    #[must_use]
    pub fn new(settings: AdamSettings, flat: &Tensor) -> Self {
        Self::restore(settings, 0, flat.detach().zeros_like(), flat.detach().zeros_like())
    }

    /// The optimizer after `step` updates.
    #[must_use]
    pub fn restore(settings: AdamSettings, step: i64, exp_avg: Tensor, exp_avg_sq: Tensor) -> Self {
        Self { settings, step, exp_avg, exp_avg_sq }
    }

    /// One update of `flat` `[P]` with `gradient` `[P]`.
    pub fn update(&mut self, flat: &mut Tensor, gradient: &Tensor, lr: f64) {
        let AdamSettings { weight_decay, betas: [beta1, beta2], eps } = self.settings;
        self.step += 1;
        tch::no_grad(|| {
            let gradient = gradient + &*flat * weight_decay;
            let _ = self.exp_avg.g_mul_scalar_(beta1).g_add_(&(&gradient * (1.0 - beta1)));
            let _ = self.exp_avg_sq.g_mul_scalar_(beta2).g_add_(&(gradient.square() * (1.0 - beta2)));
            let correction1 = 1.0 - beta1.powi(self.step as i32);
            let correction2 = 1.0 - beta2.powi(self.step as i32);
            let denominator = self.exp_avg_sq.sqrt() / correction2.sqrt() + eps;
            let _ = flat.g_sub_(&(&self.exp_avg / denominator * (lr / correction1)));
        });
    }

    /// Updates made.
    #[must_use]
    pub fn step(&self) -> i64 {
        self.step
    }

    /// First and second moment, `[P]` each.
    pub fn moments(&self) -> (&Tensor, &Tensor) {
        (&self.exp_avg, &self.exp_avg_sq)
    }
}
