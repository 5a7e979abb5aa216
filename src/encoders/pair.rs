//! The frozen encoders of speech and images, run in chunks that bound memory.

use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use super::{
    EncoderError, EncodersConfig, FrozenEncoder, ImageSpec, ImageStates, SpeechSpec, SpeechStates, TorchScript,
};
use crate::data::{Pixels, Waveforms};
use crate::model::catch_libtorch;

type SpeechEncoder = Box<dyn FrozenEncoder<Spec = SpeechSpec, Input = Waveforms, Features = SpeechStates>>;
type ImageEncoder = Box<dyn FrozenEncoder<Spec = ImageSpec, Input = Pixels, Features = ImageStates>>;

/// The frozen parts of Psi and Phi. Any thread may ask for a forward.
pub struct Pair {
    speech: SpeechEncoder,
    image: ImageEncoder,
    speech_rows: i64,
    spread: f64,
    image_rows: i64,
    device: Device,
}

impl Pair {
    /// Loads and checks them.
    ///
    /// # Errors
    /// When a file cannot be read or breaks the contract.
    pub fn load(config: &EncodersConfig, device: Device) -> Result<Self, EncoderError> {
        fn path(path: &Option<PathBuf>) -> &Path {
            path.as_deref().unwrap_or(Path::new(""))
        }
        let speech = TorchScript::speech(path(&config.speech.path), config.speech.dtype, device)?;
        let image = TorchScript::image(path(&config.image.path), config.image.dtype, device)?;
        Ok(Self {
            speech: Box::new(speech),
            image: Box::new(image),
            speech_rows: config.speech.batch_size,
            spread: config.speech.spread,
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

    /// Hidden states of utterances, the longest first, in chunks of like length (`encoders.speech.spread`), of at most
    /// `encoders.speech.batch_size` rows and `most_samples` samples with the padding; `lengths` are those of `input`, on the host.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn encode_speech(
        &self,
        input: &Waveforms,
        lengths: &[i64],
        most_samples: i64,
    ) -> Result<Vec<SpeechStates>, EncoderError> {
        let _span = tracing::debug_span!("speech encoder").entered();
        let encoded = catch_libtorch(|| {
            let chunks = chunks_by_length(lengths, self.speech_rows, most_samples, self.spread);
            let forward = |(start, count): (i64, i64)| {
                let samples = input.samples.narrow(0, start, count).narrow(1, 0, lengths[start as usize]);
                self.speech.forward(&Waveforms {
                    samples: samples.contiguous(),
                    lengths: input.lengths.narrow(0, start, count),
                })
            };
            chunks.into_iter().map(forward).collect()
        });
        encoded.unwrap_or_else(|error| Err(self.speech.failed(error.why)))
    }

    /// Hidden states of `waves`, in chunks that bound memory as [`Self::encode_speech`] has them, each with the places of its rows in `waves`.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn encode_sounds(
        &self,
        waves: &[&[f32]],
        most_samples: i64,
    ) -> Result<Vec<(Vec<usize>, SpeechStates)>, EncoderError> {
        if waves.is_empty() {
            return Ok(Vec::new());
        }
        let mut order: Vec<usize> = (0..waves.len()).collect();
        order.sort_by_key(|place| std::cmp::Reverse(waves[*place].len()));
        let sorted: Vec<&[f32]> = order.iter().map(|place| waves[*place]).collect();
        let lengths: Vec<i64> = sorted.iter().map(|wave| wave.len() as i64).collect();
        let input = catch_libtorch(|| {
            let Waveforms { samples, lengths } = Waveforms::pad(&sorted);
            Waveforms { samples: samples.to_device(self.device), lengths: lengths.to_device(self.device) }
        });
        let input = input.map_err(|error| self.speech.failed(error.why))?;
        let mut rest = order.into_iter();
        let chunks = self.encode_speech(&input, &lengths, most_samples)?.into_iter();
        Ok(chunks.map(|states| (rest.by_ref().take(states.frames.size()[0] as usize).collect(), states)).collect())
    }

    /// CLS and patches of a batch. A row's features do not depend on the others, to the bit on the CPU: so those that are kept equal
    /// those that are made anew.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn encode_images(&self, input: &Pixels) -> Result<ImageStates, EncoderError> {
        let _span = tracing::debug_span!("image encoder").entered();
        catch_libtorch(|| self.images_in_chunks(input)).unwrap_or_else(|error| Err(self.image.failed(error.why)))
    }

    fn images_in_chunks(&self, input: &Pixels) -> Result<ImageStates, EncoderError> {
        let rows = input.0.size()[0];
        let forward = |(start, count): (i64, i64)| {
            let chunk = input.0.narrow(0, start, count);
            if count > 1 {
                return self.image.forward(&Pixels(chunk));
            }
            // Matrices of one row go through other kernels, which add in another order.
            let ImageStates { cls, patches } = self.image.forward(&Pixels(chunk.expand([2, -1, -1, -1], false)))?;
            Ok(ImageStates { cls: cls.narrow(0, 0, 1), patches: patches.narrow(0, 0, 1) })
        };
        let chunks: Vec<ImageStates> =
            chunks_of(rows, self.image_rows).map(forward).collect::<Result<_, EncoderError>>()?;
        if let [_] = chunks[..] {
            return Ok(chunks.into_iter().next().unwrap_or_else(|| unreachable!("one chunk")));
        }
        let cls: Vec<&Tensor> = chunks.iter().map(|chunk| &chunk.cls).collect();
        let patches: Vec<&Tensor> = chunks.iter().map(|chunk| &chunk.patches).collect();
        Ok(ImageStates { cls: Tensor::cat(&cls, 0), patches: Tensor::cat(&patches, 0) })
    }
}

/// Rows of `lengths`, which fall, in chunks: the first row of each and how many there are.
fn chunks_by_length(lengths: &[i64], most_rows: i64, most_samples: i64, spread: f64) -> Vec<(i64, i64)> {
    let (mut chunks, mut start) = (Vec::new(), 0);
    while let [longest, ..] = lengths[start..] {
        let least = (1.0 - spread) * longest as f64;
        let most = most_rows.min(most_samples / longest.max(1)).max(1) as usize;
        let alike = lengths[start..].iter().take(most).take_while(|length| **length as f64 >= least);
        let count = alike.count();
        chunks.push((start as i64, count as i64));
        start += count;
    }
    chunks
}

fn chunks_of(rows: i64, size: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..rows).step_by(size as usize).map(move |start| (start, size.min(rows - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_utterance_makes_a_chunk_small() {
        assert_eq!(chunks_by_length(&[900, 100, 90, 80, 70, 60], 3, 1000, 1.0), [(0, 1), (1, 3), (4, 2)]);
        assert_eq!(chunks_by_length(&[9000], 3, 1000, 1.0), [(0, 1)]);
        assert!(chunks_by_length(&[], 3, 1000, 1.0).is_empty());
    }

    #[test]
    fn utterances_of_a_chunk_are_of_like_length() {
        assert_eq!(chunks_by_length(&[100, 90, 85, 84, 80, 10], 9, 1000, 0.15), [(0, 3), (3, 2), (5, 1)]);
        assert_eq!(chunks_by_length(&[100, 100, 99, 0, 0], 9, 1000, 0.0), [(0, 2), (2, 1), (3, 2)]);
    }
}
