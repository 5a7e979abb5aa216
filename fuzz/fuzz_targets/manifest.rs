#![no_main]
//! A manifest: read, written, and read back the same.

mod desk;

use cmd::data::{DataConfig, Dataset, write_manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let load = |bytes: &[u8]| {
        let path = Some(desk::put("m.jsonl", bytes));
        Dataset::load(&DataConfig { path, ..DataConfig::default() })
    };
    if let Ok(dataset) = load(bytes) {
        for split in dataset.splits() {
            let _ = dataset.split(&split).map(|split| split.head(2).utterances.len());
        }
        let mut text = Vec::new();
        write_manifest(&dataset, desk::folder(), &mut text).expect("written");
        let again = load(&text).expect("the written form");
        assert!(again.images == dataset.images && again.utterances == dataset.utterances);
    }
});
