//! An index: rows of vectors, and the file that each is of.
//!
//! ```text
//! IDX/index.json        what it was made with, and which of these files count
//! IDX/vectors-N.npy     [n, E], opened by numpy.load(mmap_mode="r")
//! IDX/files-N.jsonl     {"file", "medium", "bytes", "modified"} of each row, or {..., "skipped"} without one
//! IDX/graph-MEDIUM-N.usearch   of many rows, their neighbours
//! ```
//!
//! An update writes files of the next N, puts index.json into its place and removes those of the last N: who reads has one or the other.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::graph::{Graph, GraphHead, key};
use super::vectors::Mapped;
use super::{Rows, SearchError};
use crate::data::{Medium, stamp};
use crate::eval::spread;

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
    /// What is said in it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// Why it has no row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl Entry {
    /// A file as it is now.
    #[must_use]
    pub fn of(file: PathBuf, medium: Medium, said: Option<String>) -> Self {
        let (bytes, modified) = stamp(&file);
        Self { file, medium, bytes, modified, said, skipped: None }
    }
}

/// `index.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Where there are many rows of a medium.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) graphs: Vec<GraphHead>,
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

    /// The name of a new graph.
    pub(super) fn graph(&self, medium: Medium) -> PathBuf {
        PathBuf::from(format!("graph-{}-{}.usearch", medium.name(), self.generation))
    }
}

/// A file that a query found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit<'a> {
    /// Its number in the index.
    pub id: usize,
    /// The file.
    pub file: &'a Path,
    /// What it holds.
    pub medium: Medium,
    /// Cosine of its vector with the query's.
    pub score: f32,
    /// What is said in it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<&'a str>,
}

/// An index that is open.
#[derive(Debug)]
pub struct Index {
    pub(super) head: Head,
    /// Those with a row, in the order of the rows, and those without behind them.
    pub(super) entries: Vec<Entry>,
    pub(super) vectors: Mapped,
    graphs: Vec<(Medium, Graph)>,
    /// The row of each key of the graphs.
    rows: HashMap<u64, usize>,
}

impl Index {
    /// Opens the index in `folder`.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn open(folder: &Path) -> Result<Self, SearchError> {
        let mut index = Self::open_rows(folder)?;
        let open = |graph: &GraphHead| Ok((graph.medium, Graph::open(folder, graph, index.head.width, false)?));
        let graphs: Result<Vec<(Medium, Graph)>, SearchError> = index.head.graphs.iter().map(open).collect();
        index.graphs = graphs?;
        if !index.graphs.is_empty() {
            let rows = index.entries[..index.head.count].iter().enumerate();
            index.rows = rows.map(|(row, entry)| (key(&entry.file), row)).collect();
        }
        Ok(index)
    }

    /// As [`Self::open`], without graphs: every row is looked at.
    ///
    /// # Errors
    /// When there is none, or its rows are damaged.
    pub fn open_rows(folder: &Path) -> Result<Self, SearchError> {
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
        Ok(Self { head, entries, vectors, graphs: Vec::new(), rows: HashMap::new() })
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

    /// E.
    #[must_use]
    pub fn width(&self) -> usize {
        self.head.width
    }

    /// The file with the number `id`, if it has a row.
    #[must_use]
    pub fn entry(&self, id: usize) -> Option<&Entry> {
        self.entries[..self.head.count].get(id)
    }

    /// The vector `[E]` of the file with the number `id`.
    #[must_use]
    pub fn vector(&self, id: usize) -> Option<Vec<f32>> {
        (id < self.head.count).then(|| self.vectors.floats(id))
    }

    /// The other medium than `of`, if there are files of it.
    #[must_use]
    pub fn asked_by(&self, of: Medium) -> Medium {
        if self.count(of.other()) > 0 { of.other() } else { of }
    }

    /// Numbers of `count` files of `medium`, spread evenly.
    #[must_use]
    pub fn some(&self, medium: Medium, count: usize) -> Vec<usize> {
        let rows = self.rows_of(medium);
        spread(rows.len(), count).into_iter().map(|place| rows[place]).collect()
    }

    /// The `k` files of `medium` whose vectors are nearest to `query` `[E]`, the nearest first, of equal ones the first in the index. Where
    /// there is a graph, about `effort` of its rows are looked at, else and without `effort` all.
    ///
    /// # Errors
    /// When the graph fails.
    pub fn search(
        &self,
        query: &[f32],
        medium: Medium,
        k: usize,
        effort: Option<usize>,
    ) -> Result<Vec<Hit<'_>>, SearchError> {
        let graph = self.graphs.iter().find(|(of, _)| *of == medium);
        let rows = match (graph, effort) {
            (Some((_, graph)), Some(effort)) => {
                let keys = graph.nearest(query, effort.max(k)).map_err(|why| SearchError::Graph { why })?;
                keys.iter().filter_map(|key| self.rows.get(key).copied()).collect()
            }
            _ => self.rows_of(medium),
        };
        let hit = |(row, score): (usize, f32)| {
            let Entry { file, said, .. } = &self.entries[row];
            Hit { id: row, file, medium, score, said: said.as_deref() }
        };
        Ok(self.vectors.nearest(&rows, query, k).into_iter().map(hit).collect())
    }

    fn rows_of(&self, medium: Medium) -> Vec<usize> {
        (0..self.head.count).filter(|row| self.entries[*row].medium == medium).collect()
    }
}
