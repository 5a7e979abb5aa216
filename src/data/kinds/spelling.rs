//! Finding the files of a data set under the names that they have in the wild.

use std::fs;
use std::path::{Path, PathBuf};

use crate::data::DataError;

/// The first of `names` (paths below `root`) that is there, whatever its case.
pub(super) fn find(root: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().find_map(|name| resolve(root, name))
}

/// As [`find`].
///
/// # Errors
/// When none is there; the message names `what` and all of `names`.
pub(super) fn require(root: &Path, names: &[&str], what: &str) -> Result<PathBuf, DataError> {
    find(root, names).ok_or_else(|| DataError::Unreadable {
        path: root.to_owned(),
        why: format!("has no {what}; looked for {}", names.join(", ")),
    })
}

/// `root`/`name`, its parts compared without case where they do not stand there as written.
fn resolve(root: &Path, name: &str) -> Option<PathBuf> {
    let exact = root.join(name);
    if exact.exists() {
        return Some(exact);
    }
    name.split('/').try_fold(root.to_owned(), |folder, part| {
        let exact = folder.join(part);
        if exact.exists() {
            return Some(exact);
        }
        let mut entries = fs::read_dir(&folder).ok()?.filter_map(Result::ok);
        entries.find(|entry| entry.file_name().to_string_lossy().eq_ignore_ascii_case(part)).map(|entry| entry.path())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_does_not_matter_and_the_first_name_wins() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("flickr8k_TEXT");
        fs::create_dir(&inner).expect("a folder");
        fs::write(inner.join("Flickr8k.Token.txt"), "").expect("a file");
        let names = ["Flickr8k.token.txt", "Flickr8k_text/Flickr8k.token.txt"];
        assert_eq!(find(folder.path(), &names), Some(inner.join("Flickr8k.Token.txt")));
        let error = require(folder.path(), &["wav2capt.txt"], "list of captions").expect_err("an error").to_string();
        assert!(error.contains("no list of captions; looked for wav2capt.txt"), "{error}");
    }
}
