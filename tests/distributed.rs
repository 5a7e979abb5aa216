//! Several processes train one model: the same run whatever their number, and an end to all when one dies.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Workspace, assert_close, free_port, kill, ranks};
use serde_json::Value;

/// With a batch that 4 processes can share.
fn train<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    common::train(name, &[&["--set", "train.batch_size=8"], more].concat())
}

/// Recalls, image by image of the split, are those of one process as well: the figures of evaluation are equal.
fn evaluations(workspace: &Workspace, run: &str) -> Vec<Value> {
    let lines = workspace.metrics(run).into_iter().filter(|line| line["kind"] == "eval");
    let means: Vec<Value> = lines.map(|line| line["mean"].clone()).collect();
    assert!(means.iter().any(|mean| mean["r1"].as_f64().is_some()), "{run}: {means:?}");
    means
}

#[test]
fn the_number_of_processes_changes_nothing() {
    let workspace = Workspace::new(8);
    for (name, settings) in [
        ("paired", &["--set", "speech.dropout=0"][..]),
        (
            "all",
            &["--set", "cmd.pairing=all", "--set", "loss.same_image=masked", "--set", "encoders.speech.batch_size=3"],
        ),
        ("alone", &["--set", "cmd.alpha=0"]),
        ("bank", &["--set", "loss.image_bank=all", "--set", "encoders.image.cache=disk"]),
        ("drawn", &["--set", "loss.image_bank=2", "--set", "loss.same_image=masked"]),
        ("averaged", &["--set", "train.ema=0.9"]),
        ("distilled", &["--set", "train.ema=0.9", "--set", "loss.distill=0.5", "--set", "loss.image_bank=all"]),
    ] {
        let run = |count: &str| format!("{name}-{count}");
        for count in ["1", "2", "4"] {
            workspace.ok(&train(&run(count), &[&["--nproc", count], settings].concat()));
        }
        for count in ["2", "4"] {
            let keys = ["loss", "loss_sic", "grad_norm", "temperature", "loss_cmd"];
            for key in &keys[..if name == "alone" { 4 } else { 5 }] {
                let what = format!("{name}, {count} processes, {key}");
                assert_close(&workspace.figures(&run(count), key), &workspace.figures(&run("1"), key), &what);
            }
            assert_eq!(evaluations(&workspace, &run(count)), evaluations(&workspace, &run("1")));
        }
    }
}

/// Adam's first moment after one step is 0.1 of the gradient.
#[test]
fn the_first_gradient_is_that_of_one_process() {
    let workspace = Workspace::new(8);
    let gradient = |run: &str| {
        let bytes = std::fs::read(workspace.path(&format!("runs/{run}/last/optimizer.safetensors"))).expect("a file");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut tensors: Vec<(String, Vec<f64>)> = file
            .tensors()
            .into_iter()
            .filter(|(name, _)| name.starts_with("exp_avg."))
            .map(|(name, view)| {
                let values =
                    view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
                (name, values.collect())
            })
            .collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors
    };
    for pairing in ["paired", "all"] {
        let set = format!("cmd.pairing={pairing}");
        let run = |count: &str| format!("{pairing}-{count}");
        for count in ["1", "2", "4"] {
            workspace.ok(&train(&run(count), &["--nproc", count, "--set", "train.steps=1", "--set", &set]));
        }
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        for count in ["2", "4"] {
            let (ours, theirs) = (gradient(&run(count)), gradient(&run("1")));
            assert!(ours.len() > 10 && ours.len() == theirs.len(), "{} and {} tensors", ours.len(), theirs.len());
            for ((name, ours), (same, theirs)) in ours.iter().zip(&theirs) {
                assert_eq!(name, same);
                let difference: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
                assert!(norm(&difference) <= 1e-5 * norm(theirs).max(1e-6), "{pairing}, {count} processes, {name}");
            }
        }
    }
}

#[test]
fn features_that_are_made_ahead_are_the_same() {
    let workspace = Workspace::new(8);
    let settings = ["--nproc", "2", "--set", "train.eval_every=5", "--set", "encoders.image.cache=disk"];
    for ahead in ["true", "false"] {
        let ahead_or_not = format!("train.encode_ahead={ahead}");
        workspace.ok(&train(ahead, &[&settings[..], &["--set", &ahead_or_not]].concat()));
    }
    for key in ["loss", "loss_cmd", "grad_norm"] {
        assert_eq!(workspace.figures("true", key), workspace.figures("false", key), "{key}");
    }
    assert_eq!(evaluations(&workspace, "true"), evaluations(&workspace, "false"));
}

