//! Wrong use: one line with what, where and the mend, and exit status 2.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{Workspace, fixture};

fn train<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "--config", "tiny.toml"], more].concat()
}

#[test]
fn configuration() {
    let workspace = Workspace::new(2);
    let refused = |more: &[&str], parts: &[&str]| workspace.fails(2, &train(more), parts);
    workspace.fails(2, &["train", "--config", "none.toml"], &["none.toml", "No such file", "--config"]);
    workspace.fails(2, &["train"], &["--config"]);
    refused(&["--set", "train.batchsize=3"], &["train.batchsize", "did you mean train.batch_size?"]);
    refused(&["--set", "train.batch_size"], &["section.key=value"]);
    refused(&["--set", "train.batch_size=-4"], &["train.batch_size: is -4, but must be from 1 to 1048576"]);
    refused(&["--set", "data.workers=1000000"], &["data.workers", "from 0 to 1024"]);
    refused(&["--set", "train.batch_size=many"], &["train.batch_size", "many"]);
    refused(&["--set", "speech.heads=3"], &["speech.heads = 3", "width 8"]);
    refused(&["--colour"], &["--colour", "--help"]);
    refused(&["--set", "data.kind=folder"], &["data.kind", "folder", "manifest"]);
    workspace.fails(2, &["trian"], &["trian", "train"]);
    std::fs::write(workspace.path("broken.toml"), "[train\n").expect("written");
    workspace.fails(2, &["train", "--config", "broken.toml"], &["broken.toml:1: not TOML"]);
    assert!(!workspace.path("runs").exists(), "a refused command leaves nothing behind");
}

#[test]
fn device() {
    let workspace = Workspace::new(2);
    workspace.fails(2, &train(&["--device", "tpu"]), &["--device tpu: write auto, cpu, cuda or cuda:N"]);
    if !tch::Cuda::is_available() {
        workspace.fails(2, &train(&["--device", "cuda"]), &["--device cuda: libtorch sees 0 CUDA devices"]);
    }
    workspace.fails(2, &train(&["--device", "cuda:99"]), &["--device cuda:99: libtorch sees"]);
}

#[test]
fn data() {
    let workspace = Workspace::new(2);
    let refused = |more: &[&str], parts: &[&str]| workspace.fails(2, &train(more), parts);
    refused(&["--set", "data.path=none.jsonl"], &["none.jsonl", "data.path must name a manifest"]);
    refused(&["--set", "data.root=none"], &["/none: no such folder: data.root"]);
    refused(&["--set", "data.path=tiny.toml"], &["tiny.toml:1: "]);
    refused(&["--set", "eval.split=valid"], &["no split valid; it has test, train, val"]);
    let one = "[data]\npath = 'data/manifest.jsonl'\n";
    std::fs::write(workspace.path("one.toml"), one).expect("written");
    workspace.fails(2, &["train", "--config", "one.toml"], &["encoders.speech.path: is required"]);
}

#[test]
fn encoders() {
    let workspace = Workspace::new(2);
    let speech = |file: &str, parts: &[&str]| {
        let set = format!("encoders.speech.path={}", fixture(file).display());
        workspace.fails(2, &train(&["--set", &set]), &[&[file], parts].concat());
    };
    speech("none.pt", &["No such file", "encoders.speech.path"]);
    speech("make_encoders.py", &["not a TorchScript file", "encoders.speech.path"]);
    speech("image.pt", &["encoders.speech.path names a frozen image encoder", "swapped?"]);
    speech("bad_no_spec.pt", &["no method spec()"]);
    speech("bad_missing_key.pt", &["spec()", "hop"]);
    speech("bad_format.pt", &["format 2", "format 1"]);
    speech("bad_one_output.pt", &["does not return a tuple of two tensors"]);
    speech("bad_three_outputs.pt", &["returns 3 outputs where 2 are needed"]);
    speech("bad_wrong_rank.pt", &["hidden has 3 dimensions"]);
    speech("bad_wrong_width.pt", &["hidden has shape", "[3, 2, T, 16]"]);
    speech("bad_gradient.pt", &["requires a gradient"]);
    speech("bad_fails.pt", &["breaks the encoder contract"]);
    let set = format!("encoders.image.path={}", fixture("bad_dropout.pt").display());
    workspace.fails(2, &train(&["--set", &set]), &["two forwards", "dropout"]);
}

#[test]
fn checkpoints() {
    let workspace = Workspace::new(4);
    workspace.fails(2, &["eval"], &["runs/latest", "name the folder of a run"]);
    workspace.fails(2, &["train", "--resume", "latest"], &["runs/latest"]);
    workspace.fails(2, &["eval", "--checkpoint", "none", "--data", "tiny.toml"], &["none", "No such file"]);
    workspace.fails(2, &["eval", "--checkpoint", "tiny.toml"], &["tiny.toml: not a checkpoint"]);
    workspace.ok(&["train", "--config", "tiny.toml", "--name", "a", "--set", "train.steps=2"]);
    workspace.fails(2, &["train", "--resume", "latest", "--set", "optim.lr=1"], &["--set optim.lr: cannot change"]);
    workspace.fails(1, &["train", "--config", "tiny.toml", "--name", "a"], &["runs/a", "exists"]);

    // A model of another width, and one trained on another encoder.
    let file = workspace.path("runs/a/best/model.safetensors");
    let text = std::fs::read(&file).expect("a model");
    std::fs::write(workspace.path("half.safetensors"), &text[..text.len() / 2]).expect("written");
    workspace.fails(
        2,
        &["eval", "--checkpoint", "half.safetensors", "--data", "tiny.toml"],
        &["half.safetensors: not a checkpoint"],
    );
    let other = workspace.path("other.pt");
    let mut bytes = std::fs::read(fixture("image.pt")).expect("an encoder");
    bytes.extend([0; 8]);
    std::fs::write(&other, bytes).expect("written");
    let set = format!("encoders.image.path={}", other.display());
    let output = workspace.cmd(&["eval", "--set", &set]);
    // Trailing bytes may or may not be TorchScript to libtorch; either way the file is refused.
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn one_image_cannot_be_denoised() {
    let workspace = Workspace::new(1);
    workspace.fails(1, &train(&[]), &["single image", "cmd.alpha = 0"]);
    workspace.ok(&train(&["--set", "cmd.alpha=0"]));
}

#[test]
fn a_loss_that_is_not_finite_stops_before_the_update() {
    let workspace = Workspace::new(8);
    let set = format!("encoders.speech.path={}", fixture("not_a_number.pt").display());
    workspace.fails(3, &train(&["--set", &set]), &["step 1: the ", "is not finite", ".wav"]);
}
