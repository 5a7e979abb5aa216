//! `cmd embed`: files, folders and splits in order, in every form, stopped and gone on with.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{Workspace, train};
use serde_json::Value;

fn trained() -> Workspace {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=6"]));
    workspace
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn embedding(line: &Value, key: &str) -> Vec<f64> {
    line[key].as_array().expect("numbers").iter().map(|number| number.as_f64().expect("a number")).collect()
}

#[test]
fn a_split_ranks_as_eval_does() {
    let workspace = trained();
    std::fs::create_dir(workspace.path("vectors")).expect("made");
    workspace.ok(&["embed", "--split", "test", "--out", "vectors/embeddings.safetensors"]);
    assert!(!workspace.path("vectors/embeddings.safetensors.part").exists());
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&workspace.ok(&[arguments, &["--json"]].concat())).expect("JSON")
    };
    let (own, exported) = (json(&["eval", "--split", "test"]), json(&["eval", "--embeddings", "vectors"]));
    for side in ["speech_to_image", "image_to_speech"] {
        for key in ["r1", "r5", "mrr"] {
            assert_eq!(own["results"][0][side][key], exported["results"][0][side][key], "{side} {key}");
        }
    }
}

#[test]
fn rows_stand_in_the_order_of_the_files_in_every_form() {
    let workspace = trained();
    let files = ["data/test 1.png", "data/test 1 0.wav", "data/test 0.png", "data/test 3 1.wav"];
    let printed = lines(&workspace.ok(&[&["embed"], &files[..], &["--out", "-", "--frames"]].concat()));
    let names: Vec<&str> = printed.iter().map(|line| line["file"].as_str().expect("a file")).collect();
    assert_eq!(names, files);
    for line in &printed {
        let row = embedding(line, "embedding");
        let norm: f64 = row.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
        assert_eq!(line["frames"].is_array(), line["medium"] == "speech");
    }
    // Alone or together, with or without its frames, by name or from standard input: the same to rounding.
    let alone = lines(&workspace.ok(&["embed", files[3], "--out", "-"]));
    let mut piped =
        workspace.command(&["embed", "-", "--out", "x.jsonl"]).stdin(Stdio::piped()).spawn().expect("started");
    piped
        .stdin
        .take()
        .expect("a pipe")
        .write_all(format!("{}\n\n{}\n", files[3], files[0]).as_bytes())
        .expect("written");
    assert!(piped.wait().expect("ended").success());
    let piped = lines(&std::fs::read_to_string(workspace.path("x.jsonl")).expect("written"));
    assert_eq!(piped[1]["file"], files[0]);
    for other in [&alone[0], &piped[0]] {
        let pairs = embedding(&printed[3], "embedding").into_iter().zip(embedding(other, "embedding"));
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5));
    }
    workspace.fails(
        2,
        &[&["embed"], &files[..], &["--out", "x.npy"]].concat(),
        &["one array cannot hold sounds and pictures"],
    );
    workspace.ok(&["embed", files[1], files[3], "--frames", "--out", "y.npy"]);
    for (file, ending) in [("y.npy", "<f4"), ("y.frames.npy", "<f4"), ("y.offsets.npy", "<i8")] {
        let bytes = std::fs::read(workspace.path(file)).expect("written");
        assert!(bytes.starts_with(b"\x93NUMPY") && String::from_utf8_lossy(&bytes[..64]).contains(ending), "{file}");
    }
    assert_eq!(
        std::fs::read_to_string(workspace.path("y.files.txt")).expect("names"),
        format!("{}\n{}\n", files[1], files[3])
    );
}

#[test]
fn a_run_that_was_stopped_goes_on() {
    let workspace = trained();
    // As a kill leaves it: some whole files, and a line and a row that were cut.
    std::fs::write(workspace.path("data/zzz.wav"), "no sound").expect("written");
    workspace.fails(1, &["embed", "data", "--out", "b.jsonl"], &["zzz.wav"]);
    let part = workspace.path("b.jsonl.part");
    let done = || std::fs::read_to_string(part.join("files.jsonl")).expect("files").lines().count();
    assert!(done() > 20, "{} files were kept", done());
    let rows = std::fs::read(part.join("rows.f32")).expect("rows");
    std::fs::write(part.join("rows.f32"), &rows[..rows.len() - 3]).expect("written");
    // One that is there already is changed meanwhile.
    std::fs::copy(workspace.path("data/test 5 0.wav"), workspace.path("data/test 3 0.wav")).expect("copied");
    // The same line, now without what cannot be read.
    let going = workspace.command(&["embed", "data", "--out", "b.jsonl", "--skip"]).output().expect("the program");
    assert!(going.status.success() && String::from_utf8_lossy(&going.stderr).contains("files are embedded already"));
    workspace.ok(&["embed", "data", "--out", "whole.jsonl", "--skip"]);
    let read = |name: &str| lines(&std::fs::read_to_string(workspace.path(name)).expect("written"));
    let (whole, again) = (read("whole.jsonl"), read("b.jsonl"));
    assert_eq!(whole.len(), again.len());
    for (one, other) in whole.iter().zip(&again) {
        assert_eq!((&one["file"], &one["skipped"]), (&other["file"], &other["skipped"]));
        if one["skipped"].is_string() {
            continue;
        }
        let pairs = embedding(one, "embedding").into_iter().zip(embedding(other, "embedding"));
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5), "{}", one["file"]);
    }
}

#[test]
fn what_cannot_be_read_is_named_or_left_out_where_that_is_asked_for() {
    let workspace = trained();
    std::fs::create_dir(workspace.path("few")).expect("made");
    for name in ["test 0 0.wav", "test 1 0.wav"] {
        std::fs::copy(workspace.path(&format!("data/{name}")), workspace.path(&format!("few/{name}"))).expect("copied");
    }
    std::fs::write(workspace.path("few/test 0 5.wav"), "no sound").expect("written");
    workspace.fails(1, &["embed", "few", "--out", "x.npy"], &["test 0 5.wav"]);
    workspace.ok(&["embed", "few", "--out", "x.jsonl", "--skip"]);
    let found = lines(&std::fs::read_to_string(workspace.path("x.jsonl")).expect("written"));
    assert!(
        found[1]["skipped"].as_str().is_some_and(|why| why.contains("neither WAV"))
            && found[1].get("embedding").is_none()
            && found[2]["embedding"].is_array()
    );
    workspace.ok(&["embed", "few", "tiny.toml", "--out", "x.npy", "--skip"]);
    assert_eq!(std::fs::read_to_string(workspace.path("x.files.txt")).expect("names").lines().count(), 2);
    workspace.fails(2, &["embed", "few", "--out", "x.bin"], &["x.bin", ".safetensors"]);
    workspace.fails(2, &["embed", "--out", "x.npy"], &["FILE_OR_FOLDER"]);
    workspace.fails(1, &["embed", "few/none.wav", "--out", "x.npy"], &["few/none.wav"]);
    workspace.fails(1, &["embed", "tiny.toml", "--out", "x.npy"], &["tiny.toml", "no picture"]);
    workspace.fails(2, &["embed", "--split", "none", "--out", "x.npy"], &["no split none"]);
}
