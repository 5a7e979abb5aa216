//! Audio files as mono samples at the rate of the speech encoder.

mod adpcm;
mod clip;
mod compressed;
mod kind;
mod mp3;
mod ogg;
mod resample;
mod riff;
mod source;
mod wav;

use std::path::Path;

use super::DataError;
use super::budget::{Budget, SAMPLES};
use super::guard::guarded;
use crate::telemetry::warn_once;
pub use clip::Clip;
use clip::{Extent, at_rate};
use source::Source;

/// Sample rates that are believed.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;
/// Seconds of the longest file: what is longer is no utterance, and a small file can hold hours of silence.
const MAX_SECONDS: f64 = 1800.0;
/// Samples that are believed; full scale is 1, or 2^31 where floating-point samples hold integers.
const LOUDEST: f32 = 1e10;
/// Samples of a channel of the longest file.
const MAX_FRAMES: u64 = 1 << 28;

/// Mono samples in [-1, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// The samples.
    pub samples: Vec<f32>,
    /// Samples of the whole file, before a window was taken.
    pub whole: usize,
}

/// A file, decoded and mixed down, at its own rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Mono samples in [-1, 1].
    pub samples: Vec<f32>,
    /// Samples a second.
    pub rate: u32,
    /// Samples of the whole file.
    pub frames: u64,
    /// What its header says wrongly, or what is not there, if anything.
    pub wrong_header: Option<String>,
}

impl Audio {
    /// Reads as much of a file as `clip` needs, resamples it to `sample_rate`, takes `clip` of it and pads it with zeros to `min_samples`.
    ///
    /// # Errors
    /// See [`Recording::read`].
    pub fn read(path: &Path, sample_rate: u32, min_samples: usize, clip: Clip) -> Result<Self, DataError> {
        let (audio, wrong_header) = Self::clip(path, sample_rate, min_samples, (clip, f64::INFINITY))?;
        if let Some(what) = wrong_header {
            warn_once(format!("{}: {what}; what is there is read", path.display()));
        }
        Ok(audio)
    }

    /// As [`Self::read`], of a stranger's file: nothing is decoded beyond `most_seconds`, by which [`Self::whole`] says that it is longer, and
    /// nothing is warned of.
    ///
    /// # Errors
    /// See [`Recording::read`].
    pub fn read_bounded(
        path: &Path,
        sample_rate: u32,
        min_samples: usize,
        clip: Clip,
        most_seconds: f64,
    ) -> Result<Self, DataError> {
        Ok(Self::clip(path, sample_rate, min_samples, (clip, most_seconds))?.0)
    }

    /// A clip, and what the header says wrongly, if anything.
    fn clip(
        path: &Path,
        sample_rate: u32,
        min_samples: usize,
        (clip, most_seconds): (Clip, f64),
    ) -> Result<(Self, Option<String>), DataError> {
        let extent = Extent::Clip(clip, sample_rate, most_seconds);
        let (Recording { samples, rate, frames, wrong_header }, _taken) = Recording::extent(path, extent)?;
        // The transform panics where samples are so large that their sums overflow.
        let mut samples = guarded(|| resample::resample(samples, rate, sample_rate))
            .map_err(|why| DataError::Sample { path: path.to_owned(), why })?;
        // Floating-point samples of any size are sums of many here.
        if rate != sample_rate && !loudest(&samples).is_finite() {
            let why = "NaN or infinite samples at another rate".to_owned();
            return Err(DataError::Sample { path: path.to_owned(), why });
        }
        let whole = at_rate(frames, rate, sample_rate);
        let before = at_rate(extent.range(frames, rate).start, rate, sample_rate);
        samples.drain(..((clip.start(whole) - before) as usize).min(samples.len()));
        samples.truncate(clip.samples());
        // A window must not keep the memory of its file.
        samples.shrink_to_fit();
        if samples.len() < min_samples {
            samples.resize(min_samples, 0.0);
        }
        Ok((Self { samples, whole: whole as usize }, wrong_header))
    }
}

/// What a file says of itself, without decoding it.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Samples a second.
    pub rate: u32,
    /// Samples of a channel, where the file tells.
    pub frames: Option<u64>,
    /// What it says wrongly, or what is not there, if anything.
    pub wrong_header: Option<String>,
}

