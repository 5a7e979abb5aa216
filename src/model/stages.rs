//! The stages of a batch: frozen features, S_cls beside the image side, losses.

use tch::Tensor;

use super::fusion::relative_entropy;

/// Frozen features of a batch of b rows.
#[derive(Debug)]
pub struct Encoded {
    /// [b, E], L2-normalised: the captions by the text encoder, where they are asked for.
    pub text: Option<Tensor>,
    /// Hidden states, in chunks.
    pub speech: Vec<SpeechChunk>,
    /// i64 `[b]`: where each row stands in the chunks, one behind the other.
    pub speech_place: Tensor,
    /// [b, E]: the image encoder's CLS output, not normalised.
    pub image_cls: Tensor,
    /// [b, N, E]: its patches.
    pub patches: Tensor,
}

/// Hidden states of c rows of a batch.
#[derive(Debug)]
pub struct SpeechChunk {
    /// [L, c, T, D]: hidden states of the speech encoder.
    pub hidden: Tensor,
    /// i64 `[c]`: valid frames.
    pub frames: Tensor,
    /// i64 `[c]`: their rows in the batch.
    pub rows: Tensor,
}

/// Images beside those of a batch that its speech is told from: I_cls of the training split, which never changes.
#[derive(Debug)]
pub struct FurtherImages {
    /// [M, E], L2-normalised.
    pub cls: Tensor,
    /// bool `[M]`: those that the batch shows itself, which do not count.
    pub shown: Option<Tensor>,
}

impl FurtherImages {
    /// Logits [B, M] of S_cls [B, E].
    pub(super) fn logits(&self, speech_cls: &Tensor, inverse_tau: &Tensor) -> Tensor {
        let logits = speech_cls.matmul(&self.cls.tr()) * inverse_tau;
        match &self.shown {
            Some(shown) => logits.masked_fill(shown, f64::NEG_INFINITY),
            None => logits,
        }
    }
}

/// An average of the model, whose S_cls say how alike wrong pairs are (distillation).
#[derive(Debug)]
pub struct Teacher {
    /// Its S_cls, [B, E], without dropout and without a gradient.
    pub speech_cls: Tensor,
    /// a: its part in what is right.
    pub weight: f64,
}

/// What the losses of a batch are computed from.
#[derive(Debug)]
pub struct Embedded {
    /// S_cls, [B, E].
    pub speech_cls: Tensor,
    /// [B, E]: the image encoder's CLS output, not normalised.
    pub image_cls: Tensor,
    /// [B, N, E]: its patches.
    pub patches: Tensor,
    /// i64 `[B]`: rows with equal numbers show the same image.
    pub image_ids: Tensor,
    /// Takes part in L_sic.
    pub teacher: Option<Teacher>,
    /// What was said, in words.
    pub text: Option<TextAnchor>,
}

/// The captions of a batch, to which speech is drawn beside the images: no part of the paper, whose training sees no text.
#[derive(Debug)]
pub struct TextAnchor {
    /// [B, E], L2-normalised: the frozen text encoder's.
    pub cls: Tensor,
    /// i64 `[B]`: rows with equal numbers say the same.
    pub ids: Tensor,
    /// b: the weight of its loss.
    pub weight: f64,
}

/// Losses of a batch, scalars but for `cmd`'s diagnostics.
#[derive(Debug)]
pub struct Losses {
    /// L, Eq. 7.
    pub total: Tensor,
    /// L_sic, Eq. 5.
    pub sic: Tensor,
    /// The denoising branch, unless alpha is 0.
    pub cmd: Option<Denoising>,
    /// ½ [H(y^s2t, p^s2t) + H(y^t2s, p^t2s)] with the captions, where they take part.
    pub text: Option<Tensor>,
    /// S_cls, [B, E].
    pub speech_cls: Tensor,
    /// I_cls, [B, E].
    pub image_cls: Tensor,
}

/// The denoising branch.
#[derive(Debug)]
pub struct Denoising {
    /// L_cmd, Eq. 6.
    pub loss: Tensor,
    /// F^I', see [`super::Fused`].
    pub denoised: Tensor,
    /// Attention over the patches, see [`super::Fused`].
    pub attention: Tensor,
}

impl Denoising {
    /// Mean entropy of the attention relative to log N; near 1, the pooling is a mean and CMD decays to contrast with it.
    pub fn attention_entropy(&self) -> Tensor {
        relative_entropy(&self.attention)
    }
}
