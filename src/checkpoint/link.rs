//! `best`, `last` and `latest`: symbolic links, or small files with the target's path where the file system has none. They are a
//! convenience; nothing depends on them.

use std::fs;
use std::io::Result;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use super::disk::beside;
use super::folder::FILES;
use crate::telemetry::warn_once;

/// Bytes of the longest small file that names a folder.
const LONGEST: u64 = 4096;

/// Points `link` to `target`, a path that starts from the link's folder; a failure is a warning.
pub(super) fn point(link: &Path, target: &Path) {
    if let Err(error) = try_point(link, target) {
        warn_once(format!("{}: cannot point to {}: {error}", link.display(), target.display()));
    }
}

fn try_point(link: &Path, target: &Path) -> Result<()> {
    let beside = beside(link);
    let _ = fs::remove_file(&beside);
    if symlink(target, &beside).is_err() {
        fs::write(&beside, format!("{}\n", target.display()))?;
    }
    // In a copy of a run a copy of a checkpoint may stand here; any other folder is somebody's.
    if fs::symlink_metadata(link).is_ok_and(|found| found.is_dir()) {
        let is_copy = fs::read_dir(link)?
            .all(|entry| entry.is_ok_and(|entry| FILES.iter().any(|name| entry.file_name() == *name)));
        if !is_copy {
            let _ = fs::remove_file(&beside);
            return Err(std::io::Error::other("a folder of that name stands there"));
        }
        fs::remove_dir_all(link)?;
    }
    fs::rename(&beside, link)
}

/// Where `path` leads, if it is one of the small files; else `path`.
pub(super) fn follow(path: &Path) -> PathBuf {
    let is_small = fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() <= LONGEST);
    let text = is_small.then(|| fs::read_to_string(path).ok()).flatten();
    let target = text.as_deref().and_then(|text| text.strip_suffix('\n')).map(Path::new);
    // Only what `point` writes.
    let is_ours = |target: &&Path| target.components().all(|part| matches!(part, Component::Normal(_)));
    let target = target.filter(is_ours).map(|target| path.with_file_name("").join(target));
    target.filter(|target| target.is_dir()).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_a_copy_and_a_small_file_are_followed_and_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["a", "b", "last"] {
            fs::create_dir(path(name)).expect("a folder");
        }
        point(&path("last"), Path::new("a"));
        assert_eq!(fs::canonicalize(path("last")).expect("a link"), fs::canonicalize(path("a")).expect("a"));
        fs::remove_file(path("last")).expect("removed");
        fs::write(path("last"), "b\n").expect("written");
        assert_eq!(follow(&path("last")), path("b"));
        assert_eq!(follow(&path("a")), path("a"));
        for other in ["/\n", "b", "../b\n"] {
            fs::write(path("file"), other).expect("written");
            assert_eq!(follow(&path("file")), path("file"), "{other:?}");
        }
        point(&path("last"), Path::new("a"));
        assert!(fs::symlink_metadata(path("last")).expect("a link").is_symlink());
        fs::create_dir(path("latest")).expect("a folder");
        fs::write(path("latest/config.toml"), "somebody's run").expect("written");
        point(&path("latest"), Path::new("a"));
        assert!(path("latest/config.toml").exists());
    }
}
