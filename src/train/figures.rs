//! Figures of a step, brought to the host in one copy.

use tch::{Device, Kind, Tensor};

use super::step::Gradient;
use crate::model::{CmdModel, Denoising, LibtorchError};

/// Figures of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) loss: f64,
    pub(super) loss_sic: f64,
    pub(super) loss_cmd: Option<f64>,
    pub(super) loss_text: Option<f64>,
    pub(super) attention_entropy: Option<f64>,
    pub(super) temperature: f64,
    pub(super) cmd_temperature: Option<f64>,
    pub(super) grad_norm: f64,
    pub(super) lr: f64,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(out, "L {:.3}", self.loss)?;
        if let (Some(cmd), Some(entropy)) = (self.loss_cmd, self.attention_entropy) {
            write!(out, " (sic {:.3}, cmd {cmd:.3}), entropy {entropy:.2}", self.loss_sic)?;
        }
        if let Some(text) = self.loss_text {
            let sic = if self.loss_cmd.is_none() { format!("sic {:.3}, ", self.loss_sic) } else { String::new() };
            write!(out, " ({sic}text {text:.3})")?;
        }
        write!(out, ", tau {:.4}", self.temperature)
    }
}

impl Figures {
    /// Reads all of a step's at once; the device has to come that far.
    pub(super) fn read(gradient: &Gradient, model: &CmdModel, lr: f64) -> Result<Self, LibtorchError> {
        let losses = &gradient.losses;
        let mut parts =
            vec![losses.total.detach(), losses.sic.detach(), gradient.flat.norm(), model.inverse_tau().detach()];
        let of_cmd = |cmd: &Denoising| [cmd.loss.detach(), cmd.attention_entropy(), model.cmd_inverse_tau().detach()];
        parts.extend(losses.cmd.iter().flat_map(of_cmd));
        parts.extend(losses.text.iter().map(Tensor::detach));
        let values = Vec::<f64>::try_from(Tensor::stack(&parts, 0).to_device(Device::Cpu).to_kind(Kind::Double));
        let values = values.map_err(|error: tch::TchError| LibtorchError::new(&error.to_string()))?;
        let of_cmd = |place: usize| losses.cmd.as_ref().map(|_| values[place]);
        Ok(Self {
            loss: values[0],
            loss_sic: values[1],
            grad_norm: values[2],
            temperature: 1.0 / values[3],
            loss_cmd: of_cmd(4),
            attention_entropy: of_cmd(5),
            cmd_temperature: of_cmd(6).filter(|_| model.config().own_temperature).map(|inverse| 1.0 / inverse),
            loss_text: losses.text.as_ref().and(values.last().copied()),
            lr,
        })
    }
}
