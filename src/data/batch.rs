//! Batches of training: which samples, read from their files or known.

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::order::{Order, Position};
use super::tensors::{stack_images, stack_speech};
use super::{
    Ahead, AudioForm, Clip, DataError, Groups, Kept, OnError, Picture, PictureForm, Pixels, Prefetch, Row, Split,
    Waveforms,
};
use crate::draw::{Draw, Purpose};
use crate::model::pinned;

/// Draws of another sample in place of an unreadable one, before the data set is given up.
const MAX_SUBSTITUTES: usize = 100;

/// What training reads of each sample.
#[derive(Clone)]
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
    /// How audio is read.
    pub audio: AudioForm,
    /// How images are read.
    pub picture: PictureForm,
    /// Features that are known, whose files are not read.
    pub kept: Arc<dyn Kept>,
    /// Known hidden states that lie in one tensor.
    pub speech_rows: usize,
    /// The device that the batch goes to: for CUDA it lies in pinned memory.
    pub device: Device,
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
    /// The audio that was read, the longest first.
    pub waveforms: Option<Rows<Waveforms>>,
    /// Hidden states that are known, the longest first.
    pub hidden: Vec<Rows<KnownSpeech>>,
    /// The pixels that were read.
    pub pixels: Option<Rows<Pixels>>,
    /// CLS and patches [k, 1 + N, E] that are known.
    pub images: Option<Rows<Tensor>>,
    /// What could not be read, and was replaced by another sample.
    pub skipped: Vec<Replaced>,
    /// Epoch of the first row.
    pub epoch: u64,
    /// Place of the first row in it.
    pub index: u64,
}

/// Some rows of a batch.
#[derive(Debug)]
pub struct Rows<T> {
    /// Their places in the batch.
    pub rows: Vec<i64>,
    /// What is known of them.
    pub what: T,
}

/// Hidden states of some utterances.
#[derive(Debug)]
pub struct KnownSpeech {
    /// [L, c, T, D], zero-padded.
    pub hidden: Tensor,
    /// `[c]`: valid frames.
    pub frames: Vec<i64>,
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

/// Read from a file, or known.
#[derive(Debug)]
pub enum Given<T> {
    /// From the file.
    Read(T),
    /// Its features.
    Known(Row),
}

/// A sample, and what could not be read in its place.
pub struct Sample {
    utterance: usize,
    speech: Given<Vec<f32>>,
    image: Given<Picture>,
    skipped: Vec<Replaced>,
}

impl BatchPlan {
    /// Starts to read the batches of `steps`.
    #[must_use]
    pub fn read(self, steps: std::ops::Range<u64>, ahead: Ahead) -> TrainingBatches {
        let order = Order::new(self.seed, &self.split.parts);
        Prefetch::of(steps, Reader { plan: self, order }, ahead)
    }

