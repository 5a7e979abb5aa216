//! Every random choice of a run: a counter-based generator (ChaCha8) keyed by (seed, purpose, index), so that a draw
//! depends on where it stands in the run and not on what was drawn before, by which thread, or on how many processes.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What is drawn; part of the key, so that no two purposes share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// First values of the parameters; index (parameter, 0).
    Init = 1,
    /// Order of the training utterances; index (epoch, 0).
    Order = 2,
    /// Start of an audio crop; index (epoch, position in it).
    Crop = 3,
    /// The sample that stands in for an unreadable one; index (epoch, position in it).
    Substitute = 4,
    /// Patches replaced and their donors; index (step, 0).
    Noise = 5,
    /// Dropout masks; index (step, row of the global batch).
    Dropout = 6,
    /// Resampling of images for confidence intervals; index (resample, 0).
    Bootstrap = 7,
    /// Images of the training split that are used; index (0, 0).
    Images = 8,
    /// Which part of a data set of less than weight 1 an epoch holds; index (epoch, data set).
    Mix = 9,
    /// Images of the bank; index (step, 0).
    Bank = 10,
}

/// A stream of draws.
#[derive(Debug)]
pub struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream of `purpose` at `index` in a run seeded with `seed`.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, index: [u64; 2]) -> Self {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, index[0], index[1]]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A whole number in `0..bound`; `bound` must not be 0. The bias of the multiplication is below 2^-32 for bounds that
    /// count samples.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.0.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A number in [0, 1) with 24 random bits.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 24) as f32
    }

    /// A number from the normal distribution N(0, 1) (Box-Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - f64::from(self.unit())).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(self.unit())).cos()) as f32
    }

    /// The numbers `0..count` in random order (Fisher-Yates).
    pub fn permutation(&mut self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_a_function_of_their_key() {
        let first = |purpose, index| Draw::new(7, purpose, index).bits();
        assert_eq!(first(Purpose::Noise, [3, 0]), first(Purpose::Noise, [3, 0]));
        assert_ne!(first(Purpose::Noise, [3, 0]), first(Purpose::Noise, [4, 0]));
        assert_ne!(first(Purpose::Noise, [3, 0]), first(Purpose::Crop, [3, 0]));
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        let mut order = Draw::new(1, Purpose::Order, [0, 0]).permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert!(order.iter().copied().eq(0..1000));
    }

    #[test]
    fn normal_draws_have_mean_0_and_variance_1() {
        let mut draw = Draw::new(2, Purpose::Init, [0, 0]);
        let values: Vec<f64> = (0..20_000).map(|_| f64::from(draw.normal())).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
    }
}
