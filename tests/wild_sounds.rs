//! Sounds as they are met: odd headers, unfinished and cut files, lengths that are estimates. `tests/fixtures/wild` holds a tone of 440 Hz
//! with amplitude 0.5 at 16 kHz in each form, of one second unless the name says otherwise; what is right was checked with libsndfile.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::PathBuf;

use cmd::data::{Audio, Clip, Header, Recording};
use common::fixture;

const ALL: Clip = Clip::Start(usize::MAX);

fn wild(name: &str) -> PathBuf {
    fixture("wild").join(name)
}

fn read(name: &str) -> Result<Vec<f32>, String> {
    Audio::read(&wild(name), 16_000, 1, ALL).map(|audio| audio.samples).map_err(|error| error.to_string())
}

/// Root mean square, peak, and frequency by zero crossings.
fn figures(samples: &[f32]) -> (f64, f64, f64) {
    let squares: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    let peak = samples.iter().fold(0f32, |peak, sample| peak.max(sample.abs()));
    let crossings = samples.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
    let seconds = samples.len() as f64 / 16_000.0;
    ((squares / samples.len() as f64).sqrt(), f64::from(peak), crossings as f64 / seconds)
}

#[track_caller]
fn is_the_tone(name: &str, length: std::ops::RangeInclusive<usize>, tolerance: f64) {
    has(name, length, (0.3535, 0.5), tolerance);
}

#[track_caller]
fn has(name: &str, length: std::ops::RangeInclusive<usize>, (level, top): (f64, f64), tolerance: f64) {
    let samples = read(name).expect("audio");
    assert!(length.contains(&samples.len()), "{name}: {} samples", samples.len());
    let (rms, peak, hertz) = figures(&samples);
    assert!((rms - level).abs() < tolerance && (peak - top).abs() < 4.0 * tolerance, "{name}: rms {rms}, peak {peak}");
    assert!((hertz - 440.0).abs() < 3.0 || top > 1.0, "{name}: {hertz} Hz");
    let header = Header::read(&wild(name)).expect("a header");
    if let Some(frames) = header.frames {
        assert_eq!(frames as usize, Recording::read(&wild(name)).expect("audio").samples.len(), "{name}");
    }
}

#[test]
fn wav_headers() {
    for name in [
        "00_reference.wav",
        "01_odd_bext_before_data.wav",
        "01c_odd_list_before_data_unpadded.wav",
        "01d_odd_chunk_before_fmt.wav",
        "02_ext_24_valid_in_32_left.wav",
        "02c_ext_20_valid_in_24.wav",
        "03_odd_data_16bit_then_list.wav",
        "03f_rf64_then_list.wav",
        "03h_even_data_then_list_control.wav",
        "04_fmt_20_zero_padded.wav",
        "04e_float_fmt18_cbsize22.wav",
        "05d_pcm16_not_finalised_control.wav",
    ] {
        is_the_tone(name, 16_000..=16_000, 2e-4);
    }
    for name in ["05_mulaw_fmt_16.wav", "05c_mulaw_not_finalised.wav"] {
        is_the_tone(name, 16_000..=16_000, 5e-3);
    }
    is_the_tone("06_msadpcm_5s.wav", 80_000..=80_000, 1e-2);
    assert!(read("03c_empty_data_then_list.wav").expect_err("no samples").contains("no samples"));
    for (name, is_odd) in [("05c_mulaw_not_finalised.wav", true), ("03h_even_data_then_list_control.wav", false)] {
        assert_eq!(Header::read(&wild(name)).expect("a header").wrong_header.is_some(), is_odd, "{name}");
    }
}

#[test]
fn compressed_streams() {
    is_the_tone("06e_vorbis_control.ogg", 80_000..=80_000, 1e-2);
    // Where the stream began, and so what its end cuts off its last packet, cannot be known.
    is_the_tone("07_vorbis_first_granule_1000000.ogg", 80_000..=80_200, 1e-2);
    // Two seconds of noise, then a quiet tone; LAME gives the tone of the others back a little quieter.
    has("08_mp3_vbr_with_xing_control_9.5s.mp3", 152_000..=152_000, (0.1856, 1.614), 1e-2);
    has("08b_mp3_vbr_without_xing_9.5s.mp3", 152_000..=154_500, (0.1856, 1.614), 1e-2);
    has("08e_mp3_leading_zeros_4s.mp3", 64_000..=66_500, (0.3359, 0.476), 1e-2);
    has("08h_mp3_cut_in_half_4s.mp3", 30_500..=32_500, (0.3359, 0.475), 1e-2);
    is_the_tone("09_flac_control_5s.flac", 80_000..=80_000, 2e-4);
    let joined = read("09g_flac_two_joined_5s_and_5s.flac").expect("audio");
    assert_eq!(joined.len(), 160_000);
    let cut = Header::read(&wild("08h_mp3_cut_in_half_4s.mp3")).expect("a header").wrong_header;
    assert!(cut.is_some_and(|why| why.contains("cut off")));
    let cut = Header::read(&wild("07d_ogg_cut_in_half.ogg")).expect("a header").wrong_header;
    assert!(cut.is_some_and(|why| why.contains("cut off")));
    assert!(read("09d_id3_then_flac_broken_middle.flac").expect_err("broken").contains("samples can be decoded"));
}

