//! The order of training samples: one endless sequence of shuffled epochs, a function of (seed, epoch, index) alone.
//!
//! Where several data sets are mixed, an epoch holds each of them its weight times: the whole part of it all samples, of the rest as many,
//! drawn anew for each epoch.

use std::sync::{Arc, Mutex, PoisonError};

use super::Part;
use crate::draw::{Draw, Purpose};

/// Epoch and place in it of a sample of the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// From 0.
    pub epoch: u64,
    /// Place in the epoch, from 0.
    pub index: u64,
}

/// Shuffled epochs, one after the other. Batches run across the ends of epochs, so of a data set of weight 1 every sample is used once an
/// epoch and none is dropped.
#[derive(Debug)]
pub struct Order {
    seed: u64,
    parts: Vec<Part>,
    count: u64,
    /// The two epochs that a batch may touch.
    epochs: Mutex<Vec<(u64, Arc<[u32]>)>>,
}

impl Order {
    /// The order of the samples of `parts`, which stand one behind the other, in a run with `seed`.
    #[must_use]
    pub fn new(seed: u64, parts: &[Part]) -> Self {
        let count = parts.iter().map(|part| part.in_epoch() as u64).sum();
        Self { seed, parts: parts.to_vec(), count, epochs: Mutex::default() }
    }

    /// The samples of an epoch, part by part.
    fn samples(&self, epoch: u64) -> Vec<u32> {
        let (mut samples, mut start) = (Vec::with_capacity(self.count as usize), 0);
        for (number, part) in (0..).zip(&self.parts) {
            let all = start..start + part.samples as u32;
            let (times, rest) = (part.in_epoch() / part.samples, part.in_epoch() % part.samples);
            (0..times).for_each(|_| samples.extend(all.clone()));
            if rest > 0 {
                let drawn = Draw::new(self.seed, Purpose::Mix, [epoch, number]).permutation(part.samples);
                samples.extend(drawn[..rest].iter().map(|sample| start + sample));
            }
            start = all.end;
        }
        samples
    }

    /// Epoch and place of sample `number` of the sequence.
    #[must_use]
    pub fn position(&self, number: u64) -> Position {
        Position { epoch: number / self.count, index: number % self.count }
    }

    /// The sample at `position`.
    #[must_use]
    pub fn sample(&self, position: Position) -> usize {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = epochs.iter().find(|(epoch, _)| *epoch == position.epoch).map(|(_, order)| order.clone());
        let order = known.unwrap_or_else(|| {
            let mut draw = Draw::new(self.seed, Purpose::Order, [position.epoch, 0]);
            let samples = self.samples(position.epoch);
            let places = draw.permutation(self.count as usize);
            let order: Arc<[u32]> = places.into_iter().map(|place| samples[place as usize]).collect();
            epochs.retain(|(epoch, _)| epoch.abs_diff(position.epoch) <= 1);
            epochs.push((position.epoch, order.clone()));
            order
        });
        order[position.index as usize] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_holds_every_sample_once_in_an_order_of_its_own() {
        let order = Order::new(3, &[Part { samples: 50, weight: 1.0 }]);
        let epoch = |number: u64| -> Vec<usize> {
            (number * 50..(number + 1) * 50).map(|n| order.sample(order.position(n))).collect()
        };
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        assert_eq!(first, epoch(0));
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert!(epoch.into_iter().eq(0..50));
        }
    }

    #[test]
    fn a_part_of_weight_2_comes_twice_and_one_of_a_quarter_by_quarters() {
        let part = |samples, weight| Part { samples, weight };
        let order = Order::new(5, &[part(10, 2.0), part(40, 0.25)]);
        let epoch = |number: u64| -> Vec<usize> {
            let mut samples: Vec<usize> =
                (number * 30..(number + 1) * 30).map(|n| order.sample(order.position(n))).collect();
            samples.sort_unstable();
            samples
        };
        let (first, second) = (epoch(0), epoch(1));
        assert!(first[..20].iter().copied().eq((0..20).map(|n| n / 2)));
        assert_ne!(first[20..], second[20..]);
        assert!(first[20..].windows(2).all(|pair| pair[0] < pair[1]) && first[20] >= 10);
    }
}
