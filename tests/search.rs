//! `cmd search`: an index made, brought up to date while files come, change and go, stopped and gone on with, and asked both ways.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::{Workspace, train};
use serde_json::Value;

fn trained() -> Workspace {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=6"]));
    std::fs::create_dir(workspace.path("photos")).expect("made");
    for number in 0..8 {
        copy(&workspace, &format!("data/test {number}.png"), &format!("photos/{number}.png"));
    }
    workspace
}

fn copy(workspace: &Workspace, from: &str, to: &str) {
    std::fs::copy(workspace.path(from), workspace.path(to)).expect("copied");
}

fn found(workspace: &Workspace, arguments: &[&str]) -> Vec<(String, f64)> {
    let text = workspace.ok(&[&["search", "idx"], arguments, &["--json"]].concat());
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let hits = all["queries"][0]["found"].as_array().expect("found");
    let name = |hit: &Value| {
        Path::new(hit["file"].as_str().expect("a file")).file_name().expect("a name").to_string_lossy().into_owned()
    };
    hits.iter().map(|hit| (name(hit), hit["score"].as_f64().expect("a score"))).collect()
}

/// Products of embeddings, the nearest first.
fn by_definition(workspace: &Workspace, query: &str, files: &[String]) -> Vec<(String, f64)> {
    let names: Vec<String> = files.iter().map(|file| format!("photos/{file}")).collect();
    let arguments: Vec<&str> =
        ["embed", query].into_iter().chain(names.iter().map(String::as_str)).chain(["--out", "-"]).collect();
    let rows: Vec<Vec<f64>> = workspace
        .ok(&arguments)
        .lines()
        .map(|line| {
            serde_json::from_value(serde_json::from_str::<Value>(line).expect("JSON")["embedding"].take())
                .expect("a row")
        })
        .collect();
    let product = |row: &[f64]| row.iter().zip(&rows[0]).map(|(a, b)| a * b).sum::<f64>();
    let mut all: Vec<(String, f64)> = files.iter().cloned().zip(rows[1..].iter().map(|row| product(row))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

#[test]
fn what_is_found_is_nearest_also_after_files_came_changed_and_went() {
    let workspace = trained();
    let said = workspace.ok(&["search", "index", "photos", "--out", "idx"]);
    assert!(said.contains("8 files, 8 of them new or changed; 0 are gone, 0 cannot be read"), "{said}");
    let query = "data/test 2 0.wav";
    let check = |names: &[&str], tolerance: f64| {
        let files: Vec<String> = names.iter().map(|name| format!("{name}.png")).collect();
        let (ours, theirs) = (found(&workspace, &["--speech", query]), by_definition(&workspace, query, &files));
        assert_eq!(ours.len(), theirs.len());
        for ((_, our), (_, their)) in ours.iter().zip(&theirs) {
            assert!((our - their).abs() < tolerance, "{ours:?} {theirs:?}");
        }
        if tolerance < 1e-4 {
            assert_eq!(ours[0].0, theirs[0].0);
        }
    };
    check(&["0", "1", "2", "3", "4", "5", "6", "7"], 1e-5);
    assert_eq!(found(&workspace, &["--speech", query, "-k", "3"]).len(), 3);

    // One came, one changed, one went, one is broken.
    copy(&workspace, "data/train 3.png", "photos/a.png");
    copy(&workspace, "data/train 5.png", "photos/4.png");
    std::fs::remove_file(workspace.path("photos/6.png")).expect("removed");
    std::fs::write(workspace.path("photos/b.jpg"), "no picture").expect("written");
    let said = workspace.ok(&["search", "index", "photos", "--out", "idx"]);
    assert!(said.contains("8 files, 2 of them new or changed; 1 are gone, 1 cannot be read"), "{said}");
    check(&["0", "1", "2", "3", "4", "5", "7", "a"], 1e-5);
    let said = workspace.ok(&["search", "index", "photos", "--out", "idx"]);
    assert!(said.contains("8 files, 0 of them new or changed; 0 are gone, 1 cannot be read"), "{said}");
    let left: Vec<String> = std::fs::read_dir(workspace.path("idx"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(left.len(), 4, "{left:?}");

    // Smaller rows.
    for (form, tolerance) in [("f16", 2e-3), ("i8", 2e-2)] {
        let said = workspace.ok(&["search", "index", "photos", "--out", "idx", "--rows", form]);
        assert!(said.contains("8 files, 8 of them new"), "{said}");
        check(&["0", "1", "2", "3", "4", "5", "7", "a"], tolerance);
        // It stays so.
        let said = workspace.ok(&["search", "index", "photos", "--out", "idx"]);
        assert!(said.contains("8 files, 0 of them new"), "{said}");
    }
}

#[test]
fn a_picture_finds_itself_and_speech_where_there_is_some() {
    let workspace = trained();
    copy(&workspace, "data/test 1 0.wav", "photos/said.wav");
    workspace.ok(&["search", "index", "photos", "--out", "idx"]);
    let itself = found(&workspace, &["--image", "photos/5.png", "--find", "images"]);
    assert!(itself[0].0 == "5.png" && (itself[0].1 - 1.0).abs() < 1e-5, "{itself:?}");
    assert_eq!(found(&workspace, &["--image", "photos/5.png"])[0].0, "said.wav");
    let text = workspace.ok(&[
        "search",
        "idx",
        "--speech",
        "photos/said.wav",
        "--image",
        "photos/1.png",
        "--sheet",
        "found.html",
    ]);
    assert!(text.starts_with("photos/said.wav\n") && text.contains("photos/1.png\n"), "{text}");
    let page = std::fs::read_to_string(workspace.path("found.html")).expect("a page");
    assert!(page.matches("data:image/jpeg").count() >= 9 && !page.contains("http://"), "{}", page.len());
}

#[test]
fn what_does_not_fit_is_named() {
    let workspace = trained();
    workspace.fails(2, &["search", "idx", "--speech", "data/test 2 0.wav"], &["idx: no index", "cmd search index"]);
    workspace.ok(&["search", "index", "photos", "--out", "idx"]);
    workspace.ok(&train("b", &["--set", "train.steps=3", "--set", "train.seed=5"]));
    // The index knows its model, whatever the latest run is.
    workspace.ok(&["search", "idx", "--speech", "data/test 2 0.wav"]);
    let other = ["search", "idx", "--checkpoint", "runs/b", "--speech", "data/test 2 0.wav"];
    workspace.fails(2, &other, &["another model", "--checkpoint"]);
    workspace.fails(2, &["search", "idx"], &["--speech"]);
    workspace.fails(1, &["search", "idx", "--speech", "none.wav"], &["none.wav"]);
    workspace.fails(2, &["search", "index", "none", "--out", "idx2"], &["none"]);
    let vectors = workspace.path("idx/vectors-0.npy");
    let bytes = std::fs::read(&vectors).expect("vectors");
    std::fs::write(&vectors, &bytes[..bytes.len() - 4]).expect("written");
    workspace.fails(2, &["search", "idx", "--speech", "data/test 2 0.wav"], &["vectors-0.npy", "make the index again"]);
    // A damaged index is made again.
    let said = workspace.ok(&["search", "index", "photos", "--out", "idx", "--checkpoint", "runs/a"]);
    assert!(said.contains("8 files, 8 of them new"), "{said}");
    workspace.ok(&["search", "idx", "--speech", "data/test 2 0.wav"]);
}

#[test]
fn a_graph_finds_what_all_rows_do_also_after_changes() {
    let workspace = trained();
    copy(&workspace, "data/test 1 0.wav", "photos/said.wav");
    let index = ["search", "index", "photos", "--out", "idx", "--graph-above"];
    let made = workspace.ok(&[&index[..], &["4"]].concat());
    assert!(made.contains("a graph of 8 images, which finds 100.0 % of the ten nearest"), "{made}");
    assert!(!made.contains("speech"), "one sound needs none: {made}");
    let graphs = || -> Vec<String> {
        let names = std::fs::read_dir(workspace.path("idx")).expect("a folder");
        let names = names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".usearch")).collect()
    };
    assert_eq!(graphs(), ["graph-images-0.usearch"]);
    let query = ["--speech", "data/test 2 0.wav"];
    let check = || {
        let exact = found(&workspace, &[&query[..], &["--exact"]].concat());
        assert_eq!(found(&workspace, &query), exact);
        exact
    };
    assert_eq!(check().len(), 8);

    // Nothing changed: the graph stays. One of eight changed: it is brought up to date. More: it is made anew.
    workspace.ok(&[&index[..], &["4"]].concat());
    assert_eq!(graphs(), ["graph-images-0.usearch"]);
    copy(&workspace, "data/train 3.png", "photos/3.png");
    let update = || {
        let done = workspace.cmd(&[&index[..], &["4"]].concat());
        assert!(done.status.success());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (text(done.stdout), text(done.stderr))
    };
    let (_, told) = update();
    assert!(told.contains("images: 1 files go into the graph, 1 out of it"), "{told}");
    assert_eq!(graphs(), ["graph-images-2.usearch"]);
    check();
    (0..4)
        .for_each(|number| copy(&workspace, &format!("data/train {number}.png"), &format!("photos/new {number}.png")));
    std::fs::remove_file(workspace.path("photos/5.png")).expect("removed");
    let (said, told) = update();
    assert!(!told.contains("into the graph"), "{told}");
    assert!(
        said.contains("12 files, 4 of them new or changed; 1 are gone") && said.contains("a graph of 11 images"),
        "{said}"
    );
    let names: Vec<String> = check().into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"new 0.png".to_owned()) && !names.contains(&"5.png".to_owned()), "{names:?}");

    let graph = workspace.path(&format!("idx/{}", graphs()[0]));
    let mut bytes = std::fs::read(&graph).expect("a graph");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&graph, bytes).expect("written");
    workspace.fails(2, &[&["search", "idx"], &query[..]].concat(), &[".usearch", "make the index again"]);
    // It is made again, or left out where it is not wanted.
    workspace.ok(&[&index[..], &["4"]].concat());
    check();
    workspace.ok(&[&index[..], &["100"]].concat());
    assert!(graphs().is_empty());
}

#[test]
fn a_split_is_indexed_with_what_is_said() {
    let workspace = trained();
    let said = workspace.ok(&["search", "index", "--split", "test", "--out", "idx"]);
    assert!(said.contains("30 files, 30 of them new"), "{said}");
    let text = workspace.ok(&["search", "idx", "--image", "data/test 2.png", "--json", "-k", "2"]);
    let hit = serde_json::from_str::<Value>(&text).expect("JSON")["queries"][0]["found"][0].take();
    assert!(hit["medium"] == "speech" && hit["said"].as_str().is_some_and(|said| said.starts_with("caption")), "{hit}");
    workspace.fails(2, &["search", "index", "--split", "none", "--out", "idx2"], &["no split none"]);
    workspace.fails(2, &["search", "index", "--out", "idx2"], &["FOLDER"]);
}
