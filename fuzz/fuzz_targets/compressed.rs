#![no_main]
//! MP3, OGG and FLAC files.

mod desk;

use cmd::data::{Audio, Clip, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: desk::panics_may_be_caught(), |bytes: &[u8]| {
    let path = desk::put("a.audio", bytes);
    let _ = Header::read(&path);
    if let Ok(audio) = Audio::read(&path, 16_000, 400, Clip::Start(32_000)) {
        assert!(audio.samples.len() >= 400 && audio.samples.iter().all(|sample| sample.is_finite()));
    }
});