impl Recording {
    /// Reads a WAV (8 to 32 bits, float, A-law, mu-law, ADPCM), FLAC, OGG Vorbis or MP3 file; the kind is seen from its content.
    /// Channels are averaged.
    ///
    /// # Errors
    /// When the file cannot be read or decoded, is empty, is larger than 1 GiB or longer than half an hour, or holds samples that are NaN,
    /// infinite or beyond 1e10.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        Ok(Self::extent(path, Extent::All)?.0)
    }

    /// What `extent` asks for, and the memory that was set aside for it and its resampling.
    fn extent(path: &Path, extent: Extent) -> Result<(Self, Budget), DataError> {
        let bad = |why: String| DataError::Sample { path: path.to_owned(), why };
        let mut source = guarded(|| Source::open(path)).map_err(bad)?;
        let header = guarded(|| source.header()).and_then(Header::checked).map_err(|why| bad(unreadable(&why)))?;
        let taken = SAMPLES.take(source.memory(&header, extent));
        let recording = guarded(|| source.decode(&header, extent)).map_err(|why| bad(unreadable(&why)))?;
        if recording.samples.is_empty() {
            return Err(bad("no samples".to_owned()));
        }
        match loudest(&recording.samples) {
            peak if !peak.is_finite() => return Err(bad("NaN or infinite samples".to_owned())),
            peak if peak > LOUDEST => return Err(bad(format!("samples of {peak:e}, which are no sound"))),
            _ => {}
        }
        let decoded = Header { rate: recording.rate, frames: Some(recording.frames), wrong_header: None };
        decoded.checked().map_err(|why| bad(unreadable(&why)))?;
        Ok((recording, taken))
    }

    /// Length of the whole file in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.frames as f64 / f64::from(self.rate)
    }
}

impl Header {
    /// Reads what a file of the kinds of [`Recording::read`] says of itself: whatever reading would refuse and a header can show is an
    /// error here too.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bad = |why: String| DataError::Sample { path: path.to_owned(), why };
        let source = guarded(|| Source::open(path)).map_err(bad)?;
        let header = guarded(|| source.header()).and_then(Self::checked);
        header.map_err(|why| bad(unreadable(&why)))
    }

    /// Length in seconds, where the file tells.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        self.frames.map(|frames| frames as f64 / f64::from(self.rate))
    }

    fn checked(self) -> Result<Self, String> {
        if !RATES.contains(&self.rate) {
            return Err(format!("a sample rate of {} Hz", self.rate));
        }
        match (self.frames, self.seconds()) {
            (Some(0), _) => Err("no samples".to_owned()),
            (Some(frames), Some(seconds)) if frames > longest(self.rate) => Err(format!(
                "{:.0} minutes, and no utterance is longer than {:.0}; cut it",
                seconds / 60.0,
                MAX_SECONDS / 60.0
            )),
            _ => Ok(self),
        }
    }
}

fn unreadable(why: &str) -> String {
    format!("not readable audio ({why})")
}

/// The largest absolute value; infinite where one is infinite or no number.
fn loudest(samples: &[f32]) -> f32 {
    const INFINITY: u32 = f32::INFINITY.to_bits();
    // Without their signs, floating-point numbers are in the order of their bits, NaN behind infinity.
    let largest = samples.iter().fold(0, |largest: u32, sample| largest.max(sample.abs().to_bits()));
    f32::from_bits(largest.min(INFINITY))
}

/// Samples of a channel of the longest file at `rate`.
fn longest(rate: u32) -> u64 {
    MAX_FRAMES.min((MAX_SECONDS * f64::from(rate)) as u64)
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
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(message(&write(32, SampleFormat::Float, 1, &[0.1, bad, 2e10])).contains("NaN or infinite"));
        }
        assert!(message(&write(32, SampleFormat::Float, 1, &[0.1f32, -2e10])).contains("samples of 2e10"));
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
        for length in [0, 200, 100_000, u32::MAX] {
            assert_eq!(whole(&stated(length)), (500, true), "{length}");
        }
        // Odd, padded, and the end that the file's own header states: it is right, but for the byte that is no sample.
        assert_eq!(whole(&stated(999)), (499, true));
        let chunk_after = [&good[..], b"LIST\x04\0\0\0INFO"].concat();
        assert_eq!(whole(&chunk_after), (500, false));
    }
}
