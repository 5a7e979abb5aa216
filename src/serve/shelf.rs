//! What is served: an index, and the files that it names and no other.

use std::path::Path;

use axum::http::StatusCode;

use super::problem::Problem;
use crate::data::{Audio, AudioForm, Clip, Medium, Picture, PictureForm, stamp};
use crate::search::{EFFORT, Entry, Hit, Index};

/// What a page is told of itself.
#[derive(Clone, Debug)]
pub struct About {
    /// Name of the checkpoint's run.
    pub checkpoint: String,
    /// Name of the index.
    pub index: String,
    /// Whether utterances can be asked where they look.
    pub attention: bool,
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
    /// What is nearest to `query`, without files that are not shown.
    pub(super) fn search(&self, query: &[f32], medium: Medium, k: usize) -> Result<Vec<Hit<'_>>, Problem> {
        let mut hits = self.index.search(query, medium, k, Some(EFFORT)).map_err(Problem::failed)?;
        hits.retain(|hit| is_itself(hit.file));
        Ok(hits)
    }

    /// The file with that number, if it holds `medium` and is as it was when it was taken into the index.
    pub(super) fn entry(&self, id: usize, medium: Option<Medium>) -> Result<&Entry, Problem> {
        let entry = self.index.entry(id).filter(|entry| medium.is_none_or(|medium| entry.medium == medium));
        let entry = entry.ok_or_else(|| Problem::not_found("the index holds no such file"))?;
        if !is_itself(&entry.file) {
            return Err(Problem::not_found("this file is gone, or has become a link"));
        }
        if stamp(&entry.file) != (entry.bytes, entry.modified) {
            let why = "this file was changed since it was taken into the index; run cmd search index again";
            return Err(Problem::new(StatusCode::CONFLICT, why));
        }
        Ok(entry)
    }

    /// A picture of the index, as the model sees it or `side` pixels wide.
    pub(super) fn picture(&self, id: usize, side: Option<u32>) -> Result<Picture, Problem> {
        let form = side.map_or(self.pictures, |side| PictureForm::new(side, self.max_megapixels));
        let entry = self.entry(id, Some(Medium::Image))?;
        form.read(&entry.file).map_err(|error| unreadable(&error.why()))
    }

    /// A sound of the index, as the model hears it.
    pub(super) fn sound(&self, id: usize) -> Result<Audio, Problem> {
        let entry = self.entry(id, Some(Medium::Speech))?;
        let read = self.audio.read(&entry.file, Clip::Start(self.audio.max_samples));
        read.map_err(|error| unreadable(&error.why()))
    }
}

/// Whether `path`, which was without links when the index was made, leads through none now: so nothing outside is shown.
fn is_itself(path: &Path) -> bool {
    std::fs::canonicalize(path).is_ok_and(|found| found == path)
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
