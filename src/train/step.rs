//! From frozen features and weights to the gradient of L (Eq. 7). Nothing here depends on a run, a file or a setting.
//!
//! Every process embeds its own rows and computes L of the whole batch from the embeddings of all; the gradient of L with respect to
//! its own rows goes on into its speech head, and the sum over processes is the gradient of one process with the whole batch. A cascaded head
//! normalises over the whole batch too: all processes have its projected keywords, and what the rows of each say of them is added up.

use tch::{Kind, Tensor};

use crate::distributed::{DistributedError, World};
use crate::model::{
    BatchStatistics, CmdModel, DropoutMask, Embedded, Encoded, FurtherImages, LayerSum, LossOptions, Losses,
    PatchNoise, SpeechHead, Teacher, TextAnchor,
};

/// The losses of a global batch and their gradient.
#[derive(Debug)]
pub struct Gradient {
    /// Losses of the whole batch.
    pub losses: Losses,
    /// d L / d parameters, `[P]`, over the flat buffer.
    pub flat: Tensor,
    /// S_cls of this process's rows, [b, E].
    pub own_cls: Tensor,
    /// What a cascaded head takes in with the update.
    pub statistics: Option<BatchStatistics>,
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
    /// Further negatives of the speech.
    pub further: Option<FurtherImages>,
    /// Which rows say the same, i64 `[B]`, and the weight of the loss against the captions.
    pub text: Option<(Tensor, f64)>,
}

/// S_cls of a process's rows and the way back from it.
struct OwnCls {
    /// [b, E].
    cls: Tensor,
    /// What the speech head gives for the process's rows, [b, K, M].
    projected: Tensor,
    /// Of a cascaded head: that of all rows, as a leaf, and their statistics.
    whole: Option<(Tensor, BatchStatistics)>,
}

/// The gradient of L for a global batch of which `encoded` holds this process's rows; `teacher` and its weight a take part in what is right.
///
/// # Errors
/// When another process is gone.
pub fn gradient(
    model: &CmdModel,
    teacher: Option<(&CmdModel, f64)>,
    encoded: &Encoded,
    step: &Step,
    options: LossOptions,
    world: &World,
) -> Result<Gradient, DistributedError> {
    let span = tracing::debug_span!("speech head").entered();
    let head = model.speech();
    let sums: Vec<LayerSum> = encoded.speech.iter().map(|chunk| head.layer_sum(&chunk.hidden)).collect();
    let leaves: Vec<Tensor> = sums.iter().map(|LayerSum { sum, .. }| sum.detach().set_requires_grad(true)).collect();
    let parts: Vec<Tensor> = encoded
        .speech
        .iter()
        .zip(&leaves)
        .map(|(chunk, sum)| head.project(sum, &chunk.frames, step.dropout.as_ref().map(|mask| (mask, &chunk.rows))))
        .collect();
    let projected = Tensor::cat(&parts, 0).index_select(0, &encoded.speech_place);
    let own = OwnCls::new(head, projected, step.first_row, world)?;

    span.exit();

    let mut all = vec![own.cls.detach(), encoded.image_cls.to_kind(Kind::Float)];
    all.extend(encoded.text.as_ref().map(Tensor::shallow_clone));
    all.extend(teacher.map(|(teacher, _)| cls_by(teacher, encoded)));
    let sizes: Vec<i64> = all.iter().map(|part| part.size()[1]).collect();
    let all = world.gather(&Tensor::cat(&all, 1))?.split_with_sizes(sizes, 1);
    let speech_cls = all[0].contiguous().set_requires_grad(true);
    let teacher = teacher.zip(all.last()).map(|((_, weight), cls)| Teacher { speech_cls: cls.contiguous(), weight });
    let text = step.text.as_ref().filter(|_| encoded.text.is_some());
    let text =
        text.map(|(ids, weight)| TextAnchor { cls: all[2].contiguous(), ids: ids.shallow_clone(), weight: *weight });
    let patches = match step.noise {
        Some(_) => world.gather(&encoded.patches)?,
        None => encoded.patches.shallow_clone(),
    };
    let (image_cls, image_ids) = (all[1].shallow_clone(), step.image_ids.shallow_clone());
    let embedded = Embedded { speech_cls: speech_cls.shallow_clone(), image_cls, patches, image_ids, teacher, text };
    let span = tracing::debug_span!("losses").entered();
    let losses = model.losses(&embedded, step.noise.as_ref(), step.further.as_ref(), options);

    span.exit();

    let own_cls = own.cls.detach();
    let span = tracing::debug_span!("backward").entered();
    let (of_head, of_losses) = model.leaves();
    let mut gradients = backward(&losses.total, of_losses, &[speech_cls]);
    let own_gradient = gradients.split_off(of_losses.len())[0].narrow(0, step.first_row, own.cls.size()[0]);
    if !world.is_first() {
        // All processes have the same here; it counts once.
        gradients.iter_mut().for_each(|gradient| *gradient = gradient.zeros_like());
    }
    let (mut of_speech, statistics) = own.backward(&own_gradient, of_head, &leaves, step.first_row, world)?;
    let of_sums = of_speech.split_off(of_head.len());
    for ((sum, of_sum), chunk) in sums.iter().zip(&of_sums).zip(&encoded.speech) {
        of_speech[SpeechHead::LAYER_WEIGHTS] += sum.gradient(head, &chunk.hidden, of_sum);
    }
    span.exit();
    let flat: Vec<Tensor> = of_speech.iter().chain(&gradients).map(|gradient| gradient.flatten(0, -1)).collect();
    Ok(Gradient { losses, flat: world.sum(&Tensor::cat(&flat, 0))?, own_cls, statistics })
}

