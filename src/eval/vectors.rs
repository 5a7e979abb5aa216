//! Embeddings of any system as files: `speech` [S, E], `images` [I, E] and `owners` `[S]`, the row of `images` that each utterance speaks of.
//! They lie in a folder as `embeddings.safetensors`, or as `speech.npy`, `images.npy` and `owners.npy`; names, a line each, may lie beside them
//! in `speech_ids.txt` and `image_ids.txt`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use super::Embeddings;
use crate::data::Split;
use crate::model::{LibtorchError, catch_libtorch, numbers_of};

const TOGETHER: &str = "embeddings.safetensors";
const SPEECH_IDS: &str = "speech_ids.txt";
const IMAGE_IDS: &str = "image_ids.txt";
/// How far the length of a row may be from 1 that counts as 1: that of 16-bit floats.
const UNIT: f64 = 5e-3;

/// How two embeddings are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Each row is brought to length 1 first.
    Cosine,
    /// The product as it is.
    Dot,
}

impl std::str::FromStr for Score {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cosine" => Ok(Self::Cosine),
            "dot" => Ok(Self::Dot),
            _ => Err("must be cosine or dot".to_owned()),
        }
    }
}

/// Embeddings that can be ranked, with names of their rows.
#[derive(Debug)]
pub struct Vectors {
    /// [S, E], f32.
    pub speech: Tensor,
    /// [I, E], f32.
    pub images: Tensor,
    /// Of each row of `speech`, its row of `images`.
    pub owners: Vec<usize>,
    /// Of each row of `speech`; without blanks, each once.
    pub speech_ids: Vec<String>,
    /// Of each row of `images`, the same.
    pub image_ids: Vec<String>,
}

/// Files that are no embeddings.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct VectorsError {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong, and how to mend it.
    pub why: String,
}

impl Vectors {
    /// The embeddings of `split`; names of rows are those of files.
    #[must_use]
    pub fn of(split: &Split, embeddings: &Embeddings) -> Self {
        let sounds = embeddings.utterances.iter().map(|utterance| &*split.utterances[*utterance].audio);
        let images = embeddings.gallery.iter().map(|image| &*split.images[*image].path);
        Self {
            speech: embeddings.speech.shallow_clone(),
            images: embeddings.images.shallow_clone(),
            owners: embeddings.owners.clone(),
            speech_ids: names(&sounds.collect::<Vec<_>>()),
            image_ids: names(&images.collect::<Vec<_>>()),
        }
    }

    /// The embeddings in `folder`, compared by `score`; without it, all rows must be of length 1.
    ///
    /// # Errors
    /// When they cannot be read, do not fit together, or hold numbers that are not finite.
    pub fn read(folder: &Path, score: Option<Score>) -> Result<Self, VectorsError> {
        let wrong = |why: String| VectorsError { path: folder.to_owned(), why };
        let [speech, images, owners] = tensors(folder)?;
        for (name, tensor) in [("speech", &speech), ("images", &images)] {
            if tensor.dim() != 2
                || tensor.size()[0] == 0
                || !matches!(tensor.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16)
            {
                return Err(wrong(format!(
                    "{name} is {:?} {:?}, but must be rows of floats [rows, width]",
                    tensor.kind(),
                    tensor.size()
                )));
            }
        }
        if speech.size()[1] != images.size()[1] {
            return Err(wrong(format!("speech is {} wide and images are {}", speech.size()[1], images.size()[1])));
        }
        let prepare = |tensor: &Tensor| {
            catch_libtorch(|| {
                let values = tensor.to_kind(Kind::Double);
                let lengths = values.norm_scalaropt_dim(2, [1i64].as_slice(), true);
                let off = (&lengths - 1.0).abs().max().double_value(&[]);
                let values = if score == Some(Score::Cosine) { values / lengths.clamp_min(1e-30) } else { values };
                (values.to_kind(Kind::Float), lengths.isfinite().all().int64_value(&[]) == 1, off)
            })
            .map_err(|LibtorchError { why }| wrong(why))
        };
        let (speech, speech_is_finite, speech_off) = prepare(&speech)?;
        let (images, images_are_finite, images_off) = prepare(&images)?;
        if !speech_is_finite || !images_are_finite {
            return Err(wrong("holds NaN or infinite values".to_owned()));
        }
        if score.is_none() && speech_off.max(images_off) > UNIT {
            return Err(wrong(
                "its rows are not of length 1: say how they are compared, --score cosine or --score dot".to_owned(),
            ));
        }
        let (utterances, count) = (speech.size()[0] as usize, images.size()[0] as usize);
        let whole = matches!(owners.kind(), Kind::Int64 | Kind::Int | Kind::Int16 | Kind::Uint8 | Kind::Int8);
        let numbers = if whole && owners.dim() == 1 { numbers_of(&owners.to_kind(Kind::Int64)).ok() } else { None };
        let owners: Option<Vec<usize>> = numbers.map(|numbers| {
            numbers.into_iter().filter_map(|number| usize::try_from(number).ok().filter(|row| *row < count)).collect()
        });
        let owners = owners.filter(|owners| owners.len() == utterances).ok_or_else(|| {
            wrong(format!("owners must be {utterances} whole numbers, the row of images (0 to {}) that each row of speech speaks of", count - 1))
        })?;
        let speech_ids = ids(&folder.join(SPEECH_IDS), "s", utterances)?;
        let image_ids = ids(&folder.join(IMAGE_IDS), "i", count)?;
        Ok(Self { speech, images, owners, speech_ids, image_ids })
    }

