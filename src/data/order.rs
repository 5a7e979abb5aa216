//! The order of training samples: one endless sequence of shuffled epochs, a function of (seed, epoch, index) alone.

use std::sync::{Arc, Mutex, PoisonError};

use crate::draw::{Draw, Purpose};

/// Epoch and place in it of a sample of the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// From 0.
    pub epoch: u64,
    /// Place in the epoch, from 0.
    pub index: u64,
}

/// Shuffled epochs of `count` samples, one after the other. Batches run across the ends of epochs, so every sample is used
/// once an epoch and none is dropped.
#[derive(Debug)]
pub struct Order {
    seed: u64,
    count: u64,
    /// The two epochs that a batch may touch.
    epochs: Mutex<Vec<(u64, Arc<[u32]>)>>,
}

impl Order {
    /// The order of `count` samples (at least one) in a run with `seed`.
    #[must_use]
    pub fn new(seed: u64, count: usize) -> Self {
        Self { seed, count: count as u64, epochs: Mutex::default() }
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
            let order: Arc<[u32]> = draw.permutation(self.count as usize).into();
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
        let order = Order::new(3, 50);
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
}
