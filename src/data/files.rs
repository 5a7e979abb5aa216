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

impl std::str::FromStr for Medium {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = [Self::Speech, Self::Image].into_iter().find(|medium| medium.name() == text);
        named.ok_or_else(|| "must be images or speech".to_owned())
    }
}

impl Medium {
    /// What files of it are called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Speech => "speech",
            Self::Image => "images",
        }
    }

    /// The one that goes with it.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Speech => Self::Image,
            Self::Image => Self::Speech,
        }
    }

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
/// dot is left out, and links to folders are not followed. Of a folder that cannot be read, and of a name that cannot stand in a list,
/// `refused` is told; what it lets pass is left out.
///
/// # Errors
/// What `refused` makes of it.
pub fn files_below(
    folder: &Path,
    refused: &mut dyn FnMut(DataError) -> Result<(), DataError>,
) -> Result<Vec<(PathBuf, Medium)>, DataError> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        let entries = match std::fs::read_dir(&folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => {
                refused(DataError::Unreadable { path: folder, why: error.to_string() })?;
                continue;
            }
        };
        for entry in entries.into_iter().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')) {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            } else if let Some(medium) = Medium::by_name(&path).filter(|_| !path.is_dir()) {
                match check_name(&path) {
                    Ok(()) => found.push((path, medium)),
                    Err(error) => refused(error)?,
                }
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
        // A name that is no text costs itself alone, and only where that is wanted.
        use std::os::unix::ffi::OsStrExt;
        let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"b/\xff.wav"));
        std::fs::write(&odd, "").expect("written");
        assert!(files_below(folder.path(), &mut Err).is_err_and(|error| error.to_string().contains("Unicode")));
        let mut refused = Vec::new();
        let found = files_below(folder.path(), &mut |error| {
            refused.push(error);
            Ok(())
        })
        .expect("read");
        assert_eq!(refused.len(), 1);
        let names: Vec<(&str, Medium)> = found
            .iter()
            .map(|(path, medium)| (path.strip_prefix(folder.path()).expect("below").to_str().expect("a name"), *medium))
            .collect();
        assert_eq!(names, [("a.flac", Medium::Speech), ("b/1.wav", Medium::Speech), ("b/2.JPG", Medium::Image)]);
    }
}
