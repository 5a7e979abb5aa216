//! From frozen features and weights to the gradient of L (Eq. 7). Nothing here depends on a run, a file or a setting.
//!
//! Every process embeds its own rows and computes L of the whole batch from the embeddings of all; the gradient of L with respect to
//! its own rows goes on into its speech head, and the sum over processes is the gradient of one process with the whole batch.

use tch::{Kind, Tensor};

use crate::distributed::{DistributedError, World};
use crate::model::{CmdModel, DropoutMask, Embedded, Encoded, LayerSum, LossOptions, Losses, PatchNoise};

/// The losses of a global batch and their gradient.
#[derive(Debug)]
pub struct Gradient {
    /// Losses of the whole batch.
    pub losses: Losses,
    /// d L / d parameters, `[P]`, over the flat buffer.
    pub flat: Tensor,
    /// S_cls of this process's rows, [b, E].
    pub own_cls: Tensor,
}

/// What goes with the features of a global batch, on their device.
#[derive(Debug)]
pub struct Step {
    /// i64 `[B]`: rows with equal numbers show the same image.
    pub image_ids: Tensor,
    /// The first of this process's rows.
    pub first_row: i64,
    /// Without it there is no L_cmd.
    pub noise: Option<PatchNoise>,
    /// Of this process's rows.
    pub dropout: Option<DropoutMask>,
}

/// The gradient of L for a global batch of which `encoded` holds this process's rows.
///
/// # Errors
/// When another process is gone.
pub fn gradient(
    model: &mut CmdModel,
    encoded: &Encoded,
    step: &Step,
    options: LossOptions,
    world: &World,
) -> Result<Gradient, DistributedError> {
    model.parameters_mut().zero_grad();
    let head = model.speech();
    let sums: Vec<LayerSum> = encoded.speech.iter().map(|chunk| head.layer_sum(&chunk.hidden)).collect();
    let parts: Vec<Tensor> = encoded
        .speech
        .iter()
        .zip(&sums)
        .map(|(chunk, LayerSum { sum, .. })| {
            let sum = sum.set_requires_grad(true);
            head.embed(&sum, &chunk.frames, step.dropout.as_ref().map(|mask| (mask, &chunk.rows)))
        })
        .collect();
    let own_cls = Tensor::cat(&parts, 0).index_select(0, &encoded.speech_place);

    let width = own_cls.size()[1];
    let both = Tensor::cat(&[own_cls.detach(), encoded.image_cls.to_kind(Kind::Float)], 1);
    let both = world.gather(&both)?.split_with_sizes([width, encoded.image_cls.size()[1]], 1);
    let speech_cls = both[0].contiguous().set_requires_grad(true);
    let patches = match step.noise {
        Some(_) => world.gather(&encoded.patches)?,
        None => encoded.patches.shallow_clone(),
    };
    let (image_cls, image_ids) = (both[1].shallow_clone(), step.image_ids.shallow_clone());
    let embedded = Embedded { speech_cls: speech_cls.shallow_clone(), image_cls, patches, image_ids };
    let losses = model.losses(&embedded, step.noise.as_ref(), options);
    losses.total.backward();
    let own_gradient = speech_cls.grad().narrow(0, step.first_row, own_cls.size()[0]);
    (&own_cls * own_gradient).sum(Kind::Float).backward();
    for (chunk, sum) in encoded.speech.iter().zip(&sums) {
        sum.add_gradient(model.speech(), &chunk.hidden);
    }
    let flat = model.parameters().gradient();
    if !world.is_first() {
        // All processes have the same gradients here; they count once.
        let speech = model.speech_count();
        let _ = flat.narrow(0, speech, flat.size()[0] - speech).zero_();
    }
    Ok(Gradient { losses, flat: world.sum(&flat)?, own_cls: own_cls.detach() })
}
