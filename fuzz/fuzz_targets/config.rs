#![no_main]
//! The configuration: read, printed, and read back the same.

use std::path::Path;

use cmd::config::{Config, Needs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = Config::from_text(text, Path::new("/fuzz/c.toml"), &[], Needs::Data) {
        let again = Config::from_text(&config.to_commented_toml(), Path::new("/fuzz/c.toml"), &[], Needs::Data);
        assert!(again.is_ok_and(|again| again.to_commented_toml() == config.to_commented_toml()));
    }
});
