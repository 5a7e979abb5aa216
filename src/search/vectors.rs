//! Rows of vectors in a file of NumPy's form, mapped into memory: as they are, in 16-bit floats, or in bytes with a scale each.

use std::fs::File;
use std::path::Path;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::SearchError;
use crate::eval::npy_header;

/// Sums that are kept beside each other.
const LANES: usize = 32;

/// How a row is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// 4 bytes a value.
    #[default]
    F32,
    /// 2 bytes a value.
    F16,
    /// 1 byte a value, and a scale a row.
    I8,
}

impl std::str::FromStr for Rows {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "i8" => Ok(Self::I8),
            _ => Err("must be f32, f16 or i8".to_owned()),
        }
    }
}

impl Rows {
    /// Bytes of a row of `width` values.
    pub(super) fn bytes(self, width: usize) -> usize {
        match self {
            Self::F32 => 4 * width,
            Self::F16 => 2 * width,
            // The scale stands behind the values.
            Self::I8 => width + 4,
        }
    }

    /// A row as it is stored.
    pub(super) fn encode(self, row: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => bytemuck::cast_slice(row).to_vec(),
            Self::F16 => row.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Self::I8 => {
                let scale = row.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs())) / 127.0;
                let values = row.iter().map(|value| (value / scale).round() as i8 as u8);
                values.chain(scale.to_le_bytes()).collect()
            }
        }
    }

    /// The header of NumPy's form for `count` rows.
    pub(super) fn header(self, count: usize, width: usize) -> Vec<u8> {
        match self {
            Self::F32 => npy_header("'<f4'", &format!("{count}, {width}")),
            Self::F16 => npy_header("'<f2'", &format!("{count}, {width}")),
            Self::I8 => npy_header(&format!("[('values', '|i1', ({width},)), ('scale', '<f4')]"), &format!("{count},")),
        }
    }
}

/// Rows in a file.
#[derive(Debug)]
pub(super) struct Mapped {
    map: Mmap,
    /// Where they begin.
    start: usize,
    rows: Rows,
    width: usize,
}

impl Mapped {
    /// Maps `path`, which holds `count` rows.
    pub(super) fn open(path: &Path, rows: Rows, count: usize, width: usize) -> Result<Self, SearchError> {
        let damaged = |why: String| SearchError::Damaged { path: path.to_owned(), why };
        let file = File::open(path).map_err(|error| damaged(error.to_string()))?;
        // SAFETY: files of an index are written under another name and never changed; who cuts one by hand gets a signal, as with every map.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| damaged(error.to_string()))?;
        let header = rows.header(count, width);
        if !map.starts_with(&header) || map.len() != header.len() + count * rows.bytes(width) {
            return Err(damaged("it is not the file that the index tells of".to_owned()));
        }
        Ok(Self { map, start: header.len(), rows, width })
    }

    /// A row as it is stored.
    pub(super) fn row(&self, number: usize) -> &[u8] {
        let bytes = self.rows.bytes(self.width);
        &self.map[self.start + number * bytes..][..bytes]
    }

    /// A row as floats.
    pub(super) fn floats(&self, number: usize) -> Vec<f32> {
        let row = self.row(number);
        match self.rows {
            Rows::F32 => bytemuck::cast_slice(row).to_vec(),
            Rows::F16 => bytemuck::cast_slice::<u8, u16>(row).reinterpret_cast::<f16>().to_f32_vec(),
            Rows::I8 => {
                let (values, scale) = row.split_at(self.width);
                let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
                values.iter().map(|value| scale * f32::from(*value as i8)).collect()
            }
        }
    }

    /// The `k` of `rows` that are nearest to `query` `[E]` with their products, the nearest first, of equal ones the first.
    pub(super) fn nearest(&self, rows: &[usize], query: &[f32], k: usize) -> Vec<(usize, f32)> {
        let scores = self.scores(rows.iter().copied(), query);
        let mut all: Vec<(usize, f32)> = rows.iter().copied().zip(scores).collect();
        let nearer = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if k < all.len() {
            all.select_nth_unstable_by(k, nearer);
            all.truncate(k);
        }
        all.sort_unstable_by(nearer);
        all
    }