    fn sample_or_substitute(&self, order: &Order, position: Position) -> Result<Sample, DataError> {
        let key = [position.epoch, position.index];
        let mut substitutes = Draw::new(self.seed, Purpose::Substitute, key);
        let place = Draw::new(self.seed, Purpose::Crop, key).unit();
        let (mut utterance, mut skipped) = (order.sample(position), Vec::new());
        for tries in 1.. {
            match self.sample(utterance, place) {
                Ok((speech, image)) => return Ok(Sample { utterance, speech, image, skipped }),
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

    fn sample(&self, index: usize, place: f32) -> Result<(Given<Vec<f32>>, Given<Picture>), DataError> {
        if let Some(error) = self.unusable.get(&index) {
            return Err(error.clone());
        }
        let utterance = &self.split.utterances[index];
        let speech = match self.kept.speech(index) {
            Some(row) => Given::Known(row),
            None => {
                let clip = Clip::Window { samples: self.audio.max_samples, place };
                Given::Read(self.audio.read(&utterance.audio, clip)?.samples)
            }
        };
        let image = match self.kept.image(utterance.image) {
            Some(row) => Given::Known(row),
            None => Given::Read(self.picture.read(&self.split.images[utterance.image].path)?),
        };
        Ok((speech, image))
    }

    fn batch(&self, samples: Vec<Sample>, position: Position) -> Batch {
        let utterances: Vec<usize> = samples.iter().map(|sample| sample.utterance).collect();
        let image_ids = utterances.iter().map(|index| self.split.utterances[*index].image as i64).collect();
        let (mut waves, mut hidden, mut pictures, mut images, mut skipped) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (row, sample) in (0..).zip(samples) {
            match sample.speech {
                Given::Read(wave) => waves.push((row, wave)),
                Given::Known(known) => hidden.push((row, known)),
            }
            match sample.image {
                Given::Read(picture) => pictures.push((row, picture)),
                Given::Known(known) => images.push((row, known)),
            }
            skipped.extend(sample.skipped);
        }
        // Those of like length lie together, so that little is padding.
        waves.sort_by_key(|(_, wave)| std::cmp::Reverse(wave.len()));
        hidden.sort_by_key(|(_, known)| std::cmp::Reverse(known.shape[1]));
        let ready = |tensor: Tensor| if self.device.is_cuda() { pinned(&tensor) } else { tensor };
        Batch {
            utterances,
            image_ids,
            waveforms: some_rows(&waves, |waves| {
                let waves: Vec<&[f32]> = waves.iter().map(|(_, wave)| wave.as_slice()).collect();
                let Waveforms { samples, lengths } = Waveforms::pad(&waves);
                Waveforms { samples: ready(samples), lengths }
            }),
            hidden: hidden
                .chunks(self.speech_rows)
                .filter_map(|rows| {
                    some_rows(rows, |rows| {
                        let rows: Vec<&Row> = rows.iter().map(|(_, row)| row).collect();
                        KnownSpeech {
                            hidden: ready(stack_speech(&rows)),
                            frames: rows.iter().map(|row| row.shape[1]).collect(),
                        }
                    })
                })
                .collect(),
            pixels: some_rows(&pictures, |pictures| {
                let pictures: Vec<&Picture> = pictures.iter().map(|(_, picture)| picture).collect();
                Pixels(ready(Pixels::stack(&pictures).0))
            }),
            images: some_rows(&images, |images| {
                let rows: Vec<&Row> = images.iter().map(|(_, row)| row).collect();
                ready(stack_images(&rows))
            }),
            skipped,
            epoch: position.epoch,
            index: position.index,
        }
    }
}

/// Rows and what is made of them, unless there are none.
fn some_rows<T, U>(rows: &[(i64, T)], make: impl FnOnce(&[(i64, T)]) -> U) -> Option<Rows<U>> {
    (!rows.is_empty()).then(|| Rows { rows: rows.iter().map(|(row, _)| *row).collect(), what: make(rows) })
}

/// A plan at work.
struct Reader {
    plan: BatchPlan,
    order: Order,
}

impl Reader {
    fn position(&self, step: u64, row: u64) -> Position {
        self.order.position(step * self.plan.batch_size as u64 + row)
    }
}

impl Groups for Reader {
    type Item = Result<Sample, DataError>;
    type Group = Result<Batch, DataError>;

    fn size(&self, _: u64) -> usize {
        (self.plan.rows.end - self.plan.rows.start) as usize
    }

    fn read(&self, step: u64, row: usize) -> Self::Item {
        self.plan.sample_or_substitute(&self.order, self.position(step, self.plan.rows.start + row as u64))
    }

    fn bytes(&self, item: &Self::Item) -> usize {
        item.as_ref().map_or(0, |Sample { speech, image, .. }| {
            let speech = match speech {
                Given::Read(samples) => 4 * samples.len(),
                Given::Known(row) => row.bytes.len(),
            };
            let image = match image {
                Given::Read(picture) => picture.planes.len(),
                Given::Known(row) => row.bytes.len(),
            };
            speech + image
        })
    }

    fn join(&self, step: u64, items: Vec<Self::Item>) -> Self::Group {
        let samples = items.into_iter().collect::<Result<_, _>>()?;
        Ok(self.plan.batch(samples, self.position(step, 0)))
    }
}
