//! Going on: what a resumed run may change, which checkpoint it takes, and the one line for a queue.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::fs;

use common::{Workspace, train};

fn said(workspace: &Workspace, arguments: &[&str]) -> (Option<i32>, String) {
    let output = workspace.cmd(arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn keys_are_free_inexact_or_fixed() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=6"]));
    let resume = |set: &str| said(&workspace, &["train", "--resume", "runs/a", "--set", set, "--set", "train.steps=8"]);
    for free in ["log.every=2", "train.keep=1", "train.on_nan=skip", "data.workers=1", "distributed.timeout_seconds=9"]
    {
        let (status, text) = resume(free);
        let key = free.split('=').next().expect("a key");
        assert!(status == Some(0) && !text.contains(&format!("{key} has changed")), "{free}: {text}");
    }
    for inexact in
        ["encoders.speech.batch_size=3", "data.on_error=skip", "encoders.speech.cache=true", "audio.max_seconds=3"]
    {
        let (status, text) = resume(inexact);
        let key = inexact.split('=').next().expect("a key");
        let told = format!("{key} has changed: the run goes on, but not to the bit");
        assert!(status == Some(0) && text.contains(&told), "{inexact}: {text}");
    }
    for fixed in
        ["optim.lr=1", "cmd.alpha=0", "train.batch_size=8", "train.seed=1", "speech.heads=4", "eval.split=test"]
    {
        let (status, text) = resume(fixed);
        let key = fixed.split('=').next().expect("a key");
        assert!(status == Some(2) && text.contains(&format!("--set {key}: cannot change in a resumed run")), "{text}");
    }
}

#[test]
fn a_longer_run_is_told_what_that_means_and_a_shorter_one_refused() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=6"]));
    let (status, text) = said(&workspace, &["train", "--resume", "runs/a", "--set", "train.steps=9"]);
    let told = "train.steps was 6 and is 9: the learning rate now falls to 1.0e-8 at step 9 instead of step 6";
    assert!(status == Some(0) && text.contains(told), "{text}");
    assert_eq!(workspace.state("a")["step"], 9);
    let refused = ["train", "--resume", "runs/a", "--set", "train.steps=4"];
    workspace.fails(2, &refused, &["train.steps = 4", "stands after step 9; raise it"]);
}

#[test]
fn a_configuration_that_was_edited_is_not_the_runs() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=6"]));
    let file = workspace.path("runs/a/config.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    fs::write(&file, text.replace("\nlr = 0.01\n", "\nlr = 0.02\n")).expect("written");
    let resume = ["train", "--resume", "runs/a", "--set", "train.steps=8"];
    workspace.fails(2, &resume, &["keys that cannot change within a run", "config.toml is not what it was"]);
    fs::write(&file, text.replace("\nkeep = 2\n", "\nkeep = 3\n")).expect("written");
    workspace.ok(&resume);
    // A state of version 0.1 knows of no configuration.
    let state = workspace.path("runs/a/last/state.json");
    let old: String = fs::read_to_string(&state)
        .expect("a state")
        .lines()
        .filter(|line| !line.contains("\"configuration\""))
        .collect();
    fs::write(&state, old).expect("written");
    workspace.ok(&["train", "--resume", "runs/a", "--set", "train.steps=9"]);
}

/// The first evaluation comes with the first checkpoint, as with the defaults, and fails: nothing that was trained is lost.
#[test]
fn what_was_trained_is_saved_before_it_is_evaluated() {
    let workspace = Workspace::new(8);
    workspace.edit("checkpoint_every = 4", "checkpoint_every = 6");
    // Its header is whole, so that only the evaluation finds out.
    let mut broken = fs::read(common::fixture("media_tone.flac")).expect("audio");
    let middle = broken.len() / 2;
    broken[middle..middle + 40].fill(0x55);
    fs::write(workspace.path("data/val 2 1.wav"), broken).expect("written");
    for count in ["1", "2"] {
        let run = format!("n{count}");
        let (status, text) = said(&workspace, &train(&run, &["--nproc", count]));
        assert!(status == Some(1) && text.contains("val 2 1.wav: not readable audio"), "{text}");
        assert_eq!(workspace.state(&run)["step"], 6);
        let resume = ["train", "--resume", &format!("runs/{run}"), "--nproc", count, "--set", "data.on_error=skip"];
        workspace.ok(&resume);
        assert_eq!(workspace.state(&run)["step"], 12);
        assert_eq!(workspace.metrics(&run).iter().filter(|line| line["kind"] == "eval").count(), 2);
    }
}

