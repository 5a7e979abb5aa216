//! Frozen features of training batches: from the encoders at every step, or computed once and kept in memory. What is kept is
//! computed in groups that do not depend on the course of a run, so a resumed run has the same features to the bit.

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::config::{Config, OnError};
use crate::data::{AudioForm, Batch, Clip, DataError, GroupReader, Picture, Split};
use crate::encoders::{Encoders, ImageStates, KeptRows, Pixels, SpeechStates, Waveforms};
use crate::error::Error;
use crate::model::Features;
use crate::signals::Signals;

/// Where the features of a batch come from.
pub struct FeatureSource<'a> {
    encoders: &'a Encoders,
    /// [L, t, D] of each utterance.
    speech: Option<Vec<Option<Tensor>>>,
    /// [I, E] and [I, N, E] of the images.
    images: Option<ImageStates>,
    /// Utterances whose features could not be computed.
    unusable: HashMap<usize, DataError>,
}

impl<'a> FeatureSource<'a> {
    /// Fills the caches that the configuration asks for.
    ///
    /// # Errors
    /// When an encoder fails, an utterance is too long to be cached, a file cannot be read and that counts as a failure, or a
    /// signal comes.
    pub fn new(encoders: &'a Encoders, split: &Arc<Split>, config: &Config, signals: &Signals) -> Result<Self, Error> {
        let mut source = Self { encoders, speech: None, images: None, unusable: HashMap::new() };
        let on_error = config.data.on_error.unwrap_or(OnError::Skip);
        let reader = GroupReader { data: &config.data, on_error, signals };
        if config.encoders.image.cache {
            source.cache_images(&reader, split, config.encoders.image.batch_size)?;
        }
        if config.encoders.speech.cache {
            source.cache_speech(&reader, split, config.encoders.speech.batch_size, config.audio.max_seconds)?;
        }
        Ok(source)
    }

    /// How batches have to be read: what is not in memory.
    #[must_use]
    pub fn audio_form(&self, config: &Config) -> Option<AudioForm> {
        let form = AudioForm::new(self.encoders.speech().spec(), config.audio.max_seconds);
        self.speech.is_none().then_some(form)
    }

    /// S, unless the images' features are in memory.
    #[must_use]
    pub fn image_size(&self) -> Option<u32> {
        self.images.is_none().then_some(self.encoders.image().spec().size as u32)
    }

    /// Utterances whose features could not be computed.
    #[must_use]
    pub fn unusable(&self) -> &HashMap<usize, DataError> {
        &self.unusable
    }

    /// The features of a batch, on the encoders' device.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn features(&self, batch: Batch) -> Result<Features, Error> {
        let device = self.encoders.device();
        let speech = match (&self.speech, &batch.waveforms) {
            (Some(rows), _) => {
                let rows: Vec<&Tensor> = batch.utterances.iter().filter_map(|index| rows[*index].as_ref()).collect();
                SpeechStates::pad(&rows, device)
            }
            (None, Some(waveforms)) => self.encoders.encode_speech(waveforms)?,
            (None, None) => unreachable!("audio is read unless its features are in memory"),
        };
        let images = match (&self.images, &batch.pixels) {
            (Some(ImageStates { cls, patches }), _) => {
                let rows = Tensor::from_slice(&batch.image_ids);
                let select = |features: &Tensor| features.index_select(0, &rows).to_device(device);
                ImageStates { cls: select(cls), patches: select(patches) }
            }
            (None, Some(pixels)) => self.encoders.encode_images(pixels)?,
            (None, None) => unreachable!("images are read unless their features are in memory"),
        };
        Ok(Features {
            hidden: speech.hidden,
            frames: speech.frames,
            image_cls: images.cls,
            patches: images.patches,
            image_ids: batch.image_ids,
        })
    }

    fn cache_images(&mut self, reader: &GroupReader, split: &Arc<Split>, rows: i64) -> Result<(), Error> {
        let spec = self.encoders.image().spec();
        let (size, count) = (spec.size as u32, split.images.len() as i64);
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let mut cached =
            ImageStates { cls: zeros(&[count, spec.width]), patches: zeros(&[count, spec.patches(), spec.width]) };
        let read = {
            let split = split.clone();
            move |image: usize| Picture::read(&split.images[image].path, size)
        };
        let groups = split.images_in_groups(rows as usize);
        let unreadable = reader.for_each(("encoding training images", "images"), groups, read, |pictures| {
            let stack: Vec<&Picture> = pictures.iter().map(|(_, picture)| picture).collect();
            let states = self.encoders.encode_images(&Pixels::stack(&stack))?;
            let rows: Vec<i64> = pictures.iter().map(|(image, _)| *image as i64).collect();
            let rows = Tensor::from_slice(&rows);
            for (all, some) in [(&mut cached.cls, states.cls), (&mut cached.patches, states.patches)] {
                let _ = all.index_copy_(0, &rows, &some.to_device(Device::Cpu).to_kind(Kind::Float));
            }
            Ok(())
        })?;
        let unreadable: HashMap<usize, DataError> = unreadable.into_iter().collect();
        for (index, utterance) in split.utterances.iter().enumerate() {
            if let Some(error) = unreadable.get(&utterance.image) {
                self.unusable.insert(index, error.clone());
            }
        }
        self.images = Some(cached);
        Ok(())
    }

    fn cache_speech(&mut self, reader: &GroupReader, split: &Arc<Split>, rows: i64, seconds: f64) -> Result<(), Error> {
        let form = AudioForm::new(self.encoders.speech().spec(), seconds);
        let mut kept = KeptRows::default();
        let mut cached: Vec<Option<Tensor>> = split.utterances.iter().map(|_| None).collect();
        let read = {
            let split = split.clone();
            move |index: usize| form.read(&split.utterances[index].audio, Clip::Start(form.max_samples))
        };
        let groups = split.utterances_by_length(rows as usize);
        let unreadable = reader.for_each(("encoding training speech", "utterances"), groups, read, |group| {
            if let Some((index, audio)) = group.iter().find(|(_, audio)| audio.whole > form.max_samples) {
                return Err(Error::Usage(format!(
                    "{}: {:.1} s is longer than audio.max_seconds = {seconds}, and random windows of it cannot be kept in memory; \
                     raise audio.max_seconds or set encoders.speech.cache = false",
                    split.utterances[*index].audio.display(),
                    audio.whole as f64 / f64::from(form.sample_rate),
                )));
            }
            let waves: Vec<&[f32]> = group.iter().map(|(_, audio)| audio.samples.as_slice()).collect();
            let states = self.encoders.encode_speech(&Waveforms::pad(&waves))?;
            for (row, (index, _)) in group.iter().enumerate() {
                cached[*index] = Some(kept.keep(&states.row(row as i64)));
            }
            Ok(())
        })?;
        self.unusable.extend(unreadable);
        self.speech = Some(cached);
        Ok(())
    }
}
