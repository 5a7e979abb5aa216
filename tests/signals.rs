//! Signals: whatever the moment, what was trained is saved, and one signal too many takes nothing away.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{Workspace, kill, ranks, train};

/// A run that neither ends nor saves by itself.
const ENDLESS: [&str; 6] =
    ["--set", "train.steps=100000", "--set", "train.eval_every=100000", "--set", "train.checkpoint_every=100000"];

fn status(child: &mut Child) -> Option<i32> {
    child.wait().expect("an end").code()
}

#[test]
fn a_signal_leaves_a_checkpoint_to_go_on_from() {
    let workspace = Workspace::new(8);
    for (name, signal, expected) in [("term", "TERM", 143), ("int", "INT", 130), ("hup", "HUP", 129)] {
        // Whoever runs the tests with nohup has SIGHUP ignored here, and so would the program.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_cmd")]).args(train(name, &ENDLESS));
        command.current_dir(workspace.path("")).env("OMP_NUM_THREADS", "1");
        let mut child = workspace.start(command, name, 5);
        kill(signal, i64::from(child.id()));
        assert_eq!(status(&mut child), Some(expected));
        assert!(workspace.state(name)["step"].as_u64() >= Some(5));
    }
}

#[test]
fn a_hang_up_that_was_ignored_from_the_start_stays_ignored() {
    let workspace = Workspace::new(8);
    let mut command = Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_cmd")).args(train("a", &ENDLESS)).current_dir(workspace.path(""));
    let mut child = workspace.start(command, "a", 3);
    kill("HUP", i64::from(child.id()));
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().expect("a status").is_none());
    kill("TERM", i64::from(child.id()));
    assert_eq!(status(&mut child), Some(143));
}

#[test]
fn a_signal_takes_no_evaluation_away() {
    let workspace = Workspace::new(8);
    let often = ["--set", "train.steps=60", "--set", "train.eval_every=1"];
    let mut child = workspace.start(workspace.command(&train("a", &often)), "a", 6);
    kill("TERM", i64::from(child.id()));
    assert_eq!(status(&mut child), Some(143));
    workspace.ok(&["train", "--resume", "runs/a"]);
    for kind in ["train", "eval"] {
        let lines = workspace.metrics("a").into_iter().filter(|line| line["kind"] == kind);
        let steps: Vec<u64> = lines.filter_map(|line| line["step"].as_u64()).collect();
        assert!(steps.iter().copied().eq(1..=60), "{kind}: {steps:?}");
    }
}

/// Ctrl-C in a terminal reaches every process of the foreground group, `timeout` and schedulers send theirs to all as well.
#[test]
fn a_signal_to_the_whole_group_leaves_a_checkpoint_each_time() {
    let workspace = Workspace::new(8);
    for (number, (signal, expected)) in [("INT", 130), ("TERM", 143), ("INT", 130)].into_iter().enumerate() {
        let name = format!("group-{number}");
        let more = [&ENDLESS[..], &["--nproc", "2"]].concat();
        let mut command = workspace.command(&train(&name, &more));
        command.process_group(0);
        let mut child = workspace.start(command, &name, 4);
        kill(signal, -i64::from(child.id()));
        // And once more at once, as an impatient hand or a scheduler does.
        kill(signal, -i64::from(child.id()));
        assert_eq!(status(&mut child), Some(expected));
        let reached = workspace.metrics(&name).len() as u64;
        assert!(workspace.state(&name)["step"].as_u64() >= Some(reached), "{name}");
        workspace.goes_on(&name);
    }
}

/// A signal to one rank alone is known to all before the next step, also while they evaluate.
#[test]
fn a_signal_to_one_rank_stops_all_with_a_checkpoint() {
    let workspace = Workspace::new(8);
    for (name, every) in [("step", "train.eval_every=100000"), ("evaluation", "train.eval_every=1")] {
        let more =
            ["--set", "train.steps=100000", "--set", "train.checkpoint_every=100000", "--nproc", "2", "--set", every];
        let mut child = workspace.start(workspace.command(&train(name, &more)), name, 6);
        kill("TERM", i64::from(ranks(&child)[1]));
        let status = status(&mut child);
        let reached = workspace.metrics(name).iter().filter(|line| line["kind"] == "train").count() as u64;
        assert!(workspace.state(name)["step"].as_u64() >= Some(reached), "{name}");
        // The launcher was asked for nothing, so its ranks ended early.
        assert_eq!(status, Some(143), "{name}");
    }
}

#[test]
fn a_second_signal_after_a_second_leaves_at_once() {
    let workspace = Workspace::new(8);
    // The first signal cannot be heeded: rank 1 is stopped, so rank 0 waits for it.
    let more = [&ENDLESS[..], &["--nproc", "2"]].concat();
    let mut child = workspace.start(workspace.command(&train("a", &more)), "a", 3);
    kill("STOP", i64::from(ranks(&child)[1]));
    kill("INT", i64::from(child.id()));
    std::thread::sleep(Duration::from_millis(1300));
    assert!(child.try_wait().expect("a status").is_none(), "one signal waits for the ranks");
    kill("INT", i64::from(child.id()));
    let begun = Instant::now();
    assert_eq!(status(&mut child), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn sigusr1_saves_and_goes_on() {
    let workspace = Workspace::new(8);
    for (name, count) in [("one", "1"), ("two", "2")] {
        let more = [&ENDLESS[..], &["--nproc", count]].concat();
        let mut child = workspace.start(workspace.command(&train(name, &more)), name, 3);
        kill("USR1", i64::from(child.id()));
        let saved = workspace.path(&format!("runs/{name}/last/state.json"));
        let begun = Instant::now();
        while !saved.exists() {
            assert!(begun.elapsed() < Duration::from_secs(60) && child.try_wait().expect("a status").is_none());
            std::thread::sleep(Duration::from_millis(10));
        }
        let (first, lines) = (workspace.state(name)["step"].as_u64(), workspace.metrics(name).len());
        while workspace.metrics(name).len() < lines + 3 {
            assert!(child.try_wait().expect("a status").is_none(), "it goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
        kill("TERM", i64::from(child.id()));
        assert_eq!(status(&mut child), Some(143));
        assert!(workspace.state(name)["step"].as_u64() > first);
    }
}

/// A file system that answers no more: the read never comes back, and neither the signal nor the way out waits for it.
#[test]
fn a_stalled_read_does_not_hold_a_signal_up() {
    let workspace = Workspace::new(8);
    for (name, sample) in [("training", "train 5 1"), ("evaluation", "val 3 1")] {
        let more = ["--set", "train.steps=100000", "--set", "train.eval_every=5", "--set", "train.checkpoint_every=2"];
        let mut child = workspace.start(workspace.faulty(&train(name, &more), ("FAULT_STALL", sample)), name, 8);
        std::fs::write(workspace.path("stall"), "").expect("written");
        // Long enough for every step that still can be made.
        let mut lines = 0;
        while workspace.metrics(name).len() != lines {
            lines = workspace.metrics(name).len();
            std::thread::sleep(Duration::from_millis(500));
        }
        assert!(child.try_wait().expect("a status").is_none(), "it waits for the file");
        kill("TERM", i64::from(child.id()));
        let begun = Instant::now();
        assert_eq!(status(&mut child), Some(143), "{name}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{name}");
        let reached = workspace.metrics(name).iter().filter(|line| line["kind"] == "train").count() as u64;
        assert!(workspace.state(name)["step"].as_u64() >= Some(reached), "{name}");
        std::fs::remove_file(workspace.path("stall")).expect("removed");
        workspace.goes_on(name);
    }
}
