//! From the batches of a training to their frozen features.

use std::sync::Arc;

use tch::Tensor;

use super::FeatureError;
use super::kept::KeptSplit;
use super::sent::{send, to_device};
use crate::data::{Batch, Pixels, Rows, Waveforms};
use crate::encoders::{ImageStates, Pair};
use crate::model::{Encoded, SpeechChunk, catch_libtorch, numbers_of};

/// What makes the features of batches; any thread may ask it.
#[derive(Clone)]
pub struct Forwards {
    pub(super) pair: Arc<Pair>,
    pub(super) kept: Arc<KeptSplit>,
    /// Of one forward of the speech encoder.
    pub(super) most_samples: i64,
}

impl Forwards {
    /// The features of a batch, on the encoders' device. `numbers` go there too, all in one copy with those of the batch itself.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn encode(&self, batch: &Batch, numbers: &[&[i64]]) -> Result<(Encoded, Vec<Tensor>), FeatureError> {
        let lengths = batch.waveforms.as_ref().map(|waves| numbers_of(&waves.what.lengths)).transpose()?;
        let lengths = lengths.unwrap_or_default();
        let known_frames: Vec<i64> = batch.hidden.iter().flat_map(|known| known.what.frames.clone()).collect();
        let speech_rows = batch.waveforms.iter().flat_map(|waves| &waves.rows);
        let speech_rows: Vec<i64> =
            speech_rows.chain(batch.hidden.iter().flat_map(|known| &known.rows)).copied().collect();
        let image_rows = batch.pixels.iter().flat_map(|pixels| &pixels.rows);
        let image_rows: Vec<i64> =
            image_rows.chain(batch.images.iter().flat_map(|known| &known.rows)).copied().collect();
        let (speech_place, image_place) = (inverse(&speech_rows), inverse(&image_rows));
        let device = self.pair.device();
        let parts = [&lengths[..], &known_frames, &speech_rows, &speech_place, &image_place];
        let mut sent = catch_libtorch(|| send(&[&parts[..], numbers].concat(), device))?;
        let extra = sent.split_off(parts.len());
        let [lengths_there, frames_there, rows_there, speech_place, image_place] = &sent[..] else {
            unreachable!("as many as were sent")
        };

        let mut speech = Vec::new();
        let mut first = 0;
        let mut next_rows = |count: i64| {
            first += count;
            rows_there.narrow(0, first - count, count)
        };
        if let Some(Rows { what: waves, .. }) = &batch.waveforms {
            let samples = catch_libtorch(|| to_device(&waves.samples, device))?;
            let input = Waveforms { samples, lengths: lengths_there.shallow_clone() };
            for states in self.pair.encode_speech(&input, &lengths, self.most_samples)? {
                let rows = next_rows(states.frames.size()[0]);
                speech.push(SpeechChunk { hidden: states.hidden, frames: states.frames, rows });
            }
        }
        let mut first_frame = 0;
        for Rows { rows, what } in &batch.hidden {
            let count = rows.len() as i64;
            speech.push(catch_libtorch(|| SpeechChunk {
                hidden: to_device(&what.hidden, device),
                frames: frames_there.narrow(0, first_frame, count),
                rows: next_rows(count),
            })?);
            first_frame += count;
        }
        let images = self.images(batch, image_place)?;
        let speech_place = speech_place.shallow_clone();
        Ok((Encoded { text: None, speech, speech_place, image_cls: images.cls, patches: images.patches }, extra))
    }

    fn images(&self, batch: &Batch, place: &Tensor) -> Result<ImageStates, FeatureError> {
        let device = self.pair.device();
        let mut parts = Vec::new();
        if let Some(Rows { rows, what: pixels }) = &batch.pixels {
            let pixels = catch_libtorch(|| Pixels(to_device(&pixels.0, device)))?;
            let states = self.pair.encode_images(&pixels)?;
            let images = rows.iter().map(|row| batch.image_ids[*row as usize] as usize);
            self.kept.keep_images(&images.collect::<Vec<_>>(), &states)?;
            parts.push(states);
        }
        if let Some(Rows { what, .. }) = &batch.images {
            parts.push(catch_libtorch(|| split_rows(&to_device(what, device)))?);
        }
        let in_order = |states: ImageStates| ImageStates {
            cls: states.cls.index_select(0, place),
            patches: states.patches.index_select(0, place),
        };
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => catch_libtorch(|| {
                let cls: Vec<&Tensor> = parts.iter().map(|part| &part.cls).collect();
                let patches: Vec<&Tensor> = parts.iter().map(|part| &part.patches).collect();
                in_order(ImageStates { cls: Tensor::cat(&cls, 0), patches: Tensor::cat(&patches, 0) })
            })?,
        })
    }
}

/// CLS and patches of rows [k, 1 + N, E].
pub(super) fn split_rows(rows: &Tensor) -> ImageStates {
    ImageStates { cls: rows.select(1, 0), patches: rows.narrow(1, 1, rows.size()[1] - 1) }
}

/// Where each number from 0 on stands in `order`.
fn inverse(order: &[i64]) -> Vec<i64> {
    let mut places = vec![0; order.len()];
    for (place, row) in (0..).zip(order) {
        places[*row as usize] = place;
    }
    places
}