    /// Says why `other` does not hold the same queries and items.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_same(&self, other: &Self) -> Result<(), String> {
        let sides = [("speech", &self.speech_ids, &other.speech_ids), ("images", &self.image_ids, &other.image_ids)];
        for (side, ours, theirs) in sides {
            if ours.len() != theirs.len() {
                return Err(format!("{side} has {} rows, not {}", theirs.len(), ours.len()));
            }
            if [ours, theirs].into_iter().any(|ids| are_numbers(ids)) {
                continue;
            }
            if let Some((ours, theirs)) = ours.iter().zip(theirs).find(|(ours, theirs)| ours != theirs) {
                return Err(format!("a row of {side} is {theirs}, not {ours}"));
            }
        }
        if self.owners == other.owners { Ok(()) } else { Err("its owners are others".to_owned()) }
    }

    /// Writes them into `folder`, which is made.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let owners: Vec<i64> = self.owners.iter().map(|owner| *owner as i64).collect();
        let owners = Tensor::from_slice(&owners);
        let all = [("speech", &self.speech), ("images", &self.images), ("owners", &owners)];
        let all: Vec<(&str, Tensor)> = all.into_iter().map(|(name, tensor)| (name, tensor.contiguous())).collect();
        Tensor::write_safetensors(&all, folder.join(TOGETHER)).map_err(std::io::Error::other)?;
        let lines = |ids: &[String]| ids.iter().flat_map(|id| [id, "\n"]).collect::<String>();
        std::fs::write(folder.join(SPEECH_IDS), lines(&self.speech_ids))?;
        std::fs::write(folder.join(IMAGE_IDS), lines(&self.image_ids))
    }
}

/// Speech, images and owners.
fn tensors(folder: &Path) -> Result<[Tensor; 3], VectorsError> {
    let wrong = |path: PathBuf, why: String| VectorsError { path, why };
    let together = folder.join(TOGETHER);
    if together.is_file() {
        let read = catch_libtorch(|| Tensor::read_safetensors(&together)).map_err(|error| error.why);
        let read = read.and_then(|read| read.map_err(|error| error.to_string()));
        let mut found = read.map_err(|why| wrong(together.clone(), why))?;
        let mut take = |name: &str| {
            let place = found.iter().position(|(found, _)| found == name);
            let place = place.ok_or_else(|| {
                wrong(together.clone(), format!("no tensor {name}; it holds speech, images and owners"))
            })?;
            Ok(found.swap_remove(place).1)
        };
        return Ok([take("speech")?, take("images")?, take("owners")?]);
    }
    let read = |name: &str| {
        let path = folder.join(format!("{name}.npy"));
        if !path.is_file() {
            let why = format!(
                "is not there, and neither is {TOGETHER}: a folder of embeddings holds that or speech.npy, images.npy and owners.npy"
            );
            return Err(wrong(path, why));
        }
        check_npy(&path).map_err(|why| wrong(path.clone(), why))?;
        let read = catch_libtorch(|| Tensor::read_npy(&path)).map_err(|error| error.why);
        read.and_then(|read| {
            read.map_err(|error| {
                format!("{error}; write it with numpy.save, contiguous, as numpy.float32 or numpy.int64")
            })
        })
        .map_err(|why| wrong(path, why))
    };
    Ok([read("speech")?, read("images")?, read("owners")?])
}

