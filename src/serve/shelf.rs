//! What is served: an index, and the files that it names and no other.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::problem::Problem;
use crate::data::{Audio, AudioForm, Medium, Picture, PictureForm, stamp};
use crate::search::{EFFORT, Entry, Hit, Index};

/// So many times as many files are looked at where those that were found are gone.
const MOST_GONE: usize = 16;

/// What a page is told of itself.
#[derive(Clone, Debug)]
pub struct About {
    /// Name of the checkpoint's run.
    pub checkpoint: String,
    /// Name of the index.
    pub index: String,
    /// Whether utterances can be asked where they look.
    pub attention: bool,
    /// Whether keywords are heard in utterances.
    pub keywords: bool,
    /// Whether words can ask.
    pub text: bool,
}

/// The index and how its files are read.
#[derive(Debug)]
pub struct Shelf {
    /// What it is called.
    pub about: About,
    /// What is asked.
    pub index: Index,
    /// How sounds are read.
    pub audio: AudioForm,
    /// How pictures are read for the model.
    pub pictures: PictureForm,
    /// Million pixels of the largest picture.
    pub max_megapixels: i64,
}

impl Shelf {
    /// The `k` that are nearest to `query`, without files that are not shown.
    pub(super) fn search(&self, query: &[f32], medium: Medium, k: usize) -> Result<Vec<Hit<'_>>, Problem> {
        let mut more = k;
        loop {
            let mut hits = self.index.search(query, medium, more, Some(EFFORT)).map_err(Problem::failed)?;
            let is_all = hits.len() < more;
            hits.retain(|hit| is_itself(hit.file));
            if hits.len() >= k || is_all || more > MOST_GONE * k {
                hits.truncate(k);
                return Ok(hits);
            }
            more *= 4;
        }
    }

    /// What the index tells of the file with that number, if that is still there.
    pub(super) fn entry(&self, id: usize) -> Result<&Entry, Problem> {
        let entry = self.index.entry(id).ok_or_else(nowhere)?;
        if is_itself(&entry.file) { Ok(entry) } else { Err(gone()) }
    }

    /// Opens the file with that number, if it holds `medium` and is as it was when it was taken into the index. What is read is what was
    /// checked, whatever happens to its name.
    fn open(&self, id: usize, medium: Medium) -> Result<Opened, Problem> {
        let entry = self.index.entry(id).filter(|entry| entry.medium == medium).ok_or_else(nowhere)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match open(&entry.file, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::MFILE | Errno::NFILE) => return Err(Problem::busy()),
            Err(_) => return Err(gone()),
        };
        let opened = Opened(file);
        // The name that the system knows leads through no links.
        if !std::fs::read_link(opened.path()).is_ok_and(|found| found == entry.file) {
            return Err(gone());
        }
        if stamp(&opened.path()) != (entry.bytes, entry.modified) {
            let why = "this file was changed since it was taken into the index; run cmd search index again, then start the server again";
            return Err(Problem::new(StatusCode::CONFLICT, why));
        }
        Ok(opened)
    }

    /// A picture of the index, as the model sees it or `side` pixels wide.
    pub(super) fn picture(&self, id: usize, side: Option<u32>) -> Result<Picture, Problem> {
        let form = side.map_or(self.pictures, |side| PictureForm::new(side, self.max_megapixels));
        let opened = self.open(id, Medium::Image)?;
        form.read(&opened.path()).map_err(|error| unreadable(&error.why()))
    }

    /// A sound of the index, as the model hears it.
    pub(super) fn sound(&self, id: usize) -> Result<Audio, Problem> {
        let opened = self.open(id, Medium::Speech)?;
        let read = self.audio.read_bounded(&opened.path(), f64::INFINITY);
        read.map_err(|error| unreadable(&error.why()))
    }
}

/// A file that is held, to be read by what holds it.
pub(super) struct Opened(pub(super) File);

impl Opened {
    /// Leads to what was opened, whatever its name, if it has one.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// Whether `path`, which was without links when the index was made, leads through none now.
fn is_itself(path: &Path) -> bool {
    std::fs::canonicalize(path).is_ok_and(|found| found == path)
}

fn nowhere() -> Problem {
    Problem::not_found("the index holds no such file")
}

fn gone() -> Problem {
    Problem::not_found("this file is gone, or lies behind a link")
}

pub(super) fn unreadable(why: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)
}

/// A 16-bit WAV file.
pub(super) fn wav(sound: &Audio, sample_rate: u32) -> Result<Vec<u8>, hound::Error> {
    let spec =
        hound::WavSpec { channels: 1, sample_rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec)?;
    for sample in &sound.samples {
        writer.write_sample((sample * f32::from(i16::MAX)).round().clamp(-32768.0, 32767.0) as i16)?;
    }
    writer.finalize()?;
    Ok(bytes.into_inner())
}
