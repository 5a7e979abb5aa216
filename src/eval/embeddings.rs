//! Embeddings of a split: I_cls of every image of the gallery and S_cls of every utterance.

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::{Embedder, EvalError, Ranks, SplitResult};
use crate::data::{DataError, Skipped, Split};
use crate::distributed::{Crew, World};
use crate::encoders::Encoders;
use crate::features::{FeatureConfig, FeatureSource, Pool, Use};
use crate::model::{CmdModel, catch_libtorch};
use crate::telemetry::warn_once;

/// A split made ready to be embedded by one model after the other: the images, which the model does not change, are encoded.
pub struct EvalSet<'a> {
    split: Arc<Split>,
    crew: Crew<'a>,
    features: FeatureSource<'a>,
    /// Images of the gallery: indices into the split.
    gallery: Vec<usize>,
    /// I_cls, [I, E].
    images: Tensor,
    /// What could not be read of the images.
    skipped_images: Vec<Skipped>,
    /// Images that are copies of others.
    copies: usize,
    /// Where scores are made.
    device: Device,
}

/// Embeddings on the CPU.
#[derive(Debug)]
pub struct Embeddings {
    /// S_cls, [S, E].
    pub speech: Tensor,
    /// I_cls, [I, E].
    pub images: Tensor,
    /// Of each row of `speech`, the utterance: an index into the split.
    pub utterances: Vec<usize>,
    /// Of each row of `images`, the image: an index into the split.
    pub gallery: Vec<usize>,
    /// Of each row of `speech`, the row of `images` that it speaks of.
    pub owners: Vec<usize>,
    /// What could not be read.
    pub skipped: Vec<Skipped>,
    /// Images whose content another one has too, beyond one of each: found for a right answer, they count as wrong.
    pub copies: usize,
}

impl<'a> EvalSet<'a> {
    /// Encodes the images of `split`; `pool` as for [`FeatureSource::new`].
    ///
    /// # Errors
    /// When an image cannot be read and that counts as a failure, an encoder fails, or a signal comes.
    pub fn new(
        split: &Arc<Split>,
        encoders: &'a Encoders,
        config: &FeatureConfig,
        crew: Crew<'a>,
        pool: Option<&Pool>,
    ) -> Result<Self, EvalError> {
        let features = FeatureSource::new(encoders, split, config, Use::Evaluation, crew, pool)?;
        let (mut parts, mut gallery) = (Vec::new(), Vec::new());
        let unreadable = features.for_each_images(|images, states| {
            parts.push(catch_libtorch(|| CmdModel::frozen_embedding(&states.cls).to_device(Device::Cpu))?);
            gallery.extend_from_slice(images);
            Ok::<(), EvalError>(())
        })?;
        let width = encoders.image().spec().width;
        let (gallery, images) = crew.world.gather_rows(&gallery, &rows_of(&parts, width), split.images.len())?;
        let skipped_images = gather_skipped(unreadable, crew.world)?;
        let copies = if crew.world.is_first() { tell_copies(split, config.data.workers as usize) } else { 0 };
        Ok(Self {
            split: split.clone(),
            crew,
            features,
            gallery,
            images,
            skipped_images,
            copies,
            device: encoders.device(),
        })
    }

    /// The split.
    #[must_use]
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// Embeds every utterance with `model`. With `encoders.speech.cache`, the hidden states of the first call are kept.
    ///
    /// # Errors
    /// When audio cannot be read and that counts as a failure, an encoder or the model fails, or a signal comes.
    pub fn embed(&mut self, model: &CmdModel) -> Result<Embeddings, EvalError> {
        let (mut parts, mut utterances) = (Vec::new(), Vec::new());
        let unreadable = self.features.for_each_speech(|indices, states| {
            parts.push(Embedder::of_states(model, states)?);
            utterances.extend_from_slice(indices);
            Ok::<(), EvalError>(())
        })?;
        let own = rows_of(&parts, self.images.size()[1]);
        let (utterances, speech) = self.crew.world.gather_rows(&utterances, &own, self.split.utterances.len())?;
        let skipped_speech = gather_skipped(unreadable, self.crew.world)?;
        Ok(self.in_order(&speech, &utterances, &skipped_speech))
    }

