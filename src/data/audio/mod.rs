//! Audio files as mono samples at the rate of the speech encoder.

mod compressed;
mod resample;
mod wav;

use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;

use super::DataError;
use super::guard::{guarded, open_regular};
use crate::telemetry::warn_once;
use compressed::Damage;

/// Bytes of the largest file that is read.
const MAX_BYTES: u64 = 1 << 30;
/// Sample rates that are believed.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Part of an utterance that is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// At most this many samples from the start.
    Start(usize),
    /// A window of at most `samples`; `place` in [0, 1) says where among the possible starts.
    Window {
        /// Length of the window.
        samples: usize,
        /// Where it starts.
        place: f32,
    },
}

/// Mono samples in [-1, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// The samples.
    pub samples: Vec<f32>,
    /// Samples of the whole file, before a window was taken.
    pub whole: usize,
}

/// A whole file, decoded and mixed down, at its own rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Mono samples in [-1, 1].
    pub samples: Vec<f32>,
    /// Samples a second.
    pub rate: u32,
    /// What its header says wrongly, if anything.
    pub wrong_header: Option<String>,
}

impl Audio {
    /// Reads a file as [`Recording::read`] does, resamples it to `sample_rate`, takes `clip` of it and pads it with zeros to
    /// `min_samples`.
    ///
    /// # Errors
    /// See [`Recording::read`].
    pub fn read(path: &Path, sample_rate: u32, min_samples: usize, clip: Clip) -> Result<Self, DataError> {
        let recording = Recording::read(path)?;
        if let Some(what) = &recording.wrong_header {
            warn_once(format!("{}: {what}; read to its real end", path.display()));
        }
        let mut samples = resample::resample(recording.samples, recording.rate, sample_rate)
            .map_err(|why| DataError::Sample { path: path.to_owned(), why })?;
        let whole = samples.len();
        match clip {
            Clip::Start(most) => samples.truncate(most),
            Clip::Window { samples: window, place } if whole > window => {
                let start = (f64::from(place) * (whole - window + 1) as f64) as usize;
                samples.drain(..start);
                samples.truncate(window);
            }
            Clip::Window { .. } => {}
        }
        if samples.len() < min_samples {
            samples.resize(min_samples, 0.0);
        }
        Ok(Self { samples, whole })
    }
}

/// What the header of a file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Samples a second.
    pub rate: u32,
    /// Length, where the header tells.
    pub seconds: Option<f64>,
    /// What it says wrongly, if anything.
    pub wrong_header: Option<String>,
}

/// Kinds of file, by their first bytes.
enum Kind {
    Wav,
    Compressed(Damage),
}

impl Kind {
    fn of(start: &[u8]) -> Result<Self, String> {
        match start {
            [] => Err("an empty file".to_owned()),
            [b'R', b'I', b'F', b'F', ..] | [b'R', b'F', b'6', b'4', ..] => Ok(Self::Wav),
            [b'f', b'L', b'a', b'C', ..] | [b'O', b'g', b'g', b'S', ..] => Ok(Self::Compressed(Damage::Refuse)),
            // The first frames of a cut MP3 stream lean on bytes that are gone.
            [b'I', b'D', b'3', ..] => Ok(Self::Compressed(Damage::PassOver)),
            [0xff, second, ..] if second & 0xe0 == 0xe0 => Ok(Self::Compressed(Damage::PassOver)),
            _ => Err("neither WAV nor FLAC, OGG or MP3".to_owned()),
        }
    }
}

impl Recording {
    /// Reads a WAV (8 to 32 bits, float, A-law, mu-law), FLAC, OGG Vorbis or MP3 file; the kind is seen from its content. Channels
    /// are averaged.
    ///
    /// # Errors
    /// When the file cannot be read or decoded, is empty or larger than 1 GiB, or holds NaN or infinite samples.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bad = |why: String| DataError::Sample { path: path.to_owned(), why };
        let mut file = open_regular(path).map_err(bad)?;
        let size = file.metadata().map_err(|error| bad(error.to_string()))?.len();
        if size > MAX_BYTES {
            return Err(bad(format!("{size} bytes; files of more than {MAX_BYTES} are not read")));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.read_to_end(&mut bytes).map_err(|error| bad(error.to_string()))?;
        let recording = Kind::of(&bytes).and_then(|kind| {
            guarded(|| match kind {
                Kind::Wav => wav::decode(bytes),
                Kind::Compressed(damage) => compressed::decode(Cursor::new(bytes), damage),
            })
        });
        let recording = recording.map_err(|why| bad(unreadable(&why)))?;
        if recording.samples.is_empty() {
            return Err(bad("no samples".to_owned()));
        }
        if !recording.samples.iter().all(|sample| sample.is_finite()) {
            return Err(bad("NaN or infinite samples".to_owned()));
        }
        check_rate(recording.rate).map_err(bad)?;
        Ok(recording)
    }

    /// Length in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate)
    }
}

impl Header {
    /// Reads the header of a file of the kinds of [`Recording::read`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bad = |why: String| DataError::Sample { path: path.to_owned(), why };
        let mut file = open_regular(path).map_err(bad)?;
        let mut start = Vec::new();
        file.by_ref().take(4).read_to_end(&mut start).map_err(|error| bad(error.to_string()))?;
        file.rewind().map_err(|error| bad(error.to_string()))?;
        let header = Kind::of(&start).and_then(|kind| {
            guarded(|| match kind {
                Kind::Wav => wav::header(BufReader::with_capacity(256, file)),
                Kind::Compressed(_) => compressed::header(file),
            })
        });
        let header = header.map_err(|why| bad(unreadable(&why)))?;
        if header.seconds == Some(0.0) {
            return Err(bad("no samples".to_owned()));
        }
        check_rate(header.rate).map_err(bad)?;
        Ok(header)
    }
}

