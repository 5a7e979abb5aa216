//! The text files of an index: UTF-8, with or without a byte-order mark, any line ends.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::data::DataError;

/// A text file, read.
#[derive(Debug)]
pub struct IndexText {
    path: PathBuf,
    text: String,
}

/// Reads `path`; `must` says what it has to be.
///
/// # Errors
/// When there is no such file, it has no end, or is not in UTF-8.
pub fn read_text(path: &Path, must: &str) -> Result<IndexText, DataError> {
    let bytes =
        read(path).map_err(|why| DataError::Unreadable { path: path.to_owned(), why: format!("{why}: {must}") })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        DataError::Index { path: path.to_owned(), line, why: format!("not UTF-8 text; {must}") }
    })?;
    Ok(IndexText { path: path.to_owned(), text })
}

/// Reads `path`, of which no result depends: bytes that are no UTF-8 become U+FFFD.
pub(super) fn read_loose_text(path: &Path) -> Result<IndexText, DataError> {
    let bytes = read(path).map_err(|why| DataError::Unreadable { path: path.to_owned(), why })?;
    let text = String::from_utf8(bytes).unwrap_or_else(|error| {
        tracing::warn!("{}: not UTF-8 text; the bytes that are not stand as U+FFFD in captions", path.display());
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    });
    Ok(IndexText { path: path.to_owned(), text })
}

/// The bytes of a file or a pipe; a device may have no end.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let kind = std::fs::metadata(path).map_err(|error| error.to_string())?.file_type();
    if kind.is_char_device() {
        return Err("it is a device and no file".to_owned());
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

impl IndexText {
    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The text without a byte-order mark.
    pub(super) fn as_str(&self) -> &str {
        self.text.strip_prefix('\u{feff}').unwrap_or(&self.text)
    }

    /// Lines that are not blank, trimmed, with their numbers from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.as_str().lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        lines.filter(|(_, line)| !line.is_empty())
    }

    /// What is wrong with a line.
    #[must_use]
    pub fn error(&self, line: usize, why: String) -> DataError {
        DataError::Index { path: self.path.clone(), line, why }
    }
}