    /// Products of the rows `numbers` with `query` `[E]`.
    fn scores(&self, numbers: impl ExactSizeIterator<Item = usize>, query: &[f32]) -> Vec<f32> {
        let mut scores = vec![0.0; numbers.len()];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what it is compiled for.
            unsafe { self.score_wide(numbers, query, &mut scores) };
            return scores;
        }
        self.score(numbers, query, &mut scores);
        scores
    }

    /// [`Self::score`] with vectors of 256 bits.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn score_wide(&self, numbers: impl Iterator<Item = usize>, query: &[f32], scores: &mut [f32]) {
        self.score(numbers, query, scores);
    }

    #[inline(always)]
    fn score(&self, numbers: impl Iterator<Item = usize>, query: &[f32], scores: &mut [f32]) {
        let mut floats = vec![0.0; self.width];
        for (number, score) in numbers.zip(scores) {
            let row = self.row(number);
            *score = match self.rows {
                Rows::F32 => dot(bytemuck::cast_slice::<u8, f32>(row), query, |value| value),
                Rows::F16 => {
                    bytemuck::cast_slice::<u8, u16>(row).reinterpret_cast::<f16>().convert_to_f32_slice(&mut floats);
                    dot(&floats, query, |value| value)
                }
                Rows::I8 => {
                    let (values, scale) = row.split_at(self.width);
                    let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
                    scale * dot(bytemuck::cast_slice::<u8, i8>(values), query, f32::from)
                }
            };
        }
    }
}

/// Σ row · query, in lanes that a compiler makes vectors of.
#[inline(always)]
fn dot<T: Copy>(row: &[T], query: &[f32], value: impl Fn(T) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (rows, queries) = (row.chunks_exact(LANES), query.chunks_exact(LANES));
    let rest = rows.remainder().iter().zip(queries.remainder()).map(|(row, query)| value(*row) * query).sum::<f32>();
    for (row, query) in rows.zip(queries) {
        for lane in 0..LANES {
            sums[lane] += value(row[lane]) * query[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_rows_in_every_form() {
        let folder = tempfile::tempdir().expect("a folder");
        let (count, width) = (300, 77);
        let value = |row: usize, column: usize| ((row * 31 + column * 17) % 101) as f32 / 50.0 - 1.0;
        let rows: Vec<Vec<f32>> = (0..count)
            .map(|row| {
                let row: Vec<f32> = (0..width).map(|column| value(row, column)).collect();
                let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
                row.iter().map(|value| value / norm).collect()
            })
            .collect();
        for (form, error) in [(Rows::F32, 1e-6), (Rows::F16, 1e-3), (Rows::I8, 1e-2)] {
            let path = folder.path().join("rows.npy");
            let header = form.header(count, width);
            let bytes: Vec<u8> = header.into_iter().chain(rows.iter().flat_map(|row| form.encode(row))).collect();
            std::fs::write(&path, bytes).expect("written");
            let mapped = Mapped::open(&path, form, count, width).expect("opened");
            let scores = mapped.scores(0..count, &rows[3]);
            for (row, score) in rows.iter().zip(&scores) {
                let expected: f32 = row.iter().zip(&rows[3]).map(|(a, b)| a * b).sum();
                assert!((expected - score).abs() < error, "{form:?}: {expected} {score}");
            }
            assert!(Mapped::open(&path, form, count + 1, width).is_err());
        }
    }

    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::print_stdout, reason = "it is what the measurement is for")]
    fn a_hundred_thousand() {
        let folder = tempfile::tempdir().expect("a folder");
        let (count, width) = (100_000, 768);
        let row: Vec<f32> = (0..width).map(|column| (column as f32).sin() / 20.0).collect();
        for form in [Rows::F32, Rows::F16, Rows::I8] {
            let path = folder.path().join("rows.npy");
            let bytes = [form.header(count, width), form.encode(&row).repeat(count)].concat();
            std::fs::write(&path, bytes).expect("written");
            let mapped = Mapped::open(&path, form, count, width).expect("opened");
            mapped.scores(0..count, &row);
            let begun = std::time::Instant::now();
            (0..10).for_each(|_| drop(mapped.scores(0..count, &row)));
            println!("{form:?}: {:?} a query", begun.elapsed() / 10);
        }
    }
}
