//! An index: rows of vectors, and the file that each is of.
//!
//! ```text
//! IDX/index.json        what it was made with, and which of these files count
//! IDX/vectors-N.npy     [n, E], opened by numpy.load(mmap_mode="r")
//! IDX/files-N.jsonl     {"file", "medium", "bytes", "modified"} of each row, or {..., "skipped"} without one
//! ```
//!
//! An update writes files of the next N, puts index.json into its place and removes those of the last N: who reads has one or the other.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::vectors::Mapped;
use super::{Rows, SearchError};
use crate::data::Medium;

/// Version of the files.
pub(super) const FORMAT: u32 = 1;
const INDEX: &str = "index.json";

/// A file of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The file.
    pub file: PathBuf,
    /// What it holds.
    pub medium: Medium,
    /// Its size.
    pub bytes: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub modified: u64,
    /// Why it has no row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// `index.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) format: u32,
    /// BLAKE3 of what made the vectors.
    pub(super) model: String,
    /// The checkpoint that did.
    pub(super) checkpoint: PathBuf,
    pub(super) rows: Rows,
    pub(super) width: usize,
    /// Rows.
    pub(super) count: usize,
    /// N.
    pub(super) generation: u64,
}

impl Head {
    pub(super) fn path(folder: &Path) -> PathBuf {
        folder.join(INDEX)
    }

    pub(super) fn vectors(&self, folder: &Path) -> PathBuf {
        folder.join(format!("vectors-{}.npy", self.generation))
    }

    pub(super) fn files(&self, folder: &Path) -> PathBuf {
        folder.join(format!("files-{}.jsonl", self.generation))
    }
}

/// A file that a query found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit<'a> {
    /// The file.
    pub file: &'a Path,
    /// What it holds.
    pub medium: Medium,
    /// Cosine of its vector with the query's.
    pub score: f32,
}

/// An index that is open.
#[derive(Debug)]
pub struct Index {
    pub(super) head: Head,
    /// Those with a row, in the order of the rows, and those without behind them.
    pub(super) entries: Vec<Entry>,
    pub(super) vectors: Mapped,
}

impl Index {
    /// Opens the index in `folder`.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn open(folder: &Path) -> Result<Self, SearchError> {
        let path = Head::path(folder);
        let damaged = |path: &Path, why: String| SearchError::Damaged { path: path.to_owned(), why };
        let bytes = std::fs::read(&path).map_err(|_| SearchError::Missing { path: folder.to_owned() })?;
        let head: Head = serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error.to_string()))?;
        if head.format != FORMAT {
            return Err(damaged(&path, format!("format {}, this program reads {FORMAT}", head.format)));
        }
        let path = head.files(folder);
        let file = std::fs::File::open(&path).map_err(|error| damaged(&path, error.to_string()))?;
        let mut entries = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|error| damaged(&path, error.to_string()))?;
            entries.push(serde_json::from_str(&line).map_err(|error| damaged(&path, error.to_string()))?);
        }
        let with_rows = |entry: &Entry| entry.skipped.is_none();
        if entries.iter().take_while(|entry| with_rows(entry)).count() != head.count
            || entries[head.count..].iter().any(with_rows)
        {
            return Err(damaged(&path, "its lines are not those that the index tells of".to_owned()));
        }
        let vectors = Mapped::open(&head.vectors(folder), head.rows, head.count, head.width)?;
        Ok(Self { head, entries, vectors })
    }

    /// BLAKE3 of what made its vectors.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.head.model
    }

    /// The checkpoint that made them.
    #[must_use]
    pub fn checkpoint(&self) -> &Path {
        &self.head.checkpoint
    }

    /// Files with a row that hold `medium`.
    #[must_use]
    pub fn count(&self, medium: Medium) -> usize {
        self.entries[..self.head.count].iter().filter(|entry| entry.medium == medium).count()
    }

    /// The `k` files of `medium` whose vectors are nearest to `query` `[E]`, the nearest first, of equal ones the first in the index.
    #[must_use]
    pub fn search(&self, query: &[f32], medium: Medium, k: usize) -> Vec<Hit<'_>> {
        let scores = self.vectors.scores(query);
        let mut rows: Vec<usize> = (0..self.head.count).filter(|row| self.entries[*row].medium == medium).collect();
        let nearer = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        if k < rows.len() {
            rows.select_nth_unstable_by(k, nearer);
            rows.truncate(k);
        }
        rows.sort_unstable_by(nearer);
        let hit = |row: usize| Hit { file: &self.entries[row].file, medium, score: scores[row] };
        rows.into_iter().map(hit).collect()
    }
}
