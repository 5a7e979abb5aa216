//! Features kept in the memory of a process.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use tch::Kind;

use crate::data::{Bytes, Row};
use crate::telemetry::give_back_memory;

/// Bytes of a block. Allocators map a block of this size on its own, so that rows which stay do not lie between the large temporaries of
/// the forwards: rows that were allocated one by one held five times their own size.
const BLOCK: usize = 64 << 20;

/// Rows by their number.
#[derive(Debug)]
pub(super) struct Memory(RwLock<Kept>);

#[derive(Debug)]
struct Kept {
    places: Vec<Option<Place>>,
    /// Blocks that are full.
    blocks: Vec<Arc<Vec<u8>>>,
    /// The one that is being filled.
    open: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Place {
    block: usize,
    bytes: Range<usize>,
    kind: Kind,
    shape: Vec<i64>,
}

impl Memory {
    /// Room for `count` rows.
    pub(super) fn new(count: usize) -> Self {
        Self(RwLock::new(Kept { places: vec![None; count], blocks: Vec::new(), open: Vec::new() }))
    }

    /// Whether row `index` is known.
    pub(super) fn has(&self, index: usize) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).places[index].is_some()
    }

    /// Row `index`, if it is known.
    pub(super) fn get(&self, index: usize) -> Option<Row> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Place { block, bytes, kind, shape } = kept.places[index].clone()?;
        let bytes = match kept.blocks.get(block) {
            Some(block) => Bytes::Part(block.clone(), bytes),
            None => Bytes::Own(kept.open[bytes].to_vec()),
        };
        Some(Row { bytes, kind, shape })
    }

    /// Keeps row `index`.
    pub(super) fn put(&self, index: usize, row: &Row) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if kept.open.len() + row.bytes.len() > kept.open.capacity() {
            give_back_memory();
            let new = Vec::with_capacity(row.bytes.len().max(BLOCK));
            let full = std::mem::replace(&mut kept.open, new);
            if !full.is_empty() {
                kept.blocks.push(Arc::new(full));
            }
        }
        let (block, start) = (kept.blocks.len(), kept.open.len());
        kept.open.extend_from_slice(&row.bytes);
        let bytes = start..kept.open.len();
        kept.places[index] = Some(Place { block, bytes, kind: row.kind, shape: row.shape.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_length_stay_as_they_were() {
        let rows: Vec<Row> = [3, 7, BLOCK - 8, 5, BLOCK + 1, 2]
            .iter()
            .zip(1..)
            .map(|(length, value)| Row {
                bytes: Bytes::Own(vec![value; *length]),
                kind: Kind::Uint8,
                shape: vec![*length as i64],
            })
            .collect();
        let memory = Memory::new(rows.len() + 1);
        rows.iter().enumerate().for_each(|(index, row)| memory.put(index, row));
        assert!(rows.iter().enumerate().all(|(index, row)| memory.get(index).as_ref() == Some(row)));
        assert!(memory.get(rows.len()).is_none() && !memory.has(rows.len()));
    }
}
