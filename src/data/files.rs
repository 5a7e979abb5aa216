//! Sounds and pictures in files and folders, without an index.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Audio, AudioForm, Clip, DataError, Header, Picture, PictureForm, Weight};
use crate::telemetry::warn_once;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// Sound.
    Speech,
    /// A picture.
    Image,
}

const SOUNDS: [&str; 6] = ["wav", "wave", "flac", "ogg", "oga", "mp3"];
const PICTURES: [&str; 6] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp"];

impl Medium {
    /// By the ending of a name.
    #[must_use]
    pub fn by_name(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        let ends = |known: &[&str]| known.contains(&&*ending);
        if ends(&SOUNDS) { Some(Self::Speech) } else { ends(&PICTURES).then_some(Self::Image) }
    }

    /// By the ending of its name or, where that says nothing, by what it holds.
    ///
    /// # Errors
    /// When it is neither.
    pub fn of(path: &Path) -> Result<Self, DataError> {
        check_name(path)?;
        if let Some(medium) = Self::by_name(path) {
            return Ok(medium);
        }
        if PictureForm::new(1, i64::from(u32::MAX)).check(path, false).is_ok() {
            return Ok(Self::Image);
        }
        let sound = Header::read(path).map(|_| Self::Speech);
        sound.map_err(|error| match error {
            DataError::Sample { path, why } => DataError::Sample { path, why: format!("no picture, and {why}") },
            other => other,
        })
    }
}

/// What was read of a file.
#[derive(Clone, Debug)]
pub enum Content {
    /// Of a sound.
    Sound(Audio),
    /// Of a picture.
    Picture(Picture),
}

impl Content {
    /// Reads a file that holds `medium`: a sound from its start, a picture whole.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path, medium: Medium, audio: AudioForm, pictures: PictureForm) -> Result<Self, DataError> {
        match medium {
            Medium::Speech => {
                let sound = audio.read(path, Clip::Start(audio.max_samples))?;
                if sound.whole > audio.max_samples {
                    warn_once(format!("{}: cut to audio.eval_max_seconds", path.display()));
                }
                Ok(Self::Sound(sound))
            }
            Medium::Image => pictures.read(path).map(Self::Picture),
        }
    }
}

impl Weight for Content {
    fn weight(&self) -> usize {
        match self {
            Self::Sound(sound) => sound.weight(),
            Self::Picture(picture) => picture.weight(),
        }
    }
}

/// The sounds and pictures in `folder` and the folders in it, by their names' endings and in the order of their paths. What begins with a
/// dot is left out, and links to folders are not followed.
///
/// # Errors
/// When a folder cannot be read, or the name of a file cannot stand in a list.
pub fn files_below(folder: &Path) -> Result<Vec<(PathBuf, Medium)>, DataError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| DataError::Unreadable { path, why: error.to_string() }
    };
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).map_err(failed(&folder))? {
            let entry = entry.map_err(failed(&folder))?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            let path = entry.path();
            if entry.file_type().map_err(failed(&path))?.is_dir() {
                open.push(path);
            } else if let Some(medium) = Medium::by_name(&path).filter(|_| !path.is_dir()) {
                check_name(&path)?;
                found.push((path, medium));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Size of a file, and when it was changed last, in nanoseconds since 1970: a file that was changed has others.
#[must_use]
pub fn stamp(path: &Path) -> (u64, u64) {
    let Ok(file) = std::fs::metadata(path) else { return (0, 0) };
    let modified = file.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    (file.len(), modified.map_or(0, |time| time.as_nanos() as u64))
}

/// Names go into lists that other programs read.
fn check_name(path: &Path) -> Result<(), DataError> {
    let why = match path.to_str() {
        None => "its name is not valid Unicode; rename it",
        Some(name) if name.contains(['\n', '\r']) => "its name holds a line break; rename it",
        Some(_) => return Ok(()),
    };
    Err(DataError::Sample { path: path.to_owned(), why: why.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_walked_in_order_without_what_is_hidden() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b/2.JPG", "b/1.wav", "a.flac", "c.txt", ".hidden.png", ".git/x.png"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        std::os::unix::fs::symlink("..", folder.path().join("b/up")).expect("a link");
        let found = files_below(folder.path()).expect("read");
        let names: Vec<(&str, Medium)> = found
            .iter()
            .map(|(path, medium)| (path.strip_prefix(folder.path()).expect("below").to_str().expect("a name"), *medium))
            .collect();
        assert_eq!(names, [("a.flac", Medium::Speech), ("b/1.wav", Medium::Speech), ("b/2.JPG", Medium::Image)]);
    }
}