/// Says why the values in the file `path` are fewer or more than its header states: libtorch would read on.
fn check_npy(path: &Path) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let broken = || "no whole file of numpy.save".to_owned();
    let length = match (bytes.get(..6), bytes.get(6)) {
        (Some(b"\x93NUMPY"), Some(1)) => {
            bytes.get(8..10).map(|two| 10 + usize::from(two[0]) + 256 * usize::from(two[1]))
        }
        (Some(b"\x93NUMPY"), Some(2 | 3)) => {
            bytes.get(8..12).map(|four| 12 + u32::from_le_bytes([four[0], four[1], four[2], four[3]]) as usize)
        }
        _ => None,
    };
    let length = length.filter(|length| *length <= bytes.len()).ok_or_else(broken)?;
    let header = String::from_utf8_lossy(&bytes[10..length]);
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ', '\'']));
    let kind = after("'descr'").and_then(|rest| rest.split('\'').next()).ok_or_else(broken)?;
    let size: usize = kind.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().map_err(|_| broken())?;
    let shape = after("'shape'").and_then(|rest| rest.trim_start_matches('(').split(')').next()).ok_or_else(broken)?;
    let mut count = Some(size);
    for dimension in shape.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        count = count.and_then(|count| count.checked_mul(dimension.parse().ok()?));
    }
    if count == Some(bytes.len() - length) { Ok(()) } else { Err(broken()) }
}

/// The `count` lines of `path`, or `letter` and a number each where there is no such file.
fn ids(path: &Path, letter: &str, count: usize) -> Result<Vec<String>, VectorsError> {
    let wrong = |why: String| VectorsError { path: path.to_owned(), why };
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((0..count).map(|number| format!("{letter}{number}")).collect());
        }
        text => text.map_err(|error| wrong(error.to_string()))?,
    };
    let ids: Vec<String> = text.lines().map(str::to_owned).collect();
    if ids.len() != count {
        return Err(wrong(format!("holds {} names for {count} rows", ids.len())));
    }
    let mut sorted: Vec<&String> = ids.iter().collect();
    sorted.sort_unstable();
    let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    if let Some(id) = twice.or_else(|| ids.iter().find(|id| id.is_empty() || id.contains(char::is_whitespace))) {
        return Err(wrong(format!("{id:?}: a name must be there once, and hold no blanks")));
    }
    Ok(ids)
}

/// Whether `ids` are those that rows without names have.
fn are_numbers(ids: &[String]) -> bool {
    ids.iter().enumerate().all(|(number, id)| id.get(1..) == Some(&number.to_string()) && id.starts_with(['s', 'i']))
}

