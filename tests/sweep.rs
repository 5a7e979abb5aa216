//! `cmd sweep`, as users run it.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Workspace, kill};
use serde_json::Value;

const PLAN: &str = "config = 'tiny.toml'\nseeds = [0, 1]\nsplits = ['test', 'val']\n[set]\n'train.steps' = 6\n\
                    encoders.speech.cache = 'memory'\nencoders.image.cache = 'memory'\n\
                    [[vary]]\nkey = 'cmd.alpha'\nvalues = [0.0, 0.5]\nnames = ['without', 'with']\n";

fn workspace(plan: &str) -> Workspace {
    let workspace = Workspace::new(8);
    fs::write(workspace.path("alpha.toml"), plan).expect("written");
    workspace
}

fn result(workspace: &Workspace) -> Value {
    let text = fs::read_to_string(workspace.path("runs/sweep-alpha/sweep.json")).expect("a result");
    serde_json::from_str(&text).expect("JSON")
}

/// Folders of the runs.
fn runs(workspace: &Workspace) -> Vec<String> {
    let entries = fs::read_dir(workspace.path("runs/sweep-alpha")).expect("a folder");
    let mut runs: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("seed"))
        .collect();
    runs.sort();
    runs
}

#[test]
fn a_sweep_gives_what_its_runs_give_alone() {
    let workspace = workspace(PLAN);
    let list = workspace.ok(&["sweep", "alpha.toml", "--list"]);
    assert_eq!(list.lines().filter(|line| line.starts_with("to be trained")).count(), 4, "{list}");
    let table = workspace.ok(&["sweep", "alpha.toml"]);
    assert!(table.contains("test split") && table.contains("| with | 2 |"), "{table}");
    let all = result(&workspace);
    assert_eq!(all["summaries"].as_array().map(Vec::len), Some(2));
    for split in ["test", "val"] {
        let picture = fs::read_to_string(workspace.path(&format!("runs/sweep-alpha/{split}.svg"))).expect("a picture");
        assert!(picture.starts_with("<svg") && ["\nwith\n", "\nwithout\n"].iter().all(|name| picture.contains(name)));
    }
    let rows = &all["summaries"][0]["settings"];
    assert!(rows[0]["difference"].is_null() && rows[1]["difference"]["seeds"] == 2, "{rows}");

    // By hand, without anything kept.
    let options = ["--set", "train.steps=6", "--set", "train.seed=1", "--set", "cmd.alpha=0.0"];
    workspace.ok(&common::train("alone", &options));
    let scores = workspace.ok(&["eval", "--checkpoint", "runs/alone", "--split", "test", "--json"]);
    let scores: Value = serde_json::from_str(&scores).expect("JSON");
    let run = &rows[0]["runs"][1];
    assert_eq!(run["seed"], 1);
    assert_eq!(run["r1"]["speech_to_image"], scores["results"][0]["speech_to_image"]["r1"]);
    assert_eq!(run["r1"]["in_family"], scores["results"][0]["in_family"]["accuracy"]);

    // Finished runs are not repeated; another value makes other runs; a plan without seeds on the line has its own.
    let stamp = |name: &String| {
        fs::metadata(workspace.path(&format!("runs/sweep-alpha/{name}/outcome.json"))).and_then(|file| file.modified())
    };
    let before: Vec<_> = runs(&workspace).iter().map(|name| stamp(name).expect("a file")).collect();
    assert_eq!(workspace.ok(&["sweep", "alpha.toml"]), table);
    assert_eq!(runs(&workspace).iter().map(|name| stamp(name).expect("a file")).collect::<Vec<_>>(), before);
    workspace.ok(&["sweep", "alpha.toml", "--seeds", "1", "--set", "optim.lr=0.02"]);
    assert_eq!(runs(&workspace).len(), 6);
    // Other data under the same name are noticed.
    let manifest = workspace.path("data/manifest.jsonl");
    let lines = fs::read_to_string(&manifest).expect("a manifest");
    fs::write(&manifest, lines.split_once('\n').expect("lines").1).expect("written");
    workspace.fails(1, &["sweep", "alpha.toml"], &["made from other data or encoders"]);
}

