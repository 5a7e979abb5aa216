//! Vectors of files that are written while they are made, so that a run that was stopped goes on: rows as they come, and a line for each
//! file behind them.
//!
//! ```text
//! NAME.part/job.json     what they are made with
//! NAME.part/rows.f32     [n, E], in this machine's order of bytes
//! NAME.part/files.jsonl  {"file", "medium", "rows", "bytes", "modified"}, or {..., "rows": 0, ..., "skipped": why}
//! ```

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{Medium, stamp};

const JOB: &str = "job.json";

/// A file whose vectors are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embedded {
    /// The file.
    pub file: PathBuf,
    /// What it holds.
    pub medium: Medium,
    /// Its rows: one, with frames 1 + T, none if it was skipped.
    pub rows: usize,
    /// Its size when it was read.
    pub bytes: u64,
    /// When it had been changed last.
    pub modified: u64,
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// Vectors that grow.
#[derive(Debug)]
pub struct Growing {
    folder: PathBuf,
    width: usize,
    rows: File,
    files: File,
    /// What is there.
    done: Vec<Embedded>,
}

impl Growing {
    /// The vectors beside `target`, made by `job` of `files` in their order; what is there of other ones, or was skipped where nothing is to be,
    /// is made anew.
    ///
    /// # Errors
    /// When they cannot be read or written, another process does, or something else has their place.
    pub fn open(
        target: &Path,
        job: &Value,
        width: usize,
        (files, skips): (&[(PathBuf, Medium)], bool),
    ) -> std::io::Result<Self> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let folder = target.with_file_name(name);
        let known = std::fs::read(folder.join(JOB)).ok();
        if known.is_none() && std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
            let why = format!("{} holds something else; move it, or name another file", folder.display());
            return Err(std::io::Error::other(why));
        }
        std::fs::create_dir_all(&folder)?;
        if known.is_none() {
            // First of all: a folder with anything but this is somebody else's.
            std::fs::write(folder.join(JOB), job.to_string())?;
        }
        let open =
            |name: &str| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(name));
        let (mut rows, mut lines) = (open("rows.f32")?, open("files.jsonl")?);
        if flock(&lines, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Err(std::io::Error::other(format!("another process writes {}", folder.display())));
        }
        let is_same =
            known.as_ref().is_some_and(|known| serde_json::from_slice::<Value>(known).ok().as_ref() == Some(job));
        if known.is_some() && !is_same {
            tracing::warn!("{}: was made with something else, so it is begun anew", folder.display());
            lines.set_len(0)?;
            std::fs::write(folder.join(JOB), job.to_string())?;
        }
        let mut text = Vec::new();
        lines.read_to_end(&mut text)?;
        let mut left = rows.metadata()?.len() / (4 * width as u64);
        let (mut done, mut used, mut bytes) = (Vec::new(), 0, 0);
        for (line, (file, medium)) in text.split_inclusive(|byte| *byte == b'\n').zip(files) {
            let Ok(one) = serde_json::from_slice::<Embedded>(line) else { break };
            let is_as_it_was = stamp(file) == (one.bytes, one.modified) && (skips || one.skipped.is_none());
            let fits = is_as_it_was
                && line.ends_with(b"\n")
                && one.rows as u64 <= left
                && &one.file == file
                && one.medium == *medium;
            if !fits {
                break;
            }
            left -= one.rows as u64;
            used += one.rows as u64;
            bytes += line.len() as u64;
            done.push(one);
        }
        rows.set_len(used * 4 * width as u64)?;
        rows.seek(SeekFrom::End(0))?;
        lines.set_len(bytes)?;
        lines.seek(SeekFrom::End(0))?;
        Ok(Self { folder, width, rows, files: lines, done })
    }

    /// Files whose vectors are there, in their order.
    #[must_use]
    pub fn done(&self) -> &[Embedded] {
        &self.done
    }

    /// E.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Adds files with their rows, which are there before the lines that tell of them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn push(&mut self, files: Vec<(Embedded, Vec<f32>)>) -> std::io::Result<()> {
        let (mut rows, mut lines) = (Vec::new(), Vec::new());
        for (file, values) in &files {
            rows.extend_from_slice(bytemuck::cast_slice(values));
            serde_json::to_writer(&mut lines, file)?;
            lines.push(b'\n');
        }
        self.rows.write_all(&rows)?;
        self.files.write_all(&lines)?;
        self.done.extend(files.into_iter().map(|(file, _)| file));
        Ok(())
    }

    /// Every file with its rows, in order.
    ///
    /// # Errors
    /// When the rows cannot be opened; each item when it cannot be read.
    pub fn each(&self) -> std::io::Result<impl Iterator<Item = std::io::Result<(&Embedded, Vec<f32>)>>> {
        let mut rows = BufReader::with_capacity(1 << 20, File::open(self.folder.join("rows.f32"))?);
        Ok(self.done.iter().map(move |file| {
            let mut values = vec![0.0f32; self.width * file.rows];
            rows.read_exact(bytemuck::cast_slice_mut(&mut values)).map(|()| (file, values))
        }))
    }

    /// Removes it, when what was made of it is in its place.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn remove(self) -> std::io::Result<()> {
        std::fs::remove_dir_all(&self.folder)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(count: usize) -> Vec<(PathBuf, Medium)> {
        (0..count).map(|number| (format!("{number} é.wav").into(), Medium::Speech)).collect()
    }

    fn embedded(number: usize, rows: usize) -> (Embedded, Vec<f32>) {
        let file = format!("{number} é.wav").into();
        (
            Embedded { file, medium: Medium::Speech, rows, bytes: 0, modified: 0, skipped: None },
            vec![number as f32; 2 * rows],
        )
    }

    #[test]
    fn what_was_cut_anywhere_goes_on_from_what_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("a.npy");
        let open = |job: u32, files: &[(PathBuf, Medium)]| {
            Growing::open(&target, &json!(job), 2, (files, false)).expect("opened")
        };
        let mut growing = open(1, &files(4));
        growing.push(vec![embedded(0, 1), embedded(1, 3)]).expect("written");
        growing.push(vec![embedded(2, 1)]).expect("written");
        drop(growing);
        let part = folder.path().join("a.npy.part");
        let (rows, lines) = (
            std::fs::read(part.join("rows.f32")).expect("rows"),
            std::fs::read(part.join("files.jsonl")).expect("lines"),
        );
        let first_two =
            lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).map_or(0, |(place, _)| place + 1);
        let last_accent = lines.iter().rposition(|byte| *byte == 0xc3).expect("an accent");
        for (cut_rows, cut_lines, left) in [
            (rows.len(), lines.len(), 3),
            (rows.len() - 1, lines.len(), 2),
            (rows.len(), lines.len() - 1, 2),
            (rows.len(), last_accent + 1, 2),
            (rows.len(), first_two, 2),
            (8, lines.len(), 1),
            (0, lines.len(), 0),
        ] {
            std::fs::write(part.join("rows.f32"), &rows[..cut_rows]).expect("written");
            std::fs::write(part.join("files.jsonl"), &lines[..cut_lines]).expect("written");
            let mut growing = open(1, &files(4));
            assert_eq!(growing.done().len(), left);
            growing
                .push((left..4).map(|number| embedded(number, if number == 1 { 3 } else { 1 })).collect())
                .expect("written");
            let each = growing.each().expect("opened").map(|file| file.expect("read").1);
            let values: Vec<f32> = each.flatten().collect();
            assert_eq!(values, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
        }
        // One at a time.
        let first = open(1, &files(4));
        let second = Growing::open(&target, &json!(1), 2, (&files(4), false));
        assert!(second.is_err_and(|error| error.to_string().contains("another process writes")));
        drop(first);
        // Never over what somebody else put there.
        let taken = folder.path().join("b.npy");
        std::fs::create_dir(folder.path().join("b.npy.part")).expect("made");
        std::fs::write(folder.path().join("b.npy.part/thesis.txt"), "precious").expect("written");
        let refused = Growing::open(&taken, &json!(1), 2, (&files(1), false));
        assert!(refused.is_err_and(|error| error.to_string().contains("holds something else")));
        assert!(folder.path().join("b.npy.part/thesis.txt").exists());
        // Other files, or another job, from where they differ.
        let mut others = files(4);
        others[2].0 = "other.wav".into();
        assert_eq!(open(1, &others).done().len(), 2);
        assert_eq!(open(2, &files(4)).done().len(), 0);
    }
}
