//! Systems under one rule: embeddings in files, comparisons, parts of a split, exported ranks.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{Workspace, train};
use serde_json::Value;

fn json(workspace: &Workspace, arguments: &[&str]) -> Value {
    serde_json::from_str(&workspace.ok(&[arguments, &["--json"]].concat())).expect("JSON")
}

/// Recalls of a result, in both directions.
fn recalls(result: &Value) -> [f64; 6] {
    let of = |side: &str, key: &str| result[side][key].as_f64().expect("a recall");
    let [a, b] = ["speech_to_image", "image_to_speech"].map(|side| ["r1", "r5", "mrr"].map(|key| of(side, key)));
    [a[0], a[1], a[2], b[0], b[1], b[2]]
}

#[test]
fn what_a_run_exports_ranks_as_the_run_does() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=30"]));
    let forms = ["--export", "embeddings=out/e", "--export", "ranks=out/r", "--export", "trec=out/t"];
    let own = json(&workspace, &[&["eval", "--split", "test"], &forms[..]].concat());
    let again = json(&workspace, &["eval", "--embeddings", "out/e"]);
    assert_eq!(recalls(&own["results"][0]), recalls(&again["results"][0]));
    assert_eq!(again["results"][0]["dataset"], "e");

    let lines = std::fs::read_to_string(workspace.path("out/r/ranks.jsonl")).expect("ranks");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 22 + 8);
    for line in &lines {
        let rank = line["rank"].as_u64().expect("a rank") as usize;
        let right: Vec<&Value> = line["right"].as_array().expect("right ones").iter().collect();
        let found: Vec<&Value> = line["found"].as_array().expect("found").iter().map(|item| &item["id"]).collect();
        let place = found.iter().position(|id| right.contains(id)).map(|place| place + 1);
        assert_eq!(place, Some(rank).filter(|rank| *rank <= found.len()), "{line}");
    }
    let first = lines.iter().filter(|line| line["direction"] == "speech_to_image" && line["rank"] == 1).count();
    let r1 = own["results"][0]["speech_to_image"]["r1"].as_f64().expect("R@1");
    assert!((100.0 * first as f64 / 22.0 - r1).abs() < 1e-9);
    assert!(lines[0]["text"].as_str().is_some_and(|text| text.starts_with("caption 0 of test")), "{}", lines[0]);
    let table = std::fs::read_to_string(workspace.path("out/r/ranks.csv")).expect("a table");
    assert_eq!(table.lines().count(), 31);
}

#[test]
fn another_run_is_compared_on_the_same_queries() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=30"]));
    workspace.ok(&train("b", &["--set", "train.steps=6", "--set", "train.seed=4"]));
    let both = json(&workspace, &["eval", "--checkpoint", "runs/a", "--compare", "runs/b"]);
    let other = json(&workspace, &["eval", "--checkpoint", "runs/b"]);
    let found = &both["comparisons"][0];
    assert_eq!((&found["ours"], &found["theirs"], &found["of"]), (&"a".into(), &"b".into(), &"data test".into()));
    let r1 = |all: &Value| all["results"][0]["mean"]["r1"].as_f64().expect("R@1");
    let points = found["mean"]["r1"]["points"].as_f64().expect("points");
    assert!((points - (r1(&both) - r1(&other))).abs() < 1e-9);
    let interval: Vec<f64> = serde_json::from_value(found["mean"]["r1"]["ci95"].clone()).expect("an interval");
    assert!(interval[0] <= points && points <= interval[1]);
    let table = workspace.ok(&["eval", "--checkpoint", "runs/a", "--compare", "runs/a"]);
    assert!(table.contains("data test: a less a, points") && table.contains("+0.0 [ +0.0,  +0.0]"), "{table}");

    // The same by their embeddings.
    for run in ["a", "b"] {
        let folder = format!("embeddings=out/{run}");
        workspace.ok(&["eval", "--checkpoint", &format!("runs/{run}"), "--export", &folder]);
    }
    let vectors = json(&workspace, &["eval", "--embeddings", "out/a", "--compare", "out/b"]);
    assert_eq!(vectors["comparisons"][0]["mean"], found["mean"]);
    std::fs::remove_file(workspace.path("out/b/speech_ids.txt")).expect("removed");
    workspace.ok(&["eval", "--embeddings", "out/a", "--compare", "out/b"]);
    let ids = workspace.path("out/b/image_ids.txt");
    let text = std::fs::read_to_string(&ids).expect("names");
    std::fs::write(&ids, text.replace("test%200.png", "other.png")).expect("written");
    let refused = ["eval", "--embeddings", "out/a", "--compare", "out/b"];
    workspace.fails(
        2,
        &refused,
        &["--compare b: a row of images is other.png, not test%200.png", "the same queries in the same order"],
    );
}

