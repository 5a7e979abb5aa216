//! The program as its users run it: training, evaluation, resuming, what it leaves behind.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use common::Workspace;
use serde_json::Value;

/// Figures of training without those that measure time.
fn losses(metrics: &[Value]) -> Vec<Value> {
    metrics
        .iter()
        .cloned()
        .map(|mut line| {
            for key in ["time", "samples_per_second", "data_wait"] {
                line.as_object_mut().expect("an object").remove(key);
            }
            line
        })
        .collect()
}

/// Names and bytes of a safetensors file; its header may list the metadata in any order.
fn tensors(path: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).expect("a file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut tensors: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
    tensors.sort();
    tensors
}

#[test]
fn a_run_says_what_made_it_and_each_key_where_it_comes_from() {
    let workspace = Workspace::new(4);
    std::fs::write(workspace.path("own.toml"), "extends = 'tiny.toml'\n[train]\nsteps = 4\n").expect("written");
    let own = ["--config", "own.toml", "--set", "cmd.temperature=own", "--set", "train.seed=3"];
    let printed = workspace.ok(&[&["train", "--print-config"], &own[..]].concat());
    for line in ["steps = 4 # own.toml", "batch_size = 6 # tiny.toml", "seed = 3 # --set", "grad_clip = 4.0"] {
        assert!(printed.lines().any(|printed| printed == line), "{line} in {printed}");
    }
    workspace.ok(&[&["train", "--name", "a"], &own[..]].concat());
    workspace.ok(&["train", "--resume", "runs/a", "--set", "train.steps=6"]);
    let config = std::fs::read_to_string(workspace.path("runs/a/config.toml")).expect("a configuration");
    let said: Vec<&str> = config.lines().take_while(|line| line.starts_with('#')).collect();
    assert_eq!(said.len(), 4, "{config}");
    let (started, went_on) = (said[0], said[2]);
    assert!(started.starts_with("# Started 2") && started.ends_with(", Cpu, seed 3"), "{started}");
    assert!(started.contains(&format!(": cmd {}, libtorch 2.", cmd::VERSION)), "{started}");
    assert!(
        said[1].ends_with("cmd train --name a --config own.toml --set cmd.temperature=own --set train.seed=3"),
        "{}",
        said[1]
    );
    assert!(went_on.starts_with("# Went on 2") && said[3].contains("--resume runs/a"), "{config}");
    // L_cmd's own temperature is seen to learn.
    let taus: Vec<f64> = workspace.metrics("a").iter().filter_map(|line| line["cmd_temperature"].as_f64()).collect();
    assert!(taus.len() == 6 && taus[0] != taus[5], "{taus:?}");
}

#[test]
fn doctor_says_what_works_and_what_mends_the_rest() {
    let workspace = Workspace::new(4);
    let found: Value = serde_json::from_str(&workspace.ok(&["doctor", "tiny.toml", "--json"])).expect("JSON");
    assert_eq!(found["works"], true, "{found}");
    let of = |found: &Value, what: &str| {
        let all = found["findings"].as_array().expect("findings").clone();
        all.into_iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("no {what} in {found}"))
    };
    for what in ["program", "processor", "threads", "CUDA", "memory", "room for runs", "configuration"] {
        assert!(of(&found, what)["found"].is_string());
    }
    assert!(
        of(&found, "data")["found"].as_str().is_some_and(|text| text.contains("12 images, 33 utterances")),
        "{found}"
    );
    std::fs::remove_file(workspace.path("data/test 3.png")).expect("removed");
    let broken = workspace.cmd(&["doctor", "tiny.toml", "--set", "encoders.speech.path=none.pt", "--json"]);
    assert_eq!(broken.status.code(), Some(1));
    let broken: Value = serde_json::from_slice(&broken.stdout).expect("JSON");
    assert_eq!(broken["works"], false);
    for (what, mend) in [("data", "cmd data check"), ("encoders", "scripts/export_hubert.py")] {
        let finding = of(&broken, what);
        assert_eq!(finding["verdict"], "broken");
        assert!(finding["mend"].as_str().is_some_and(|text| text.contains(mend)), "{finding}");
    }
    let table = workspace.cmd(&["doctor", "none.toml"]);
    assert!(table.status.code() == Some(1) && String::from_utf8_lossy(&table.stdout).contains("BROKEN configuration"));
}

