//! The text files of an index: UTF-8, with or without a byte-order mark, any line ends.

use std::path::{Path, PathBuf};

use crate::data::DataError;

/// A text file, read.
pub(super) struct IndexText {
    path: PathBuf,
    text: String,
}

/// Reads `path`; `must` says what it has to be.
pub(super) fn read_text(path: &Path, must: &str) -> Result<IndexText, DataError> {
    let bytes = std::fs::read(path)
        .map_err(|error| DataError::Unreadable { path: path.to_owned(), why: format!("{error}: {must}") })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        DataError::Index { path: path.to_owned(), line, why: format!("not UTF-8 text; {must}") }
    })?;
    Ok(IndexText { path: path.to_owned(), text })
}

/// Reads `path`, of which no result depends: bytes that are no UTF-8 become U+FFFD.
pub(super) fn read_loose_text(path: &Path) -> Result<IndexText, DataError> {
    let bytes =
        std::fs::read(path).map_err(|error| DataError::Unreadable { path: path.to_owned(), why: error.to_string() })?;
    let text = String::from_utf8(bytes).unwrap_or_else(|error| {
        tracing::warn!("{}: not UTF-8 text; the bytes that are not stand as U+FFFD in captions", path.display());
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    });
    Ok(IndexText { path: path.to_owned(), text })
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
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.as_str().lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        lines.filter(|(_, line)| !line.is_empty())
    }

    /// What is wrong with a line.
    pub(super) fn error(&self, line: usize, why: String) -> DataError {
        DataError::Index { path: self.path.clone(), line, why }
    }
}
