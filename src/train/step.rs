//! From frozen features and weights to the gradient of L (Eq. 7). Nothing here depends on a run, a file or a setting.
//!
//! Every process embeds its own rows and computes L of the whole batch from the embeddings of all; the gradient of L with respect to
//! its own rows goes on into its speech head, and the sum over processes is the gradient of one process with the whole batch.

use tch::{Kind, Tensor};

use crate::distributed::{DistributedError, World};
use crate::model::{CmdModel, Dropout, Embedded, Encoded, LossOptions, Losses, PatchNoise};

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

/// The gradient of L for a global batch of which `encoded` holds this process's rows, those from `first_row` on; `image_ids` are those
/// of the whole batch, and `noise`, on the features' device, is drawn for it.
///
/// # Errors
/// When another process is gone.
pub fn gradient(
    model: &mut CmdModel,
    encoded: &Encoded,
    (image_ids, first_row): (&[i64], u64),
    noise: Option<&PatchNoise>,
    options: LossOptions,
    dropout: Option<Dropout>,
    world: &World,
) -> Result<Gradient, DistributedError> {
    model.parameters_mut().zero_grad();
    let own_cls = model.speech().forward(&encoded.hidden, &encoded.frames, dropout);
    let speech_cls = world.gather(&own_cls)?.set_requires_grad(true);
    let image_cls = world.gather(&encoded.image_cls)?;
    let patches = match noise {
        Some(_) => world.gather(&encoded.patches)?,
        None => encoded.patches.shallow_clone(),
    };
    let image_ids = image_ids.to_vec();
    let embedded = Embedded { speech_cls: speech_cls.shallow_clone(), image_cls, patches, image_ids };
    let losses = model.losses(&embedded, noise, options);
    losses.total.backward();
    let own_gradient = speech_cls.grad().narrow(0, first_row as i64, own_cls.size()[0]);
    (&own_cls * own_gradient).sum(Kind::Float).backward();
    let flat = model.parameters().gradient();
    if !world.is_first() {
        // All processes have the same gradients here; they count once.
        let speech = model.speech_count();
        let _ = flat.narrow(0, speech, flat.size()[0] - speech).zero_();
    }
    Ok(Gradient { losses, flat: world.sum(&flat)?, own_cls: own_cls.detach() })
}
