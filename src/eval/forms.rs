//! Vectors of files in the forms that other tools read: safetensors, NumPy's files, JSON Lines.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::growing::{Embedded, Growing};
use crate::checkpoint::stream_whole;
use crate::data::Medium;

/// A form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `speech` [S, E], `images` [I, E], with frames `frames` [ΣT, E] and `offsets` [S + 1] into them; the files as JSON in its metadata.
    Safetensors,
    /// One array [n, E], the files a line each beside it, frames and offsets too.
    Npy,
    /// A line a file.
    JsonLines,
}

/// Rows of the speech encoder's frames that stand behind S_cls.
fn frames_of(file: &Embedded) -> usize {
    if file.medium == Medium::Speech { file.rows.saturating_sub(1) } else { 0 }
}

/// What of a file's rows goes into an array.
#[derive(Clone, Copy)]
enum Array {
    /// The first row of files that hold this.
    Own(Medium),
    /// All others.
    Frames,
}

impl Array {
    fn count(self, file: &Embedded) -> usize {
        match self {
            Self::Own(medium) => usize::from(file.medium == medium && file.rows > 0),
            Self::Frames => frames_of(file),
        }
    }

    fn total(self, growing: &Growing) -> usize {
        growing.done().iter().map(|file| self.count(file)).sum()
    }

    /// Writes its values, row by row, little-endian as this machine's are.
    fn write(self, growing: &Growing, out: &mut impl Write) -> std::io::Result<()> {
        for file in growing.each()? {
            let (file, rows) = file?;
            let first = if matches!(self, Self::Frames) { growing.width() } else { 0 };
            let count = self.count(file) * growing.width();
            out.write_all(bytemuck::cast_slice(rows.get(first..first + count).unwrap_or_default()))?;
        }
        Ok(())
    }
}

impl Form {
    /// By the ending of the name of the file that is wanted.
    #[must_use]
    pub fn by_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "safetensors" => Some(Self::Safetensors),
            "npy" => Some(Self::Npy),
            "jsonl" => Some(Self::JsonLines),
            _ => None,
        }
    }

    /// Whether it holds sounds and pictures in one file.
    #[must_use]
    pub fn holds_both(self) -> bool {
        self != Self::Npy
    }

    /// Writes `growing` to `target`; of a split, `owners` are the rows of images that its utterances speak of.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(self, growing: &Growing, owners: Option<&[i64]>, target: &Path) -> std::io::Result<()> {
        let beside = |ending: &str| target.with_extension(ending);
        match self {
            Self::Safetensors => stream_whole(target, |out| safetensors(growing, owners, out)),
            Self::JsonLines => stream_whole(target, |out| json_lines(growing, out)),
            Self::Npy => {
                let medium = growing.done().first().map_or(Medium::Speech, |file| file.medium);
                if growing.done().iter().any(|file| frames_of(file) > 0) {
                    stream_whole(&beside("frames.npy"), |out| npy(growing, Array::Frames, out))?;
                    let offsets = offsets(growing);
                    stream_whole(&beside("offsets.npy"), |out| {
                        out.write_all(&npy_header("'<i8'", &format!("{},", offsets.len())))?;
                        out.write_all(bytemuck::cast_slice(&offsets))
                    })?;
                } else {
                    // Those of what stood here before would be taken for this one's.
                    for ending in ["frames.npy", "offsets.npy"] {
                        let _ = std::fs::remove_file(beside(ending));
                    }
                }
                let files = growing.done().iter().filter(|file| Array::Own(medium).count(file) > 0);
                let names: String =
                    files.flat_map(|file| [file.file.to_string_lossy().into_owned(), "\n".to_owned()]).collect();
                stream_whole(&beside("files.txt"), |out| out.write_all(names.as_bytes()))?;
                stream_whole(target, |out| npy(growing, Array::Own(medium), out))
            }
        }
    }
}

/// A line of JSON for a file with these rows.
pub fn json_line(file: &Embedded, rows: &[f32], width: usize) -> Value {
    let mut line = json!({ "file": file.file.to_string_lossy(), "medium": file.medium });
    if let Some(why) = &file.skipped {
        line["skipped"] = why.clone().into();
        return line;
    }
    let mut rows = rows.chunks_exact(width);
    line["embedding"] = json!(rows.next());
    if frames_of(file) > 0 {
        line["frames"] = json!(rows.collect::<Vec<_>>());
    }
    line
}

fn safetensors(growing: &Growing, owners: Option<&[i64]>, out: &mut impl Write) -> std::io::Result<()> {
    let width = growing.width();
    let (mut header, mut end) = (json!({}), 0);
    let mut metadata = json!({ "format": "pt" });
    let mut arrays = Vec::new();
    let mut add = |header: &mut Value, name: &str, kind: &str, shape: &[usize], size: usize| {
        let bytes = shape.iter().product::<usize>() * size;
        header[name] = json!({ "dtype": kind, "shape": shape, "data_offsets": [end, end + bytes] });
        end += bytes;
    };
    for (name, medium) in [("speech", Medium::Speech), ("images", Medium::Image)] {
        let rows = Array::Own(medium);
        if rows.total(growing) > 0 {
            add(&mut header, name, "F32", &[rows.total(growing), width], 4);
            arrays.push(rows);
            let files = growing.done().iter().filter(|file| rows.count(file) > 0);
            let names: Vec<String> = files.map(|file| file.file.to_string_lossy().into_owned()).collect();
            metadata[name] = serde_json::to_string(&names)?.into();
        }
    }
    let offsets = offsets(growing);
    let has_frames = offsets.last().is_some_and(|count| *count > 0);
    if has_frames {
        add(&mut header, "frames", "F32", &[Array::Frames.total(growing), width], 4);
        arrays.push(Array::Frames);
        add(&mut header, "offsets", "I64", &[offsets.len()], 8);
    }
    if let Some(owners) = owners {
        add(&mut header, "owners", "I64", &[owners.len()], 8);
    }
    header["__metadata__"] = metadata;
    let mut text = header.to_string();
    // Values begin at a multiple of 8.
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())?;
    for rows in arrays {
        rows.write(growing, out)?;
    }
    if has_frames {
        out.write_all(bytemuck::cast_slice(&offsets))?;
    }
    out.write_all(bytemuck::cast_slice(owners.unwrap_or_default()))
}

fn json_lines(growing: &Growing, out: &mut impl Write) -> std::io::Result<()> {
    for file in growing.each()? {
        let (file, rows) = file?;
        writeln!(out, "{}", json_line(file, &rows, growing.width()))?;
    }
    Ok(())
}

fn npy(growing: &Growing, array: Array, out: &mut impl Write) -> std::io::Result<()> {
    out.write_all(&npy_header("'<f4'", &format!("{}, {}", array.total(growing), growing.width())))?;
    array.write(growing, out)
}

/// The header of version 1.0 of numpy.lib.format: `kind` as its dtype is written there, `shape` what stands between its brackets.
#[must_use]
pub fn npy_header(kind: &str, shape: &str) -> Vec<u8> {
    let mut text = format!("{{'descr': {kind}, 'fortran_order': False, 'shape': ({shape}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.extend(std::iter::repeat_n(' ', length - 1 - text.len()));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&(length as u16).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
    header
}

/// Where the frames of each utterance begin, and where the last ones end.
fn offsets(growing: &Growing) -> Vec<i64> {
    let mut offsets = vec![0];
    for file in growing.done().iter().filter(|file| Array::Own(Medium::Speech).count(file) > 0) {
        offsets.push(offsets.last().copied().unwrap_or(0) + frames_of(file) as i64);
    }
    offsets
}
