//! The door to frozen features.

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::memory::SpeechMemory;
use super::{FeatureConfig, FeatureError};
use crate::data::{
    Audio, AudioForm, Batch, Clip, DataError, GroupReader, Header, OnError, Picture, PictureForm, Pixels, Split,
    Waveforms,
};
use crate::distributed::{Crew, World};
use crate::encoders::{Encoders, ImageStates, SpeechStates};
use crate::model::{Encoded, catch_libtorch};
use crate::telemetry::warn_once;

/// Headers that a thread reads at once.
const HEADERS: usize = 64;

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
    encoders: &'a Encoders,
    split: Arc<Split>,
    config: FeatureConfig,
    purpose: Use,
    crew: Crew<'a>,
    form: AudioForm,
    /// Hidden states, once they are all known and if they are kept.
    speech: Option<SpeechMemory>,
    /// [I, E] and [I, N, E] of the images, likewise.
    images: Option<ImageStates>,
    /// Utterances without features.
    unusable: HashMap<usize, DataError>,
}

impl<'a> FeatureSource<'a> {
    /// The features of `split`; nothing is computed yet.
    #[must_use]
    pub fn new(
        encoders: &'a Encoders,
        split: &Arc<Split>,
        config: &FeatureConfig,
        purpose: Use,
        crew: Crew<'a>,
    ) -> Self {
        let spec = encoders.speech().spec();
        let seconds = match purpose {
            Use::Training => config.audio.max_seconds,
            Use::Evaluation => config.audio.eval_max_seconds,
        };
        Self {
            encoders,
            split: split.clone(),
            config: config.clone(),
            purpose,
            crew,
            form: AudioForm::new(spec.sample_rate as u32, spec.min_samples as usize, seconds),
            speech: None,
            images: None,
            unusable: HashMap::new(),
        }
    }

    /// Computes what the configuration asks to be kept.
    ///
    /// # Errors
    /// When an encoder fails, an utterance is too long to be kept, a file cannot be read and that counts as a failure, or a signal
    /// comes.
    pub fn fill(&mut self) -> Result<(), FeatureError> {
        self.check_kept()?;
        if self.config.encoders.image.cache {
            self.fill_images()?;
        }
        if self.config.encoders.speech.cache {
            self.for_each_speech(|_, _| Ok::<(), FeatureError>(()))?;
        }
        Ok(())
    }

    /// How audio has to be read: not at all if its features are kept.
    #[must_use]
    pub fn audio_form(&self) -> Option<AudioForm> {
        self.speech.is_none().then_some(self.form)
    }

    /// How images have to be read: not at all if their features are kept.
    #[must_use]
    pub fn picture_form(&self) -> Option<PictureForm> {
        self.images.is_none().then(|| self.pictures())
    }

    fn pictures(&self) -> PictureForm {
        PictureForm::new(self.encoders.image().spec().size as u32, self.config.data.max_megapixels)
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

    /// The features of a batch, on the encoders' device.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn encode(&self, batch: Batch) -> Result<Encoded, FeatureError> {
        let device = self.encoders.device();
        let speech = match (&self.speech, &batch.waveforms) {
            (Some(memory), _) => catch_libtorch(|| memory.batch(&batch.utterances, device))?,
            (None, Some(waveforms)) => self.encoders.encode_speech(waveforms)?,
            (None, None) => unreachable!("audio is read unless its features are kept"),
        };
        let images = match (&self.images, &batch.pixels) {
            (Some(ImageStates { cls, patches }), _) => catch_libtorch(|| {
                let rows = Tensor::from_slice(&batch.image_ids);
                let select = |features: &Tensor| features.index_select(0, &rows).to_device(device);
                ImageStates { cls: select(cls), patches: select(patches) }
            })?,
            (None, Some(pixels)) => self.encoders.encode_images(pixels)?,
            (None, None) => unreachable!("images are read unless their features are kept"),
        };
        Ok(Encoded {
            hidden: speech.hidden,
            frames: speech.frames,
            image_cls: images.cls,
            patches: images.patches,
            image_ids: batch.image_ids,
        })
    }

