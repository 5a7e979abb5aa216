#![no_main]
//! The lists of Flickr8k Audio Captions: spoken captions, a split's images, texts in both forms, speakers.

mod desk;

use cmd::data::{DataConfig, DataKind, Dataset};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [spoken, train, tokens, captions, speakers] = desk::parts(bytes);
    let root = desk::folder();
    for folder in ["wavs", "Images"] {
        let _ = std::fs::create_dir(root.join(folder));
    }
    desk::put("wav2capt.txt", spoken);
    desk::put("Flickr_8k.trainImages.txt", train);
    desk::put("Flickr_8k.devImages.txt", b"d.jpg\n");
    desk::put("Flickr_8k.testImages.txt", b"");
    desk::put("wav2spk.txt", speakers);
    let _ = std::fs::remove_file(root.join("Flickr8k.token.txt"));
    if tokens.is_empty() {
        desk::put("captions.txt", captions);
    } else {
        desk::put("Flickr8k.token.txt", tokens);
    }
    let data = DataConfig { kind: DataKind::Flickr8k, root: Some(root.to_owned()), ..DataConfig::default() };
    if let Ok(dataset) = Dataset::load(&data) {
        assert!(dataset.utterances.iter().all(|utterance| utterance.image < dataset.images.len()));
    }
});
