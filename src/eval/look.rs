//! Where an utterance looks in a picture, as a whole and over time: Eq. 1 asked by S_cls, and by every frame s_t; of a cascaded head, by every keyword
//! alone.

use tch::{Device, Kind, Tensor};

use super::ranks::values;
use super::{Attention, Embedder, EvalError, Heard, Keyword};
use crate::data::{Audio, Picture, Pixels};
use crate::features::FeatureError;
use crate::model::{FusionEncoder, catch_libtorch};

/// Attention of an utterance over the patches of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Of S_cls.
    pub whole: Attention,
    /// Over time.
    pub parts: Vec<LookPart>,
}

/// Attention of a part of an utterance: the mean of those of its frames, or that of a keyword.
#[derive(Clone, Debug, PartialEq)]
pub struct LookPart {
    /// Seconds at which it begins.
    pub from: f64,
    /// Seconds at which it ends.
    pub to: f64,
    /// Where its frames look.
    pub attention: Attention,
    /// The keyword that it is.
    pub word: Option<String>,
}

impl Embedder<'_> {
    /// Where `sound` looks in `picture` by `fusion`, in at most `parts` parts of like length, or by its keywords.
    ///
    /// # Errors
    /// When an encoder or libtorch fails.
    pub fn look(
        &self,
        fusion: &FusionEncoder,
        sound: &Audio,
        picture: &Picture,
        parts: usize,
    ) -> Result<Look, EvalError> {
        let heard = self.keywords(&[sound])?.map(|mut heard| heard.remove(0));
        let queries = match &heard {
            None => self.frames(&[sound])?.remove(0),
            Some(Heard { embedding, keywords }) => {
                let words = keywords.iter().flat_map(|keyword| &keyword.embedding);
                let all: Vec<f32> = embedding.iter().chain(words).copied().collect();
                catch_libtorch(|| Tensor::from_slice(&all).view([1 + keywords.len() as i64, -1]))?
            }
        };
        let states = self.encoders.pair().encode_images(&Pixels::stack(&[picture])).map_err(FeatureError::from)?;
        let spec = self.encoders.image().spec();
        let patches = spec.patches() as usize;
        // [1 + T, N], or [1 + K, N].
        let all = catch_libtorch(|| {
            let queries = queries.to_device(states.patches.device());
            let attention = tch::no_grad(|| fusion.all(&queries, &states.patches).attention);
            values(&attention.squeeze_dim(1).to_device(Device::Cpu).to_kind(Kind::Float))
        })?;
        let grid = spec.grid.map(|side| side as usize);
        let (whole, over_time) = all.split_at(patches);
        if let Some(Heard { keywords, .. }) = heard {
            let parts = keywords.into_iter().zip(over_time.chunks_exact(patches));
            let part = |(keyword, weights): (Keyword, &[f32])| LookPart {
                from: keyword.span[0],
                to: keyword.span[1],
                attention: Attention { grid, weights: weights.to_vec() },
                word: Some(keyword.word),
            };
            return Ok(Look { whole: Attention { grid, weights: whole.to_vec() }, parts: parts.map(part).collect() });
        }
        let frames = over_time.len() / patches;
        let seconds = sound.samples.len() as f64 / f64::from(self.audio.sample_rate);
        let count = parts.min(frames);
        let part = |number: usize| {
            let [first, end] = [number, number + 1].map(|number| number * frames / count);
            let mut weights = vec![0.0; patches];
            for frame in over_time[first * patches..end * patches].chunks_exact(patches) {
                weights.iter_mut().zip(frame).for_each(|(sum, weight)| *sum += weight / (end - first) as f32);
            }
            let [from, to] = [first, end].map(|frame| seconds * frame as f64 / frames as f64);
            LookPart { from, to, attention: Attention { grid, weights }, word: None }
        };
        let whole = Attention { grid, weights: whole.to_vec() };
        Ok(Look { whole, parts: (0..count).map(part).collect() })
    }
}