    /// The figures of embeddings of this set.
    ///
    /// # Errors
    /// When scores are NaN or infinite, nothing could be embedded, libtorch fails, or another process is gone.
    pub fn rank(&self, embeddings: &Embeddings) -> Result<SplitResult, EvalError> {
        self.rank_each(embeddings).map(|(result, _)| result)
    }

    /// The figures of embeddings of this set, and the ranks behind them.
    ///
    /// # Errors
    /// As [`Self::rank`].
    pub fn rank_each(&self, embeddings: &Embeddings) -> Result<(SplitResult, Ranks), EvalError> {
        SplitResult::new(&self.split, embeddings, self.device, self.crew.world)
    }

    /// Calls `visit` with the row of each image of the gallery and its patches [N, E], on the encoders' device.
    pub(super) fn for_each_patches(
        &self,
        mut visit: impl FnMut(usize, &Tensor) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let row_of_image: HashMap<usize, usize> =
            self.gallery.iter().enumerate().map(|(row, image)| (*image, row)).collect();
        self.features.for_each_images(|images, states| {
            for (place, image) in (0..).zip(images) {
                if let Some(row) = row_of_image.get(image) {
                    let patches = catch_libtorch(|| states.patches.get(place))?;
                    visit(*row, &patches)?;
                }
            }
            Ok::<(), EvalError>(())
        })?;
        Ok(())
    }

    /// Without utterances whose image could not be read.
    fn in_order(&self, speech: &Tensor, utterances: &[usize], skipped_speech: &[Skipped]) -> Embeddings {
        let row_of_image: HashMap<usize, usize> =
            self.gallery.iter().enumerate().map(|(row, image)| (*image, row)).collect();
        let owner = |utterance: usize| row_of_image.get(&self.split.utterances[utterance].image).copied();
        let rows: Vec<(usize, usize, i64)> = utterances
            .iter()
            .enumerate()
            .filter_map(|(row, utterance)| Some((*utterance, owner(*utterance)?, row as i64)))
            .collect();
        let select: Vec<i64> = rows.iter().map(|(_, _, row)| *row).collect();
        Embeddings {
            speech: speech.index_select(0, &Tensor::from_slice(&select)),
            images: self.images.shallow_clone(),
            utterances: rows.iter().map(|(utterance, _, _)| *utterance).collect(),
            owners: rows.iter().map(|(_, owner, _)| *owner).collect(),
            gallery: self.gallery.clone(),
            skipped: self.skipped_images.iter().chain(skipped_speech).cloned().collect(),
            copies: self.copies,
        }
    }
}

/// Counts images of equal content and warns of them.
fn tell_copies(split: &Split, workers: usize) -> usize {
    let groups = split.copies(workers);
    let count = groups.iter().map(|group| group.len() - 1).sum();
    if let Some([first, second, ..]) = groups.first().map(Vec::as_slice) {
        let path = |image: &usize| split.images[*image].path.display();
        warn_once(format!(
            "split {}: {count} images are copies of others, the first {} of {}: a copy that is found counts as wrong, so recalls are too low; \
             `cmd data check` names them all",
            split.name,
            path(second),
            path(first)
        ));
    }
    count
}

/// The parts [b, E], one below the other.
fn rows_of(parts: &[Tensor], width: i64) -> Tensor {
    if parts.is_empty() { Tensor::zeros([0, width], (Kind::Float, Device::Cpu)) } else { Tensor::cat(parts, 0) }
}

fn gather_skipped(unreadable: Vec<(usize, DataError)>, world: &World) -> Result<Vec<Skipped>, EvalError> {
    let own: Vec<(usize, String)> = unreadable.into_iter().map(|(place, error)| (place, error.to_string())).collect();
    let mut all = world.gather_notes(&own)?;
    all.sort();
    Ok(all.into_iter().map(|(_, why)| Skipped { why }).collect())
}
