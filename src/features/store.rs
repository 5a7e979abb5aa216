//! Features kept in files, for all runs and commands with the same encoder: rows of bytes in `rows.bin`, and in `rows.idx` an entry of
//! fixed length for each, written after it. `docs/features.md` has the form.
//!
//! A row is found by its file's path, and counts as long as that file's size and time are those that it was made from and its own bytes have
//! their checksum. What is stale, cut or damaged is not there, and is made anew. Several processes may write at once.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tch::Kind;

use super::entry::{ENTRY, Entry, Identity, content, hash};
use crate::data::{Bytes, Row};
use crate::telemetry::warn_once;

/// Version of the files' form.
const FORMAT: u32 = 1;
/// Version of what is done to a file before an encoder sees it: resampling, resizing, cropping.
const PREPROCESSING: u32 = 1;
/// A store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its folder or files cannot be made or read.
    #[error(
        "{}: {source}; data.cache_dir names the folder of kept features, encoders.*.cache = \"none\" keeps none", path.display()
    )]
    Files {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What a store holds; `store.json` says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    format: u32,
    preprocessing: u32,
    /// "speech" or "image".
    modality: String,
    /// BLAKE3 of the encoder's file.
    encoder: String,
    /// As NumPy calls it, but for "bfloat16".
    dtype: String,
    /// Whether matrices were multiplied with 10 bits of mantissa.
    tf32: bool,
    /// [1 + N, E], or [L, t, D] with -1 for t.
    shape: Vec<i64>,
}

/// A folder of features.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    kind: Kind,
    shape: Vec<i64>,
    data: File,
    index: File,
    is_writable: bool,
    known: RwLock<Known>,
    /// When, in nanoseconds.
    opened: i64,
    /// Held while this process writes.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    entries: HashMap<[u8; 16], Entry>,
    /// Bytes of the index that have been read.
    read: u64,
}

impl Form {
    /// Features of an encoder of this modality.
    pub(super) fn new(modality: &str, encoder: &str, (kind, tf32): (Kind, bool), shape: &[i64]) -> Self {
        let dtype = match kind {
            Kind::Half => "float16",
            Kind::BFloat16 => "bfloat16",
            _ => "float32",
        };
        Self {
            format: FORMAT,
            preprocessing: PREPROCESSING,
            modality: modality.to_owned(),
            encoder: encoder.to_owned(),
            dtype: dtype.to_owned(),
            tf32,
            shape: shape.to_vec(),
        }
    }

    fn kind(&self) -> Kind {
        match &*self.dtype {
            "float16" => Kind::Half,
            "bfloat16" => Kind::BFloat16,
            _ => Kind::Float,
        }
    }

    /// The name of its folder.
    fn folder(&self) -> String {
        let encoder = self.encoder.get(..16).unwrap_or(&self.encoder);
        let dtype = if self.tf32 { "tfloat32" } else { &self.dtype };
        format!("{}-{encoder}-{dtype}-{}", self.modality, self.preprocessing)
    }
}