    /// Calls `visit` with the images of each group, as indices into the split, and their features. Returns what cannot be read.
    ///
    /// # Errors
    /// When a file cannot be read and that counts as a failure, when an encoder or `visit` fails, or when a signal comes.
    pub fn for_each_images<E: From<FeatureError> + From<DataError>>(
        &self,
        mut visit: impl FnMut(&[usize], &ImageStates) -> Result<(), E>,
    ) -> Result<Vec<(usize, DataError)>, E> {
        let (split, form) = (self.split.clone(), self.pictures());
        let read = move |image: usize| form.read(&split.images[image].path);
        let groups = self.share(self.split.images_in_groups(self.config.encoders.image.batch_size as usize));
        let what = format!("encoding {} images", self.split.name);
        self.for_each((&what, "images"), groups, read, |pictures| {
            let stack: Vec<&Picture> = pictures.iter().map(|(_, picture)| picture).collect();
            let states = self.encoders.encode_images(&Pixels::stack(&stack)).map_err(FeatureError::from)?;
            visit(&indices(pictures), &states)
        })
    }

    /// Calls `visit` with the utterances of each group, as indices into the split, and their hidden states. With
    /// `encoders.speech.cache` those of the first call are kept. Returns what cannot be read.
    ///
    /// # Errors
    /// As [`Self::for_each_images`]; for training also when an utterance is too long to be kept.
    pub fn for_each_speech<E: From<FeatureError> + From<DataError>>(
        &mut self,
        mut visit: impl FnMut(&[usize], &SpeechStates) -> Result<(), E>,
    ) -> Result<Vec<(usize, DataError)>, E> {
        let groups = self.share(self.groups_by_length()?);
        if let Some(memory) = &self.speech {
            for group in &groups {
                self.crew.check().map_err(FeatureError::from)?;
                let group: Vec<usize> = group.iter().copied().filter(|index| memory.has(*index)).collect();
                if !group.is_empty() {
                    let states = catch_libtorch(|| memory.batch(&group, self.encoders.device()));
                    visit(&group, &states.map_err(FeatureError::from)?)?;
                }
            }
            let known = self.unusable.iter().map(|(index, error)| (*index, error.clone()));
            return Ok(known.collect());
        }
        let mut kept = self.config.encoders.speech.cache.then(|| SpeechMemory::new(self.split.utterances.len()));
        let read = {
            let (split, form) = (self.split.clone(), self.form);
            move |index: usize| form.read(&split.utterances[index].audio, Clip::Start(form.max_samples))
        };
        let what = format!("encoding {} speech", self.split.name);
        let unreadable = self.for_each((&what, "utterances"), groups, read, |group| {
            self.check_lengths(group)?;
            let waves: Vec<&[f32]> = group.iter().map(|(_, audio)| audio.samples.as_slice()).collect();
            let states = self.encoders.encode_speech(&Waveforms::pad(&waves)).map_err(FeatureError::from)?;
            if let Some(memory) = &mut kept {
                catch_libtorch(|| memory.keep(&indices(group), &states)).map_err(FeatureError::from)?;
            }
            visit(&indices(group), &states)
        })?;
        self.unusable.extend(unreadable.iter().cloned());
        self.speech = kept;
        Ok(unreadable)
    }

    /// Reads the headers of all files, this process's share of them: a bad one is named before it costs an hour.
    ///
    /// # Errors
    /// When a file cannot be read and that counts as a failure, or when a signal comes.
    pub fn check_headers(&self) -> Result<(), FeatureError> {
        let (split, images, form) = (self.split.clone(), self.split.images.len(), self.pictures());
        let read = move |index: usize| match index.checked_sub(images) {
            None => form.check(&split.images[index].path, false).map(|_| ()),
            Some(utterance) => Header::read(&split.utterances[utterance].audio).map(|_| ()),
        };
        let all: Vec<usize> = (0..images + self.split.utterances.len()).collect();
        let groups = self.share(all.chunks(HEADERS).map(<[usize]>::to_vec).collect());
        let what = format!("checking {} headers", self.split.name);
        self.for_each((&what, "files"), groups, read, |_| Ok::<(), FeatureError>(()))?;
        Ok(())
    }

    /// Utterances in groups of like length. Where processes share them out, rank 0's order counts: another machine's files may differ.
    fn groups_by_length(&self) -> Result<Vec<Vec<usize>>, FeatureError> {
        let size = self.config.encoders.speech.batch_size as usize;
        let groups = self.split.utterances_by_length(size);
        if self.purpose == Use::Training {
            return Ok(groups);
        }
        let order: Vec<i64> = groups.into_iter().flatten().map(|index| index as i64).collect();
        let order: Vec<usize> =
            self.crew.world.first_numbers(&order)?.into_iter().map(|index| index as usize).collect();
        Ok(order.chunks(size).map(<[usize]>::to_vec).collect())
    }

