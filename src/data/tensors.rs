//! What the loader makes of sounds and pictures: a batch in tensors, ready for a frozen encoder.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::{Audio, Clip, DataError, Picture, Row};

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

    /// The longest that is used, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.max_samples as f64 / f64::from(self.sample_rate)
    }

    /// Reads `clip` of a file.
    ///
    /// # Errors
    /// See [`Audio::read`].
    pub fn read(&self, path: &Path, clip: Clip) -> Result<Audio, DataError> {
        Audio::read(path, self.sample_rate, self.min_samples, clip)
    }

    /// Reads the start of a stranger's file.
    ///
    /// # Errors
    /// See [`Audio::read_bounded`].
    pub fn read_bounded(&self, path: &Path, most_seconds: f64) -> Result<Audio, DataError> {
        Audio::read_bounded(path, self.sample_rate, self.min_samples, Clip::Start(self.max_samples), most_seconds)
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
        let mut samples = Tensor::empty([waveforms.len() as i64, longest as i64], (Kind::Float, Device::Cpu));
        for (row, wave) in values_of::<f32>(&mut samples).chunks_exact_mut(longest.max(1)).zip(waveforms) {
            row[..wave.len()].copy_from_slice(wave);
            row[wave.len()..].fill(0.0);
        }
        let lengths: Vec<i64> = waveforms.iter().map(|wave| wave.len() as i64).collect();
        Self { samples, lengths: Tensor::from_slice(&lengths) }
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
        let mut pixels = Tensor::empty([pictures.len() as i64, 3, size, size], (Kind::Uint8, Device::Cpu));
        let planes = values_of::<u8>(&mut pixels).chunks_exact_mut((3 * size * size).max(1) as usize);
        planes.zip(pictures).for_each(|(planes, picture)| planes.copy_from_slice(&picture.planes));
        Self(pixels)
    }
}

/// Rows [1 + N, E] of images of one encoder as [k, 1 + N, E].
pub fn stack_images(rows: &[&Row]) -> Tensor {
    let Some(first) = rows.first() else { return Tensor::zeros([0], (Kind::Float, Device::Cpu)) };
    let shape = [&[rows.len() as i64][..], &first.shape].concat();
    let mut all = Tensor::empty(&shape, (first.kind, Device::Cpu));
    let places = values_of::<u8>(&mut all).chunks_exact_mut(first.bytes.len().max(1));
    places.zip(rows).for_each(|(place, row)| place.copy_from_slice(&row.bytes));
    all
}

/// Hidden states [L, t, D] of one encoder as [L, c, T, D], zero-padded to the longest.
pub fn stack_speech(rows: &[&Row]) -> Tensor {
    let Some(first) = rows.first() else { return Tensor::zeros([0], (Kind::Float, Device::Cpu)) };
    let longest = rows.iter().map(|row| row.shape[1]).max().unwrap_or(0);
    let (layers, width) = (first.shape[0], first.shape[2]);
    let mut all = Tensor::empty([layers, rows.len() as i64, longest, width], (first.kind, Device::Cpu));
    let frame = width as usize * first.kind.elt_size_in_bytes();
    let places = values_of::<u8>(&mut all).chunks_exact_mut((longest as usize * frame).max(1));
    for (place, number) in places.zip(0..) {
        let (layer, row) = (number / rows.len(), rows[number % rows.len()]);
        let bytes = row.shape[1] as usize * frame;
        place[..bytes].copy_from_slice(&row.bytes[layer * bytes..][..bytes]);
        place[bytes..].fill(0);
    }
    all
}

/// The memory of a contiguous tensor on the CPU that nothing else refers to.
fn values_of<T>(tensor: &mut Tensor) -> &mut [T] {
    let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
    let data = tensor.data_ptr().cast::<T>();
    if bytes == 0 || data.is_null() {
        return &mut [];
    }
    // SAFETY: the tensor was made just before, whole and on the CPU, so its memory holds that many values, of which any bits are one, and
    // lives as long as it does.
    unsafe { std::slice::from_raw_parts_mut(data, bytes / size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Bytes;

    #[test]
    fn rows_lie_where_a_tensor_has_them() {
        let row = |first: i64, frames: i64| {
            let values = Tensor::arange_start(first, first + 2 * frames * 3, (Kind::Float, Device::Cpu));
            let tensor = values.view([2, frames, 3]);
            let mut bytes = vec![0; 4 * tensor.numel()];
            tensor.copy_data_u8(&mut bytes, tensor.numel());
            (Row { bytes: Bytes::Own(bytes), kind: Kind::Float, shape: vec![2, frames, 3] }, tensor)
        };
        let ((a, a_tensor), (b, b_tensor)) = (row(0, 4), row(100, 2));
        let both = stack_speech(&[&a, &b]);
        assert_eq!(both.size(), [2, 2, 4, 3]);
        assert_eq!(both.select(1, 0), a_tensor);
        assert_eq!(both.select(1, 1).narrow(1, 0, 2), b_tensor);
        assert_eq!(both.select(1, 1).narrow(1, 2, 2).abs().sum(Kind::Float).double_value(&[]), 0.0);
        let images = stack_images(&[&a, &a]);
        assert!(images.size() == [2, 2, 4, 3] && images.get(1) == a_tensor);
    }
}
