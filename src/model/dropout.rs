//! Dropout of the speech head: the masks of a training step.

use tch::{Kind, Tensor};

use crate::draw::{Draw, Purpose};

/// Dropout of one training step. The mask of a row depends on (seed, step, row of the global batch) and on nothing else:
/// neither on padding nor on how the batch is shared out over processes.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability of a zero.
    pub rate: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Training step.
    pub step: u64,
    /// Row of the global batch at which this batch starts.
    pub first_row: u64,
}

/// Which values of a batch stay, on its device.
#[derive(Debug)]
pub struct DropoutMask {
    /// u8 [b, M]: 1 where a value stays.
    stays: Tensor,
    /// Of the values that stay.
    scale: f64,
}

/// Masks of 0 and 1/(1 - rate) at the four places of PyTorch's TransformerEncoderLayer, for the CLS rows; of its attention alone where there is no
/// feed-forward.
pub(super) struct Masks {
    /// [B, H K, K + T]
    pub(super) attention: Tensor,
    pub(super) feed_forward: Option<FeedForwardMasks>,
}

/// Those of the feed-forward and before it.
pub(super) struct FeedForwardMasks {
    /// [B, K, D], after the attention's output projection
    pub(super) attended: Tensor,
    /// [B, K, 4D], inside the feed-forward
    pub(super) inner: Tensor,
    /// [B, K, D], after the feed-forward
    pub(super) outer: Tensor,
}

/// What of a head is dropped.
#[derive(Clone, Copy)]
pub(super) struct DropoutPlaces {
    /// K: CLS tokens.
    pub(super) tokens: i64,
    /// D.
    pub(super) width: i64,
    /// H.
    pub(super) heads: i64,
    pub(super) feed_forward: bool,
}

impl DropoutPlaces {
    /// Values of a row that do not depend on its length.
    fn wide(self) -> i64 {
        if self.feed_forward { 6 * self.tokens * self.width } else { 0 }
    }

    /// Values of a row of [CLS; frames] of `length`.
    pub(super) fn values(self, length: i64) -> usize {
        (self.wide() + length * self.heads * self.tokens) as usize
    }
}

impl Dropout {
    /// Draws which values of `rows` rows stay: u8 [rows, M], on the CPU.
    pub(super) fn draw(&self, rows: u64, values: usize) -> Tensor {
        let threshold = (self.rate * 2f64.powi(32)) as u32;
        let mut stays = Vec::with_capacity(rows as usize * values);
        for row in 0..rows {
            let mut draw = Draw::new(self.seed, Purpose::Dropout, [self.step, self.first_row + row]);
            stays.extend((0..values).map(|_| u8::from(draw.bits() >= threshold)));
        }
        Tensor::from_slice(&stays).view([rows as i64, values as i64])
    }
}

impl DropoutMask {
    /// What [`super::SpeechHead::draw_dropout`] drew for `dropout`, brought to the batch's device.
    #[must_use]
    pub fn new(stays: Tensor, dropout: Dropout) -> Self {
        Self { stays, scale: f64::from((1.0 / (1.0 - dropout.rate)) as f32) }
    }

    /// The masks of some rows, i64 `[c]`, of [CLS; frames] of `length`.
    pub(super) fn of(&self, rows: &Tensor, length: i64, places: DropoutPlaces) -> Masks {
        let DropoutPlaces { tokens, width, heads, .. } = places;
        let (wide, over_length) = (places.wide(), length * heads * tokens);
        let values = self.stays.index_select(0, rows).narrow(1, 0, wide + over_length);
        let values = values.to_kind(Kind::Float) * self.scale;
        let parts = values.split_with_sizes([wide, over_length], 1);
        let feed_forward = places.feed_forward.then(|| {
            let parts = parts[0].split_with_sizes([1, 4, 1].map(|times| times * tokens * width), 1);
            let [attended, inner, outer] = [0, 1, 2].map(|part| parts[part].reshape([rows.size()[0], tokens, -1]));
            FeedForwardMasks { attended, inner, outer }
        });
        // Frame by frame, so that more padding only adds draws at the end.
        Masks { attention: parts[1].reshape([-1, length, heads * tokens]).transpose(1, 2), feed_forward }
    }
}

/// `x` with `mask`, where there is one.
pub(super) fn dropped(x: Tensor, mask: Option<&Tensor>) -> Tensor {
    match mask {
        Some(mask) => x * mask,
        None => x,
    }
}
