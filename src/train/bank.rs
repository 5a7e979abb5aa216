//! The image bank: I_cls of the whole training split, which never changes, as further negatives of the speech.

use tch::{Device, Kind, Tensor};

use super::{ImageBank, TrainError};
use crate::distributed::World;
use crate::draw::{Draw, Purpose};
use crate::features::{FeatureError, FeatureSource, to_device};
use crate::model::{CmdModel, FurtherImages, catch_libtorch};

/// I_cls of the images of a split that could be read.
#[derive(Debug)]
pub(super) struct Bank {
    /// [I, E], L2-normalised, on the encoders' device.
    cls: Tensor,
    /// Of each image of the split, its row.
    rows: Vec<Option<usize>>,
    count: ImageBank,
    seed: u64,
}

impl Bank {
    /// Encodes the images of a split of `images`, or takes what is kept of them; processes share that out.
    pub(super) fn new(
        source: &FeatureSource,
        (images, width): (usize, i64),
        (count, seed): (ImageBank, u64),
        (device, world): (Device, &World),
    ) -> Result<Self, TrainError> {
        let (mut parts, mut places) = (Vec::new(), Vec::new());
        source.for_each_images(|group, states| {
            parts.push(
                catch_libtorch(|| CmdModel::frozen_embedding(&states.cls).to_device(Device::Cpu))
                    .map_err(FeatureError::from)?,
            );
            places.extend_from_slice(group);
            Ok::<(), TrainError>(())
        })?;
        let own = if parts.is_empty() {
            Tensor::zeros([0, width], (Kind::Float, Device::Cpu))
        } else {
            Tensor::cat(&parts, 0)
        };
        let (present, cls) = world.gather_rows(&places, &own, images)?;
        let mut rows = vec![None; images];
        present.iter().enumerate().for_each(|(row, image)| rows[*image] = Some(row));
        Ok(Self { cls: to_device(&cls, device), rows, count, seed })
    }

    /// The negatives of `step`, whose batch shows `image_ids`: a function of the seed and the step, the same in all processes.
    pub(super) fn of_step(&self, step: u64, image_ids: &[i64]) -> FurtherImages {
        let mut is_shown = vec![false; self.cls.size()[0] as usize];
        for row in image_ids.iter().filter_map(|image| self.rows[*image as usize]) {
            is_shown[row] = true;
        }
        let device = self.cls.device();
        match self.count {
            ImageBank::All => {
                let shown = to_device(&Tensor::from_slice(&is_shown), device);
                FurtherImages { cls: self.cls.shallow_clone(), shown: Some(shown) }
            }
            ImageBank::Some(count) => {
                let order = Draw::new(self.seed, Purpose::Bank, [step, 0]).permutation(is_shown.len());
                let free = order.into_iter().map(i64::from).filter(|row| !is_shown[*row as usize]);
                let chosen: Vec<i64> = free.take(count as usize).collect();
                let chosen = to_device(&Tensor::from_slice(&chosen), device);
                FurtherImages { cls: self.cls.index_select(0, &chosen), shown: None }
            }
        }
    }
}
