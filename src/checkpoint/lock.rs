//! One process at a time works on a run.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::CheckpointError;

const LOCK: &str = "lock";

/// The lock on a run, held as long as this lives; the kernel takes it back from a process that dies.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks the run in the folder `run`.
    ///
    /// # Errors
    /// When another process holds the lock, or the file cannot be written.
    pub fn take(run: &Path) -> Result<Self, CheckpointError> {
        let path = run.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(CheckpointError::write(&path))?;
        lock(&mut file, run)?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let holder =
            format!("process {} on {host}, since {}\n", std::process::id(), jiff::Zoned::now().strftime("%F %T"));
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(holder.as_bytes()));
        if let Err(error) = written {
            tracing::warn!("{}: {error}", path.display());
        }
        Ok(Self { _file: file })
    }

    /// Checks that no process holds the lock, and writes nothing.
    ///
    /// # Errors
    /// When one does.
    pub fn check(run: &Path) -> Result<(), CheckpointError> {
        File::open(run.join(LOCK)).map_or(Ok(()), |mut file| lock(&mut file, run))
    }
}

/// Locks `file`, the lock of `run`.
fn lock(file: &mut File, run: &Path) -> Result<(), CheckpointError> {
    match flock(&*file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = holder.lines().next().unwrap_or("its lock is held").to_owned();
            return Err(CheckpointError::Locked { path: run.to_owned(), holder });
        }
        Err(error) => {
            tracing::warn!("{}: cannot be locked here ({error}); let no other process train this run", run.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_names_the_first() {
        let run = tempfile::tempdir().expect("a folder");
        let first = RunLock::take(run.path()).expect("a lock");
        assert!(RunLock::check(run.path()).is_err());
        let error = RunLock::take(run.path()).expect_err("refused").to_string();
        assert!(error.contains(&format!("process {} on ", std::process::id())), "{error}");
        drop(first);
        RunLock::check(run.path()).expect("free");
        RunLock::take(run.path()).expect("free again");
    }
}