#[test]
fn the_headers_of_the_development_split_are_read_before_the_first_step() {
    let workspace = Workspace::new(8);
    fs::write(workspace.path("data/val 2 1.wav"), "no audio").expect("written");
    workspace.fails(1, &train("a", &[]), &["val 2 1.wav: not readable audio"]);
    assert!(!workspace.path("runs/a/metrics.jsonl").exists());
    workspace.ok(&["train", "--resume", "runs/a", "--set", "data.on_error=skip"]);
}

#[test]
fn the_newest_good_checkpoint_is_never_pruned() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.keep=9", "--set", "train.checkpoint_every=2"]));
    for later in ["step-000012", "step-000010"] {
        fs::write(workspace.path(&format!("runs/a/checkpoints/{later}/model.safetensors")), "damaged")
            .expect("written");
    }
    // From step 8 to 9, one checkpoint being kept: the damaged ones of later steps are not newer than that.
    workspace.ok(&["train", "--resume", "runs/a", "--set", "train.keep=1", "--set", "train.steps=9"]);
    assert_eq!(workspace.state("a")["step"], 9);
    assert!(workspace.path("runs/a/checkpoints/step-000009/state.json").exists());
    let (status, text) = said(&workspace, &["train", "--resume", "runs/a", "--set", "train.steps=13"]);
    assert!(status == Some(0) && text.contains("passed over") && text.contains("after step 9"), "{text}");
}

#[test]
fn a_stale_best_is_told_and_mended() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.keep=9"]));
    let best = workspace.state("a")["best"]["step"].as_u64().expect("a best step");
    let stale = if best == 12 { "checkpoints/step-000004" } else { "checkpoints/step-000012" };
    let link = workspace.path("runs/a/best");
    let put = |target: &str| {
        fs::remove_file(&link).expect("removed");
        std::os::unix::fs::symlink(target, &link).expect("a link");
    };
    put(stale);
    for (folder, named) in
        [("", "runs/a"), ("", "runs/a/best"), ("", "runs/a/best/model.safetensors"), ("runs/a", "best")]
    {
        let mut command = workspace.command(&["eval", "--checkpoint", named, "--json"]);
        let output = command.current_dir(workspace.path(folder)).output().expect("the program");
        let (told, result) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        assert!(told.contains("is not the best checkpoint any more"), "{told}");
        assert!(result.contains(&format!("step-{best:06}/model.safetensors")), "{result}");
    }
    workspace.ok(&["train", "--resume", "runs/a", "--set", "train.steps=14"]);
    let best = workspace.state("a")["best"]["step"].as_u64().expect("a best step");
    assert!(fs::read_link(&link).expect("a link").ends_with(format!("step-{best:06}")));
}