impl OwnCls {
    /// Of what `head` gives for the rows of this process, which start at `first_row` of the global batch.
    fn new(head: &SpeechHead, projected: Tensor, first_row: i64, world: &World) -> Result<Self, DistributedError> {
        let Some(cascade) = head.cascade() else {
            return Ok(Self { cls: head.finish(&projected), projected, whole: None });
        };
        let all = world.gather(&projected)?.set_requires_grad(true);
        let (cls, statistics) = cascade.train(&all, first_row, projected.size()[0]);
        Ok(Self { cls, projected, whole: Some((all, statistics)) })
    }

    /// The gradient of each of `leaves` and of `others`, where that of S_cls is `gradient`.
    fn backward(
        self,
        gradient: &Tensor,
        leaves: &[Tensor],
        others: &[Tensor],
        first_row: i64,
        world: &World,
    ) -> Result<(Vec<Tensor>, Option<BatchStatistics>), DistributedError> {
        let product = |output: &Tensor, gradient: &Tensor| (output * gradient).sum(Kind::Float);
        let Some((all, statistics)) = self.whole else {
            return Ok((backward(&product(&self.cls, gradient), leaves, others), None));
        };
        let mut behind = backward(&product(&self.cls, gradient), leaves, &[all]);
        let of_all = world.sum(&behind.split_off(leaves.len())[0])?;
        let of_own = of_all.narrow(0, first_row, self.projected.size()[0]);
        let mut before = backward(&product(&self.projected, &of_own), leaves, others);
        before.iter_mut().zip(behind).for_each(|(before, behind)| *before += behind);
        Ok((before, Some(statistics)))
    }
}

/// S_cls of the rows of `encoded` by `teacher`, [b, E], without dropout and without a gradient.
fn cls_by(teacher: &CmdModel, encoded: &Encoded) -> Tensor {
    tch::no_grad(|| {
        let chunks = encoded.speech.iter().map(|chunk| teacher.speech().forward(&chunk.hidden, &chunk.frames));
        Tensor::cat(&chunks.collect::<Vec<_>>(), 0).index_select(0, &encoded.speech_place)
    })
}

/// d `loss` / d each of `leaves` and of `others`; zero for what it does not depend on.
fn backward(loss: &Tensor, leaves: &[Tensor], others: &[Tensor]) -> Vec<Tensor> {
    let inputs: Vec<&Tensor> = leaves.iter().chain(others).collect();
    let gradients = Tensor::run_backward(&[loss], &inputs, false, false).into_iter();
    gradients
        .zip(&inputs)
        .map(|(gradient, input)| if gradient.defined() { gradient } else { input.detach().zeros_like() })
        .collect()
}
