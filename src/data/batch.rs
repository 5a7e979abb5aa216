//! Batches of training: which samples, read from their files.

use std::collections::HashMap;
use std::sync::Arc;

use super::order::{Order, Position};
use super::{AudioForm, Clip, DataError, OnError, Picture, PictureForm, Pixels, Prefetch, Split, Waveforms};
use crate::draw::{Draw, Purpose};

/// Draws of another sample in place of an unreadable one, before the data set is given up.
const MAX_SUBSTITUTES: usize = 100;

/// What training reads of each sample.
#[derive(Clone, Debug)]
pub struct BatchPlan {
    /// The training split.
    pub split: Arc<Split>,
    /// Seed of the run.
    pub seed: u64,
    /// Pairs in the global batch.
    pub batch_size: usize,
    /// Those of them that this process reads.
    pub rows: std::ops::Range<u64>,
    /// What an unreadable file means.
    pub on_error: OnError,
    /// How audio is read; none: its features are there already.
    pub audio: Option<AudioForm>,
    /// How images are read; none: their features are there already.
    pub picture: Option<PictureForm>,
    /// Utterances that are known to be unreadable.
    pub unusable: HashMap<usize, DataError>,
}

/// A batch of training, read.
#[derive(Debug)]
pub struct Batch {
    /// Utterances of the split, one a row.
    pub utterances: Vec<usize>,
    /// Their images: indices into the split.
    pub image_ids: Vec<i64>,
    /// Their audio, unless it was not asked for.
    pub waveforms: Option<Waveforms>,
    /// Their images' pixels, unless they were not asked for.
    pub pixels: Option<Pixels>,
    /// What could not be read, and was replaced by another sample.
    pub skipped: Vec<Replaced>,
    /// Epoch of the first row.
    pub epoch: u64,
    /// Place of the first row in it.
    pub index: u64,
}

/// An utterance that could not be read, or whose image could not, in whose place another one stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Index into the split.
    pub utterance: usize,
    /// The error, which names the file.
    pub why: String,
}

/// The batches of steps, in order, read ahead on threads.
pub type TrainingBatches = Prefetch<Result<Batch, DataError>>;

struct Sample {
    utterance: usize,
    audio: Option<Vec<f32>>,
    picture: Option<Picture>,
}

impl BatchPlan {
    /// Starts to read the batches of `steps`.
    #[must_use]
    pub fn read(self, steps: std::ops::Range<u64>, workers: usize, prefetch: usize) -> TrainingBatches {
        let order = Order::new(self.seed, self.split.utterances.len());
        Prefetch::new(steps, workers, prefetch, move |step| self.batch(&order, step))
    }

    fn batch(&self, order: &Order, step: u64) -> Result<Batch, DataError> {
        let first = step * self.batch_size as u64;
        let mut skipped = Vec::new();
        let samples: Vec<Sample> = self
            .rows
            .clone()
            .map(|row| self.sample_or_substitute(order, order.position(first + row), &mut skipped))
            .collect::<Result<_, _>>()?;
        let audio: Option<Vec<&[f32]>> = samples.iter().map(|sample| sample.audio.as_deref()).collect();
        let pictures: Option<Vec<&Picture>> = samples.iter().map(|sample| sample.picture.as_ref()).collect();
        let Position { epoch, index } = order.position(first);
        Ok(Batch {
            utterances: samples.iter().map(|sample| sample.utterance).collect(),
            image_ids: samples.iter().map(|sample| self.split.utterances[sample.utterance].image as i64).collect(),
            waveforms: audio.map(|audio| Waveforms::pad(&audio)),
            pixels: pictures.map(|pictures| Pixels::stack(&pictures)),
            skipped,
            epoch,
            index,
        })
    }

    fn sample_or_substitute(
        &self,
        order: &Order,
        position: Position,
        skipped: &mut Vec<Replaced>,
    ) -> Result<Sample, DataError> {
        let key = [position.epoch, position.index];
        let mut substitutes = Draw::new(self.seed, Purpose::Substitute, key);
        let place = Draw::new(self.seed, Purpose::Crop, key).unit();
        let mut utterance = order.sample(position);
        for tries in 1.. {
            match self.sample(utterance, place) {
                Ok(sample) => return Ok(sample),
                Err(error) if self.on_error == OnError::Fail => return Err(error),
                Err(last) if tries == MAX_SUBSTITUTES => {
                    return Err(DataError::NothingReadable { tries, last: Box::new(last) });
                }
                Err(error) => {
                    skipped.push(Replaced { utterance, why: error.to_string() });
                    utterance = substitutes.below(self.split.utterances.len());
                }
            }
        }
        unreachable!("the loop ends at MAX_SUBSTITUTES")
    }

    fn sample(&self, index: usize, place: f32) -> Result<Sample, DataError> {
        if let Some(error) = self.unusable.get(&index) {
            return Err(error.clone());
        }
        let utterance = &self.split.utterances[index];
        let audio =
            self.audio.map(|form| form.read(&utterance.audio, Clip::Window { samples: form.max_samples, place }));
        let picture = self.picture.map(|form| form.read(&self.split.images[utterance.image].path));
        Ok(Sample {
            utterance: index,
            audio: audio.transpose()?.map(|audio| audio.samples),
            picture: picture.transpose()?,
        })
    }
}
