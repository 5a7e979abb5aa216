//! Hidden states kept for a whole run.

use tch::{Device, Kind, Tensor};

use crate::encoders::SpeechStates;

/// Hidden states by utterance, on the CPU.
#[derive(Debug)]
pub(super) struct SpeechMemory {
    /// [L, t, D] each, without padding.
    rows: Vec<Option<Tensor>>,
    blocks: KeptRows,
}

impl SpeechMemory {
    /// Room for `count` utterances.
    pub(super) fn new(count: usize) -> Self {
        Self { rows: (0..count).map(|_| None).collect(), blocks: KeptRows::default() }
    }

    /// Whether the states of utterance `index` are known.
    pub(super) fn has(&self, index: usize) -> bool {
        self.rows[index].is_some()
    }

    /// Keeps the rows of `states`, which are those of the utterances `indices`.
    pub(super) fn keep(&mut self, indices: &[usize], states: &SpeechStates) {
        for (row, index) in indices.iter().enumerate() {
            self.rows[*index] = Some(self.blocks.keep(&states.row(row as i64)));
        }
    }

    /// The states of the utterances `indices`, those of them that are known, padded to the longest.
    pub(super) fn batch(&self, indices: &[usize], device: Device) -> SpeechStates {
        let rows: Vec<&Tensor> = indices.iter().filter_map(|index| self.rows[*index].as_ref()).collect();
        SpeechStates::pad(&rows, device)
    }
}

/// Values in one block. Allocators map a block of this size (64 MiB) on its own, so that rows which stay do not lie between the
/// large temporaries of the forwards: rows that were allocated one by one held five times their own size.
const BLOCK: i64 = 16 << 20;

/// Rows of any length, f32 on the CPU, in large blocks.
#[derive(Debug, Default)]
struct KeptRows {
    block: Option<Tensor>,
    used: i64,
}

impl KeptRows {
    /// A copy of `row` that stays.
    fn keep(&mut self, row: &Tensor) -> Tensor {
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
