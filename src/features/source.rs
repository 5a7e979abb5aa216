//! The door to frozen features of a split.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::kept::{KeptSplit, Place};
use super::memory::Pool;
use super::sent::{send, to_device};
use super::{FeatureConfig, FeatureError};
use crate::data::{AudioForm, Batch, DataError, Kept, OnError, PictureForm, Pixels, Row, Rows, Split, Waveforms};
use crate::distributed::Crew;
use crate::encoders::{Cache, Encoders, ImageStates};
use crate::model::{Encoded, SpeechChunk, catch_libtorch, numbers_of};

/// What features are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Windows of at most `audio.max_seconds`; every process needs all rows; an unreadable file is skipped unless the configuration
    /// says otherwise.
    Training,
    /// Whole utterances of at most `audio.eval_max_seconds`; processes share the rows out; an unreadable file is a failure unless the
    /// configuration says otherwise, so that nobody reports recalls on a part of a split without knowing.
    Evaluation,
}

/// Where the frozen features of a split come from.
pub struct FeatureSource<'a> {
    pub(super) encoders: &'a Encoders,
    pub(super) split: Arc<Split>,
    pub(super) config: FeatureConfig,
    pub(super) purpose: Use,
    pub(super) crew: Crew<'a>,
    pub(super) form: AudioForm,
    pub(super) kept: Arc<KeptSplit>,
    /// Utterances without features.
    pub(super) unusable: HashMap<usize, DataError>,
    /// Whether all hidden states that are to be kept have been computed.
    pub(super) is_filled: bool,
    /// Utterances by length, once they were looked at.
    pub(super) groups: OnceCell<Vec<Vec<usize>>>,
}

impl<'a> FeatureSource<'a> {
    /// The features of `split`; nothing is computed yet. What is kept in memory is shared with others where there is a `pool`.
    ///
    /// # Errors
    /// When features are to be kept on disk and that folder cannot be used.
    pub fn new(
        encoders: &'a Encoders,
        split: &Arc<Split>,
        config: &FeatureConfig,
        purpose: Use,
        crew: Crew<'a>,
        pool: Option<&Pool>,
    ) -> Result<Self, FeatureError> {
        let spec = encoders.speech().spec();
        let (speech, mut images) = (config.encoders.speech.cache, config.encoders.image.cache);
        let seconds = match purpose {
            Use::Training => config.audio.max_seconds,
            Use::Evaluation => config.audio.eval_max_seconds,
        };
        if (purpose, images) == (Use::Evaluation, Cache::Memory) && pool.is_none() {
            // Of these only CLS is used, once a run.
            images = Cache::None;
        }
        Ok(Self {
            encoders,
            split: split.clone(),
            config: config.clone(),
            purpose,
            crew,
            form: AudioForm::new(spec.sample_rate as u32, spec.min_samples as usize, seconds),
            kept: Arc::new(KeptSplit::open(
                split,
                encoders,
                &config.data,
                (speech, images),
                pool.unwrap_or(&Pool::default()),
            )?),
            unusable: HashMap::new(),
            is_filled: false,
            groups: OnceCell::new(),
        })
    }

    /// How audio is read.
    #[must_use]
    pub fn audio_form(&self) -> AudioForm {
        self.form
    }

    /// How images are read.
    #[must_use]
    pub fn picture_form(&self) -> PictureForm {
        PictureForm::new(self.encoders.image().spec().size as u32, self.config.data.max_megapixels)
    }

    /// What is known already.
    #[must_use]
    pub fn kept(&self) -> Arc<dyn Kept> {
        self.kept.clone()
    }

    /// What an unreadable file means.
    #[must_use]
    pub fn on_error(&self) -> OnError {
        let default = if self.purpose == Use::Training { OnError::Skip } else { OnError::Fail };
        self.config.data.on_error.unwrap_or(default)
    }

    /// Utterances whose features could not be computed.
    #[must_use]
    pub fn unusable(&self) -> &HashMap<usize, DataError> {
        &self.unusable
    }

    /// Samples of one forward of the speech encoder, with the padding: as many as a full one of training has.
    pub(super) fn most_samples(&self) -> i64 {
        self.config.most_samples(self.encoders.speech().spec().sample_rate as u32)
    }

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
        let device = self.encoders.device();
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
            for states in self.encoders.encode_speech(&input, &lengths, self.most_samples())? {
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
        let device = self.encoders.device();
        let mut parts = Vec::new();
        if let Some(Rows { rows, what: pixels }) = &batch.pixels {
            let pixels = catch_libtorch(|| Pixels(to_device(&pixels.0, device)))?;
            let states = self.encoders.encode_images(&pixels)?;
            let images = rows.iter().map(|row| batch.image_ids[*row as usize] as usize);
            self.keep_images(&images.collect::<Vec<_>>(), &states)?;
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

    /// Keeps the features of images, where they are to be kept.
    pub(super) fn keep_images(&self, images: &[usize], states: &ImageStates) -> Result<(), FeatureError> {
        if matches!(self.kept.images, Place::Nowhere) {
            return Ok(());
        }
        let rows = catch_libtorch(|| {
            let all = Tensor::cat(&[states.cls.unsqueeze(1), states.patches.shallow_clone()], 1).to_device(Device::Cpu);
            let rows = images.iter().enumerate().map(|(row, image)| (*image, Row::of(&all.get(row as i64))));
            rows.collect::<Vec<(usize, Row)>>()
        })?;
        self.kept.put_images(rows);
        Ok(())
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
