//! What the loader makes of sounds and pictures: a batch in tensors, ready for a frozen encoder.

use std::path::Path;

use tch::Tensor;

use super::{Audio, Clip, DataError, Picture};

/// How audio is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AudioForm {
    /// Samples a second.
    pub sample_rate: u32,
    /// Shorter utterances are padded to this.
    pub min_samples: usize,
    /// Longer utterances are cut to this.
    pub max_samples: usize,
}

impl AudioForm {
    /// The form that an encoder takes, with a limit in seconds.
    #[must_use]
    pub fn new(sample_rate: u32, min_samples: usize, max_seconds: f64) -> Self {
        let max_samples = (max_seconds * f64::from(sample_rate)).round() as usize;
        Self { sample_rate, min_samples, max_samples: max_samples.max(min_samples) }
    }

    /// Reads `clip` of a file.
    ///
    /// # Errors
    /// See [`Audio::read`].
    pub fn read(&self, path: &Path, clip: Clip) -> Result<Audio, DataError> {
        Audio::read(path, self.sample_rate, self.min_samples, clip)
    }
}

/// A batch of waveforms.
#[derive(Debug)]
pub struct Waveforms {
    /// f32 [B, n]: samples in [-1, 1], zero-padded.
    pub samples: Tensor,
    /// i64 `[B]`: valid samples.
    pub lengths: Tensor,
}

impl Waveforms {
    /// Zero-pads waveforms to the longest.
    #[must_use]
    pub fn pad(waveforms: &[&[f32]]) -> Self {
        let longest = waveforms.iter().map(|wave| wave.len()).max().unwrap_or(0);
        let mut samples = vec![0.0; waveforms.len() * longest];
        for (row, wave) in samples.chunks_exact_mut(longest.max(1)).zip(waveforms) {
            row[..wave.len()].copy_from_slice(wave);
        }
        let lengths: Vec<i64> = waveforms.iter().map(|wave| wave.len() as i64).collect();
        Self {
            samples: Tensor::from_slice(&samples).view([waveforms.len() as i64, longest as i64]),
            lengths: Tensor::from_slice(&lengths),
        }
    }
}

/// A batch of images, resized and cropped: u8 [B, 3, S, S].
#[derive(Debug)]
pub struct Pixels(pub Tensor);

impl Pixels {
    /// Stacks pictures of one size.
    #[must_use]
    pub fn stack(pictures: &[&Picture]) -> Self {
        let size = pictures.first().map_or(0, |picture| i64::from(picture.size));
        let bytes: Vec<u8> = pictures.iter().flat_map(|picture| picture.planes.iter().copied()).collect();
        Self(Tensor::from_slice(&bytes).view([pictures.len() as i64, 3, size, size]))
    }
}
