//! Making an index, and bringing it up to date: files that are as they were keep their vectors.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::graph::{GraphConfig, GraphHead};
use super::index::{Entry, FORMAT, Head, Index};
use super::linking::link;
use super::vectors::Mapped;
use super::{Rows, SearchError};
use crate::checkpoint::{stream_whole, write_whole};
use crate::data::Medium;
use crate::eval::Growing;

/// What has to be done.
#[derive(Debug)]
pub struct Plan {
    folder: PathBuf,
    head: Head,
    old: Option<Index>,
    /// Files that are there, each with its row in the old index if it is as it was.
    entries: Vec<(Entry, Option<usize>)>,
    /// Files of the old index that are gone.
    gone: usize,
}

/// What was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Files in the index.
    pub files: usize,
    /// Of these, those whose vectors were made now.
    pub made: usize,
    /// Files that are gone.
    pub gone: usize,
    /// Files that cannot be read.
    pub skipped: usize,
    /// Graphs of neighbours.
    pub graphs: Vec<GraphHead>,
}

impl Plan {
    /// For the index in `folder` of `files`, with vectors of `width` by `model` (BLAKE3) of `checkpoint`.
    #[must_use]
    pub fn new(
        folder: &Path,
        (model, checkpoint, width): (&str, &Path, usize),
        rows: Option<Rows>,
        files: Vec<Entry>,
    ) -> Self {
        let old = Index::open_rows(folder).inspect_err(|error| {
            if !matches!(error, SearchError::Missing { .. }) {
                tracing::warn!("{error}");
            }
        });
        let old = old.ok();
        let rows = rows.or(old.as_ref().map(|old| old.head.rows)).unwrap_or_default();
        let generation = next_generation(folder);
        let head = Head {
            format: FORMAT,
            model: model.to_owned(),
            checkpoint: checkpoint.to_owned(),
            rows,
            width,
            count: 0,
            generation,
            graphs: Vec::new(),
        };
        let usable = |old: &Index| old.head.model == model && old.head.rows == rows && old.head.width == width;
        let old = old.filter(|old| {
            let is_usable = usable(old);
            if !is_usable {
                tracing::warn!("{}: was made with another model or form of rows, so it is made anew", folder.display());
            }
            is_usable
        });
        let known: HashMap<&Path, (usize, &Entry)> = old
            .iter()
            .flat_map(|old| old.entries.iter().enumerate().map(|(row, entry)| (&*entry.file, (row, entry))))
            .collect();
        let mut seen = 0;
        let mut entries: Vec<(Entry, Option<usize>)> = Vec::with_capacity(files.len());
        for entry in files {
            let known = known.get(&*entry.file);
            seen += usize::from(known.is_some());
            let of = |entry: &Entry| (entry.medium, entry.bytes, entry.modified);
            let row = known.filter(|(_, old)| of(old) == of(&entry)).map(|(row, _)| *row);
            entries.push((entry, row));
        }
        let gone = known.len().saturating_sub(seen);
        drop(known);
        Self { folder: folder.to_owned(), head, old, entries, gone }
    }

    /// The files whose vectors have to be made.
    #[must_use]
    pub fn missing(&self) -> Vec<(PathBuf, Medium)> {
        let missing = self.entries.iter().filter(|(_, row)| row.is_none());
        missing.map(|(entry, _)| (entry.file.clone(), entry.medium)).collect()
    }

    /// Writes the index with the vectors of the missing files in `made`, and graphs of neighbours by `graphs`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(mut self, made: &Growing, graphs: GraphConfig) -> Result<Update, SearchError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SearchError::Write { path, source }
        };
        // Why a missing file has no vector, in their order.
        let mut reasons = made.done().iter().map(|file| file.skipped.clone());
        for (entry, row) in &mut self.entries {
            entry.skipped = match (&*row, &self.old) {
                (Some(row), Some(old)) => old.entries[*row].skipped.clone(),
                _ => reasons.next().flatten(),
            };
        }
        self.head.count = self.entries.iter().filter(|(entry, _)| entry.skipped.is_none()).count();
        let path = self.head.vectors(&self.folder);
        stream_whole(&path, |out| self.write_rows(made, out)).map_err(failed(&path))?;

        let (with_row, without): (Vec<&Entry>, Vec<&Entry>) =
            self.entries.iter().map(|(entry, _)| entry).partition(|entry| entry.skipped.is_none());
        let mut lines = Vec::new();
        for entry in with_row.iter().chain(&without) {
            let line = serde_json::to_vec(entry).map_err(std::io::Error::from).map_err(failed(&self.folder))?;
            lines.extend_from_slice(&line);
            lines.push(b'\n');
        }
        let path = self.head.files(&self.folder);
        write_whole(&path, &lines).map_err(failed(&path))?;
        let vectors = Mapped::open(&self.head.vectors(&self.folder), self.head.rows, self.head.count, self.head.width)?;
        let rows = self.entries.iter().filter(|(entry, _)| entry.skipped.is_none());
        let rows: Vec<(&Entry, bool)> = rows.map(|(entry, row)| (entry, row.is_some())).collect();
        let graphs = link(&self.folder, &self.head, &rows, &vectors, (self.old.as_ref(), graphs))?;
        self.head.graphs = graphs;
        let path = Head::path(&self.folder);
        let head = serde_json::to_vec_pretty(&self.head).map_err(std::io::Error::from).map_err(failed(&path))?;
        write_whole(&path, &head).map_err(failed(&path))?;
        self.remove_others();
        let made = self.entries.iter().filter(|(entry, row)| row.is_none() && entry.skipped.is_none()).count();
        let skipped = self.entries.len() - self.head.count;
        Ok(Update { files: self.head.count, made, gone: self.gone, skipped, graphs: self.head.graphs })
    }

    /// The rows of all files that have one: as they were, or from `made`, which holds the missing files in their order.
    fn write_rows(&self, made: &Growing, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(&self.head.rows.header(self.head.count, self.head.width))?;
        let mut made = made.each()?;
        for (entry, row) in &self.entries {
            match (row, &self.old) {
                (Some(row), Some(old)) if entry.skipped.is_none() => out.write_all(old.vectors.row(*row))?,
                (Some(_), _) => {}
                (None, _) => {
                    let (_, values) = made.next().ok_or(std::io::ErrorKind::UnexpectedEof)??;
                    if entry.skipped.is_none() {
                        out.write_all(&self.head.rows.encode(&values))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes what earlier updates left.
    fn remove_others(&self) {
        let graphs = self.head.graphs.iter().map(|graph| self.folder.join(&graph.file));
        let own: Vec<PathBuf> =
            [self.head.vectors(&self.folder), self.head.files(&self.folder)].into_iter().chain(graphs).collect();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let is_of_index = (name.starts_with("vectors-") && name.ends_with(".npy"))
                || (name.starts_with("files-") && name.ends_with(".jsonl"))
                || (name.starts_with("graph-") && name.ends_with(".usearch"));
            if is_of_index && !own.contains(&path) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// N that no file in `folder` has, so that nothing is written over that somebody reads.
fn next_generation(folder: &Path) -> u64 {
    let number = |name: &str| name.rsplit_once('-')?.1.split('.').next()?.parse::<u64>().ok();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let last = entries.filter_map(|entry| number(entry.file_name().to_str()?)).max();
    last.map_or(0, |last| last + 1)
}
