//! Audio files as mono samples.

use std::path::Path;

use hound::{SampleFormat, WavReader};

use super::DataError;

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

impl Audio {
    /// Reads a WAV file (8, 16, 24 or 32 bits, or float; any number of channels, mixed down) at `sample_rate`, takes `clip` of it
    /// and pads it with zeros to `min_samples`.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, holds NaN or infinite samples or has another sample rate.
    pub fn read(path: &Path, sample_rate: u32, min_samples: usize, clip: Clip) -> Result<Self, DataError> {
        let bad = |why: String| DataError::Sample { path: path.to_owned(), why };
        let mut reader = WavReader::open(path).map_err(|error| match error {
            hound::Error::IoError(error) => bad(error.to_string()),
            error => bad(format!("not a readable WAV file ({error})")),
        })?;
        let spec = reader.spec();
        if spec.sample_rate != sample_rate {
            return Err(bad(format!(
                "sample rate {} Hz where the speech encoder needs {sample_rate} Hz; convert the file",
                spec.sample_rate
            )));
        }
        let channels = usize::from(spec.channels.max(1));
        let interleaved = match spec.sample_format {
            SampleFormat::Float => collect(reader.samples::<f32>(), |sample| sample),
            SampleFormat::Int => {
                let scale = 1.0 / (1u64 << (spec.bits_per_sample - 1)) as f32;
                collect(reader.samples::<i32>(), |sample| sample as f32 * scale)
            }
        };
        let interleaved = interleaved.map_err(|error| bad(format!("broken samples ({error})")))?;
        let mut samples: Vec<f32> = match channels {
            1 => interleaved,
            _ => interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32).collect(),
        };
        if samples.is_empty() {
            return Err(bad("no samples".to_owned()));
        }
        if !samples.iter().all(|sample| sample.is_finite()) {
            return Err(bad("NaN or infinite samples".to_owned()));
        }
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

/// All samples, up to the real end of a file whose header promises more.
fn collect<S, I>(samples: I, convert: impl Fn(S) -> f32) -> hound::Result<Vec<f32>>
where
    I: Iterator<Item = hound::Result<S>>,
{
    let mut collected = Vec::new();
    for sample in samples {
        match sample {
            Ok(sample) => collected.push(convert(sample)),
            Err(hound::Error::IoError(_)) if !collected.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(collected)
}

#[cfg(test)]
mod tests {
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
        assert!(message(text.path()).contains("not a readable WAV"), "{}", message(text.path()));
        let path = write(16, SampleFormat::Int, 1, &[1i16]);
        let other_rate = Audio::read(&path, 8_000, 1, ALL).expect_err("an error").to_string();
        assert!(other_rate.contains("sample rate 16000 Hz"));
    }

    #[test]
    fn a_header_that_promises_too_much_is_read_to_the_real_end() {
        let path = write(16, SampleFormat::Int, 1, &[1000i16; 500]);
        let bytes = std::fs::read(&path).expect("bytes");
        std::fs::write(&path, &bytes[..bytes.len() - 600]).expect("cut");
        assert_eq!(Audio::read(&path, 16_000, 1, ALL).expect("audio").whole, 200);
    }
}
