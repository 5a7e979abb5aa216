//! Broken files of every kind: flipped, cut and doubled bytes. Whatever comes of them, it is a result or an error, never a panic or
//! an allocation without bound.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use cmd::config::{Config, Needs};
use cmd::data::{Audio, Clip, DataConfig, DataKind, Dataset, Header, Picture};
use cmd::draw::{Draw, Purpose};
use common::fixture;

const MUTATIONS: u64 = 300;

/// `bytes` with some damage that is a function of `number`.
fn damaged(bytes: &[u8], number: u64) -> Vec<u8> {
    let mut draw = Draw::new(7, Purpose::Crop, [number, bytes.len() as u64]);
    let mut bytes = bytes.to_vec();
    // Headers are where damage does most.
    let place =
        |draw: &mut Draw, length: usize| draw.below(if number.is_multiple_of(2) { length.min(200) } else { length });
    match draw.below(4) {
        0 => bytes.truncate(place(&mut draw, bytes.len())),
        1 => {
            let start = place(&mut draw, bytes.len());
            let again = bytes[start..(start + 40).min(bytes.len())].to_vec();
            bytes.splice(start..start, again);
        }
        _ => {
            for _ in 0..=draw.below(8) {
                let at = place(&mut draw, bytes.len());
                bytes[at] = draw.below(256) as u8;
            }
        }
    }
    bytes
}

#[test]
fn media() {
    let folder = tempfile::tempdir().expect("a folder");
    let names = ["420.jpg", "progressive.jpg", "cmyk.jpg", "alpha.png", "grey16.png", "lossy.webp"];
    for name in names {
        let bytes = std::fs::read(fixture(&format!("media_{name}"))).expect("a picture");
        let path = folder.path().join(name);
        for number in 0..MUTATIONS {
            std::fs::write(&path, damaged(&bytes, number)).expect("written");
            let read = Picture::read(&path, 32);
            assert!(read.is_ok_and(|picture| picture.planes.len() == 3 * 32 * 32) || Picture::read(&path, 32).is_err());
            let _ = Picture::check(&path, false);
        }
    }
    for name in ["tone.flac", "tone.ogg", "tone.mp3", "mulaw.wav", "extensible24.wav"] {
        let bytes = std::fs::read(fixture(&format!("media_{name}"))).expect("audio");
        let path = folder.path().join(name);
        for number in 0..MUTATIONS {
            std::fs::write(&path, damaged(&bytes, number)).expect("written");
            if let Ok(audio) = Audio::read(&path, 16_000, 400, Clip::Start(20_000)) {
                assert!(audio.samples.len() >= 400 && audio.samples.iter().all(|sample| sample.is_finite()));
            }
            let _ = Header::read(&path);
        }
    }
}

#[test]
fn indices() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest =
        "{\"image\": \"a.jpg\", \"split\": \"train\", \"captions\": [{\"audio\": \"a.wav\", \"text\": \"é\"}]}\n"
            .repeat(3);
    let coco = "{\"data\": [{\"image\": \"a.jpg\", \"captions\": [{\"uttid\": \"m_1_2\", \"wav\": \"a.wav\", \"speaker\": \"m\"}]}]}";
    let karpathy = "{\"images\": [{\"filename\": \"a.jpg\", \"split\": \"test\", \"sentids\": [2]}]}";
    let config = "[data]\nkind = 'flickr8k'\nroot = '.'\n[train]\nsteps = 3\n[optim]\nbetas = [0.9, 0.9]\n";
    let path = |name: &str| folder.path().join(name);
    let load = |kind: DataKind| {
        let data = DataConfig {
            kind,
            path: Some(path("m.jsonl")),
            root: Some(folder.path().to_owned()),
            ..DataConfig::default()
        };
        let _ = Dataset::load(&data).map(|dataset| dataset.split("train").map(|split| split.utterances.len()));
    };
    for number in 0..MUTATIONS {
        std::fs::write(path("m.jsonl"), damaged(manifest.as_bytes(), number)).expect("written");
        std::fs::write(path("SpokenCOCO_train.json"), damaged(coco.as_bytes(), number)).expect("written");
        std::fs::write(path("SpokenCOCO_val.json"), coco).expect("written");
        std::fs::write(path("dataset_coco.json"), damaged(karpathy.as_bytes(), number + 1)).expect("written");
        std::fs::write(path("c.toml"), damaged(config.as_bytes(), number)).expect("written");
        load(DataKind::Manifest);
        load(DataKind::SpokenCoco);
        let _ = Config::load(&path("c.toml"), &[], Needs::Data);
    }
}
