//! Machines, settings and data that fail: one line that says what, where and how to mend it, and nothing lost that was trained.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;

use common::{Workspace, train};
use serde_json::json;

/// Runs `cmd` on a machine with a fault; it must end with `status`, a line of its standard error holding all of `parts`.
fn faulty(workspace: &Workspace, arguments: &[&str], fault: (&str, &str), status: i32, parts: &[&str]) {
    let output = workspace.faulty(arguments, fault).output().expect("the program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{fault:?} {arguments:?}\n{said}");
    let found = said.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count();
    assert_eq!(found, 1, "not one line says {parts:?}:\n{said}");
    assert!(!said.contains("panicked") && !said.contains("Exception raised"), "{said}");
}

#[test]
fn a_copy_of_a_run_goes_on_and_is_evaluated() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &[]));
    let copy =
        std::process::Command::new("cp").args(["-rL", "runs/a", "runs/b"]).current_dir(workspace.path("")).status();
    assert!(copy.expect("cp").success());
    assert!(!workspace.path("runs/b/best").is_symlink());
    let result = |run: &str| {
        let text = workspace.ok(&["eval", "--checkpoint", run, "--json"]);
        let result: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        result["results"].clone()
    };
    assert_eq!(result("runs/b"), result("runs/a"));
    assert_eq!(result("runs/b/best"), result("runs/a/best"));
    workspace.ok(&["train", "--resume", "runs/b", "--set", "train.steps=15"]);
    assert!(workspace.path("runs/b/last").is_symlink());
    assert_eq!(workspace.state("b")["step"], 15);
}

#[test]
fn a_file_system_without_links_and_without_syncing_of_folders_will_do() {
    let workspace = Workspace::new(8);
    let fault = ("FAULT_LINKS", "1");
    let arguments = train("a", &[]);
    let output = workspace.faulty(&arguments, fault).output().expect("the program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(workspace.path("runs/a/last")).expect("a small file"), "checkpoints/step-000012\n");
    assert_eq!(fs::read_to_string(workspace.path("runs/latest")).expect("a small file"), "a\n");
    for named in ["latest", "runs/a"] {
        let more = ["train", "--resume", named, "--set", "train.steps=15"];
        assert!(workspace.faulty(&more, fault).output().expect("the program").status.success());
    }
    for checkpoint in [&[][..], &["--checkpoint", "runs/a/last"], &["--checkpoint", "runs/a/best"]] {
        let arguments = [&["eval"], checkpoint].concat();
        assert!(workspace.faulty(&arguments, fault).output().expect("the program").status.success());
    }
}

#[test]
fn a_full_disk_leaves_the_last_good_checkpoint() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("measured", &["--set", "train.steps=4"]));
    let size: u64 = fs::read_dir(workspace.path("runs/measured/checkpoints/step-000004"))
        .expect("a checkpoint")
        .map(|entry| entry.expect("a file").metadata().expect("a file").len())
        .sum();
    let most = (size + size / 2).to_string();
    let parts =
        ["error: ", "step-000006", "No space left on device", "free room on the disk, then go on with --resume"];
    faulty(&workspace, &train("full", &[]), ("FAULT_FULL", &most), 1, &parts);
    assert_eq!(workspace.state("full")["step"], 4);
    let left = fs::read_dir(workspace.path("runs/full/checkpoints")).expect("a folder").count();
    assert_eq!(left, 1, "nothing half written stays");
    workspace.ok(&["train", "--resume", "runs/full"]);
    assert_eq!(workspace.state("full")["step"], 12);
}

/// A limit on the size of files sends a signal that ends most programs.
#[test]
fn a_file_size_limit_is_an_error_of_writing() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=4"]));
    let model = fs::metadata(workspace.path("runs/a/last/optimizer.safetensors")).expect("a file").len();
    let mut command = std::process::Command::new("bash");
    let script = format!("ulimit -f {}; exec \"$0\" \"$@\"", model / 1024 - 1);
    command.args(["-c", &script, env!("CARGO_BIN_EXE_cmd")]).args(train("b", &[])).current_dir(workspace.path(""));
    let output = command.env("OMP_NUM_THREADS", "1").output().expect("the program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("File too large") && said.contains("raise the quota"),
        "{said}"
    );
}