#[test]
fn a_coding_that_is_not_read_is_named_by_the_header_with_a_command() {
    let header = Header::read(&wild("06d_opus_in.ogg")).expect_err("not read").to_string();
    assert!(header.contains("Opus") && header.contains("ffmpeg -i IN"), "{header}");
    assert_eq!(read("06d_opus_in.ogg").expect_err("not read"), header);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gsm.wav");
    let mut wav = std::fs::read(wild("00_reference.wav")).expect("audio");
    wav[20] = 0x31;
    std::fs::write(&path, wav).expect("written");
    let header = Header::read(&path).expect_err("not read").to_string();
    assert!(header.contains("GSM 6.10") && header.contains("ffmpeg"), "{header}");
    assert_eq!(Recording::read(&path).expect_err("not read").to_string(), header);
}

/// What is read of a file is what the whole file has there.
#[test]
fn a_clip_is_a_part_of_the_whole() {
    for name in [
        "00_reference.wav",
        "02c_ext_20_valid_in_24.wav",
        "09_flac_control_5s.flac",
        "06e_vorbis_control.ogg",
        "08_mp3_vbr_with_xing_control_9.5s.mp3",
        "06_msadpcm_5s.wav",
    ] {
        let whole = read(name).expect("audio");
        for (samples, place) in [(1000, 0.0), (5000, 0.37), (16_000, 0.999)] {
            let window = Audio::read(&wild(name), 16_000, 1, Clip::Window { samples, place }).expect("audio");
            let start = (f64::from(place) * (whole.len() - samples + 1) as f64) as usize;
            assert!(window.samples == whole[start..start + samples] && window.whole == whole.len(), "{name} {place}");
        }
        let start = Audio::read(&wild(name), 16_000, 1, Clip::Start(9000)).expect("audio");
        assert!(start.samples == whole[..9000] && start.whole == whole.len(), "{name}: {}", start.whole);
    }
    // Another rate: as many samples as the whole file would have, and the same ones but for the reach of the filter.
    for name in ["00_reference.wav", "08_mp3_vbr_with_xing_control_9.5s.mp3"] {
        let whole = Audio::read(&wild(name), 11_025, 1, ALL).expect("audio");
        let start = Audio::read(&wild(name), 11_025, 1, Clip::Start(8000)).expect("audio");
        assert_eq!(start.whole, whole.samples.len(), "{name}");
        assert!(start.samples.iter().zip(&whole.samples).all(|(a, b)| (a - b).abs() < 1e-5), "{name}");
    }
}

#[test]
fn hours_of_silence_are_refused_by_the_header() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("long.wav");
    let spec =
        hound::WavSpec { channels: 1, sample_rate: 1_000, bits_per_sample: 8, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(&path, spec).expect("a writer");
    (0..1_801_000).for_each(|_| writer.write_sample(0i8).expect("written"));
    writer.finalize().expect("finished");
    for error in [Header::read(&path).map(|_| ()), Recording::read(&path).map(|_| ())] {
        let error = error.expect_err("too long").to_string();
        assert!(error.contains("30 minutes, and no utterance is longer than 30; cut it"), "{error}");
    }
}

/// Files made of the fixtures, and what reading and the header say of them.
struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    /// Samples and what is odd, or the error; the header has to agree.
    fn read(&self, bytes: &[u8]) -> Result<(usize, Option<String>), String> {
        let path = self.folder.path().join("made");
        std::fs::write(&path, bytes).expect("written");
        let recording = Recording::read(&path).map_err(|error| error.to_string())?;
        let header = Header::read(&path).expect("a header");
        assert_eq!(header.frames.unwrap_or(recording.frames), recording.frames);
        assert_eq!(recording.samples.len() as u64, recording.frames);
        Ok((recording.samples.len(), recording.wrong_header))
    }
}

#[test]
fn wav_files_with_odd_ends_and_frames() {
    let made = Made::new();
    let wav = std::fs::read(wild("00_reference.wav")).expect("audio");
    let read = |bytes: &[u8]| made.read(bytes).expect("audio");
    // A known chunk that is cut, or zeros: behind the samples is no sound.
    let cut = [&wav[..], b"id3 ", &90_000u32.to_le_bytes(), &[7; 5000]].concat();
    assert_eq!(read(&cut), (16_000, None));
    assert_eq!(read(&[&wav[..], &[0; 4000]].concat()), (16_000, None));
    let (samples, odd) = read(&[&wav[..], &wav].concat());
    assert!(samples == 16_000 && odd.is_some_and(|odd| odd.contains("another WAV file follows")));
    // Frames of four bytes are stated for samples of two.
    let mut wide = wav;
    wide[32] = 4;
    let (samples, odd) = read(&wide);
    assert!(samples == 16_000 && odd.is_some_and(|odd| odd.contains("frames of 4 bytes for 1 x 16 bits")));
}