fn unreadable(why: &str) -> String {
    format!("not readable audio ({why})")
}

fn check_rate(rate: u32) -> Result<(), String> {
    if RATES.contains(&rate) { Ok(()) } else { Err(format!("a sample rate of {rate} Hz")) }
}

/// The mean over channels of interleaved samples.
pub(super) fn mix_down(interleaved: Vec<f32>, channels: usize) -> Vec<f32> {
    match channels {
        0 | 1 => interleaved,
        _ => interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32).collect(),
    }
}

#[cfg(test)]
mod tests {
    use hound::SampleFormat;

    use super::*;

    fn write<S: hound::Sample + Copy>(
        bits: u16,
        format: SampleFormat,
        channels: u16,
        samples: &[S],
    ) -> tempfile::TempPath {
        let path = tempfile::Builder::new().suffix(".wav").tempfile().expect("a file").into_temp_path();
        let spec = hound::WavSpec { channels, sample_rate: 16_000, bits_per_sample: bits, sample_format: format };
        let mut writer = hound::WavWriter::create(&path, spec).expect("a writer");
        samples.iter().for_each(|sample| writer.write_sample(*sample).expect("written"));
        writer.finalize().expect("finished");
        path
    }

    const ALL: Clip = Clip::Start(usize::MAX);

    #[test]
    fn every_width_has_the_same_scale() {
        let half = |path: &Path| Audio::read(path, 16_000, 1, ALL).expect("audio").samples;
        assert_eq!(half(&write(8, SampleFormat::Int, 1, &[64i8, -64])), [0.5, -0.5]);
        assert_eq!(half(&write(16, SampleFormat::Int, 1, &[1i16 << 14, -(1 << 14)])), [0.5, -0.5]);
        assert_eq!(half(&write(24, SampleFormat::Int, 1, &[1i32 << 22, -(1 << 22)])), [0.5, -0.5]);
        assert_eq!(half(&write(32, SampleFormat::Int, 1, &[1i32 << 30, -(1 << 30)])), [0.5, -0.5]);
        assert_eq!(half(&write(32, SampleFormat::Float, 1, &[0.5f32, -0.5])), [0.5, -0.5]);
    }

    #[test]
    fn channels_are_mixed_and_short_files_padded() {
        let path = write(32, SampleFormat::Float, 2, &[0.2f32, 0.4, -1.0, 1.0]);
        let audio = Audio::read(&path, 16_000, 4, ALL).expect("audio");
        assert!((audio.samples[0] - 0.3).abs() < 1e-6);
        assert_eq!((audio.samples[1..].to_vec(), audio.whole), (vec![0.0; 3], 2));
    }

    #[test]
    fn windows_lie_within_the_file() {
        let samples: Vec<f32> = (0..100).map(|n| n as f32 / 100.0).collect();
        let path = write(32, SampleFormat::Float, 1, &samples);
        let first = |place| {
            let audio = Audio::read(&path, 16_000, 1, Clip::Window { samples: 40, place }).expect("audio");
            assert_eq!(audio.samples.len(), 40);
            (audio.samples[0] * 100.0).round() as i64
        };
        assert_eq!((first(0.0), first(0.5), first(0.999_999)), (0, 30, 60));
    }

    #[test]
    fn bad_files_say_why() {
        let message = |path: &Path| Audio::read(path, 16_000, 1, ALL).expect_err("an error").to_string();
        assert!(message(&write(32, SampleFormat::Float, 1, &[0.1f32, f32::NAN])).contains("NaN"));
        assert!(message(&write::<f32>(32, SampleFormat::Float, 1, &[])).contains("no samples"));
        assert!(message(Path::new("/no/such.wav")).contains("/no/such.wav: No such file"));
        let text = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(text.path(), "hello").expect("written");
        assert!(message(text.path()).contains("neither WAV nor FLAC"), "{}", message(text.path()));
        std::fs::write(text.path(), "").expect("written");
        assert!(message(text.path()).contains("an empty file"));
        std::fs::write(text.path(), b"RIFF\x04\0\0\0WAVE").expect("written");
        assert!(message(text.path()).contains("no samples in it"), "{}", message(text.path()));
    }

    #[test]
    fn a_wrong_length_in_the_header_is_no_matter() {
        let samples: Vec<i16> = (0..500).map(|n| 7 * n).collect();
        let path = write(16, SampleFormat::Int, 1, &samples);
        let good = std::fs::read(&path).expect("bytes");
        let whole = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            let recording = Recording::read(&path).expect("audio");
            (recording.samples.len(), recording.wrong_header.is_some())
        };
        let stated = |length: u32| [&good[..40], &length.to_le_bytes(), &good[44..]].concat();
        assert_eq!(whole(&good), (500, false));
        assert_eq!(whole(&good[..good.len() - 600]), (200, true));
        assert_eq!(whole(&good[..good.len() - 601]), (199, true));
        for length in [0, 200, 999, 100_000, u32::MAX] {
            assert_eq!(whole(&stated(length)), (500, true), "{length}");
        }
        let chunk_after = [&good[..], b"LIST\x04\0\0\0INFO"].concat();
        assert_eq!(whole(&chunk_after), (500, false));
    }
}