#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("straight", &["--nproc", "2"]));
    workspace.ok(&train("changed", &["--nproc", "2"]));
    std::fs::remove_dir_all(workspace.path("runs/changed/checkpoints/step-000012")).expect("removed");
    workspace.ok(&["train", "--resume", "runs/changed", "--nproc", "4"]);
    for key in ["loss", "grad_norm"] {
        assert_close(&workspace.figures("changed", key), &workspace.figures("straight", key), key);
    }
}

#[test]
fn bad_files_are_counted_over_all_processes() {
    let workspace = Workspace::new(8);
    for name in ["train 3 1.wav", "train 6 0.wav"] {
        std::fs::write(workspace.path("data").join(name), "no audio").expect("written");
    }
    let many = ["--set", "data.max_unreadable=0.1"];
    for count in ["1", "2"] {
        let output = workspace.cmd(&train(&format!("n{count}"), &[&many[..], &["--nproc", count]].concat()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("train 3 1.wav") && said.contains("train 6 0.wav"), "{said}");
    }
    let skipped = workspace.figures("n1", "skipped");
    assert!(skipped.iter().sum::<f64>() > 0.0, "{skipped:?}");
    assert_eq!(skipped, workspace.figures("n2", "skipped"));
    let fail = ["--set", "data.on_error=fail", "--nproc", "2"];
    let output = workspace.cmd(&train("refuses", &[&many[..], &fail].concat()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("train 3 1.wav: not readable") || said.contains("train 6 0.wav: not readable"), "{said}");
    std::fs::write(workspace.path("data/val 2 1.wav"), "no audio").expect("written");
    let output = workspace.cmd(&train("fails", &[&many[..], &["--nproc", "2"]].concat()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("val 2 1.wav: not readable audio") && said.contains("the others were stopped"), "{said}");
    for count in ["1", "2"] {
        let skip = [&many[..], &["--nproc", count, "--set", "data.on_error=skip"]].concat();
        workspace.ok(&train(&format!("s{count}"), &skip));
    }
    let skipped =
        |run: &str| workspace.metrics(run).into_iter().filter_map(|line| line.get("skipped_files").cloned()).next();
    assert!(skipped("s1").is_some());
    assert_eq!(skipped("s1"), skipped("s2"));
}

#[test]
fn wrong_use_is_one_line() {
    let workspace = Workspace::new(4);
    let uneven = ["--set", "train.batch_size=10", "--nproc", "4"];
    let arguments = [&["train", "--config", "tiny.toml"][..], &uneven].concat();
    let output = workspace.cmd(&arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("train.batch_size = 10 is the global batch")
            && said.contains("4 processes; the nearest that can is 8")
    );

    let environment = |variables: &[(&str, &str)], part: &str| {
        let mut command = workspace.command(&train("environment", &["--set", "distributed.timeout_seconds=2"]));
        let output = command.envs(variables.iter().copied()).output().expect("the program");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(part) && said.lines().count() == 1, "{said}");
    };
    environment(&[("WORLD_SIZE", "two")], "WORLD_SIZE=two: is no whole number");
    environment(&[("WORLD_SIZE", "2")], "RANK=: is needed where 2 processes train together");
    environment(&[("WORLD_SIZE", "2"), ("RANK", "2")], "RANK=2: must be below the number of processes, 2");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let at = |rank, port| [("WORLD_SIZE", "2"), ("RANK", rank), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port)];
    environment(&at("0", &port), "cannot join the others at 127.0.0.1");
    drop(taken);
    environment(&at("0", &port), "rank 0 of 2 cannot join the others");
    environment(&at("1", &port), "rank 1 of 2 cannot join the others");
    workspace.fails(2, &train("n", &["--nproc", "0"]), &["--nproc", "must be from 1 to 4096"]);
    workspace.fails(2, &train("n", &["--nnodes", "2"]), &["--rdzv HOST:PORT"]);
    workspace.fails(
        2,
        &train("n", &["--nnodes", "2", "--node-rank", "2"]),
        &["--node-rank 2: must be below --nnodes 2"],
    );
}

#[test]
fn two_machines_and_slurm_are_the_same_run() {
    let workspace = Workspace::new(8);
    let steps = ["--set", "train.steps=4", "--set", "train.eval_every=4"];
    workspace.ok(&train("one", &steps));
    let meeting = format!("127.0.0.1:{}", free_port());
    let node = |rank: &str| {
        let more = [&steps[..], &["--nproc", "2", "--nnodes", "2", "--node-rank", rank, "--rdzv", &meeting]].concat();
        workspace.command(&train("nodes", &more)).stderr(Stdio::null()).spawn().expect("the program")
    };
    let nodes = [node("0"), node("1")];
    for mut node in nodes {
        assert!(node.wait().expect("an end").success());
    }
    let port = free_port().to_string();
    let tasks = ["0", "1"].map(|rank| {
        let mut command = workspace.command(&train("slurm", &steps));
        let variables = [("SLURM_NTASKS", "2"), ("SLURM_PROCID", rank), ("SLURM_LOCALID", rank)];
        let meeting = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port)];
        command.envs(variables).envs(meeting).stderr(Stdio::null()).spawn().expect("the program")
    });
    for mut task in tasks {
        assert!(task.wait().expect("an end").success());
    }
    for run in ["nodes", "slurm"] {
        assert_close(&workspace.figures(run, "loss"), &workspace.figures("one", "loss"), run);
    }
}