#[test]
fn mp3_files_with_other_bytes_between_frames() {
    let made = Made::new();
    let mp3 = std::fs::read(fixture("media_tone.mp3")).expect("audio");
    let (samples, odd) = made.read(&mp3).expect("audio");
    assert_eq!((samples, odd), (4000, None));
    let vbr = std::fs::read(wild("08b_mp3_vbr_without_xing_9.5s.mp3")).expect("audio");
    let (alone, _) = made.read(&vbr).expect("audio");
    for junk in [&b"LYRICSBEGIN and so on"[..], &[0xff; 300], &[0x55; 37]] {
        let (behind, _) = made.read(&[&vbr[..], junk].concat()).expect("audio");
        assert_eq!(behind, alone);
        let (between, odd) = made.read(&[&vbr[..], junk, &vbr].concat()).expect("audio");
        assert!(between == 2 * alone && odd.is_some(), "{between} {alone}");
    }
    // A tag whose items stand before its footer.
    let footer = [&b"APETAGEX"[..], &2000u32.to_le_bytes(), &20_000u32.to_le_bytes(), &[0; 16]].concat();
    assert_eq!(made.read(&[&vbr[..], &footer, &vbr].concat()).expect("audio").0, 2 * alone);
}

#[test]
fn flac_and_ogg_files_with_tags_and_damage() {
    let made = Made::new();
    let flac = std::fs::read(wild("09_flac_control_5s.flac")).expect("audio");
    let tag = [&b"TAG"[..], &[b' '; 125]].concat();
    assert_eq!(made.read(&[&flac[..], &tag].concat()), Ok((80_000, None)));
    // A padding block of 100,000 bytes behind the first one.
    let padding = [&[1u8][..], &100_000u32.to_be_bytes()[1..], &vec![0; 100_000]].concat();
    let wide = [&flac[..42], &padding, &flac[42..]].concat();
    assert_eq!(made.read(&wide), Ok((80_000, None)));

    let ogg = std::fs::read(wild("06e_vorbis_control.ogg")).expect("audio");
    let mut flipped = ogg.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    assert!(made.read(&flipped).expect_err("damaged").contains("a page of it is damaged or missing"));
    assert_eq!(made.read(&[&ogg[..], &tag].concat()), Ok((80_000, None)));
}

#[test]
fn samples_that_overflow_at_another_rate_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vast.wav");
    let format = hound::SampleFormat::Float;
    let spec = hound::WavSpec { channels: 1, sample_rate: 14_208, bits_per_sample: 32, sample_format: format };
    let mut writer = hound::WavWriter::create(&path, spec).expect("a writer");
    (0..2000).for_each(|_| writer.write_sample(f32::MAX).expect("written"));
    writer.finalize().expect("finished");
    let error = Audio::read(&path, 16_000, 400, ALL).expect_err("refused").to_string();
    assert!(error.contains("vast.wav: "), "{error}");
}

/// The checksum of an OGG page, which stands as zero in it.
fn ogg_checksum(page: &[u8]) -> u32 {
    page.iter().fold(0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte) << 24, |sum, _| sum << 1 ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    })
}

#[test]
fn lengths_that_are_stated_too_short() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.flac");
    // The 36 bits of STREAMINFO's samples end at byte 26 of the file.
    let mut flac = std::fs::read(wild("09_flac_control_5s.flac")).expect("audio");
    flac[22..26].copy_from_slice(&40_000u32.to_be_bytes());
    std::fs::write(&path, &flac).expect("written");
    let Recording { samples, wrong_header, .. } = Recording::read(&path).expect("audio");
    assert!(samples.len() == 80_000 && wrong_header.is_some_and(|odd| odd.contains("states 40000 samples")));

    // Of OGG pages that end earlier than the one before, no one knows which is right.
    let mut ogg = std::fs::read(wild("07d_ogg_cut_in_half.ogg")).expect("audio");
    let pages: Vec<usize> = (0..ogg.len() - 4).filter(|place| ogg[*place..].starts_with(b"OggS")).collect();
    let (page, end) = (pages[pages.len() - 2], pages[pages.len() - 1]);
    ogg[page + 6..page + 14].copy_from_slice(&40_000u64.to_le_bytes());
    ogg[page + 22..page + 26].fill(0);
    let sum = ogg_checksum(&ogg[page..end]);
    ogg[page + 22..page + 26].copy_from_slice(&sum.to_le_bytes());
    let why = Made::new().read(&ogg).expect_err("refused");
    assert!(why.contains("then at 40000"), "{why}");
}

#[test]
fn an_ogg_file_behind_itself() {
    let made = Made::new();
    let ogg = std::fs::read(wild("06e_vorbis_control.ogg")).expect("audio");
    assert_eq!(made.read(&ogg.repeat(2)), Ok((160_000, None)));
}