/// A real small disk, where the system lets one be made.
#[test]
#[expect(clippy::print_stderr, reason = "says that nothing was tried")]
fn a_small_disk_that_fills_up() {
    let workspace = Workspace::new(8);
    let disk = workspace.path("disk");
    fs::create_dir(&disk).expect("a folder");
    let script = "mount -t tmpfs -o size=2m none disk && head -c 1900k /dev/zero > disk/other; \
                  \"$0\" train --config tiny.toml --output disk --name a --set train.checkpoint_every=1 --set train.keep=100; status=$?; \
                  ls disk/a/checkpoints; cat disk/a/last/state.json; rm disk/other; \
                  \"$0\" train --resume disk/a --set train.keep=1 || exit 9; exit $status";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--map-root-user", "bash", "-c", script, env!("CARGO_BIN_EXE_cmd")]);
    let output = command.current_dir(workspace.path("")).env("OMP_NUM_THREADS", "1").output().expect("unshare");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare") || said.contains("mount:") {
        eprintln!("no disk can be made here: {said}");
        return;
    }
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1), "{said}{shown}");
    assert!(said.lines().any(|line| line.starts_with("error: ") && line.contains("No space left on device")), "{said}");
    assert!(shown.contains("step-000001") && !shown.contains(".tmp"), "{shown}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let workspace = Workspace::new(4);
    fs::write(workspace.path("file"), "").expect("written");
    workspace.fails(1, &train("a", &["--output", "file/runs"]), &["file/runs", "Not a directory"]);
    workspace.fails(1, &train("a", &["--output", "/proc/runs"]), &["/proc/runs"]);
}

/// Memory that runs out in an update, as CUDA's does: what was trained is saved, and the keys to lower are named.
#[test]
fn memory_that_runs_out_is_an_error_with_a_mend() {
    let workspace = Workspace::new(8);
    // Large enough for the speech head to need blocks of 1 MiB.
    workspace.edit("batch_size = 6", "batch_size = 600");
    let file = workspace.path("no-memory");
    let arguments = train(
        "a",
        &["--set", "train.steps=1000", "--set", "train.checkpoint_every=1000", "--set", "train.eval_every=1000"],
    );
    let command = workspace.faulty(&arguments, ("FAULT_MEMORY", file.to_str().expect("a path")));
    let child = workspace.start(command, "a", 2);
    fs::write(&file, "").expect("written");
    let output = child.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr);
    let error = said.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(error.starts_with("error: ") && error.contains("memory") && error.contains("batch_size"), "{said}");
    let reached = workspace.metrics("a").len() as u64;
    assert!(workspace.state("a")["step"].as_u64() >= Some(reached), "{said}");
    workspace.ok(&["train", "--resume", "runs/a", "--set", &format!("train.steps={}", reached + 2)]);
}