/// With torchrun of another installation (`scripts/setup --exporters` makes it; without it there is nothing to try).
#[test]
fn torchrun_launches_it() {
    let torchrun = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv-export/bin/torchrun");
    if !torchrun.exists() {
        return;
    }
    let workspace = Workspace::new(8);
    workspace.ok(&train("one", &[]));
    let mut command = std::process::Command::new(torchrun);
    command.args(["--nproc-per-node", "2", "--no-python", env!("CARGO_BIN_EXE_cmd")]).args(train("two", &[]));
    let output = command.current_dir(workspace.path("")).env("OMP_NUM_THREADS", "1").output().expect("torchrun");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_close(&workspace.figures("two", "loss"), &workspace.figures("one", "loss"), "torchrun");
}

/// A long run in two processes that has made some steps and a checkpoint.
fn start(workspace: &Workspace, name: &str, more: &[&str]) -> (Child, Vec<u32>) {
    let steps = ["--nproc", "2", "--set", "train.steps=100000", "--set", "train.eval_every=100000"];
    let arguments = train(name, &[&steps[..], more].concat()).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let child = workspace.command(&arguments).stderr(Stdio::piped()).spawn().expect("the program");
    let checkpoint = workspace.path(&format!("runs/{name}/last/state.json"));
    let begun = Instant::now();
    while !checkpoint.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint came");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ranks = ranks(&child);
    (child, ranks)
}

fn is_running(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
}

#[test]
fn all_end_when_one_dies() {
    let workspace = Workspace::new(8);
    for rank in [0, 1] {
        let name = format!("killed-{rank}");
        let (child, ranks) = start(&workspace, &name, &[]);
        assert_eq!(ranks.len(), 2);
        kill("KILL", i64::from(ranks[rank]));
        let begun = Instant::now();
        let output = child.wait_with_output().expect("an end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(begun.elapsed() < Duration::from_secs(15), "{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("error: rank {rank} was killed by signal 9; the others were stopped")),
            "{said}"
        );
        assert!(ranks.iter().all(|process| !is_running(*process)));
        if rank == 1 {
            // Rank 0 saves what it has when it loses the others.
            let reached = workspace.metrics(&name).len() as u64;
            assert!(workspace.state(&name)["step"].as_u64() >= Some(reached));
        }
        workspace.ok(&["eval", "--checkpoint", &format!("runs/{name}")]);
    }
}

#[test]
fn ranks_end_with_the_launcher_and_with_a_signal_to_it() {
    let workspace = Workspace::new(8);
    let (mut child, ranks) = start(&workspace, "orphans", &[]);
    kill("KILL", i64::from(child.id()));
    child.wait().expect("an end");
    let begun = Instant::now();
    while ranks.iter().any(|process| is_running(*process)) {
        assert!(begun.elapsed() < Duration::from_secs(15), "orphans");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (child, ranks) = start(&workspace, "term", &[]);
    kill("TERM", i64::from(child.id()));
    let output = child.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(ranks.iter().all(|process| !is_running(*process)));
    workspace.goes_on("term");
}

#[test]
fn a_rank_that_hangs_ends_all_after_the_time_out() {
    let workspace = Workspace::new(8);
    let (child, ranks) = start(&workspace, "hangs", &["--set", "distributed.timeout_seconds=3"]);
    kill("STOP", i64::from(ranks[1]));
    let output = child.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("rank 0 lost the others"), "{said}");
    assert!(ranks.iter().all(|process| !is_running(*process)));
}