#[test]
fn a_killed_sweep_goes_on_where_it_was() {
    let straight = workspace(PLAN);
    straight.ok(&["sweep", "alpha.toml"]);
    let killed = workspace(PLAN);
    let mut child = killed.command(&["sweep", "alpha.toml"]).stderr(Stdio::null()).spawn().expect("the program");
    let begun = Instant::now();
    let finished = || {
        fs::read_dir(killed.path("runs/sweep-alpha"))
            .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().join("outcome.json").exists()))
    };
    while !finished() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no run was finished");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill("KILL", i64::from(child.id()));
    child.wait().expect("a status");
    killed.ok(&["sweep", "alpha.toml"]);
    assert_eq!(runs(&killed), runs(&straight));
    assert_eq!(result(&killed), result(&straight));
}

#[test]
fn runs_on_fewer_images_and_runs_that_fail_are_part_of_it() {
    let plan = PLAN.replace(
        "key = 'cmd.alpha'\nvalues = [0.0, 0.5]\nnames = ['without', 'with']",
        "key = 'train.images'\nvalues = [4, 8]",
    );
    let workspace = workspace(&plan);
    let table = workspace.ok(&["sweep", "alpha.toml", "--seeds", "1"]);
    assert!(table.contains("| train.images=4 | 1 |"), "{table}");
    let plan = PLAN.replace("'cmd.alpha'\nvalues = [0.0, 0.5]", "'optim.lr'\nvalues = [1e-3, 1e35]");
    fs::write(workspace.path("alpha.toml"), plan).expect("written");
    let table = workspace.ok(&["sweep", "alpha.toml", "--seeds", "1"]);
    assert!(table.contains("| with | 0, 1 not finite | - | - | - |"), "{table}");
}

#[test]
fn the_shipped_sweeps_can_be_read() {
    let workspace = Workspace::new(1);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/sweeps");
    let plans: Vec<PathBuf> =
        fs::read_dir(folder).expect("sweeps").map(|entry| entry.expect("an entry").path()).collect();
    assert!(plans.len() >= 8);
    for plan in plans {
        let listed = workspace.ok(&["sweep", &plan.display().to_string(), "--list"]);
        assert!(listed.lines().count() >= 6, "{listed}");
    }
}

#[test]
fn what_is_wrong_is_said_before_anything_is_trained() {
    let workspace = workspace(&PLAN.replace("cmd.alpha", "cmd.alhpa"));
    workspace.fails(2, &["sweep", "alpha.toml"], &["alpha.toml: unknown key cmd.alhpa; did you mean cmd.alpha?"]);
    workspace.fails(2, &["sweep", "none.toml"], &["none.toml: No such file"]);
    fs::write(workspace.path("alpha.toml"), PLAN).expect("written");
    let said = ["--set cmd.alpha: the sweep varies this key"];
    workspace.fails(2, &["sweep", "alpha.toml", "--set", "cmd.alpha=0.3"], &said);
    let said = ["train.seed: a sweep takes its seeds from"];
    workspace.fails(2, &["sweep", "alpha.toml", "--set", "train.seed=3"], &said);
    fs::write(workspace.path("alpha.toml"), PLAN.replace("0.0, 0.5", "0.0, -1.0")).expect("written");
    workspace.fails(2, &["sweep", "alpha.toml"], &["cmd.alpha: is -1.0, but must be at least 0"]);
    let heads = PLAN.replace("'cmd.alpha'", "'speech.head'").replace("0.0, 0.5", "'parallel', 'cascaded'");
    fs::write(workspace.path("alpha.toml"), heads).expect("written");
    workspace.fails(2, &["sweep", "alpha.toml"], &["needs a frozen text encoder: encoders.text.path"]);
    fs::write(workspace.path("alpha.toml"), PLAN.replace("'val'", "'hard'")).expect("written");
    workspace.fails(2, &["sweep", "alpha.toml"], &["no split hard; it has test, train, val"]);
    assert!(!workspace.path("runs").exists());
}