    /// Checks, before hours of encoding, that every utterance which is to be kept fits the window of training.
    ///
    /// # Errors
    /// When one does not.
    pub fn check_kept(&self) -> Result<(), FeatureError> {
        if !self.config.encoders.speech.cache || self.purpose != Use::Training {
            return Ok(());
        }
        let (split, limit) = (self.split.clone(), self.config.audio.max_seconds);
        // What cannot be read is found out when it is encoded.
        let read = move |index: usize| {
            Ok(Header::read(&split.utterances[index].audio).ok().and_then(|header| header.seconds()))
        };
        let all: Vec<usize> = (0..self.split.utterances.len()).collect();
        let groups = all.chunks(HEADERS).map(<[usize]>::to_vec).collect();
        let what = format!("measuring {} speech", self.split.name);
        self.for_each((&what, "files"), groups, read, |lengths| {
            match lengths.iter().find_map(|(index, seconds)| Some((index, seconds.filter(|seconds| *seconds > limit)?)))
            {
                Some((index, seconds)) => {
                    let path = self.split.utterances[*index].audio.to_path_buf();
                    Err(FeatureError::TooLong { path, seconds, limit })
                }
                None => Ok(()),
            }
        })?;
        Ok(())
    }

    fn fill_images(&mut self) -> Result<(), FeatureError> {
        let (spec, count) = (self.encoders.image().spec(), self.split.images.len() as i64);
        let zeros = |shape: &[i64]| catch_libtorch(|| Tensor::zeros(shape, (Kind::Float, Device::Cpu)));
        let mut kept =
            ImageStates { cls: zeros(&[count, spec.width])?, patches: zeros(&[count, spec.patches(), spec.width])? };
        let unreadable = self.for_each_images(|images, states| {
            let rows: Vec<i64> = images.iter().map(|image| *image as i64).collect();
            let rows = Tensor::from_slice(&rows);
            for (all, some) in [(&mut kept.cls, &states.cls), (&mut kept.patches, &states.patches)] {
                let _ = all.index_copy_(0, &rows, &some.to_device(Device::Cpu).to_kind(Kind::Float));
            }
            Ok::<(), FeatureError>(())
        })?;
        let unreadable: HashMap<usize, DataError> = unreadable.into_iter().collect();
        for (index, utterance) in self.split.utterances.iter().enumerate() {
            if let Some(error) = unreadable.get(&utterance.image) {
                self.unusable.insert(index, error.clone());
            }
        }
        self.images = Some(kept);
        Ok(())
    }

    /// Utterances that are longer than what is used of them: evaluation cuts them, training would use a window.
    fn check_lengths(&self, group: &[(usize, Audio)]) -> Result<(), FeatureError> {
        for (index, audio) in group.iter().filter(|(_, audio)| audio.whole > self.form.max_samples) {
            let path = &self.split.utterances[*index].audio;
            match self.purpose {
                Use::Evaluation => warn_once(format!("{}: cut to audio.eval_max_seconds", path.display())),
                Use::Training => {
                    return Err(FeatureError::TooLong {
                        path: path.to_path_buf(),
                        seconds: audio.whole as f64 / f64::from(self.form.sample_rate),
                        limit: self.config.audio.max_seconds,
                    });
                }
            }
        }
        Ok(())
    }

    /// The groups that are this process's: all for training; for evaluation its share, empty ones behind so that all have as many.
    fn share(&self, groups: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
        let world: &World = self.crew.world;
        if self.purpose == Use::Training {
            return groups;
        }
        let rounds = groups.len().div_ceil(world.size());
        let mut own: Vec<Vec<usize>> = groups.into_iter().skip(world.rank()).step_by(world.size()).collect();
        own.resize(rounds, Vec::new());
        own
    }

    /// Reads whole groups; after each all processes agree to go on. Returns what cannot be read.
    fn for_each<T: Send + 'static, E: From<FeatureError> + From<DataError>>(
        &self,
        what: (&str, &'static str),
        groups: Vec<Vec<usize>>,
        read: impl Fn(usize) -> Result<T, DataError> + Send + Sync + 'static,
        visit: impl FnMut(&[(usize, T)]) -> Result<(), E>,
    ) -> Result<Vec<(usize, DataError)>, E> {
        let is_stopped = || self.crew.is_stopped();
        let agree = || self.crew.check().map_err(|error| FeatureError::from(error).into());
        let reader = GroupReader { data: &self.config.data, on_error: self.on_error(), is_stopped: &is_stopped };
        reader.for_each(what, groups, read, &agree, visit)
    }
}

fn indices<T>(group: &[(usize, T)]) -> Vec<usize> {
    group.iter().map(|(index, _)| *index).collect()
}
