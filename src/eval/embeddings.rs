//! Embeddings of a split: I_cls of every image of the gallery and S_cls of every utterance.

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::config::{Config, OnError};
use crate::data::{AudioForm, Clip, DataError, GroupReader, Picture, Skipped, Split};
use crate::distributed::World;
use crate::encoders::{Encoders, KeptRows, Pixels, SpeechStates, Waveforms};
use crate::error::Error;
use crate::model::CmdModel;
use crate::signals::Signals;
use crate::telemetry::warn_once;

/// A split made ready to be embedded by one model after the other: the images, which the model does not change, are encoded.
pub struct EvalSet<'a> {
    split: Arc<Split>,
    encoders: &'a Encoders,
    config: Config,
    on_error: OnError,
    /// Images of the gallery: indices into the split.
    gallery: Vec<usize>,
    /// I_cls, [I, E].
    images: Tensor,
    /// What could not be read of the images.
    skipped_images: Vec<Skipped>,
    /// Hidden states by group, once they are known and if they are kept.
    kept: Option<Vec<(Vec<usize>, SpeechStates)>>,
    skipped_speech: Vec<Skipped>,
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
}

impl<'a> EvalSet<'a> {
    /// Encodes the images of `split`.
    ///
    /// # Errors
    /// When an image cannot be read and that counts as a failure, an encoder fails, or a signal comes.
    pub fn new(
        split: &Arc<Split>,
        encoders: &'a Encoders,
        config: &Config,
        world: &World,
        signals: &Signals,
    ) -> Result<Self, Error> {
        // Nobody should report recalls on a part of a split without knowing.
        let on_error = config.data.on_error.unwrap_or(OnError::Fail);
        let mut set = Self {
            split: split.clone(),
            encoders,
            config: config.clone(),
            on_error,
            gallery: Vec::new(),
            images: Tensor::zeros([0, encoders.image().spec().width], (Kind::Float, Device::Cpu)),
            skipped_images: Vec::new(),
            kept: None,
            skipped_speech: Vec::new(),
        };
        let (size, rows) = (encoders.image().spec().size as u32, config.encoders.image.batch_size as usize);
        let groups = share(split.images_in_groups(rows), world);
        let what = format!("encoding {} images", split.name);
        let images = split.clone();
        let read = move |image: usize| Picture::read(&images.images[image].path, size);
        let (mut parts, mut gallery) = (Vec::new(), Vec::new());
        let unreadable = set.reader(signals).for_each((&what, "images"), groups, read, |pictures| {
            let stack: Vec<&Picture> = pictures.iter().map(|(_, picture)| picture).collect();
            let states = encoders.encode_images(&Pixels::stack(&stack))?;
            parts.push(CmdModel::image_embedding(&states.cls).to_device(Device::Cpu));
            gallery.extend(pictures.iter().map(|(image, _)| *image));
            Ok(())
        })?;
        let own = if parts.is_empty() { set.images.shallow_clone() } else { Tensor::cat(&parts, 0) };
        (set.gallery, set.images) = gather_rows(&gallery, &own, split.images.len(), world)?;
        set.skipped_images = gather_skipped(unreadable, world)?;
        Ok(set)
    }

    /// The split.
    #[must_use]
    pub fn split(&self) -> &Split {
        &self.split
    }

    fn reader<'b>(&'b self, signals: &'b Signals) -> GroupReader<'b> {
        GroupReader { data: &self.config.data, on_error: self.on_error, signals }
    }