#[test]
fn a_profile_shows_what_each_thread_was_at() {
    let workspace = Workspace::new(8);
    let profiled = ["--profile", "trace.json", "--set", "train.steps=30", "--set", "cmd.alpha=0.5"];
    workspace.ok(&[&["train", "--config", "tiny.toml", "--name", "a"], &profiled[..]].concat());
    let text = std::fs::read_to_string(workspace.path("trace.json")).expect("a profile");
    let events: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    // Begins and ends of a thread's work lie in one another, with times that do not fall.
    let mut open: std::collections::HashMap<u64, Vec<String>> = std::collections::HashMap::new();
    let mut counts: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    let mut last: std::collections::HashMap<u64, f64> = std::collections::HashMap::new();
    for event in events.iter().filter(|event| event["ph"] == "B" || event["ph"] == "E") {
        let (name, thread) = (event["name"].as_str().expect("a name"), event["tid"].as_u64().expect("a thread"));
        let time = event["ts"].as_f64().expect("a time");
        let before = last.insert(thread, time).unwrap_or(0.0);
        assert!(time >= before && event["pid"].is_number(), "{event} after {before}");
        let stack = open.entry(thread).or_default();
        if event["ph"] == "B" {
            stack.push(name.to_owned());
        } else {
            assert_eq!(stack.pop().as_deref(), Some(name), "{event}");
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    for name in [
        "read",
        "assemble",
        "wait for batch",
        "speech encoder",
        "image encoder",
        "speech head",
        "losses",
        "backward",
        "update",
    ] {
        assert!(counts.get(name).is_some_and(|count| *count >= 20), "{name}: {counts:?}");
    }
    for name in ["save", "evaluate"] {
        assert!(counts.contains_key(name), "{name}: {counts:?}");
    }
    // It ends long before a long run does.
    assert!(counts["update"] < 30, "{counts:?}");
    workspace.fails(1, &["train", "--config", "tiny.toml", "--profile", "none/trace.json"], &["none/trace.json"]);
}

#[test]
fn trains_evaluates_and_leaves_a_run_behind() {
    let workspace = Workspace::new(8);
    workspace.ok(&["train", "--config", "tiny.toml", "--name", "a"]);
    for file in
        ["config.toml", "metrics.jsonl", "best/model.safetensors", "last/optimizer.safetensors", "last/state.json"]
    {
        assert!(workspace.path("runs/a").join(file).is_file(), "{file}");
    }
    assert!(workspace.path("runs/latest/config.toml").is_file());
    let metrics = workspace.metrics("a");
    assert_eq!(metrics.iter().filter(|line| line["kind"] == "train").count(), 12);
    assert_eq!(metrics.iter().filter(|line| line["kind"] == "eval").count(), 2);
    let first = &metrics[0];
    for key in [
        "step",
        "time",
        "loss",
        "loss_sic",
        "loss_cmd",
        "lr",
        "temperature",
        "grad_norm",
        "attention_entropy",
        "samples_per_second",
        "data_wait",
    ] {
        assert!(first[key].is_number(), "{key} in {first}");
    }

    let results: Value = serde_json::from_str(&workspace.ok(&["eval", "--json"])).expect("JSON");
    let result = &results["results"][0];
    assert_eq!((&result["split"], &result["images"], &result["utterances"]), (&"test".into(), &8.into(), &22.into()));
    for direction in ["speech_to_image", "image_to_speech"] {
        for key in ["r1", "r5", "r10", "median_rank", "mean_rank", "mrr"] {
            assert!(result[direction][key].is_number(), "{direction}.{key}");
        }
        assert_eq!(result[direction]["ci95"]["r1"].as_array().map(Vec::len), Some(2));
    }
    assert!(result["mean"]["r10"].is_number() && result["skipped"] == 0 && result["in_family"]["chance"].is_number());

    // The evaluation of the best checkpoint on the development split is the one that chose it.
    let best: f64 = metrics.iter().filter_map(|line| line["mean"]["r1"].as_f64()).fold(0.0, f64::max);
    let again: Value = serde_json::from_str(&workspace.ok(&["eval", "--split", "dev", "--json"])).expect("JSON");
    assert_eq!(again["results"][0]["mean"]["r1"].as_f64(), Some(best));

    let table = workspace.ok(&["eval", "--checkpoint", "runs/a/last", "--data", "tiny.toml", "--picture", "found.svg"]);
    assert!(table.contains("Speech -> Image") && table.contains("data test"), "{table}");
    assert!(std::fs::read_to_string(workspace.path("found.svg")).expect("a picture").contains("caption 0 of test"));
}

#[test]
fn a_resumed_run_equals_the_straight_one_to_the_bit() {
    let workspace = Workspace::new(8);
    workspace.ok(&["train", "--config", "tiny.toml", "--name", "straight"]);
    let model = |run: &str, file: &str| tensors(&workspace.path(&format!("runs/{run}/last/{file}")));
    for (name, set) in [
        ("live", &["encoders.speech.cache=false"][..]),
        ("kept", &["encoders.speech.cache=true"]),
        ("bank", &["loss.image_bank=all"]),
        ("drawn", &["loss.image_bank=2"]),
        ("distilled", &["train.ema=0.9", "loss.distill=0.5"]),
    ] {
        let run = format!("stopped-{name}");
        // Stopped after 8 of 12 steps: what came later is taken away.
        let sets: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        workspace.ok(&[&["train", "--config", "tiny.toml", "--name", &run], &sets[..]].concat());
        let checkpoints = workspace.path(&format!("runs/{run}/checkpoints"));
        let whole = (model(&run, "model.safetensors"), model(&run, "optimizer.safetensors"), workspace.metrics(&run));
        std::fs::remove_dir_all(checkpoints.join("step-000012")).expect("removed");
        workspace.ok(&["train", "--resume", "latest"]);
        let again = (model(&run, "model.safetensors"), model(&run, "optimizer.safetensors"), workspace.metrics(&run));
        assert!(whole.0 == again.0 && whole.1 == again.1, "weights or moments differ");
        assert_eq!(losses(&whole.2), losses(&again.2));
    }
    assert!(model("straight", "model.safetensors") == model("stopped-live", "model.safetensors"));

    // More to be told from: the first loss is larger, the larger the bank.
    let first = |run: &str| workspace.metrics(run)[0]["loss_sic"].as_f64().expect("a loss");
    let all = [first("straight"), first("stopped-drawn"), first("stopped-bank")];
    assert!(all[0] < all[1] && all[1] < all[2], "{all:?}");
    workspace.fails(
        2,
        &["train", "--config", "tiny.toml", "--set", "loss.image_bank=some"],
        &["a number of images or \"all\""],
    );
    workspace.fails(2, &["train", "--config", "tiny.toml", "--set", "loss.image_bank=-1"], &["must be at least 0"]);
    workspace.fails(2, &["train", "--config", "tiny.toml", "--set", "loss.distill=0.4"], &["set train.ema too"]);
}

#[test]
fn the_model_is_the_average_of_what_was_trained() {
    let workspace = Workspace::new(8);
    let sets = ["train.steps=3", "train.checkpoint_every=1", "train.keep=5", "train.eval_every=3", "train.ema=0.75"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    workspace.ok(&[&["train", "--config", "tiny.toml", "--name", "a"], &sets[..]].concat());
    let values = |step: u32, file: &str, prefix: &str| -> Vec<(String, Vec<f32>)> {
        let all = tensors(&workspace.path(&format!("runs/a/checkpoints/step-00000{step}/{file}.safetensors")));
        let floats =
            |bytes: &[u8]| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        all.iter().filter_map(|(name, bytes)| Some((name.strip_prefix(prefix)?.to_owned(), floats(bytes)))).collect()
    };
    for step in [2, 3] {
        let (before, after) = (values(step - 1, "model", ""), values(step, "model", ""));
        let trained = values(step, "optimizer", "trained.");
        assert_eq!(trained.len(), after.len());
        let mut moved = false;
        for (((name, before), (_, after)), (other, trained)) in before.iter().zip(&after).zip(&trained) {
            assert_eq!(name, other);
            for ((before, after), trained) in before.iter().zip(after).zip(trained) {
                assert!((0.75 * before + 0.25 * trained - after).abs() < 1e-6, "{name}: {before} {trained} {after}");
                moved |= (before - trained).abs() > 1e-4;
            }
        }
        assert!(moved, "nothing was trained");
    }
}

#[test]
fn the_order_does_not_depend_on_threads() {
    let workspace = Workspace::new(8);
    workspace.ok(&["train", "--config", "tiny.toml", "--name", "one", "--set", "data.workers=1"]);
    workspace.ok(&[
        "train",
        "--config",
        "tiny.toml",
        "--name",
        "many",
        "--set",
        "data.workers=5",
        "--set",
        "data.prefetch=1",
    ]);
    assert_eq!(losses(&workspace.metrics("one")), losses(&workspace.metrics("many")));
}

#[test]
fn resuming_passes_over_a_damaged_checkpoint() {
    let workspace = Workspace::new(8);
    workspace.ok(&["train", "--config", "tiny.toml", "--name", "a", "--set", "train.keep=9"]);
    let file = workspace.path("runs/a/checkpoints/step-000012/model.safetensors");
    let mut bytes = std::fs::read(&file).expect("a model");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let output = workspace.cmd(&["train", "--resume", "runs/a"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("passed over") && stderr.contains("after step 8"), "{stderr}");
}

#[test]
fn training_skips_bad_files_and_evaluation_refuses_them() {
    let workspace = Workspace::new(8);
    std::fs::write(workspace.path("data/train 3 1.wav"), "no audio").expect("written");
    std::fs::remove_file(workspace.path("data/test 2.png")).expect("removed");
    let output = workspace.cmd(&["train", "--config", "tiny.toml", "--name", "a"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("skipped") && stderr.contains("train 3 1.wav"), "{stderr}");
    assert!(workspace.metrics("a").iter().any(|line| line["skipped"].as_u64() > Some(0)));
    workspace.fails(
        1,
        &["train", "--config", "tiny.toml", "--set", "data.on_error=fail"],
        &["train 3 1.wav: not readable audio"],
    );
    workspace.fails(1, &["eval", "--checkpoint", "runs/a"], &["test 2.png: No such file"]);
    let skipping = ["eval", "--checkpoint", "runs/a", "--json", "--set", "data.on_error=skip"];
    let results: Value = serde_json::from_str(&workspace.ok(&skipping)).expect("JSON");
    let result = &results["results"][0];
    assert_eq!((&result["skipped"], &result["images"]), (&1.into(), &7.into()));
}

#[test]
fn data_check_counts_and_names_what_is_missing() {
    let workspace = Workspace::new(4);
    assert!(workspace.ok(&["data", "check", "tiny.toml"]).contains("data train: 4 images, 11 utterances"));
    std::fs::remove_file(workspace.path("data/val 1 0.wav")).expect("removed");
    let output = workspace.cmd(&["data", "check", "tiny.toml", "--json"]);
    let audit: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), audit["missing"].as_array().map(Vec::len)), (Some(1), Some(1)));
}
