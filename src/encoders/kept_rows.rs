//! Hidden states kept for a whole run.

use tch::{Device, Kind, Tensor};

/// Values in one block. Allocators map a block of this size (64 MiB) on its own, so that rows which stay do not lie between the
/// large temporaries of the forwards: rows that were allocated one by one held five times their own size.
const BLOCK: i64 = 16 << 20;

/// Rows of any length, f32 on the CPU, in large blocks.
#[derive(Debug, Default)]
pub struct KeptRows {
    block: Option<Tensor>,
    used: i64,
}

impl KeptRows {
    /// A copy of `row` that stays.
    pub fn keep(&mut self, row: &Tensor) -> Tensor {
        let count = row.numel() as i64;
        let block = match self.block.take() {
            Some(block) if self.used + count <= block.size()[0] => self.block.insert(block),
            _ => {
                self.used = 0;
                self.block.insert(Tensor::empty([count.max(BLOCK)], (Kind::Float, Device::Cpu)))
            }
        };
        let mut kept = block.narrow(0, self.used, count).view(row.size().as_slice());
        kept.copy_(row);
        self.used += count;
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_length_stay_as_they_were() {
        let rows: Vec<Tensor> =
            [3, 7, BLOCK - 8, 5, BLOCK + 1, 2].map(|n| Tensor::arange(n, (Kind::Float, Device::Cpu))).into();
        let mut store = KeptRows::default();
        let kept: Vec<Tensor> = rows.iter().map(|row| store.keep(row)).collect();
        assert!(kept.iter().zip(&rows).all(|(kept, row)| kept == row));
    }
}
