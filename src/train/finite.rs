//! Losses and gradients that are not finite, and which rows of the batch are to blame.

use tch::{Device, Kind, Tensor};

use super::step::Gradient;
use crate::distributed::{DistributedError, World};
use crate::model::Encoded;

/// Files that a message names.
const NAMED: usize = 20;

/// What of a step is not finite, if anything, by its loss and the norm of its gradient.
pub(super) fn check(loss: f64, norm: f64) -> Option<&'static str> {
    match (loss.is_finite(), norm.is_finite()) {
        (_, false) => Some("the gradient"),
        (false, true) => Some("the loss"),
        (true, true) => None,
    }
}

/// Says which rows' features or embedding are not finite, and no others, over all processes; `names` are the files of this process's
/// rows.
pub(super) fn blame(
    encoded: &Encoded,
    gradient: &Gradient,
    names: &[String],
    world: &World,
) -> Result<String, DistributedError> {
    let features = [&encoded.image_cls, &encoded.patches, &gradient.own_cls];
    let numbers = |tensor: &Tensor| Vec::<i64>::try_from(tensor.to_device(Device::Cpu)).unwrap_or_default();
    let mut is_broken: Vec<bool> =
        (0..names.len() as i64).map(|row| !features.iter().all(|tensor| is_finite(&tensor.get(row)))).collect();
    for chunk in &encoded.speech {
        let rows = numbers(&chunk.rows).into_iter().zip(numbers(&chunk.frames));
        for (place, (row, frames)) in (0..).zip(rows) {
            is_broken[row as usize] |= !is_finite(&chunk.hidden.select(1, place).narrow(1, 0, frames));
        }
    }
    let own: Vec<&str> = names.iter().zip(is_broken).filter_map(|(name, broken)| broken.then_some(&**name)).collect();
    let texts = world.gather_texts(&own.join("\n"))?;
    let all: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
    Ok(match all.len() {
        0 => "every row of the batch is finite by itself, so the weights grew too large".to_owned(),
        count if count > NAMED => format!("rows that are not: {} and {} more", all[..NAMED].join(", "), count - NAMED),
        _ => format!("rows that are not: {}", all.join(", ")),
    })
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.to_kind(Kind::Float).isfinite().all().int64_value(&[]) != 0
}