/// Rows that are louder than 0.99 make the encoder answer with NaN.
#[test]
fn exactly_the_rows_that_are_not_finite_are_named() {
    let workspace = Workspace::new(8);
    let loud = ["train 1 0.wav", "train 4 1.wav"];
    for name in loud {
        common::write_wav(&workspace.path(&format!("data/{name}")), &[0.995; 4000]);
    }
    workspace.edit("speech.pt", "nan_when_loud.pt");
    workspace.edit("batch_size = 6", "batch_size = 22");
    for count in ["1", "2"] {
        let output = workspace.cmd(&train(&format!("stop-{count}"), &["--nproc", count]));
        let said = String::from_utf8_lossy(&output.stderr);
        let error = said.lines().find(|line| line.contains("is not finite")).unwrap_or_default();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(error.contains("step 1: ") && loud.iter().all(|name| error.contains(name)), "{said}");
        assert_eq!(error.matches(".wav").count(), 2, "{error}");
    }
    let skip = ["--set", "train.on_nan=skip", "--set", "train.batch_size=2", "--set", "train.max_nan_batches=100"];
    for count in ["1", "2"] {
        workspace.ok(&train(&format!("skip-{count}"), &[&skip[..], &["--nproc", count]].concat()));
    }
    let passed = |run: &str| workspace.state(run)["nan_batches"].as_u64();
    assert!(passed("skip-1") > Some(0) && passed("skip-1") == passed("skip-2"));
    let few = train("few", &["--set", "train.on_nan=skip", "--set", "train.max_nan_batches=0"]);
    workspace.fails(3, &few, &["is not finite", "the last checkpoint is good"]);
}

#[test]
fn a_batch_of_one_image_goes_without_denoising_and_is_counted() {
    let workspace = Workspace::new(8);
    let file = workspace.path("data/manifest.jsonl");
    let text = fs::read_to_string(&file).expect("a manifest");
    let all: Vec<&str> = text.lines().collect();
    let audio: Vec<_> = (0..8).flat_map(|n| [0, 1].map(|c| json!({"audio": format!("train {n} {c}.wav")}))).collect();
    let one = json!({"image": "train 0.png", "split": "train", "captions": audio[2..]});
    let other = json!({"image": "train 1.png", "split": "train", "captions": audio[..2]});
    let rest = all.iter().filter(|line| !line.contains("\"split\":\"train\"")).map(|line| format!("{line}\n"));
    fs::write(&file, format!("{one}\n{other}\n{}", rest.collect::<String>())).expect("written");
    workspace.edit("batch_size = 6", "batch_size = 2");
    for count in ["1", "2"] {
        let output = workspace.cmd(&train(&format!("n{count}"), &["--nproc", count]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("a batch holds a single image"), "{said}");
    }
    let without = |run: &str| {
        let metrics = workspace.metrics(run);
        let none = metrics.iter().filter(|line| line["kind"] == "train" && line["loss_cmd"].is_null()).count() as u64;
        assert_eq!(workspace.state(run)["without_cmd"].as_u64(), Some(none), "{run}");
        none
    };
    assert!((1..12).contains(&without("n1")) && without("n1") == without("n2"));
    workspace.fails(1, &train("alone", &["--set", "train.batch_size=1"]), &["single image", "cmd.alpha = 0"]);
}

#[test]
fn odd_settings_are_told_before_the_first_step() {
    let workspace = Workspace::new(8);
    let told = |more: &[&str], part: &str| {
        let output = workspace.cmd(&[&["train", "--config", "tiny.toml", "--dry-run"], more].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(part), "{said}");
    };
    told(&["--set", "optim.warmup_steps=50"], "optim.warmup_steps = 50 is not below train.steps = 12");
    told(&["--set", "optim.final_lr=0.1"], "optim.final_lr = 0.1 is above optim.lr = 0.01");
    told(&["--set", "train.batch_size=64"], "train.batch_size = 64 is more than the 22 training utterances");
    told(&["--set", "noise.ratio=0"], "L_cmd is computed on clean patches");
    workspace.fails(
        2,
        &train("a", &["--set", "noise.ratio=0.01"]),
        &["noise.ratio = 0.01 of 16 patches rounds to none"],
    );
}

#[test]
fn a_dry_run_finds_what_fails_and_writes_nothing() {
    let workspace = Workspace::new(8);
    let dry = ["train", "--config", "tiny.toml", "--dry-run", "--set", "encoders.speech.cache=true"];
    let found = workspace.ok(&dry);
    for part in ["8 images, 22 utterances", "first step     loss", "checkpoints    0.00 GB", "nothing was written"] {
        assert!(found.contains(part), "{found}");
    }
    assert!(workspace.ok(&[&dry[..], &["--nproc", "2"]].concat()).contains("nothing was written"));
    assert!(!workspace.path("runs").exists());
    workspace.fails(
        1,
        &[&dry[..], &["--output", "tiny.toml/x"]].concat(),
        &["tiny.toml/x: Not a directory", "--output"],
    );
    workspace.fails(2, &[&dry[..], &["--set", "speech.heads=3"]].concat(), &["speech.heads = 3"]);

    let endless = ["--set", "train.steps=100000", "--set", "train.eval_every=100000"];
    let mut other = workspace.start(workspace.command(&train("a", &endless)), "a", 4);
    workspace.fails(1, &[&dry[..], &["--name", "a"]].concat(), &["runs/a: File exists", "--resume"]);
    workspace.fails(2, &["train", "--resume", "runs/a", "--dry-run"], &["another process trains this run"]);
    common::kill("TERM", i64::from(other.id()));
    other.wait().expect("an end");
    let before = workspace.state("a");
    workspace.ok(&["train", "--resume", "runs/a", "--dry-run"]);
    assert_eq!(workspace.state("a"), before);

    workspace.edit("speech.pt", "nan_when_loud.pt");
    common::write_wav(&workspace.path("data/train 1 0.wav"), &[0.995; 4000]);
    let output = workspace.cmd(&[&dry[..], &["--set", "train.batch_size=22"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && said.contains("rows that are not: "), "{said}");
    fs::write(workspace.path("data/val 5 0.wav"), "no audio").expect("written");
    workspace.fails(1, &dry, &["val 5 0.wav: not readable audio"]);
}

#[test]
fn a_picture_that_cannot_be_written_costs_no_table() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &[]));
    workspace.fails(1, &["eval", "--picture", "none/x.svg"], &["none/x.svg", "No such file"]);
    // Found out at the end only: a disk that is full by then.
    let output = workspace.cmd(&["eval", "--picture", "/dev/full"]);
    let (table, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.code() == Some(1) && table.contains("Speech -> Image"), "{table}{said}");
    assert!(said.contains("/dev/full: No space left on device"), "{said}");
}

