//! The data sets of the paper in the forms in which they are downloaded, through the program.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;

use cmd::config::{Config, Needs};
use cmd::data::Dataset;
use common::{Workspace, fixture, write_wav_as};
use serde_json::{Value, json};

const PICTURES: [&str; 5] =
    ["media_420.jpg", "media_422.jpg", "media_progressive.jpg", "media_grey.jpg", "media_cmyk.jpg"];
const RATES: [u32; 5] = [8_000, 16_000, 22_050, 44_100, 48_000];
/// Images of train, dev and test.
const COUNTS: [(&str, usize); 3] = [("train", 6), ("dev", 2), ("test", 3)];

/// Captions of image `number`: five, or four of every third.
fn captions(number: usize) -> usize {
    if number.is_multiple_of(3) { 4 } else { 5 }
}

fn picture(to: &Path, number: usize) {
    fs::create_dir_all(to.parent().expect("a folder")).expect("folders");
    fs::copy(fixture(PICTURES[number % PICTURES.len()]), to).expect("a picture");
}

fn speech(to: &Path, number: usize) {
    fs::create_dir_all(to.parent().expect("a folder")).expect("folders");
    let rate = RATES[number % RATES.len()];
    let wave: Vec<f32> = (0..rate / 4 + 100 * number as u32)
        .map(|n| 0.4 * (n as f32 * (0.02 + 0.003 * number as f32) * 16_000.0 / rate as f32).sin())
        .collect();
    write_wav_as(to, rate, 1 + (number % 2) as u16, &wave);
}

/// Flickr8k as its archives unpack, with CRLF, one missing picture and one missing recording in train.
fn flickr8k(root: &Path) {
    let (mut spoken, mut tokens, mut number) = (String::new(), String::new(), 0);
    for (split, count) in COUNTS {
        let mut list = String::new();
        for image in 0..count {
            let name = format!("{split}_{image}");
            list += &format!("{name}.jpg\r\n");
            picture(&root.join(format!("Flicker8k_Dataset/{name}.jpg")), number);
            for caption in 0..captions(image) {
                spoken += &format!("{name}_{caption}.wav {name}.jpg #{caption}\r\n");
                tokens += &format!("{name}.jpg#{caption}\tA dog , {caption} .\r\n");
                speech(&root.join(format!("flickr_audio/wavs/{name}_{caption}.wav")), number);
                number += 1;
            }
        }
        fs::create_dir_all(root.join("Flickr8k_text")).expect("a folder");
        fs::write(root.join(format!("Flickr8k_text/Flickr_8k.{split}Images.txt")), list).expect("written");
    }
    fs::write(root.join("flickr_audio/wav2capt.txt"), spoken).expect("written");
    fs::write(root.join("Flickr8k_text/Flickr8k.token.txt"), tokens).expect("written");
}

/// SpokenCOCO as downloaded, beside COCO's pictures and the Karpathy split.
fn spokencoco(root: &Path) {
    let (mut lists, mut karpathy, mut number) = ([Vec::new(), Vec::new()], Vec::new(), 0u64);
    for (place, (split, count)) in [("train", 4), ("restval", 2), ("val", 2), ("test", 3)].into_iter().enumerate() {
        for image in 0..count {
            let folder = if split == "train" { "train2014" } else { "val2014" };
            let file = format!("COCO_{folder}_{place}{image}.jpg");
            picture(&root.join(folder).join(&file), number as usize);
            let mut spoken = Vec::new();
            let ids: Vec<u64> = (0..captions(image)).map(|caption| number + caption as u64).collect();
            for id in &ids {
                let (uttid, wav) = (format!("m1-3X_{place}{image}_{id}"), format!("wavs/{split}/0/{id}.wav"));
                speech(&root.join("SpokenCOCO").join(&wav), *id as usize);
                spoken.push(json!({"uttid": uttid, "text": "A CAT", "speaker": "m1", "wav": wav}));
            }
            number += ids.len() as u64;
            lists[usize::from(folder != "train2014")]
                .push(json!({"image": format!("{folder}/{file}"), "captions": spoken}));
            karpathy
                .push(json!({"filepath": folder, "filename": file, "split": split, "sentids": ids, "imgid": number}));
        }
    }
    for (name, list) in ["train", "val"].iter().zip(lists) {
        let text = json!({ "data": list }).to_string();
        fs::write(root.join(format!("SpokenCOCO/SpokenCOCO_{name}.json")), text).expect("written");
    }
    fs::write(root.join("dataset_coco.json"), json!({"images": karpathy, "dataset": "coco"}).to_string())
        .expect("written");
}

/// A workspace without data of its own, and a configuration `kind`.toml for the data set that `make` puts into the folder `kind`.
fn workspace(kind: &str, make: impl Fn(&Path)) -> Workspace {
    let workspace = Workspace::new(2);
    add(&workspace, kind, make);
    workspace
}

