//! Sounds and pictures to embeddings, whatever they are of: what `cmd embed` and `cmd search` ask.

use tch::{Device, Tensor};

use super::EvalError;
use super::ranks::values;
use crate::data::{Audio, AudioForm, Content, Picture, PictureForm, Pixels};
use crate::encoders::{Encoders, SpeechStates};
use crate::features::{FeatureConfig, FeatureError};
use crate::model::{CmdModel, LibtorchError, catch_libtorch, numbers_of};

/// Frozen encoders with a trained head.
#[derive(Clone, Copy)]
pub struct Embedder<'a> {
    pub(super) encoders: &'a Encoders,
    pub(super) model: &'a CmdModel,
    pub(super) audio: AudioForm,
    pictures: PictureForm,
    /// Of one forward of the speech encoder, with the padding.
    most_samples: i64,
}

impl<'a> Embedder<'a> {
    /// By the limits of `config`: utterances are cut to `audio.eval_max_seconds`.
    #[must_use]
    pub fn new(encoders: &'a Encoders, model: &'a CmdModel, config: &FeatureConfig) -> Self {
        let (speech, image) = (encoders.speech().spec(), encoders.image().spec());
        let (rate, least) = (speech.sample_rate as u32, speech.min_samples as usize);
        Self {
            encoders,
            model,
            audio: AudioForm::new(rate, least, config.audio.eval_max_seconds),
            pictures: PictureForm::new(image.size as u32, config.data.max_megapixels),
            most_samples: config.most_samples(rate),
        }
    }

    /// How audio is read.
    #[must_use]
    pub fn audio_form(&self) -> AudioForm {
        self.audio
    }

    /// How pictures are read.
    #[must_use]
    pub fn picture_form(&self) -> PictureForm {
        self.pictures
    }

    /// E.
    #[must_use]
    pub fn width(&self) -> usize {
        self.encoders.image().spec().width as usize
    }

    /// S_cls of hidden states, [B, E], on the CPU.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn of_states(model: &CmdModel, states: &SpeechStates) -> Result<Tensor, LibtorchError> {
        let forward = || tch::no_grad(|| model.speech().forward(&states.hidden, &states.frames));
        catch_libtorch(|| forward().to_device(Device::Cpu))
    }

    /// S_cls of each sound, [B, E], L2-normalised, on the CPU.
    ///
    /// # Errors
    /// When an encoder or libtorch fails.
    pub fn speech(&self, sounds: &[&Audio]) -> Result<Tensor, EvalError> {
        let (mut parts, mut order) = (Vec::new(), Vec::new());
        self.for_each_chunk(sounds, |places, states| {
            parts.push(Self::of_states(self.model, states)?);
            order.extend(places.iter().map(|place| *place as i64));
            Ok(())
        })?;
        Ok(catch_libtorch(|| Tensor::cat(&parts, 0).index_select(0, &Tensor::from_slice(&order).argsort(0, false)))?)
    }

    /// S = {S_cls, s_1 ... s_T} of each sound, [1 + T, E], each row L2-normalised, on the CPU.
    ///
    /// # Errors
    /// When an encoder or libtorch fails.
    pub fn frames(&self, sounds: &[&Audio]) -> Result<Vec<Tensor>, EvalError> {
        let mut all: Vec<(usize, Tensor)> = Vec::new();
        self.for_each_chunk(sounds, |places, states| {
            let lengths = numbers_of(&states.frames)?;
            let forward = || tch::no_grad(|| self.model.speech().forward_frames(&states.hidden, &states.frames));
            let Some(chunk) = catch_libtorch(|| forward().map(|frames| frames.to_device(Device::Cpu)))? else {
                return Err(EvalError::NoFrames);
            };
            for ((row, place), frames) in (0..).zip(places).zip(lengths) {
                all.push((*place, catch_libtorch(|| chunk.get(row).narrow(0, 0, 1 + frames).contiguous())?));
            }
            Ok(())
        })?;
        all.sort_by_key(|(place, _)| *place);
        Ok(all.into_iter().map(|(_, frames)| frames).collect())
    }

    /// I_cls of each picture, [B, E], L2-normalised, on the CPU.
    ///
    /// # Errors
    /// When an encoder or libtorch fails.
    pub fn images(&self, pictures: &[&Picture]) -> Result<Tensor, EvalError> {
        let states = self.encoders.pair().encode_images(&Pixels::stack(pictures)).map_err(FeatureError::from)?;
        Ok(catch_libtorch(|| CmdModel::frozen_embedding(&states.cls).to_device(Device::Cpu))?)
    }

    /// The embedding of each of `texts`, `[E]`, L2-normalised.
    ///
    /// # Errors
    /// When there is no text encoder, or it fails.
    pub fn texts<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Vec<f32>>, EvalError> {
        let rows = self.encoders.text("a query in words").and_then(|encoder| encoder.embed(texts));
        let rows = rows.map_err(FeatureError::from)?;
        let rows = catch_libtorch(|| values(&rows.to_device(Device::Cpu)))?;
        Ok(rows.chunks_exact(self.width()).map(<[f32]>::to_vec).collect())
    }

    /// Whether `text` is too long to be read to its end.
    #[must_use]
    pub fn cuts(&self, text: &str) -> bool {
        self.encoders.text("a query in words").is_ok_and(|encoder| encoder.cuts(text))
    }

    /// The rows of each of `contents`, `[E]` or, of a sound with `frames`, [1 + T, E], one behind the other.
    ///
    /// # Errors
    /// When an encoder or libtorch fails.
    pub fn rows(&self, contents: &[&Content], frames: bool) -> Result<Vec<Vec<f32>>, EvalError> {
        let (mut sounds, mut pictures) = (Vec::new(), Vec::new());
        for content in contents {
            match content {
                Content::Sound(sound) => sounds.push(sound),
                Content::Picture(picture) => pictures.push(picture),
            }
        }
        let each =
            |all: &Tensor| -> Vec<Vec<f32>> { values(all).chunks_exact(self.width()).map(<[f32]>::to_vec).collect() };
        let mut of_sounds = match (sounds.as_slice(), frames) {
            ([], _) => Vec::new(),
            (sounds, true) => self.frames(sounds)?.iter().map(values).collect(),
            (sounds, false) => each(&self.speech(sounds)?),
        }
        .into_iter();
        let mut of_pictures = if pictures.is_empty() { Vec::new() } else { each(&self.images(&pictures)?) }.into_iter();
        let rows = contents.iter().filter_map(|content| match content {
            Content::Sound(_) => of_sounds.next(),
            Content::Picture(_) => of_pictures.next(),
        });
        Ok(rows.collect())
    }

    /// Hidden states chunk by chunk, with the places of the sounds that they are of.
    pub(super) fn for_each_chunk(
        &self,
        sounds: &[&Audio],
        mut visit: impl FnMut(&[usize], &SpeechStates) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let waves: Vec<&[f32]> = sounds.iter().map(|sound| sound.samples.as_slice()).collect();
        let chunks = self.encoders.pair().encode_sounds(&waves, self.most_samples).map_err(FeatureError::from)?;
        for (places, states) in &chunks {
            visit(places, states)?;
        }
        Ok(())
    }
}