impl Store {
    /// Opens the store of `form` below `folder`, or makes it.
    ///
    /// # Errors
    /// When its files can be neither made nor read.
    pub(super) fn open(folder: &Path, form: &Form) -> Result<Self, StoreError> {
        let folder = folder.join(form.folder());
        let failed = |path: &Path, source| StoreError::Files { path: path.to_owned(), source };
        let is_writable = std::fs::create_dir_all(&folder).is_ok()
            && rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK).is_ok();
        let open = |name: &str| {
            let path = folder.join(name);
            let opened =
                OpenOptions::new().read(true).write(is_writable).create(is_writable).truncate(false).open(&path);
            opened.map_err(|source| failed(&path, source))
        };
        let (data, index) = (open("rows.bin")?, open("rows.idx")?);
        let store = Self {
            kind: form.kind(),
            shape: form.shape.clone(),
            data,
            index,
            is_writable,
            known: RwLock::default(),
            opened: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i64),
            writing: Mutex::new(()),
            folder,
        };
        let header = store.folder.join("store.json");
        let is_this = std::fs::read(&header)
            .is_ok_and(|bytes| serde_json::from_slice::<Form>(&bytes).is_ok_and(|found| found == *form));
        if !is_this && is_writable {
            store.start(&header, form).map_err(|source| failed(&header, source))?;
        } else if !is_this {
            let why = "its header is missing or damaged, and the folder cannot be written";
            return Err(failed(&header, std::io::Error::other(why)));
        }
        store.look_again();
        Ok(store)
    }

    /// Writes the header of an empty store; of one whose header is damaged nothing is believed.
    fn start(&self, header: &Path, form: &Form) -> std::io::Result<()> {
        let _lock = self.lock()?;
        // Another process may have been first.
        if std::fs::read(header)
            .is_ok_and(|bytes| serde_json::from_slice::<Form>(&bytes).is_ok_and(|found| found == *form))
        {
            return Ok(());
        }
        if self.index.metadata()?.len() > 0 {
            tracing::warn!("{}: missing or damaged; its features are computed anew", header.display());
        }
        self.index.set_len(0)?;
        self.data.set_len(0)?;
        let beside = header.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::write(&beside, format!("{:#}\n", serde_json::json!(form)))?;
        std::fs::rename(beside, header)
    }

    /// Its folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether rows can be added.
    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Whether the row of `file` is there, by its entry alone.
    pub(super) fn has(&self, file: &Path) -> bool {
        self.entry(file).is_some()
    }

    /// The row of `file`, if it is there.
    pub(super) fn get(&self, file: &Path) -> Option<Row> {
        let entry = self.entry(file)?;
        let mut bytes = vec![0; usize::try_from(entry.bytes).ok()?];
        if self.data.read_exact_at(&mut bytes, entry.offset).is_err() || hash(&bytes) != entry.checksum {
            warn_once(format!("{}: rows are cut or damaged; they are computed anew", self.folder.display()));
            self.forget(&entry.file.path);
            return None;
        }
        let mut shape = self.shape.clone();
        if let Some(open) = shape.iter_mut().find(|side| **side < 0) {
            *open = entry.rows as i64;
        }
        let values: i64 = shape.iter().product();
        (values as u64 * self.kind.elt_size_in_bytes() as u64 == entry.bytes).then_some(Row {
            bytes: Bytes::Own(bytes),
            kind: self.kind,
            shape,
        })
    }

    /// Forgets the row of `file` unless the file's content is what it was made from.
    pub(super) fn verify(&self, file: &Path) {
        if let Some(entry) = self.entry(file)
            && content(file) != Some(entry.content)
        {
            self.forget(&entry.file.path);
        }
    }

    /// Keeps rows of files. What cannot be written is told once and is not there.
    pub(super) fn put(&self, rows: &[(&Path, Row)]) {
        if let Err(error) = self.try_put(rows) {
            warn_once(format!("{}: features cannot be kept: {error}", self.folder.display()));
        }
    }

    fn try_put(&self, rows: &[(&Path, Row)]) -> std::io::Result<()> {
        if !self.is_writable {
            return Err(std::io::Error::other("the folder cannot be written"));
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = HashSet::new();
        let known: Vec<(Identity, [u8; 16], &Row)> = rows
            .iter()
            // What is there already, or stands twice among them, is not written again.
            .filter(|(file, _)| !self.has(file) && seen.insert(*file))
            // A file that changed since this was opened may be another one than was read.
            .filter(|(file, _)| Identity::of(file).is_some_and(|now| now.time < self.opened))
            .filter_map(|(file, row)| Some((Identity::of(file)?, content(file)?, row)))
            .collect();
        let total: usize = known.iter().map(|(_, _, row)| row.bytes.len()).sum();
        let mut offset = self.reserve(total as u64)?;
        let mut entries = Vec::with_capacity(known.len());
        for (file, content, row) in known {
            self.data.write_all_at(&row.bytes, offset)?;
            let (bytes, rows) = (row.bytes.len() as u64, row.shape[self.shape.len().saturating_sub(2)] as u64);
            entries.push(Entry { file, content, offset, bytes, rows, checksum: hash(&row.bytes) });
            offset += bytes;
        }
        let text: Vec<u8> = entries.iter().flat_map(|entry| entry.to_bytes()).collect();
        {
            let _lock = self.lock()?;
            // An entry that a killed process began is written over.
            let end = self.index.metadata()?.len() / ENTRY as u64 * ENTRY as u64;
            self.index.write_all_at(&text, end)?;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.entries.extend(entries.into_iter().map(|entry| (entry.file.path, entry)));
        Ok(())
    }

    /// Room for `bytes` at the end of the rows, which is this process's alone.
    fn reserve(&self, bytes: u64) -> std::io::Result<u64> {
        let _lock = self.lock()?;
        let end = self.data.metadata()?.len();
        // Rows of one length lie at multiples of it, whatever was cut off.
        let start = if self.shape.contains(&-1) { end } else { end.next_multiple_of(self.stride()) };
        self.data.set_len(start + bytes)?;
        Ok(start)
    }

    /// Bytes of a row; of a frame where rows differ in length.
    pub(super) fn stride(&self) -> u64 {
        let values: i64 = self.shape.iter().filter(|side| **side > 0).product();
        values.max(1) as u64 * self.kind.elt_size_in_bytes() as u64
    }

    fn lock(&self) -> std::io::Result<Lock<'_>> {
        flock(&self.index, FlockOperation::LockExclusive)?;
        Ok(Lock(&self.index))
    }

    fn forget(&self, path: &[u8; 16]) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).entries.remove(path);
    }

    /// The entry of `file` as it is now.
    fn entry(&self, file: &Path) -> Option<Entry> {
        let now = Identity::of(file)?;
        let find = || {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.entries.get(&now.path).copied().filter(|entry| entry.file == now)
        };
        find().or_else(|| if self.look_again() { find() } else { None })
    }

    /// Reads what other processes have added to the index; whether there was something.
    fn look_again(&self) -> bool {
        let length = self.index.metadata().map_or(0, |file| file.len()) / ENTRY as u64 * ENTRY as u64;
        if self.known.read().unwrap_or_else(PoisonError::into_inner).read == length {
            return false;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have read on meanwhile.
        let length = self.index.metadata().map_or(0, |file| file.len()) / ENTRY as u64 * ENTRY as u64;
        if length < known.read {
            // An index that became shorter is another one.
            *known = Known::default();
        }
        let start = known.read;
        let mut bytes = vec![0; (length - start) as usize];
        if self.index.read_exact_at(&mut bytes, start).is_err() {
            return false;
        }
        known.read = length;
        let entries = bytes.chunks_exact(ENTRY).filter_map(Entry::from_bytes);
        known.entries.extend(entries.map(|entry| (entry.file.path, entry)));
        true
    }
}

/// The lock of a store, given back when this is dropped.
struct Lock<'a>(&'a File);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}