/// The paths below the folder that all of them share, with blanks as %20 and the like; of one that is there again, the second ends in #2.
fn names(paths: &[&Path]) -> Vec<String> {
    let mut shared = paths.first().and_then(|path| path.parent()).unwrap_or(Path::new("")).to_owned();
    for path in paths {
        while !path.starts_with(&shared) && shared.pop() {}
    }
    let name = |path: &&Path| {
        let text = path.strip_prefix(&shared).unwrap_or(path).to_string_lossy().into_owned();
        let escaped = |c: char| {
            if c.is_whitespace() || c.is_control() || c == '%' {
                c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect()
            } else {
                c.to_string()
            }
        };
        text.chars().map(escaped).collect::<String>()
    };
    let mut seen = HashMap::new();
    let numbered = |name: String| {
        let count = seen.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
        if *count > 1 { format!("{name}#{count}") } else { name }
    };
    paths.iter().map(name).map(numbered).collect()
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn names_are_the_files_below_what_they_share() {
        let paths = ["/a/b/x y.wav", "/a/b/c/50%.wav", "/a/b/ü.wav", "/a/b/ü.wav"].map(Path::new);
        assert_eq!(names(&paths), ["x%20y.wav", "c/50%25.wav", "ü.wav", "ü.wav#2"]);
        assert_eq!(names(&[Path::new("/a/b.wav")]), ["b.wav"]);
    }

    #[test]
    fn what_was_written_is_read_and_what_is_wrong_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let vectors = Vectors {
            speech: unit(3),
            images: unit(2),
            owners: vec![1, 0, 1],
            speech_ids: ["a", "b", "c"].map(str::to_owned).into(),
            image_ids: ["x", "y"].map(str::to_owned).into(),
        };
        vectors.write(path).expect("written");
        let read = Vectors::read(path, None).expect("read");
        assert_eq!(
            (&read.owners, &read.speech_ids, &read.image_ids),
            (&vectors.owners, &vectors.speech_ids, &vectors.image_ids)
        );
        assert_eq!(read.speech, vectors.speech);

        let refused = |score| Vectors::read(path, score).expect_err("refused").to_string();
        std::fs::write(path.join(SPEECH_IDS), "a\nb\nb\n").expect("written");
        assert!(refused(None).contains("\"b\": a name must be there once"));
        std::fs::write(path.join(SPEECH_IDS), "a\nb\n").expect("written");
        assert!(refused(None).contains("holds 2 names for 3 rows"));
        std::fs::remove_file(path.join(SPEECH_IDS)).expect("removed");
        Vectors { speech: unit(3) * 2.0, ..vectors }.write(path).expect("written");
        std::fs::remove_file(path.join(SPEECH_IDS)).expect("removed");
        assert!(refused(None).contains("--score cosine or --score dot"));
        let scaled = |score| Vectors::read(path, Some(score)).expect("read").speech.get(0).norm().double_value(&[]);
        assert!((scaled(Score::Cosine) - 1.0).abs() < 1e-6 && (scaled(Score::Dot) - 2.0).abs() < 1e-6);

        std::fs::remove_file(path.join(TOGETHER)).expect("removed");
        assert!(refused(None).contains("speech.npy: is not there, and neither is embeddings.safetensors"));
        unit(3).write_npy(path.join("speech.npy")).expect("written");
        unit(2).write_npy(path.join("images.npy")).expect("written");
        Tensor::from_slice(&[0i32, 1, 2]).write_npy(path.join("owners.npy")).expect("written");
        assert!(refused(None).contains("owners must be 3 whole numbers, the row of images (0 to 1)"));
        Tensor::from_slice(&[0i32, 1, 1]).write_npy(path.join("owners.npy")).expect("written");
        let read = Vectors::read(path, None).expect("read");
        assert_eq!(
            (read.speech_ids, read.image_ids),
            (["s0", "s1", "s2"].map(str::to_owned).into(), vec!["x".to_owned(), "y".to_owned()])
        );
        (unit(2) * f64::NAN).write_npy(path.join("images.npy")).expect("written");
        assert!(refused(Some(Score::Dot)).contains("NaN or infinite"));
        unit(2).narrow(1, 0, 3).contiguous().write_npy(path.join("images.npy")).expect("written");
        assert!(refused(None).contains("speech is 4 wide and images are 3"));
        std::fs::write(path.join("images.npy"), b"no array").expect("written");
        assert!(refused(None).contains("images.npy: no whole file"));
        unit(2).write_npy(path.join("images.npy")).expect("written");
        for name in ["images.npy", "speech.npy", "owners.npy"] {
            let whole = std::fs::read(path.join(name)).expect("read");
            for kept in [whole.len() - 1, whole.len() - 8, whole.len() / 2, 9, 0] {
                std::fs::write(path.join(name), &whole[..kept]).expect("written");
                assert!(refused(None).contains("no whole file of numpy.save"), "{name} {kept}");
            }
            std::fs::write(path.join(name), whole).expect("written");
        }
        Vectors::read(path, None).expect("whole again");
    }

    fn unit(rows: i64) -> Tensor {
        let values = Tensor::arange(rows * 4, (Kind::Float, Device::Cpu)).view([rows, 4]) + 1.0;
        &values / values.norm_scalaropt_dim(2, [1i64].as_slice(), true)
    }
}
