//! What a cascaded head hears: the keywords of an utterance, and where in it each is found.

use std::path::Path;

use tch::{Device, Tensor};

use super::ranks::values;
use super::{Embedder, EvalError};
use crate::data::{Audio, Clip};
use crate::features::FeatureError;
use crate::model::{Keywords, catch_libtorch, numbers_of};

/// Part of a keyword's attention that lies before its beginning, and behind its end.
const OUTSIDE: f32 = 0.25;

/// A keyword of an utterance.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyword {
    /// The token, as it is written.
    pub word: String,
    /// Cosine of the keyword with the token's embedding.
    pub cosine: f32,
    /// Seconds between which the middle half of its attention lies.
    pub span: [f64; 2],
    /// S_cls as if it were all that is said, `[E]`, L2-normalised.
    pub embedding: Vec<f32>,
}

/// What a cascaded head makes of an utterance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// S_cls, `[E]`.
    pub embedding: Vec<f32>,
    /// The first that is heard first.
    pub keywords: Vec<Keyword>,
}

impl Embedder<'_> {
    /// The keywords of each of `files`, as they are written; none without a cascaded head.
    ///
    /// # Errors
    /// When a file cannot be read, or an encoder or libtorch fails.
    pub fn heard(&self, files: &[&Path]) -> Result<Vec<Vec<String>>, EvalError> {
        let mut all = vec![Vec::new(); files.len()];
        if self.model.speech().cascade().is_none() {
            return Ok(all);
        }
        for (heard, file) in all.iter_mut().zip(files) {
            let sound = self.audio.read(file, Clip::Start(self.audio.max_samples))?;
            let keywords = self.keywords(&[&sound])?.map(|mut heard| heard.remove(0).keywords).unwrap_or_default();
            *heard = keywords.into_iter().map(|keyword| keyword.word).collect();
        }
        Ok(all)
    }

    /// S_cls `[E]` and the keywords of each of `sounds`, in the order in which they are heard; none without a cascaded head.
    ///
    /// # Errors
    /// When an encoder or libtorch fails.
    pub fn keywords(&self, sounds: &[&Audio]) -> Result<Option<Vec<Heard>>, EvalError> {
        if self.model.speech().cascade().is_none() {
            return Ok(None);
        }
        let mut all: Vec<Heard> = vec![Heard::default(); sounds.len()];
        let text = self.encoders.text("keywords").map_err(FeatureError::from)?;
        self.for_each_chunk(sounds, |places, states| {
            let head = self.model.speech();
            let (Some(cascade), Some((found, attention))) =
                (head.cascade(), catch_libtorch(|| tch::no_grad(|| head.keywords(&states.hidden, &states.frames)))?)
            else {
                return Ok(());
            };
            let Keywords { ids, cosines, vectors } = found;
            let read =
                || tch::no_grad(|| [cascade.read(&vectors), cascade.read_alone(&vectors)].map(|s| values_of(&s)));
            let [whole, alone] = catch_libtorch(read)?;
            let (ids, count) = (numbers_of(&ids)?, ids.size()[1] as usize);
            let (cosines, frames) = (catch_libtorch(|| values_of(&cosines))?, numbers_of(&states.frames)?);
            let (longest, attention) = (attention.size()[2] as usize, catch_libtorch(|| values_of(&attention))?);
            let width = self.width();
            for (row, place) in places.iter().enumerate() {
                let seconds = sounds[*place].samples.len() as f64 / f64::from(self.audio.sample_rate);
                let mut keywords: Vec<Keyword> = (row * count..(row + 1) * count)
                    .map(|at| Keyword {
                        word: text.tokenizer().text(ids[at]),
                        cosine: cosines[at],
                        span: middle(&attention[at * longest..][..frames[row] as usize]).map(|part| part * seconds),
                        embedding: alone[at * width..][..width].to_vec(),
                    })
                    .collect();
                keywords.sort_by(|one, other| one.span[0].total_cmp(&other.span[0]));
                all[*place] = Heard { embedding: whole[row * width..][..width].to_vec(), keywords };
            }
            Ok::<(), EvalError>(())
        })?;
        Ok(Some(all))
    }
}

fn values_of(tensor: &Tensor) -> Vec<f32> {
    values(&tensor.to_device(Device::Cpu))
}

/// Between which parts of `weights`, from 0 to 1, all but [`OUTSIDE`] of them lies on either side.
fn middle(weights: &[f32]) -> [f64; 2] {
    let whole: f32 = weights.iter().sum();
    let mut sum = 0.0;
    let (mut from, mut to) = (0, weights.len());
    for (frame, weight) in weights.iter().enumerate() {
        if sum <= OUTSIDE * whole {
            from = frame;
        }
        sum += weight;
        if sum >= (1.0 - OUTSIDE) * whole {
            to = frame + 1;
            break;
        }
    }
    [from, to].map(|frame| frame as f64 / weights.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_where_the_weights_are() {
        assert_eq!(middle(&[0.0, 0.0, 1.0, 0.0]), [0.5, 0.75]);
        assert_eq!(middle(&[0.25; 4]), [0.25, 0.75]);
    }
}
