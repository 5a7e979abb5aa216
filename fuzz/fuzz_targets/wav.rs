#![no_main]
//! WAV files: what can be read, the header check does not refuse.

mod desk;

use cmd::data::{Audio, Clip, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: desk::panics_may_be_caught(), |bytes: &[u8]| {
    let path = desk::put("a.wav", &[b"RIFF", bytes].concat());
    let header = Header::read(&path);
    let audio = Audio::read(&path, 16_000, 400, Clip::Start(32_000));
    if let Ok(audio) = &audio {
        assert!(audio.samples.len() >= 400 && audio.samples.iter().all(|sample| sample.is_finite()));
        assert!(header.is_ok(), "read, but its header is refused: {header:?}");
    }
});
