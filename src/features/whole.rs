//! Features of all images or utterances of a split, in groups whose composition does not depend on the course of a run.

use std::collections::HashMap;

use tch::{Device, Tensor};

use super::forwards::split_rows;
use super::kept::Place;
use super::{FeatureError, FeatureSource, Use};
use crate::data::{
    Audio, Clip, DataError, Given, GroupReader, Header, Kept, Picture, Pixels, Row, Weight, stack_images, stack_speech,
};
use crate::distributed::World;
use crate::encoders::{ImageStates, SpeechStates};
use crate::model::{LibtorchError, catch_libtorch, numbers_of};
use crate::telemetry::warn_once;

/// Files that a thread looks at in one group.
pub(super) const FILES: usize = 64;

impl FeatureSource<'_> {
    /// Computes what the configuration asks to be kept, but for image features on disk: those are kept as they come up.
    ///
    /// # Errors
    /// When an encoder fails, an utterance is too long to be kept, a file cannot be read and that counts as a failure, or a signal
    /// comes.
    pub fn fill(&mut self) -> Result<(), FeatureError> {
        self.check_kept()?;
        match self.kept.images {
            Place::Nowhere => {}
            Place::Memory(_) => self.fill_images()?,
            Place::Disk(_) => self.check_image_room()?,
        }
        self.fill_speech()
    }

    /// Computes the features of all images that are not kept yet, and keeps them.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn fill_images(&mut self) -> Result<(), FeatureError> {
        let mut groups = self.split.images_in_groups(self.config.encoders.image.batch_size as usize);
        if matches!(self.kept.images, Place::Disk(_)) {
            // Every process needs those in memory; those on disk are shared out.
            groups = share(groups, self.crew.world);
        }
        groups.iter_mut().for_each(|group| group.retain(|image| !self.kept.has_image(*image)));
        let groups = self.equal_rounds(groups)?;
        let (split, form) = (self.split.clone(), self.picture_form());
        let read = move |image: usize| form.read(&split.images[image].path);
        let what = format!("encoding {} images", self.split.name);
        let unreadable = self.for_each((&what, "images"), groups, read, |pictures| {
            let stack: Vec<&Picture> = pictures.iter().map(|(_, picture)| picture).collect();
            let states = self.encoders.pair().encode_images(&Pixels::stack(&stack))?;
            self.kept.keep_images(&places(pictures), &states)
        })?;
        let unreadable: HashMap<usize, DataError> = unreadable.into_iter().collect();
        for (index, utterance) in self.split.utterances.iter().enumerate() {
            if let Some(error) = unreadable.get(&utterance.image) {
                self.unusable.insert(index, error.clone());
            }
        }
        // What others have written is there before anyone looks for it.
        self.crew.check()?;
        Ok(())
    }

    /// Computes the hidden states that are not kept yet. An utterance's padding depends on its group, and its states by rounding on that:
    /// so all of a group are computed again where one is missing, and what is kept does not depend on when it was computed.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn fill_speech(&mut self) -> Result<(), FeatureError> {
        if self.is_filled || !self.kept.speech.takes_rows() {
            return Ok(());
        }
        let mut groups = self.groups_by_length()?;
        if matches!(self.kept.speech, Place::Disk(_)) || self.purpose == Use::Evaluation {
            groups = share(groups, self.crew.world);
        }
        let kept = self.kept.clone();
        let mut is_missing = vec![false; self.split.utterances.len()];
        let what = format!("looking for {} hidden states", self.split.name);
        let has = move |index: usize| Ok(kept.has_speech(index).then_some(0.0));
        self.for_each((&what, "utterances"), groups.clone(), has, |found| {
            let absent = found.iter().filter(|(index, has)| has.is_none() && !self.unusable.contains_key(index));
            absent.for_each(|(index, _)| is_missing[*index] = true);
            Ok::<(), FeatureError>(())
        })?;
        // Of all processes: they write to one disk.
        let missing = is_missing.iter().filter(|missing| **missing).count() as i64;
        self.check_speech_room(self.crew.world.sum_numbers(&[missing])?[0] as usize)?;
        groups.retain(|group| group.iter().any(|index| is_missing[*index]));
        let groups = self.equal_rounds(groups)?;
        let what = format!("encoding {} speech", self.split.name);
        let read = self.read_audio();
        let unreadable = self.for_each((&what, "utterances"), groups, read, |group| {
            self.check_lengths(group)?;
            for (indices, states) in self.encode_group(group)? {
                let rows = rows_of(&states)?;
                // What evaluation cuts is not all of its file.
                let whole = |index: &usize| {
                    group.iter().any(|(one, audio)| one == index && audio.whole <= self.form.max_samples)
                };
                let rows = indices.into_iter().zip(rows).filter(|(index, _)| is_missing[*index] && whole(index));
                self.kept.put_speech(rows.collect());
            }
            Ok::<(), FeatureError>(())
        })?;
        self.unusable.extend(unreadable);
        if self.purpose == Use::Training {
            // Others may have found more, of which this process has to know too.
            let own: Vec<(usize, String)> = self.unusable.iter().map(|(index, error)| (*index, error.why())).collect();
            for (index, why) in self.crew.world.gather_notes(&own)? {
                let path = self.split.utterances[index].audio.to_path_buf();
                self.unusable.entry(index).or_insert(DataError::Sample { path, why });
            }
        }
        self.is_filled = true;
        // What others have written is there before anyone looks for it.
        self.crew.check()?;
        Ok(())
    }

    /// Calls `visit` with the images of each group, as indices into the split, and their features; each process has its share of them. Returns
    /// what cannot be read.
    ///
    /// # Errors
    /// When a file cannot be read and that counts as a failure, when an encoder or `visit` fails, or when a signal comes.
    pub fn for_each_images<E: From<FeatureError> + From<DataError>>(
        &self,
        mut visit: impl FnMut(&[usize], &ImageStates) -> Result<(), E>,
    ) -> Result<Vec<(usize, DataError)>, E> {
        let (split, form, kept) = (self.split.clone(), self.picture_form(), self.kept.clone());
        let read = move |image: usize| match kept.image(image) {
            Some(row) => Ok(Given::Known(row)),
            None => form.read(&split.images[image].path).map(Given::Read),
        };
        let groups = self.split.images_in_groups(self.config.encoders.image.batch_size as usize);
        let groups = share(groups, self.crew.world);
        let what = format!("encoding {} images", self.split.name);
        self.for_each((&what, "images"), groups, read, |group| {
            let (read, known) = parted(group);
            if !read.is_empty() {
                let stack: Vec<&Picture> = read.iter().map(|(_, picture)| *picture).collect();
                let states = self.encoders.pair().encode_images(&Pixels::stack(&stack)).map_err(FeatureError::from)?;
                self.kept.keep_images(&places(&read), &states)?;
                visit(&places(&read), &states)?;
            }
            if !known.is_empty() {
                let rows: Vec<&Row> = known.iter().map(|(_, row)| *row).collect();
                let device = self.encoders.device();
                let states = catch_libtorch(|| split_rows(&stack_images(&rows).to_device(device)));
                visit(&places(&known), &states.map_err(FeatureError::from)?)?;
            }
            Ok(())
        })
    }

    /// Calls `visit` with utterances of like length, as indices into the split, and their hidden states. Where hidden states are kept, all
    /// are computed first. Returns what cannot be read.
    ///
    /// # Errors
    /// As [`Self::for_each_images`]; for training also when an utterance is too long to be kept.
    pub fn for_each_speech<E: From<FeatureError> + From<DataError>>(
        &mut self,
        mut visit: impl FnMut(&[usize], &SpeechStates) -> Result<(), E>,
    ) -> Result<Vec<(usize, DataError)>, E> {
        self.fill_speech()?;
        let mut groups = self.groups_by_length()?;
        groups.iter_mut().for_each(|group| group.retain(|index| !self.unusable.contains_key(index)));
        let (kept, audio) = (self.kept.clone(), self.read_audio());
        let read = move |index: usize| match kept.speech(index) {
            Some(row) => Ok(Given::Known(row)),
            None => audio(index).map(Given::Read),
        };
        let what = format!("encoding {} speech", self.split.name);
        let unreadable = self.for_each((&what, "utterances"), self.share(groups), read, |group| {
            let (read, known) = parted::<Audio>(group);
            self.check_lengths(&read)?;
            for (indices, states) in self.encode_group(&read)? {
                visit(&indices, &states)?;
            }
            if !known.is_empty() {
                let rows: Vec<&Row> = known.iter().map(|(_, row)| *row).collect();
                let device = self.encoders.device();
                let states = catch_libtorch(|| SpeechStates {
                    hidden: stack_speech(&rows).to_device(device),
                    frames: Tensor::from_slice(&rows.iter().map(|row| row.shape[1]).collect::<Vec<i64>>())
                        .to_device(device),
                });
                visit(&places(&known), &states.map_err(FeatureError::from)?)?;
            }
            Ok::<(), E>(())
        })?;
        let known = self.unusable.iter().map(|(index, error)| (*index, error.clone()));
        Ok(known.chain(unreadable).collect())
    }

    /// Reads the headers of all files, this process's share of them: a bad one is named before it costs an hour.
    ///
    /// # Errors
    /// When a file cannot be read and that counts as a failure, or when a signal comes.
    pub fn check_headers(&self) -> Result<(), FeatureError> {
        let (split, images, form) = (self.split.clone(), self.split.images.len(), self.picture_form());
        let read = move |index: usize| match index.checked_sub(images) {
            None => form.check(&split.images[index].path, false).map(|_| ()),
            Some(utterance) => Header::read(&split.utterances[utterance].audio).map(|_| ()),
        };
        let all: Vec<usize> = (0..images + self.split.utterances.len()).collect();
        let groups = self.share(all.chunks(FILES).map(<[usize]>::to_vec).collect());
        let what = format!("checking {} headers", self.split.name);
        self.for_each((&what, "files"), groups, read, |_| Ok::<(), FeatureError>(()))?;
        Ok(())
    }

    /// Checks, before hours of encoding, that every utterance which is to be kept fits the window of training.
    ///
    /// # Errors
    /// When one does not.
    pub fn check_kept(&self) -> Result<(), FeatureError> {
        if matches!(self.kept.speech, Place::Nowhere) || self.purpose != Use::Training {
            return Ok(());
        }
        let (split, limit) = (self.split.clone(), self.config.audio.max_seconds);
        // What cannot be read is found out when it is encoded.
        let read = move |index: usize| {
            Ok(Header::read(&split.utterances[index].audio).ok().and_then(|header| header.seconds()))
        };
        let all: Vec<usize> = (0..self.split.utterances.len()).collect();
        let groups = all.chunks(FILES).map(<[usize]>::to_vec).collect();
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

    /// Utterances in groups of like length, made once. Where processes share them out, rank 0's order counts: another machine's files may
    /// differ.
    fn groups_by_length(&self) -> Result<Vec<Vec<usize>>, FeatureError> {
        if let Some(groups) = self.groups.get() {
            return Ok(groups.clone());
        }
        let size = self.config.encoders.speech.batch_size as usize;
        let groups = self.split.utterances_by_length(size);
        let order: Vec<i64> = groups.into_iter().flatten().map(|index| index as i64).collect();
        let order: Vec<usize> =
            self.crew.world.first_numbers(&order)?.into_iter().map(|index| index as usize).collect();
        let groups = order.chunks(size).map(<[usize]>::to_vec).collect();
        Ok(self.groups.get_or_init(|| groups).clone())
    }

    fn read_audio(&self) -> impl Fn(usize) -> Result<Audio, DataError> + Send + Sync + use<> {
        let (split, form) = (self.split.clone(), self.form);
        move |index| form.read(&split.utterances[index].audio, Clip::Start(form.max_samples))
    }

    /// Hidden states of a group, in chunks that bound memory, the longest utterances first.
    fn encode_group<A: std::borrow::Borrow<Audio>>(
        &self,
        group: &[(usize, A)],
    ) -> Result<Vec<(Vec<usize>, SpeechStates)>, FeatureError> {
        let waves: Vec<&[f32]> = group.iter().map(|(_, audio)| audio.borrow().samples.as_slice()).collect();
        let chunks = self.encoders.pair().encode_sounds(&waves, self.most_samples())?.into_iter();
        Ok(chunks.map(|(places, states)| (places.into_iter().map(|place| group[place].0).collect(), states)).collect())
    }

    /// Utterances that are longer than what is used of them: evaluation cuts them, training would use a window.
    fn check_lengths<A: std::borrow::Borrow<Audio>>(&self, group: &[(usize, A)]) -> Result<(), FeatureError> {
        let long = group.iter().map(|(index, audio)| (*index, audio.borrow().whole));
        for (index, whole) in long.filter(|(_, whole)| *whole > self.form.max_samples) {
            let path = &self.split.utterances[index].audio;
            match self.purpose {
                Use::Evaluation => warn_once(format!("{}: cut to audio.eval_max_seconds", path.display())),
                Use::Training => {
                    return Err(FeatureError::TooLong {
                        path: path.to_path_buf(),
                        seconds: whole as f64 / f64::from(self.form.sample_rate),
                        limit: self.config.audio.max_seconds,
                    });
                }
            }
        }
        Ok(())
    }

    /// `groups` without empty ones, but for those behind that make as many everywhere.
    fn equal_rounds(&self, mut groups: Vec<Vec<usize>>) -> Result<Vec<Vec<usize>>, FeatureError> {
        groups.retain(|group| !group.is_empty());
        let rounds = self.crew.world.gather_numbers(&[groups.len() as i64])?;
        groups.resize(rounds.into_iter().max().unwrap_or(0) as usize, Vec::new());
        Ok(groups)
    }

    /// The groups that are this process's: all for training; for evaluation its share.
    fn share(&self, groups: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
        if self.purpose == Use::Training { groups } else { share(groups, self.crew.world) }
    }

    /// Reads whole groups; after each all processes agree to go on. Returns what cannot be read.
    pub(super) fn for_each<T: Weight + Send + 'static, E: From<FeatureError> + From<DataError>>(
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

/// This process's share of groups, empty ones behind so that all have as many.
fn share(groups: Vec<Vec<usize>>, world: &World) -> Vec<Vec<usize>> {
    let rounds = groups.len().div_ceil(world.size());
    let mut own: Vec<Vec<usize>> = groups.into_iter().skip(world.rank()).step_by(world.size()).collect();
    own.resize(rounds, Vec::new());
    own
}

/// Each row of `states` without its padding.
fn rows_of(states: &SpeechStates) -> Result<Vec<Row>, LibtorchError> {
    let frames = numbers_of(&states.frames)?;
    catch_libtorch(|| {
        let hidden = states.hidden.to_device(Device::Cpu);
        let rows = (0..).zip(frames);
        rows.map(|(row, frames)| Row::of(&hidden.select(1, row).narrow(1, 0, frames))).collect()
    })
}

/// Members of a group, by their indices.
type Part<'a, T> = Vec<(usize, &'a T)>;

/// What was read of a group, and what is known.
fn parted<T>(group: &[(usize, Given<T>)]) -> (Part<'_, T>, Part<'_, Row>) {
    let (mut read, mut known) = (Vec::new(), Vec::new());
    for (index, given) in group {
        match given {
            Given::Read(what) => read.push((*index, what)),
            Given::Known(row) => known.push((*index, row)),
        }
    }
    (read, known)
}

fn places<T>(group: &[(usize, T)]) -> Vec<usize> {
    group.iter().map(|(index, _)| *index).collect()
}
