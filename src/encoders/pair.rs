//! Both frozen encoders of a run, run in chunks that bound memory.

use tch::{Device, Kind, Tensor};

use super::{
    EncoderError, EncodersConfig, FrozenEncoder, ImageSpec, ImageStates, SpeechSpec, SpeechStates, TorchScript,
};
use crate::data::{Pixels, Waveforms};
use crate::model::catch_libtorch;

type SpeechEncoder = Box<dyn FrozenEncoder<Spec = SpeechSpec, Input = Waveforms, Features = SpeechStates>>;
type ImageEncoder = Box<dyn FrozenEncoder<Spec = ImageSpec, Input = Pixels, Features = ImageStates>>;

/// The frozen parts of Psi and Phi.
pub struct Encoders {
    speech: SpeechEncoder,
    image: ImageEncoder,
    speech_rows: i64,
    image_rows: i64,
    device: Device,
}

impl Encoders {
    /// Loads and checks both encoders.
    ///
    /// # Errors
    /// When a file cannot be read or breaks the contract.
    pub fn load(config: &EncodersConfig, device: Device) -> Result<Self, EncoderError> {
        let speech = TorchScript::speech(config.speech.path.as_deref().unwrap_or("".as_ref()), device)?;
        let image = TorchScript::image(config.image.path.as_deref().unwrap_or("".as_ref()), device)?;
        Ok(Self {
            speech: Box::new(speech),
            image: Box::new(image),
            speech_rows: config.speech.batch_size,
            image_rows: config.image.batch_size,
            device,
        })
    }

    /// The speech encoder.
    #[must_use]
    pub fn speech(&self) -> &dyn FrozenEncoder<Spec = SpeechSpec, Input = Waveforms, Features = SpeechStates> {
        &*self.speech
    }

    /// The image encoder.
    #[must_use]
    pub fn image(&self) -> &dyn FrozenEncoder<Spec = ImageSpec, Input = Pixels, Features = ImageStates> {
        &*self.image
    }

    /// Where they run.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Hidden states [L, B, T, D] of a batch.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn encode_speech(&self, input: &Waveforms) -> Result<SpeechStates, EncoderError> {
        catch_libtorch(|| self.speech_in_chunks(input)).unwrap_or_else(|error| Err(self.speech.failed(error.why)))
    }

    fn speech_in_chunks(&self, input: &Waveforms) -> Result<SpeechStates, EncoderError> {
        let rows = input.samples.size()[0];
        if rows <= self.speech_rows {
            return self.speech.forward(input);
        }
        // Utterances of like length share a chunk, so that little is padding.
        let order = input.lengths.argsort_stable(true, 0, false);
        let mut chunks = Vec::new();
        for (start, count) in chunks_of(rows, self.speech_rows) {
            let chosen = order.narrow(0, start, count);
            let lengths = input.lengths.index_select(0, &chosen);
            let longest = lengths.max().int64_value(&[]);
            let samples = input.samples.index_select(0, &chosen).narrow(1, 0, longest);
            chunks.push(self.speech.forward(&Waveforms { samples, lengths })?);
        }
        let longest = chunks.iter().map(|chunk| chunk.hidden.size()[2]).max().unwrap_or(0);
        let hidden: Vec<Tensor> = chunks
            .iter()
            .map(|chunk| chunk.hidden.constant_pad_nd([0, 0, 0, longest - chunk.hidden.size()[2]]))
            .collect();
        let frames: Vec<&Tensor> = chunks.iter().map(|chunk| &chunk.frames).collect();
        let place = order.argsort(0, false).to_device(self.device);
        let hidden = Tensor::cat(&hidden, 1).index_select(1, &place);
        Ok(SpeechStates { hidden, frames: Tensor::cat(&frames, 0).index_select(0, &place) })
    }

    /// CLS and patches of a batch.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn encode_images(&self, input: &Pixels) -> Result<ImageStates, EncoderError> {
        catch_libtorch(|| self.images_in_chunks(input)).unwrap_or_else(|error| Err(self.image.failed(error.why)))
    }

    fn images_in_chunks(&self, input: &Pixels) -> Result<ImageStates, EncoderError> {
        let rows = input.0.size()[0];
        if rows <= self.image_rows {
            return self.image.forward(input);
        }
        let chunks: Vec<ImageStates> = chunks_of(rows, self.image_rows)
            .map(|(start, count)| self.image.forward(&Pixels(input.0.narrow(0, start, count))))
            .collect::<Result<_, _>>()?;
        let cls: Vec<&Tensor> = chunks.iter().map(|chunk| &chunk.cls).collect();
        let patches: Vec<&Tensor> = chunks.iter().map(|chunk| &chunk.patches).collect();
        Ok(ImageStates { cls: Tensor::cat(&cls, 0), patches: Tensor::cat(&patches, 0) })
    }
}

fn chunks_of(rows: i64, size: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..rows).step_by(size as usize).map(move |start| (start, size.min(rows - start)))
}

impl SpeechStates {
    /// Row `row` alone, without padding: [L, t, D].
    pub fn row(&self, row: i64) -> Tensor {
        let frames = self.frames.int64_value(&[row]);
        self.hidden.select(1, row).narrow(1, 0, frames)
    }

    /// A batch of single rows [L, t, D], zero-padded to the longest.
    #[must_use]
    pub fn pad(rows: &[&Tensor], device: Device) -> Self {
        let frames: Vec<i64> = rows.iter().map(|row| row.size()[1]).collect();
        let longest = frames.iter().copied().max().unwrap_or(0);
        let (layers, width) = rows.first().map_or((0, 0), |row| (row.size()[0], row.size()[2]));
        let hidden = Tensor::zeros([layers, rows.len() as i64, longest, width], (Kind::Float, Device::Cpu));
        for (index, row) in rows.iter().enumerate() {
            hidden.select(1, index as i64).narrow(1, 0, row.size()[1]).copy_(row);
        }
        Self { hidden: hidden.to_device(device), frames: Tensor::from_slice(&frames).to_device(device) }
    }
}