#[test]
fn only_regular_files_are_samples() {
    let workspace = Workspace::new(8);
    for name in ["data/train 2 0.wav", "data/train 4.png"] {
        fs::remove_file(workspace.path(name)).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(workspace.path(name)).status();
        assert!(made.expect("mkfifo").success());
    }
    let output = workspace.cmd(&train("a", &["--set", "data.max_unreadable=0.5"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for name in ["train 2 0.wav", "train 4.png"] {
        assert!(said.contains(&format!("{name}: neither a regular file nor a link to one")), "{said}");
    }
    let check = workspace.cmd(&["data", "check", "tiny.toml"]);
    assert!(String::from_utf8_lossy(&check.stdout).contains("2 unreadable"));
}

#[test]
fn our_libtorch_comes_before_others() {
    let workspace = Workspace::new(2);
    fs::create_dir(workspace.path("other")).expect("a folder");
    for name in ["libtorch.so", "libtorch_cpu.so", "libc10.so"] {
        fs::write(workspace.path("other").join(name), "not ours").expect("written");
    }
    let mut command = workspace.command(&["--version"]);
    let output = command.env("LD_LIBRARY_PATH", workspace.path("other")).output().expect("the program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_folder_whose_name_is_not_unicode_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let workspace = Workspace::new(2);
    let folder = workspace.path("").join(Path::new(std::ffi::OsStr::from_bytes(b"caf\xe9")));
    fs::create_dir(&folder).expect("a folder");
    fs::copy(workspace.path("tiny.toml"), folder.join("tiny.toml")).expect("copied");
    let mut command = workspace.command(&["data", "check"]);
    let output = command.arg(folder.join("tiny.toml")).output().expect("the program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains("data.path: leads to") && said.contains("not valid Unicode"),
        "{said}"
    );
}
