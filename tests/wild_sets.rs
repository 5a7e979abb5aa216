//! Data sets as they are met: copies and spellings of one image, leakage, missing folders, manifests that Python wrote.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::fs;

use common::{Workspace, fixture};
use serde_json::{Value, json};

fn manifest(workspace: &Workspace) -> Vec<Value> {
    let text = fs::read_to_string(workspace.path("data/manifest.jsonl")).expect("a manifest");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn write(workspace: &Workspace, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(workspace.path("data/manifest.jsonl"), text).expect("written");
}

fn check(workspace: &Workspace, more: &[&str]) -> (Option<i32>, Value) {
    let output = workspace.cmd(&[&["data", "check", "tiny.toml", "--json"], more].concat());
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// The manifest with a line for each caption, whose image is called as `name` says.
fn unrolled(workspace: &Workspace, name: impl Fn(&str, usize) -> String) -> Vec<Value> {
    let mut lines = Vec::new();
    for line in manifest(workspace) {
        let image = line["image"].as_str().expect("a name");
        for (number, caption) in line["captions"].as_array().expect("captions").iter().enumerate() {
            lines.push(json!({"image": name(image, number), "split": line["split"], "captions": [caption]}));
        }
    }
    lines
}

#[test]
fn spellings_of_one_image_are_one_image() {
    let workspace = Workspace::new(8);
    let (_, before) = check(&workspace, &[]);
    let spellings = ["", "./", ".//"];
    let lines = unrolled(&workspace, |image, number| format!("{}{image}", spellings[number]));
    write(&workspace, &lines);
    let (status, after) = check(&workspace, &[]);
    assert_eq!((status, &after["splits"]), (Some(0), &before["splits"]));
}

#[test]
fn copies_of_one_image_are_named_warned_of_and_reported() {
    let workspace = Workspace::new(8);
    workspace.ok(&["train", "--config", "tiny.toml", "--name", "a"]);
    let lines = unrolled(
        &workspace,
        |image, number| {
            if number == 0 { image.to_owned() } else { format!("copy {number} of {image}") }
        },
    );
    for line in &lines {
        let image = line["image"].as_str().expect("a name");
        if let Some((_, original)) = image.split_once(" of ") {
            fs::copy(workspace.path(&format!("data/{original}")), workspace.path(&format!("data/{image}")))
                .expect("copied");
        }
    }
    write(&workspace, &lines);
    let (status, audit) = check(&workspace, &[]);
    let copies = audit["copies"].as_array().expect("a list");
    // Eight images each of val and test.
    assert_eq!((status, copies.len(), &audit["clean"]), (Some(0), 16, &json!(true)));
    assert!(copies[0].as_array().is_some_and(|group| group.len() > 1));
    let output = workspace.cmd(&["eval", "--checkpoint", "runs/a", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("split test: 14 images are copies of others"), "{said}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&result["results"][0]["duplicates"], &result["results"][0]["images"]), (&json!(14), &json!(22)));
    let output = workspace.cmd(&["train", "--config", "tiny.toml", "--name", "b"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("split val: 14 images are copies of others"));
}

#[test]
fn images_that_were_trained_on_are_told() {
    let workspace = Workspace::new(8);
    let mut lines = manifest(&workspace);
    let train: Vec<Value> = lines.iter().filter(|line| line["split"] == "train").cloned().collect();
    // Of the test images one has the name of a training image, two its content.
    let mut tests = lines.iter_mut().filter(|line| line["split"] == "test");
    tests.next().expect("a line")["image"] = train[5]["image"].clone();
    for (line, of) in tests.zip([2, 3]) {
        let (from, to) = (train[of]["image"].as_str().expect("a name"), line["image"].as_str().expect("a name"));
        fs::copy(workspace.path(&format!("data/{from}")), workspace.path(&format!("data/{to}"))).expect("copied");
    }
    write(&workspace, &lines);
    let (status, audit) = check(&workspace, &[]);
    assert_eq!((status, audit["leaked"].as_array().map(Vec::len)), (Some(0), Some(3)), "{audit}");
    workspace.ok(&["train", "--config", "tiny.toml", "--name", "a"]);
    let said = |arguments: &[&str]| String::from_utf8_lossy(&workspace.cmd(arguments).stderr).into_owned();
    assert!(said(&["eval"]).contains("3 images of split test are training images too"));
    assert!(!said(&["eval", "--split", "val"]).contains("training images"));
    assert!(
        said(&["train", "--config", "tiny.toml", "--set", "eval.split=test"])
            .contains("3 images of split test are training images too")
    );
}

#[test]
fn missing_files_stop_a_run_before_its_first_step() {
    let workspace = Workspace::new(8);
    for number in 1..8 {
        fs::rename(
            workspace.path(&format!("data/train {number}.png")),
            workspace.path(&format!("data/kept {number}.png")),
        )
        .expect("moved");
    }
    let train = ["train", "--config", "tiny.toml", "--name", "a"];
    workspace.fails(2, &train, &["no such file, as of", "of split train", "data.max_unreadable = 0.01"]);
    // They are there, but no pictures: found out on the way.
    for number in 1..8 {
        fs::write(workspace.path(&format!("data/train {number}.png")), "no picture").expect("written");
    }
    for (name, count) in [("b", "1"), ("c", "2")] {
        let arguments = ["train", "--config", "tiny.toml", "--name", name, "--nproc", count];
        let output = workspace.cmd(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("of 22 training utterances cannot be read, more than data.max_unreadable = 0.01"),
            "{said}"
        );
    }
    workspace.ok(&["train", "--config", "tiny.toml", "--name", "d", "--set", "data.max_unreadable=1"]);
}

#[test]
fn a_missing_folder_is_named() {
    let workspace = Workspace::new(4);
    let lines: Vec<Value> = manifest(&workspace)
        .into_iter()
        .map(|mut line| {
            if line["split"] == "train" {
                line["image"] = format!("pictures/{}", line["image"].as_str().expect("a name")).into();
            }
            line
        })
        .collect();
    write(&workspace, &lines);
    let train = ["train", "--config", "tiny.toml", "--set", "data.max_unreadable=1"];
    workspace.fails(2, &train, &["data/pictures: no such folder", "4 files of split train should lie in it"]);
    assert!(!workspace.path("runs/latest/metrics.jsonl").exists());
}

#[test]
fn splits_that_are_not_there_are_told() {
    let workspace = Workspace::new(4);
    let lines: Vec<Value> = manifest(&workspace)
        .into_iter()
        .map(|mut line| {
            let split = line["split"].as_str().expect("a split").replace("train", "Train").replace("val", "validation");
            line["split"] = split.into();
            line["captions"][0]["text"] = Value::Null;
            line["captions"][0]["speaker"] = 17.into();
            line
        })
        .collect();
    write(&workspace, &lines);
    let text = fs::read_to_string(workspace.path("data/manifest.jsonl")).expect("a manifest");
    fs::write(workspace.path("data/manifest.jsonl"), text.replace("\"text\":null", "\"text\": NaN")).expect("written");
    let (status, audit) = check(&workspace, &[]);
    let missing = audit["missing_splits"].to_string();
    assert_eq!(status, Some(1));
    assert!(
        missing.contains("no split train; it has Train, test, validation") && missing.contains("no split dev"),
        "{missing}"
    );
    let train = ["train", "--config", "tiny.toml"];
    workspace.fails(2, &train, &["no split train; it has Train, test, validation"]);
}

#[test]
fn pictures_are_bounded_by_their_header() {
    let workspace = Workspace::new(4);
    let put = |name: &str| {
        fs::copy(fixture("wild").join(name), workspace.path("data/train 2.png")).expect("copied");
        let (_, header) = check(&workspace, &[]);
        let (_, decoded) = check(&workspace, &["--decode"]);
        (header, decoded)
    };
    let (header, decoded) = put("05_jpeg_196_megapixels_by_header.jpg");
    for audit in [header, decoded] {
        assert!(audit["unreadable"].to_string().contains("more than data.max_megapixels = 50"), "{audit}");
    }
    let (header, decoded) = put("03d_jpeg_half_zeroed.jpg");
    assert_eq!((&header["repaired"], header["clean"].as_bool()), (&json!([]), Some(true)));
    assert!(decoded["repaired"][0]["why"].as_str().is_some_and(|why| why.contains("Corrupt JPEG data")), "{decoded}");
    assert_eq!(decoded["clean"], json!(true));
    let (_, control) = put("03b_jpeg_control.jpg");
    assert_eq!(control["repaired"], json!([]));
    // The key moves the limit.
    let output = workspace.cmd(&["data", "check", "tiny.toml", "--json", "--set", "data.max_megapixels=1"]);
    assert_eq!(output.status.code(), Some(0));
}

/// What the real Flickr8k Audio Captions have: one wrong header, a clip of 323 s, one of 0.23 s, pictures that nobody speaks of.
#[test]
fn oddities_that_stop_no_run_are_clean() {
    let workspace = Workspace::new(8);
    let tone = |seconds: f32| -> Vec<f32> {
        (0..(16_000.0 * seconds) as usize).map(|n| 0.3 * (n as f32 * 0.05).sin()).collect()
    };
    common::write_wav(&workspace.path("data/train 1 0.wav"), &tone(323.0));
    common::write_wav(&workspace.path("data/train 1 1.wav"), &tone(0.23));
    let mut wrong = fs::read(workspace.path("data/train 2 0.wav")).expect("audio");
    wrong[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(workspace.path("data/train 2 0.wav"), wrong).expect("written");
    fs::copy(workspace.path("data/train 0.png"), workspace.path("data/silent.png")).expect("copied");
    let mut lines = manifest(&workspace);
    lines.push(json!({ "image": "silent.png", "split": "train" }));
    write(&workspace, &lines);
    for more in [&[][..], &["--decode"]] {
        let (status, found) = check(&workspace, &[more, &["--set", "audio.min_seconds=0.25"]].concat());
        assert_eq!((status, &found["clean"]), (Some(0), &json!(true)), "{found}");
        let names = |kind: &str| found[kind].to_string();
        assert!(names("too_long").contains("train 1 0.wav") && names("too_long").contains("323.000 s"), "{found}");
        assert!(names("too_short").contains("train 1 1.wav") && names("wrong_header").contains("train 2 0.wav"));
        assert!(names("images_without_captions").contains("silent.png"));
    }
}
