//! Audio of every kind and rate. `tests/fixtures/make_media.py` makes the files.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::f64::consts::TAU;
use std::path::{Path, PathBuf};

use cmd::data::{Audio, Clip, Header};
use common::fixture;

const RATE: u32 = 16_000;

fn read(path: &Path) -> Vec<f32> {
    Audio::read(path, RATE, 1, Clip::Start(usize::MAX)).expect("audio").samples
}

/// A tone of `hertz` with amplitude 0.5, two seconds at `rate`.
fn tone(folder: &Path, rate: u32, hertz: f64) -> PathBuf {
    let path = folder.join(format!("{rate} {hertz}.wav"));
    let format = hound::SampleFormat::Float;
    let spec = hound::WavSpec { channels: 1, sample_rate: rate, bits_per_sample: 32, sample_format: format };
    let mut writer = hound::WavWriter::create(&path, spec).expect("a writer");
    for sample in 0..2 * rate {
        writer.write_sample(0.5 * (TAU * hertz * f64::from(sample) / f64::from(rate)).sin() as f32).expect("written");
    }
    writer.finalize().expect("finished");
    path
}

/// Level of the middle of `samples` against a tone of amplitude 0.5, in dB.
fn level(samples: impl Iterator<Item = f64>) -> f64 {
    let squares: Vec<f64> = samples.skip(2000).take(28_000).map(|sample| sample * sample).collect();
    10.0 * (squares.iter().sum::<f64>() / squares.len() as f64 / 0.125 + 1e-30).log10()
}

#[test]
fn every_kind_holds_the_same_tone() {
    for (name, channels_mean, tolerance) in [
        ("tone.flac", 0.375, 1e-4),
        ("extensible24.wav", 0.375, 1e-6),
        ("mulaw.wav", 0.375, 0.02),
        ("tone.ogg", 0.375, 0.03),
        ("tone.mp3", 0.5, 0.03),
    ] {
        let path = fixture(&format!("media_{name}"));
        let samples = read(&path);
        assert_eq!(samples.len(), 4000, "{name}");
        for (place, sample) in samples.iter().enumerate().skip(1000).take(2000) {
            let expected = channels_mean * (TAU * 1000.0 * place as f64 / 16_000.0).sin();
            assert!(
                (f64::from(*sample) - expected).abs() < tolerance,
                "{name}, sample {place}: {sample} for {expected}"
            );
        }
        let header = Header::read(&path).expect("a header");
        assert_eq!((header.rate, header.seconds()), (RATE, Some(0.25)), "{name}");
    }
}

#[test]
fn other_rates_keep_what_is_below_8_khz_and_lose_what_is_above() {
    let folder = tempfile::tempdir().expect("a folder");
    for rate in [8_000, 11_025, 16_001, 22_050, 32_000, 44_100, 48_000, 96_000] {
        for hertz in [300.0, 3_000.0, 7_600.0] {
            if hertz < 0.47 * f64::from(rate) {
                let samples = read(&tone(folder.path(), rate, hertz));
                assert_eq!(samples.len(), 32_000, "{rate} Hz");
                let expected = |place: usize| 0.5 * (TAU * hertz * place as f64 / f64::from(RATE)).sin();
                let error =
                    level(samples.iter().enumerate().map(|(place, sample)| f64::from(*sample) - expected(place)));
                assert!(error < -80.0, "{rate} Hz, a tone of {hertz} Hz: error {error:.1} dB");
            }
        }
        for hertz in [8_200.0, 9_000.0, 10_500.0, 15_800.0] {
            if hertz < 0.49 * f64::from(rate) {
                let alias = level(read(&tone(folder.path(), rate, hertz)).into_iter().map(f64::from));
                assert!(alias < -80.0, "{rate} Hz, a tone of {hertz} Hz: alias {alias:.1} dB");
            }
        }
    }
}

#[test]
fn bad_files_say_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let message = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        Audio::read(&path, RATE, 1, Clip::Start(1)).expect_err("an error").to_string()
    };
    let flac = std::fs::read(fixture("media_tone.flac")).expect("audio");
    let mut broken = flac.clone();
    let middle = broken.len() / 2;
    broken[middle..middle + 40].fill(0x55);
    assert!(message("broken.flac", &broken).contains("not readable audio (only 0 of 4000 samples can be decoded)"));
    assert!(message("cut.flac", &flac[..42]).contains("cut.flac: not readable audio"));
    assert!(message("noise.mp3", &[0xff; 4000]).contains("noise.mp3: not readable audio"));
    assert!(message("noise.ogg", b"OggS and nothing else").contains("noise.ogg: not readable audio"));
    let mut wav = std::fs::read(tone(folder.path(), RATE, 300.0)).expect("audio");
    let rate = wav.windows(4).position(|bytes| bytes == RATE.to_le_bytes()).expect("the rate");
    wav[rate..rate + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(message("rate.wav", &wav).contains("a sample rate of 4294967295 Hz"));
}

#[test]
fn a_window_at_another_rate_is_that_part_of_the_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("long.wav");
    for rate in [8_000, 22_050, 44_100, 48_000] {
        let format = hound::SampleFormat::Float;
        let spec = hound::WavSpec { channels: 1, sample_rate: rate, bits_per_sample: 32, sample_format: format };
        let mut writer = hound::WavWriter::create(&path, spec).expect("a writer");
        for sample in 0..40 * rate {
            let time = f64::from(sample) / f64::from(rate);
            writer.write_sample((0.4 * (TAU * (300.0 + 40.0 * time) * time).sin()) as f32).expect("written");
        }
        writer.finalize().expect("finished");
        let whole = read(&path);
        assert_eq!(whole.len(), 640_000, "{rate} Hz");
        for place in [0.0, 0.33, 0.8, 0.999_999] {
            let audio = Audio::read(&path, RATE, 1, Clip::Window { samples: 40_000, place }).expect("audio");
            let start = (f64::from(place) * 600_001.0) as usize;
            assert_eq!((audio.samples.len(), audio.whole), (40_000, 640_000));
            let of_whole = &whole[start..start + 40_000];
            let apart = audio.samples.iter().zip(of_whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-5, "{rate} Hz at {place}: {apart}");
        }
    }
}