#[test]
fn one_line_starts_and_goes_on() {
    let workspace = Workspace::new(8);
    let line = |more: &[&'static str]| train("queue", &[&["--resume-or-start"], more].concat());
    workspace.ok(&line(&["--set", "train.steps=5"]));
    workspace.ok(&line(&[]));
    assert_eq!(workspace.state("queue")["step"], 12);
    let before = fs::read(workspace.path("runs/queue/metrics.jsonl")).expect("metrics");
    workspace.ok(&line(&[]));
    assert!(
        before == fs::read(workspace.path("runs/queue/metrics.jsonl")).expect("metrics"),
        "a finished run stays as it is"
    );
    workspace.fails(2, &line(&["--set", "optim.lr=1"]), &["optim.lr is another here", "--name queue is another run"]);
    // Killed before its configuration, or its first checkpoint, was written.
    fs::create_dir_all(workspace.path("runs/new/checkpoints")).expect("a folder");
    workspace.ok(&train("new", &["--resume-or-start"]));
    fs::remove_dir_all(workspace.path("runs/new/checkpoints")).expect("removed");
    workspace.ok(&train("new", &["--resume-or-start", "--nproc", "2"]));
    assert_eq!(workspace.state("new")["step"], 12);
    workspace.fails(2, &["train", "--config", "tiny.toml", "--resume-or-start"], &["--name"]);
}

#[test]
fn the_name_of_a_run_is_one_plain_name() {
    let workspace = Workspace::new(2);
    for name in ["latest", "../x", "a/b", "", ".", "..", ".hidden", "a\nb"] {
        workspace.fails(2, &train(name, &[]), &["--name", "a run's name is one plain name of a folder"]);
        workspace.fails(2, &train(name, &["--nproc", "2"]), &["--name"]);
    }
    assert!(!workspace.path("runs").exists() && !workspace.path("x").exists());
}

#[test]
fn only_one_process_works_on_a_run() {
    let workspace = Workspace::new(8);
    let endless = ["--set", "train.steps=100000", "--set", "train.eval_every=100000"];
    let mut first = workspace.start(workspace.command(&train("a", &endless)), "a", 8);
    let holder = format!("process {} on ", first.id());
    workspace.fails(2, &["train", "--resume", "runs/a"], &["another process trains this run", &holder]);
    let both = train("a", &[&endless[..], &["--resume-or-start", "--nproc", "2"]].concat());
    let (status, text) = said(&workspace, &both);
    assert!(status == Some(2) && text.contains(&holder), "{status:?} {text}");
    common::kill("TERM", i64::from(first.id()));
    first.wait().expect("an end");
    workspace.goes_on("a");
}

#[test]
fn a_damaged_or_broken_model_is_not_scored() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.keep=9"]));
    let file = workspace.path("runs/a/checkpoints/step-000012/model.safetensors");
    let whole = fs::read(&file).expect("a model");
    let mut flipped = whole.clone();
    let middle = flipped.len() - flipped.len() / 3;
    flipped[middle] ^= 1;
    fs::write(&file, flipped).expect("written");
    for named in ["runs/a/checkpoints/step-000012", "runs/a/checkpoints/step-000012/model.safetensors", "runs/a/last"] {
        workspace.fails(
            2,
            &["eval", "--checkpoint", named],
            &["model.safetensors", "its content is not what was saved"],
        );
    }
    let mut broken = whole;
    let last = broken.len() - 4;
    broken[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(workspace.path("alone.safetensors"), broken).expect("written");
    let alone = ["eval", "--checkpoint", "alone.safetensors", "--data", "tiny.toml"];
    workspace.fails(2, &alone, &["alone.safetensors", "holds NaN or infinite values"]);
}

#[test]
fn a_split_is_the_one_that_was_named() {
    let workspace = Workspace::new(4);
    let file = workspace.path("data/manifest.jsonl");
    let text = fs::read_to_string(&file).expect("a manifest");
    fs::write(&file, text.replace("\"split\":\"test\"", "\"split\":\"dev\"")).expect("written");
    workspace.ok(&train("a", &[]));
    for (asked, image) in [("dev", "dev"), ("val", "val")] {
        let result = workspace.ok(&["eval", "--split", asked, "--json"]);
        assert!(result.contains(&format!("\"split\": \"{image}\"")), "{result}");
    }
}

/// `tests/fixtures/checkpoint_v1` was written by version 0.1.0.
#[test]
fn a_checkpoint_of_version_0_1_is_evaluated_and_gone_on_from() {
    let workspace = Workspace::new(8);
    workspace.edit("[train]", "[train]\nseed = 0");
    let old = common::fixture("checkpoint_v1");
    let result = workspace.ok(&["eval", "--checkpoint", old.to_str().expect("a path"), "--data", "tiny.toml"]);
    assert!(result.contains("data test"), "{result}");
    workspace.ok(&train("a", &["--set", "train.steps=1"]));
    let (run, data) = (workspace.path("runs/a/checkpoints/step-000003"), workspace.state("a")["data"].clone());
    fs::create_dir(&run).expect("a folder");
    for name in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        fs::copy(old.join(name), run.join(name)).expect("copied");
    }
    // It was trained on other data, which is refused; as if it had been this:
    let resume = ["train", "--resume", "runs/a", "--set", "train.steps=5"];
    workspace.fails(2, &resume, &["data.path has changed since this checkpoint"]);
    let text = fs::read_to_string(run.join("state.json")).expect("a state");
    let mut state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    state["data"] = data;
    fs::write(run.join("state.json"), state.to_string()).expect("written");
    let (status, text) = said(&workspace, &resume);
    assert!(status == Some(0) && text.contains("after step 3"), "{text}");
}

