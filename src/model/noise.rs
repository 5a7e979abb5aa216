//! The noise of cross-modal denoising (Section 2.2): some patches of each image are replaced by patches of other images of the
//! batch. F^I* = [`PatchNoise::apply`] (F^I).

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::draw::{Draw, Purpose};

/// Where in the donor image the replacing patch comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DonorPosition {
    /// Anywhere.
    #[default]
    Random,
    /// The place of the replaced patch.
    Same,
}

/// Which patch stands at each place of the noisy features.
#[derive(Debug)]
pub struct PatchNoise {
    /// [B · N]: index of the patch among all B · N patches.
    source: Tensor,
}

impl PatchNoise {
    /// Draws the noise of a global batch, for each of its B · N places the patch among all that stands there: round(`ratio` · N) places
    /// an image without replacement, each with a patch of a row with another image id. None when all ids are equal: there is no other
    /// image to take patches from. A function of its arguments alone, so every process draws the same.
    #[must_use]
    pub fn draw(
        image_ids: &[i64],
        patches: usize,
        ratio: f64,
        position: DonorPosition,
        seed: u64,
        step: u64,
    ) -> Option<Vec<i64>> {
        if image_ids.iter().all(|id| *id == image_ids[0]) {
            return None;
        }
        let mut draw = Draw::new(seed, Purpose::Noise, [step, 0]);
        let noisy = (ratio * patches as f64).round() as usize;
        let mut source: Vec<i64> = (0..(image_ids.len() * patches) as i64).collect();
        for (row, id) in image_ids.iter().enumerate() {
            for place in draw.permutation(patches).into_iter().take(noisy) {
                let donor = loop {
                    let donor = draw.below(image_ids.len());
                    if image_ids[donor] != *id {
                        break donor;
                    }
                };
                let patch = match position {
                    DonorPosition::Random => draw.below(patches),
                    DonorPosition::Same => place as usize,
                };
                source[row * patches + place as usize] = (donor * patches + patch) as i64;
            }
        }
        Some(source)
    }

    /// The noise of what [`Self::draw`] drew, i64 [B · N] on the features' device.
    #[must_use]
    pub fn new(source: Tensor) -> Self {
        Self { source }
    }

    /// The noise that replaces patch (b, n), where `mask` [B, N] is not 0, by patch (`donor_image`, `donor_patch`) [B, N].
    #[must_use]
    pub fn from_donors(mask: &Tensor, donor_image: &Tensor, donor_patch: &Tensor) -> Self {
        let patches = mask.size()[1];
        let own = Tensor::arange(mask.numel() as i64, (tch::Kind::Int64, mask.device()));
        let donor = (donor_image * patches + donor_patch).flatten(0, -1);
        Self { source: donor.where_self(&mask.flatten(0, -1).ne(0), &own) }
    }

    /// Noisy patches [B, N, E] of `patches` [B, N, E].
    pub fn apply(&self, patches: &Tensor) -> Tensor {
        let width = patches.size()[2];
        patches.reshape([-1, width]).index_select(0, &self.source).view_as(patches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_77_of_256_patches_by_those_of_other_images() {
        let ids = [4, 9, 4, 2, 9, 1];
        let sources = PatchNoise::draw(&ids, 256, 0.3, DonorPosition::Random, 1, 2).expect("several images");
        for (row, id) in ids.iter().enumerate() {
            let foreign: Vec<usize> = (0..256)
                .filter(|place| sources[row * 256 + place] != (row * 256 + place) as i64)
                .map(|place| sources[row * 256 + place] as usize / 256)
                .collect();
            assert_eq!(foreign.len(), 77);
            assert!(foreign.iter().all(|donor| ids[*donor] != *id));
        }
    }

    #[test]
    fn same_position_keeps_the_place_of_the_patch() {
        let sources = PatchNoise::draw(&[1, 2], 49, 1.0, DonorPosition::Same, 1, 2).expect("two images");
        let swapped: Vec<i64> = (49..98).chain(0..49).collect();
        assert_eq!(sources, swapped);
    }

    #[test]
    fn steps_differ_and_repeat() {
        let draw = |step| PatchNoise::draw(&[1, 2, 3], 49, 0.3, DonorPosition::Random, 1, step).expect("images");
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }

    #[test]
    fn one_image_has_no_donors() {
        assert!(PatchNoise::draw(&[3, 3, 3], 49, 0.3, DonorPosition::Random, 1, 2).is_none());
    }
}
