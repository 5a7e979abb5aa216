//! An entry of a store's index: which file a row is of, and where it lies.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of an entry.
pub(super) const ENTRY: usize = 128;
const MAGIC: &[u8; 8] = b"CMDROW01";

/// A file as it was when its row was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) path: [u8; 16],
    pub(super) size: u64,
    /// Nanoseconds of its last change.
    pub(super) time: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) file: Identity,
    /// Of the file.
    pub(super) content: [u8; 16],
    /// Where the row lies.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// t of speech; 1 + N of images.
    pub(super) rows: u64,
    /// Of the row.
    pub(super) checksum: [u8; 16],
}

impl Identity {
    pub(super) fn of(file: &Path) -> Option<Self> {
        let found = std::fs::metadata(file).ok()?;
        let path = std::path::absolute(file).ok()?;
        let time = found.mtime().wrapping_mul(1_000_000_000).wrapping_add(found.mtime_nsec());
        Some(Self { path: hash(path.as_os_str().as_encoded_bytes()), size: found.len(), time })
    }
}

impl Entry {
    pub(super) fn to_bytes(self) -> [u8; ENTRY] {
        let mut text = Vec::with_capacity(ENTRY);
        text.extend_from_slice(MAGIC);
        text.extend_from_slice(&self.file.path);
        text.extend_from_slice(&self.file.size.to_le_bytes());
        text.extend_from_slice(&self.file.time.to_le_bytes());
        text.extend_from_slice(&self.content);
        for number in [self.offset, self.bytes, self.rows] {
            text.extend_from_slice(&number.to_le_bytes());
        }
        text.extend_from_slice(&self.checksum);
        text.resize(ENTRY - 16, 0);
        text.extend_from_slice(&hash(&text));
        let mut bytes = [0; ENTRY];
        bytes.copy_from_slice(&text);
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (text, checksum) = bytes.split_at_checked(ENTRY - 16)?;
        if !text.starts_with(MAGIC) || hash(text) != *checksum {
            return None;
        }
        let short = |at: usize| text[at..at + 16].try_into().ok();
        let number = |at: usize| Some(u64::from_le_bytes(text[at..at + 8].try_into().ok()?));
        let file = Identity { path: short(8)?, size: number(24)?, time: number(32)?.cast_signed() };
        Some(Self {
            file,
            content: short(40)?,
            offset: number(56)?,
            bytes: number(64)?,
            rows: number(72)?,
            checksum: short(80)?,
        })
    }
}

/// The first half of BLAKE3.
pub(super) fn hash(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    short
}

/// Of a file's content, if it can be read.
pub(super) fn content(file: &Path) -> Option<[u8; 16]> {
    Some(hash(&std::fs::read(file).ok()?))
}
