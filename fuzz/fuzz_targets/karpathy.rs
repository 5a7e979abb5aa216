#![no_main]
//! SpokenCOCO's lists and the Karpathy split.

mod desk;

use cmd::data::{DataConfig, DataKind, Dataset};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [karpathy, captions] = desk::parts(bytes);
    desk::put("dataset_coco.json", karpathy);
    desk::put("SpokenCOCO_train.json", captions);
    desk::put("SpokenCOCO_val.json", b"{\"data\": [{\"image\": \"v.jpg\", \"captions\": [{\"uttid\": \"m_1_2\", \"wav\": \"v.wav\"}]}]}");
    let root = Some(desk::folder().to_owned());
    let data = DataConfig { kind: DataKind::SpokenCoco, root, ..DataConfig::default() };
    if let Ok(dataset) = Dataset::load(&data) {
        assert!(dataset.utterances.iter().all(|utterance| utterance.image < dataset.images.len()));
    }
});
