//! Features kept in the memory of a process.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use tch::Kind;

use crate::data::{Bytes, Row};

/// Bytes of a block. Allocators map a block of this size on its own, so that rows which stay do not lie between the large temporaries of
/// the forwards: rows that were allocated one by one held five times their own size.
const BLOCK: usize = 64 << 20;

/// Frozen features that several trainings of one process share, as far as the configuration keeps them in memory: none is computed twice.
/// All have to be of the same encoders, in the same precision.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    pub(super) speech: Arc<Memory>,
    pub(super) images: Arc<Memory>,
}

/// Rows by the file that they are the features of.
#[derive(Debug, Default)]
pub(super) struct Memory(RwLock<Kept>);

#[derive(Debug, Default)]
struct Kept {
    places: HashMap<Arc<Path>, Place>,
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
    /// Whether the row of `file` is known.
    pub(super) fn has(&self, file: &Path) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).places.contains_key(file)
    }

    /// The row of `file`, if it is known.
    pub(super) fn get(&self, file: &Path) -> Option<Row> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Place { block, bytes, kind, shape } = kept.places.get(file)?.clone();
        let bytes = match kept.blocks.get(block) {
            Some(block) => Bytes::Part(block.clone(), bytes),
            None => Bytes::Own(kept.open[bytes].to_vec()),
        };
        Some(Row { bytes, kind, shape })
    }

    /// Keeps the row of `file`.
    pub(super) fn put(&self, file: &Arc<Path>, row: &Row) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if kept.places.contains_key(file) {
            return;
        }
        if kept.open.len() + row.bytes.len() > kept.open.capacity() {
            let new = Vec::with_capacity(row.bytes.len().max(BLOCK));
            let full = std::mem::replace(&mut kept.open, new);
            if !full.is_empty() {
                kept.blocks.push(Arc::new(full));
            }
        }
        let (block, start) = (kept.blocks.len(), kept.open.len());
        kept.open.extend_from_slice(&row.bytes);
        let bytes = start..kept.open.len();
        let place = Place { block, bytes, kind: row.kind, shape: row.shape.clone() };
        kept.places.insert(file.clone(), place);
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
        let memory = Memory::default();
        let file = |index: usize| Arc::from(Path::new(&index.to_string()));
        rows.iter().enumerate().for_each(|(index, row)| memory.put(&file(index), row));
        assert!(rows.iter().enumerate().all(|(index, row)| memory.get(&file(index)).as_ref() == Some(row)));
        assert!(memory.get(&file(rows.len())).is_none() && !memory.has(&file(rows.len())));
    }
}
