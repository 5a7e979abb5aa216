//! Where utterances look: the fusion encoder's attention over the clean patches of an image (Eq. 1).

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::EvalError;
use super::ranks::values;
use crate::data::{Picture, PictureForm, Pixels};
use crate::encoders::Encoders;
use crate::features::FeatureError;
use crate::model::{FusionEncoder, catch_libtorch};

/// Images that are held at once with their patches.
const IMAGES: usize = 32;

/// Attention of one utterance over one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// Weights of the patches, row by row, which sum to 1.
    pub weights: Vec<f32>,
}

impl Attention {
    /// Its entropy relative to log N: 1 looks everywhere alike, 0 at a single patch.
    #[must_use]
    pub fn relative_entropy(&self) -> f64 {
        let weights = self.weights.iter().map(|weight| f64::from(*weight)).filter(|weight| *weight > 0.0);
        -weights.map(|weight| weight * weight.ln()).sum::<f64>() / (self.weights.len() as f64).ln()
    }
}

/// Attention of each utterance of `speech` [Q, E] over its image of `images`, files of Q images.
///
/// # Errors
/// When an image cannot be read, or an encoder or libtorch fails.
pub fn attend(
    encoders: &Encoders,
    fusion: &FusionEncoder,
    speech: &Tensor,
    images: &[&Path],
    max_megapixels: i64,
) -> Result<Vec<Attention>, EvalError> {
    let spec = encoders.image().spec();
    let form = PictureForm::new(spec.size as u32, max_megapixels);
    let (grid, patches) = (spec.grid.map(|side| side as usize), spec.patches() as usize);
    let mut all = Vec::with_capacity(images.len());
    for (start, images) in (0..).step_by(IMAGES).zip(images.chunks(IMAGES)) {
        let pictures: Vec<Picture> = images.iter().map(|path| form.read(path)).collect::<Result<_, _>>()?;
        let states = encoders
            .pair()
            .encode_images(&Pixels::stack(&pictures.iter().collect::<Vec<_>>()))
            .map_err(FeatureError::from)?;
        let weights = catch_libtorch(|| {
            let queries = speech.narrow(0, start, images.len() as i64).to_device(states.patches.device());
            let attention = tch::no_grad(|| fusion.paired(&queries, &states.patches).attention);
            values(&attention.to_device(Device::Cpu).to_kind(Kind::Float))
        })?;
        all.extend(weights.chunks_exact(patches).map(|weights| Attention { grid, weights: weights.to_vec() }));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_one_where_all_patches_count_alike_and_zero_for_one() {
        let of = |weights: &[f32]| Attention { grid: [1, 4], weights: weights.to_vec() }.relative_entropy();
        assert!((of(&[0.25; 4]) - 1.0).abs() < 1e-6 && of(&[0.0, 1.0, 0.0, 0.0]).abs() < 1e-9);
    }
}
