//! Files that appear whole or not at all, on file systems of every kind.

use std::fs::{self, File};
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};

/// What to do about an error of writing.
pub(super) fn advice(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull => "; free room on the disk, then go on with --resume",
        ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => "; raise the quota or limit, then go on with --resume",
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied | ErrorKind::NotADirectory => {
            "; make it writable, or start a run in another folder with --output"
        }
        ErrorKind::AlreadyExists => "; go on with it by --resume, or start a run of another --name",
        _ => "",
    }
}

/// Writes `bytes` beside `path`, then renames them into place.
///
/// # Errors
/// When it cannot be written; then what stood at `path` still does.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    stream_whole(path, |out| out.write_all(bytes))
}

/// As [`write_whole`], of what `write` writes.
///
/// # Errors
/// When it cannot be written; then what stood at `path` still does.
pub fn stream_whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let beside = beside(path);
    let write = || {
        let mut out = BufWriter::with_capacity(1 << 16, File::create(&beside)?);
        write(&mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    };
    let written = write().and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.and_then(|()| sync_parent(path))
}

/// Writes a file that is on the disk when this returns.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Puts the entries of the folder that holds `path` on the disk.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    sync_folder(folder.unwrap_or(Path::new(".")))
}

/// Puts the entries of a folder on the disk, where its file system can.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    match File::open(path).and_then(|folder| folder.sync_all()) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied
            ) =>
        {
            tracing::debug!("{}: this file system syncs no folders ({error})", path.display());
            Ok(())
        }
        result => result,
    }
}

/// Puts the folder `new` in the place of `path`, where a folder may stand already: that one never goes before the new one stands.
pub(super) fn exchange(new: &Path, path: &Path) -> Result<()> {
    if path.exists() {
        let swap = rustix::fs::RenameFlags::EXCHANGE;
        if rustix::fs::renameat_with(rustix::fs::CWD, new, rustix::fs::CWD, path, swap).is_ok() {
            sync_parent(path)?;
            // What is left of the old one, the next save sweeps up.
            let _ = fs::remove_dir_all(new);
            return Ok(());
        }
        // A file system without an exchange: the old one stands aside meanwhile, where it is found.
        let _ = fs::remove_dir_all(aside(path));
        fs::rename(path, aside(path))?;
    }
    fs::rename(new, path)?;
    sync_parent(path)?;
    let _ = fs::remove_dir_all(aside(path));
    Ok(())
}

/// Puts `path` back where an [`exchange`] was cut short, and removes what one left.
pub(super) fn settle_exchange(path: &Path) {
    let aside = aside(path);
    let _ = if path.exists() { fs::remove_dir_all(&aside) } else { fs::rename(&aside, path) };
    let _ = fs::remove_dir_all(beside(path));
}

/// Where `path` is written before it is put into its place.
pub(super) fn beside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.tmp", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Where a folder stands while [`exchange`] puts another into its place.
pub(super) fn aside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.old", path.file_name().unwrap_or_default().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_exchanged_also_when_an_earlier_exchange_was_cut_short() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, new) = (folder.path().join("step-1"), folder.path().join("new"));
        let make = |path: &Path, text: &str| {
            fs::create_dir(path).expect("a folder");
            fs::write(path.join("file"), text).expect("written");
        };
        make(&path, "old");
        for (text, cut) in [("new", false), ("newer", true)] {
            make(&new, text);
            if cut {
                fs::rename(&path, aside(&path)).expect("as if killed");
            }
            exchange(&new, &path).expect("exchanged");
            assert_eq!(fs::read_to_string(path.join("file")).expect("a file"), text);
            assert!(!new.exists() && !aside(&path).exists());
        }
    }
}