#[test]
fn parts_of_a_split_add_up() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=30"]));
    let kinds = ["--by", "speaker", "--by", "words", "--by", "family", "--by", "part"];
    let found = json(&workspace, &[&["eval"], &kinds[..]].concat());
    let whole = found["results"][0]["speech_to_image"]["r1"].as_f64().expect("R@1");
    let breakdowns = found["breakdowns"].as_array().expect("breakdowns");
    assert_eq!(breakdowns.len(), 4);
    for breakdown in breakdowns {
        let groups = breakdown["groups"].as_array().expect("groups");
        let of = |group: &Value, key: &str| group["speech_to_image"][key].as_f64().expect("a number");
        let queries: f64 = groups.iter().map(|group| of(group, "queries")).sum();
        let hits: f64 = groups.iter().map(|group| of(group, "queries") * of(group, "r1")).sum();
        assert!((queries - 22.0).abs() < 1e-9 && (hits / queries - whole).abs() < 1e-9, "{breakdown}");
    }
    assert_eq!(breakdowns[1]["groups"][0]["name"], "5 to 8");
    assert_eq!(breakdowns[2]["groups"].as_array().map(Vec::len), Some(3));
    let table = workspace.ok(&[&["eval"], &kinds[..]].concat());
    assert!(table.contains("speaker |") && table.contains("family"), "{table}");
}

#[test]
fn systems_of_one_name_have_a_folder_each() {
    let workspace = Workspace::new(4);
    workspace.ok(&train("a", &["--set", "train.steps=3"]));
    for folder in ["x/sys", "y/sys"] {
        workspace.ok(&["eval", "--export", &format!("embeddings={folder}")]);
    }
    workspace.ok(&["eval", "--embeddings", "x/sys", "--embeddings", "y/sys", "--export", "ranks=out"]);
    let read = |name: &str| std::fs::read_to_string(workspace.path(&format!("out/{name}/ranks.csv"))).expect("ranks");
    assert_eq!(read("sys"), read("sys-2"));
}

#[test]
fn a_card_tells_its_own_figures_and_takes_no_folder_from_others() {
    let workspace = Workspace::new(4);
    for (name, alpha) in [("a", "cmd.alpha=0.5"), ("b", "cmd.alpha=0")] {
        workspace.ok(&train(name, &["--set", "train.steps=3", "--set", alpha]));
        let results = workspace.ok(&["eval", "--checkpoint", &format!("runs/{name}"), "--json"]);
        std::fs::write(workspace.path(&format!("{name}.json")), results).expect("written");
        workspace.ok(&[
            "card",
            &format!("runs/{name}"),
            "--results",
            &format!("{name}.json"),
            "--out",
            &format!("card-{name}"),
        ]);
    }
    let readme =
        |name: &str| std::fs::read_to_string(workspace.path(&format!("card-{name}/README.md"))).expect("a card");
    assert!(readme("a").contains("trained with cross-modal") && readme("b").contains("trained without cross-modal"));
    workspace.fails(
        2,
        &["card", "runs/a", "--results", "b.json", "--out", "c"],
        &["b.json: holds results of", "not of"],
    );
    // Again into the same folder, but never over something else.
    workspace.ok(&["card", "runs/a", "--out", "card-a"]);
    let before = std::fs::read(workspace.path("runs/a/best/model.safetensors")).expect("weights");
    workspace.fails(1, &["card", "runs/a", "--out", "runs/a/best"], &["holds something else"]);
    assert_eq!(std::fs::read(workspace.path("runs/a/best/model.safetensors")).expect("weights"), before);
}

#[test]
fn wrong_use_is_named() {
    let workspace = Workspace::new(4);
    workspace.ok(&train("a", &["--set", "train.steps=3"]));
    workspace.fails(
        2,
        &["eval", "--export", "csv=out"],
        &["must be ranks=FOLDER, trec=FOLDER, mteb=FOLDER or embeddings=FOLDER"],
    );
    workspace.fails(2, &["eval", "--by", "age"], &["must be speaker, words, part or family"]);
    workspace.fails(2, &["eval", "--embeddings", "none"], &["speech.npy: is not there"]);
    workspace.fails(2, &["eval", "--embeddings", "none", "--split", "x", "--rerank", "3"], &["cannot be used with"]);
    workspace.fails(2, &["eval", "--compare", "runs/none"], &["runs/none"]);
}