fn add(workspace: &Workspace, kind: &str, make: impl Fn(&Path)) {
    let root = workspace.path(kind);
    fs::create_dir_all(&root).expect("a folder");
    make(&root);
    let tiny = fs::read_to_string(workspace.path("tiny.toml")).expect("a configuration");
    let data = format!("kind = '{kind}'\nroot = '{kind}'");
    fs::write(workspace.path(&format!("{kind}.toml")), tiny.replace("path = 'data/manifest.jsonl'", &data))
        .expect("written");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn check_json(workspace: &Workspace, config: &str, more: &[&str]) -> (Option<i32>, Value) {
    let output = workspace.cmd(&[&["data", "check", config, "--json"], more].concat());
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[test]
fn both_kinds_are_counted() {
    let workspace = workspace("flickr8k", flickr8k);
    add(&workspace, "spokencoco", spokencoco);
    for (kind, dev, train) in [("flickr8k", "dev", (6, 28)), ("spokencoco", "val", (6, 27))] {
        for more in [&[][..], &["--decode"]] {
            let (status, audit) = check_json(&workspace, &format!("{kind}.toml"), more);
            assert_eq!(status, Some(0), "{audit}");
            assert_eq!(audit["dataset"], kind);
            for (split, images, utterances) in [("train", train.0, train.1), (dev, 2, 9), ("test", 3, 14)] {
                let counts = &audit["splits"][split];
                assert_eq!((&counts["images"], &counts["utterances"]), (&json!(images), &json!(utterances)), "{split}");
                assert!(counts["hours"].as_f64() > Some(0.0));
            }
            assert_eq!(audit["sample_rates"].as_object().map(serde_json::Map::len), Some(RATES.len()));
        }
    }
}

#[test]
fn everything_that_is_wrong_is_named() {
    let workspace = workspace("flickr8k", flickr8k);
    let root = workspace.path("flickr8k");
    let wav = |name: &str| root.join(format!("flickr_audio/wavs/{name}.wav"));
    fs::remove_file(wav("train_0_1")).expect("removed");
    fs::remove_file(root.join("Flicker8k_Dataset/train_1.jpg")).expect("removed");
    fs::write(root.join("Flicker8k_Dataset/train_2.jpg"), "no picture").expect("written");
    let jpeg = fs::read(root.join("Flicker8k_Dataset/train_3.jpg")).expect("a picture");
    fs::write(root.join("Flicker8k_Dataset/train_3.jpg"), &jpeg[..jpeg.len() / 2]).expect("written");
    write_wav_as(&wav("train_0_2"), 16_000, 1, &[0.1; 10]);
    write_wav_as(&wav("train_0_3"), 16_000, 1, &vec![0.1; 16_000 * 61]);
    let whole = fs::read(wav("test_0_0")).expect("audio");
    fs::write(wav("test_0_0"), &whole[..whole.len() - 1000]).expect("written");
    fs::write(wav("test_0_1"), "").expect("written");
    let index = root.join("flickr_audio/wav2capt.txt");
    let text = fs::read_to_string(&index).expect("an index");
    let text = text.replace("dev_1_4.wav dev_1.jpg #4", "dev_1_3.wav dev_1.jpg #4") + "other_0.wav other.jpg #0\r\n";
    fs::write(&index, text).expect("written");
    let list = root.join("Flickr8k_text/Flickr_8k.testImages.txt");
    fs::write(&list, fs::read_to_string(&list).expect("a list") + "silent.jpg\r\n").expect("written");
    picture(&root.join("Flicker8k_Dataset/silent.jpg"), 0);

    for (more, unreadable) in [(&[][..], 2), (&["--decode"], 3)] {
        let (status, audit) = check_json(&workspace, "flickr8k.toml", more);
        assert_eq!(status, Some(1));
        for (finding, count, name) in [
            ("missing", 2, "train_0_1.wav"),
            ("unreadable", unreadable, "test_0_1.wav"),
            ("duplicated", 1, "dev_1_3.wav"),
            ("captions_without_image", 1, "other.jpg"),
            ("images_without_captions", 1, "silent.jpg"),
            ("too_short", 1, "train_0_2.wav"),
            ("too_long", 1, "train_0_3.wav"),
            ("wrong_header", 1, "test_0_0.wav"),
        ] {
            assert_eq!(audit[finding].as_array().map(Vec::len), Some(count), "{finding}: {}", audit[finding]);
            assert!(audit[finding].to_string().contains(name), "{finding}: {}", audit[finding]);
        }
        assert_eq!(audit["unreadable"].to_string().contains("cut off"), unreadable == 3);
    }
    let said = workspace.cmd(&["data", "check", "flickr8k.toml", "--decode"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("stops a run: 2 missing, 3 unreadable"), "{said}");
    assert!(said.contains("worth knowing: ") && said.contains("1 duplicated, 1 caption without image"), "{said}");

    // Training goes on without what is broken, evaluation does not.
    let train = ["train", "--config", "flickr8k.toml", "--name", "a"];
    workspace.fails(2, &train, &["of 28 utterances of split train", "more than data.max_unreadable = 0.01"]);
    workspace.ok(&[&train[..], &["--set", "data.max_unreadable=1"]].concat());
    workspace.fails(1, &["eval", "--split", "test"], &["test_0_1.wav: not readable audio (an empty file)"]);
    let result = json(&workspace.ok(&["eval", "--split", "test", "--json", "--set", "data.on_error=skip"]));
    let result = &result["results"][0];
    assert!(result["skipped_files"][0].as_str().is_some_and(|why| why.contains("test_0_1.wav")));
    assert_eq!((&result["skipped"], &result["images"], &result["utterances"]), (&json!(1), &json!(4), &json!(13)));
}

#[test]
fn a_manifest_of_either_kind_gives_the_same_batches() {
    let workspace = workspace("flickr8k", flickr8k);
    add(&workspace, "spokencoco", spokencoco);
    for kind in ["flickr8k", "spokencoco"] {
        let config = format!("{kind}.toml");
        let manifest = format!("{kind}/manifest.jsonl");
        workspace.ok(&["data", "manifest", &config, "--out", &manifest]);
        let text = fs::read_to_string(workspace.path(&manifest)).expect("a manifest");
        assert!(!text.contains(&*workspace.path("").to_string_lossy()), "paths below the manifest are relative");
        let printed = workspace.ok(&["data", "manifest", &config]);
        assert_eq!(printed.lines().count(), text.lines().count());
        let direct = format!("{kind}-direct");
        let listed = format!("{kind}-listed");
        let tail = ["--set", "train.steps=4", "--set", "train.eval_every=4"];
        workspace.ok(&[&["train", "--config", &config, "--name", &direct][..], &tail].concat());
        let path = format!("data.path={manifest}");
        workspace.ok(&[&["train", "--config", "tiny.toml", "--name", &listed, "--set", &path][..], &tail].concat());
        let figures = |run: &str| -> Vec<(Value, Value)> {
            workspace.metrics(run).iter().map(|line| (line["loss"].clone(), line["mean"].clone())).collect()
        };
        assert_eq!(figures(&direct), figures(&listed));
    }
}

#[test]
fn zero_shot_is_one_table_over_data_sets() {
    let workspace = workspace("flickr8k", flickr8k);
    add(&workspace, "spokencoco", spokencoco);
    workspace.ok(&["train", "--config", "spokencoco.toml", "--name", "a", "--set", "train.steps=2"]);
    let all = [
        "eval",
        "--checkpoint",
        "runs/a",
        "--data",
        "flickr8k.toml",
        "--data",
        "spokencoco.toml",
        "--data",
        "tiny.toml",
    ];
    let results = json(&workspace.ok(&[&all[..], &["--json"]].concat()));
    let rows: Vec<_> = results["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|row| (&row["dataset"], &row["utterances"]))
        .collect();
    let expected = [("flickr8k", 14), ("spokencoco", 14), ("data", 5)].map(|(name, count)| (json!(name), json!(count)));
    assert!(rows.into_iter().eq(expected.iter().map(|(name, count)| (name, count))));
    let table = workspace.ok(&all);
    assert!(
        table.contains("flickr8k test") && table.contains("spokencoco test") && table.contains("data test"),
        "{table}"
    );

    // A configuration without encoders takes those of the run.
    fs::write(workspace.path("only-data.toml"), "[data]\nkind = 'flickr8k'\nroot = 'flickr8k'\n").expect("written");
    let alone = json(&workspace.ok(&["eval", "--checkpoint", "runs/a", "--data", "only-data.toml", "--json"]));
    assert_eq!(alone["results"][0], results["results"][0]);

    // Another encoder of the same shape.
    let other = format!("encoders.image.path={}", fixture("image_other.pt").display());
    workspace.fails(
        2,
        &[&all[..], &["--set", &other]].concat(),
        &["trained on the image encoder tiny-image", "names other-image"],
    );
}

#[test]
fn wrong_use_is_one_line() {
    let workspace = workspace("flickr8k", flickr8k);
    add(&workspace, "spokencoco", spokencoco);
    let refused =
        |config: &str, set: &str, parts: &[&str]| workspace.fails(2, &["data", "check", config, "--set", set], parts);
    refused("flickr8k.toml", "data.root=none", &["none: no such folder: data.root"]);
    refused("flickr8k.toml", "data.images=none", &["none: no such folder: data.images"]);
    refused("flickr8k.toml", "data.root=spokencoco", &["spokencoco: has no list of spoken captions", "wav2capt.txt"]);
    refused("flickr8k.toml", "data.kind=manifest", &["data.path: is required"]);
    refused("tiny.toml", "data.kind=flickr8k", &["data.root: is required"]);
    refused("spokencoco.toml", "data.karpathy=none.json", &["none.json: No such file", "Karpathy split"]);
    refused("spokencoco.toml", "data.karpathy=spokencoco/SpokenCOCO/SpokenCOCO_val.json", &["no list \"images\""]);
    fs::remove_file(workspace.path("flickr8k/Flickr8k_text/Flickr_8k.devImages.txt")).expect("removed");
    workspace.fails(
        2,
        &["data", "check", "flickr8k.toml"],
        &["has no list of a split's images", "Flickr_8k.devImages.txt"],
    );
}

/// The counts of the real data set (Section 3.1) on an index of its size: 123,287 images, 616,000 captions.
#[test]
fn spokencoco_has_the_counts_of_the_karpathy_split() {
    use std::io::Write;
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, images: std::ops::Range<usize>, list: &str, entry: &dyn Fn(usize) -> Value| {
        let file = fs::File::create(folder.path().join(name)).expect("a file");
        let mut out = std::io::BufWriter::new(file);
        write!(out, "{{\"{list}\": [").expect("written");
        for (place, image) in images.enumerate() {
            write!(out, "{}{}", if place == 0 { "" } else { ", " }, entry(image)).expect("written");
        }
        write!(out, "]}}").expect("written");
    };
    // 82,783 of train2014, then 30,504 of restval, 5,000 of val and 5,000 of test.
    let test = 118_287..123_287;
    let part = |image: usize| if image < 82_783 { "train2014" } else { "val2014" };
    let split = |image: usize| match image {
        0..82_783 => "train",
        82_783..113_287 => "restval",
        113_287..118_287 => "val",
        _ => "test",
    };
    let file = |image: usize| format!("COCO_{}_{image:012}.jpg", part(image));
    let ids = |image: usize| {
        (0..5 + usize::from(test.contains(&image) && image < test.start + 31)).map(move |n| 10 * image + n)
    };
    let spoken = |image: usize| {
        let captions: Vec<Value> = ids(image)
            .map(|id| {
                let uttid = format!("m071506418gb9vo0w5xq3-3LUY3GC63Z0R9PYEETJGN5HO4UEP7B_{image}_{id}");
                let wav = format!("wavs/{}/0/{uttid}.wav", part(image));
                json!({"text": "A URINAL IN A PUBLIC RESTROOM NEAR A WOODEN TABLE", "speaker": "m071506418gb9vo0w5xq3", "uttid": uttid, "wav": wav})
            })
            .collect();
        json!({"image": format!("{}/{}", part(image), file(image)), "captions": captions})
    };
    let sentence = "A urinal in a public restroom near a wooden table";
    let listed = |image: usize| {
        let sentences: Vec<Value> = ids(image)
            .map(|id| json!({"tokens": sentence.split(' ').collect::<Vec<_>>(), "raw": sentence, "imgid": image, "sentid": id}))
            .collect();
        json!({"filepath": part(image), "sentids": ids(image).collect::<Vec<_>>(), "filename": file(image), "imgid": image,
               "split": split(image), "sentences": sentences, "cocoid": image})
    };
    write("SpokenCOCO_train.json", 0..82_783, "data", &spoken);
    write("SpokenCOCO_val.json", 82_783..123_287, "data", &spoken);
    write("dataset_coco.json", 0..123_287, "images", &listed);
    let config = folder.path().join("coco.toml");
    fs::write(&config, "[data]\nkind = 'spokencoco'\nroot = '.'\n").expect("written");
    if let Some(keep) = std::env::var_os("CMD_KEEP_COCO") {
        let copied = fs::create_dir_all(&keep).is_ok()
            && fs::read_dir(folder.path())
                .expect("files")
                .flatten()
                .all(|file| fs::copy(file.path(), Path::new(&keep).join(file.file_name())).is_ok());
        assert!(copied, "CMD_KEEP_COCO cannot be written");
    }

    let dataset =
        Dataset::load(&Config::load(&config, &[], Needs::Data).expect("a configuration").data).expect("a data set");
    let counts = ["train", "val", "test"].map(|split| {
        let split = dataset.split(split).expect("a split");
        (split.images.len(), split.utterances.len())
    });
    assert_eq!(counts, [(113_287, 566_435), (5_000, 25_000), (5_000, 25_031)]);
    assert!(dataset.left_out.is_empty());
}
