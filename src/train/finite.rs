//! Losses and gradients that are not finite, and which rows of the batch are to blame.

use tch::{Kind, Tensor};

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
    let mut own: Vec<&str> = Vec::new();
    for (row, name) in names.iter().enumerate() {
        let row = row as i64;
        let hidden = encoded.hidden.select(1, row).narrow(1, 0, encoded.frames.int64_value(&[row]));
        if !is_finite(&hidden) || !features.iter().all(|tensor| is_finite(&tensor.get(row))) {
            own.push(name);
        }
    }
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