#[test]
fn a_run_that_is_called_latest_is_nobodys_link() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=4"]));
    fs::remove_file(workspace.path("runs/latest")).expect("removed");
    fs::rename(workspace.path("runs/a"), workspace.path("runs/latest")).expect("moved");
    let (status, text) = said(&workspace, &train("b", &["--set", "train.steps=4"]));
    assert!(status == Some(0) && text.contains("a folder of that name stands there"), "{text}");
    assert!(workspace.path("runs/latest/checkpoints/step-000004/state.json").exists());
}

#[test]
fn a_best_checkpoint_that_is_gone_is_told() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.keep=9"]));
    let best = workspace.state("a")["best"]["step"].as_u64().expect("a best step");
    let state = workspace.path("runs/a/checkpoints/step-000004/state.json");
    let text = fs::read_to_string(&state)
        .expect("a state")
        .replace("\"best\": null", "\"best\": {\"step\": 2, \"mean_r1\": 99.0}");
    fs::write(&state, text).expect("written");
    for step in [6, 8, 12] {
        let _ = fs::remove_dir_all(workspace.path(&format!("runs/a/checkpoints/step-{step:06}")));
    }
    let (status, text) = said(&workspace, &["eval", "--checkpoint", "runs/a"]);
    assert!(status == Some(0) && text.contains("the best checkpoint is gone"), "{text} {best}");
    workspace.ok(&["train", "--resume", "runs/a"]);
    assert!(workspace.state("a")["best"]["mean_r1"].as_f64() < Some(99.0));
}

/// A run whose last step turns out to be one that no evaluation was due at.
/// Killed while a checkpoint was put into the place of another, on a file system that cannot exchange two.
#[test]
fn a_checkpoint_that_stands_aside_comes_back() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.keep=9"]));
    let folder = workspace.path("runs/a/checkpoints");
    fs::rename(folder.join("step-000012"), folder.join(".step-000012.old")).expect("renamed");
    workspace.ok(&["eval", "--checkpoint", "runs/a"]);
    workspace.ok(&["train", "--resume", "runs/a", "--set", "train.steps=14"]);
    assert!(folder.join("step-000012/state.json").exists() && !folder.join(".step-000012.old").exists());
    assert_eq!(workspace.state("a")["step"], 14);
}

#[test]
fn the_last_step_is_evaluated() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.keep=9"]));
    for step in [12, 6] {
        fs::remove_dir_all(workspace.path(&format!("runs/a/checkpoints/step-{step:06}"))).expect("removed");
    }
    fs::create_dir(workspace.path("runs/a/checkpoints/.step-000099.tmp")).expect("as if killed");
    workspace.ok(&["train", "--resume", "runs/a", "--set", "train.steps=8"]);
    let evaluated: Vec<u64> = workspace
        .metrics("a")
        .iter()
        .filter(|line| line["kind"] == "eval")
        .filter_map(|line| line["step"].as_u64())
        .collect();
    assert_eq!(evaluated, [6, 8]);
    assert!(!workspace.path("runs/a/checkpoints/.step-000099.tmp").exists());
}