    /// Embeds every utterance with `model`. With `encoders.speech.cache`, the hidden states of the first call are kept.
    ///
    /// # Errors
    /// When audio cannot be read and that counts as a failure, an encoder fails, or a signal comes.
    pub fn embed(&mut self, model: &CmdModel, world: &World, signals: &Signals) -> Result<Embeddings, Error> {
        let mut parts = Vec::new();
        let mut utterances = Vec::new();
        let device = self.encoders.device();
        let mut embed = |indices: &[usize], states: &SpeechStates| {
            let (hidden, frames) = (states.hidden.to_device(device), states.frames.to_device(device));
            let embedding = tch::no_grad(|| model.speech().forward(&hidden, &frames, None));
            parts.push(embedding.to_device(Device::Cpu));
            utterances.extend_from_slice(indices);
        };
        if let Some(kept) = &self.kept {
            for (indices, states) in kept {
                signals.check()?;
                embed(indices, states);
            }
        } else {
            let (mut keep, mut memory) = (Vec::new(), KeptRows::default());
            let form = AudioForm::new(self.encoders.speech().spec(), self.config.audio.eval_max_seconds);
            let groups = self.split.utterances_by_length(self.config.encoders.speech.batch_size as usize);
            let groups = share(groups, world);
            let what = format!("encoding {} speech", self.split.name);
            let read = {
                let split = self.split.clone();
                move |index: usize| form.read(&split.utterances[index].audio, Clip::Start(form.max_samples))
            };
            let unreadable = self.reader(signals).for_each((&what, "utterances"), groups, read, |group| {
                for (index, _) in group.iter().filter(|(_, audio)| audio.whole > form.max_samples) {
                    let path = &self.split.utterances[*index].audio;
                    warn_once(format!("{}: cut to audio.eval_max_seconds", path.display()));
                }
                let waves: Vec<&[f32]> = group.iter().map(|(_, audio)| audio.samples.as_slice()).collect();
                let states = self.encoders.encode_speech(&Waveforms::pad(&waves))?;
                let indices: Vec<usize> = group.iter().map(|(index, _)| *index).collect();
                embed(&indices, &states);
                if self.config.encoders.speech.cache {
                    let frames = states.frames.to_device(Device::Cpu);
                    keep.push((indices, SpeechStates { hidden: memory.keep(&states.hidden), frames }));
                }
                Ok(())
            })?;
            self.skipped_speech = gather_skipped(unreadable, world)?;
            self.kept = self.config.encoders.speech.cache.then_some(keep);
        }
        let own = if parts.is_empty() { self.images.narrow(0, 0, 0) } else { Tensor::cat(&parts, 0) };
        let (utterances, speech) = gather_rows(&utterances, &own, self.split.utterances.len(), world)?;
        Ok(self.in_order(&speech, &utterances))
    }

    /// Without utterances whose image could not be read.
    fn in_order(&self, speech: &Tensor, utterances: &[usize]) -> Embeddings {
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
            skipped: self.skipped_images.iter().chain(&self.skipped_speech).cloned().collect(),
        }
    }
}

/// The groups that are this process's.
fn share(groups: Vec<Vec<usize>>, world: &World) -> Vec<Vec<usize>> {
    groups.into_iter().skip(world.rank()).step_by(world.size()).collect()
}

/// Rows of all processes in the order of the split: `places` says where in it, below `count`, each row of `own` [b, E] stands.
/// Returns the places that some process has, and their rows.
fn gather_rows(places: &[usize], own: &Tensor, count: usize, world: &World) -> Result<(Vec<usize>, Tensor), Error> {
    let index: Vec<i64> = places.iter().map(|place| *place as i64).collect();
    let index = Tensor::from_slice(&index);
    let scatter = |rows: &Tensor| {
        let mut shape = rows.size();
        shape[0] = count as i64;
        Tensor::zeros(&shape, (rows.kind(), Device::Cpu)).index_copy(0, &index, rows)
    };
    // Each place is one process's, so that adding zeros changes no bit.
    let rows = world.sum(&scatter(own))?;
    let present = world.sum(&scatter(&Tensor::ones([places.len() as i64], (Kind::Int64, Device::Cpu))))?;
    let present: Vec<i64> = Vec::try_from(&present.nonzero().flatten(0, -1)).unwrap_or_default();
    let rows = rows.index_select(0, &Tensor::from_slice(&present));
    Ok((present.into_iter().map(|place| place as usize).collect(), rows))
}

fn gather_skipped(unreadable: Vec<(usize, DataError)>, world: &World) -> Result<Vec<Skipped>, Error> {
    let mut own: Vec<(usize, String)> =
        unreadable.into_iter().map(|(place, error)| (place, error.to_string())).collect();
    let texts = world.gather_texts(&serde_json::to_string(&own).unwrap_or_default())?;
    own =
        texts.iter().flat_map(|text| serde_json::from_str::<Vec<(usize, String)>>(text).unwrap_or_default()).collect();
    own.sort();
    Ok(own.into_iter().map(|(_, why)| Skipped { why }).collect())
}
