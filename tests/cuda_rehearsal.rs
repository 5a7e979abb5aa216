//! Training and evaluation on CUDA: on a real device where there is one, else on one that is played by the CPU (`common/rehearsal.cpp`), which
//! refuses tensors of different devices as CUDA does.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::{Workspace, assert_close, train};
use serde_json::Value;

/// The played device as a library, unless a real one is there.
fn rehearsal() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        if tch::Cuda::is_available() {
            return None;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let torch = std::env::var_os("LIBTORCH").map_or_else(|| root.join(".libtorch"), PathBuf::from);
        let torch = torch.canonicalize().expect("libtorch, which scripts/setup installs");
        let mut compiler = Command::new("c++");
        compiler.args(["-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-ltorch_cpu", "-lc10"]);
        for include in ["include", "include/torch/csrc/api/include"] {
            compiler.arg("-isystem").arg(torch.join(include));
        }
        Some(common::compiled(compiler.arg("-L").arg(torch.join("lib")), "rehearsal.cpp"))
    });
    library.as_deref()
}

/// Runs `cmd` with the device; it must succeed. What it printed, and what it said.
fn on_device(workspace: &Workspace, arguments: &[&str]) -> (String, String) {
    let mut command = workspace.command(arguments);
    if let Some(library) = rehearsal() {
        command.env("LD_PRELOAD", library);
    }
    let output = command.output().expect("the program");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "cmd {arguments:?}\n{said}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), said)
}

#[track_caller]
fn assert_same_losses(workspace: &Workspace, run: &str, cpu: &str) {
    for key in ["loss", "loss_sic", "loss_cmd", "grad_norm", "temperature", "attention_entropy"] {
        assert_close(&workspace.figures(run, key), &workspace.figures(cpu, key), &format!("{run}: {key}"));
    }
}

#[test]
fn a_run_on_cuda_is_the_run_on_the_cpu() {
    let workspace = Workspace::new(8);
    let cached = ["--set", "encoders.speech.cache=true", "--set", "encoders.image.cache=true"];
    let all = ["--set", "cmd.pairing=all", "--set", "loss.same_image=masked", "--set", "encoders.speech.batch_size=4"];
    for (cpu, cuda, more) in
        [("cpu", "cuda", &[][..]), ("cpu-cached", "cuda-cached", &cached), ("cpu-all", "cuda-all", &all)]
    {
        workspace.ok(&train(cpu, more));
        on_device(&workspace, &train(cuda, &[more, &["--device", "cuda"]].concat()));
        assert_same_losses(&workspace, cuda, cpu);
    }
    if rehearsal().is_some() {
        on_device(&workspace, &train("cuda-1", &["--device", "cuda:1"]));
        assert_same_losses(&workspace, "cuda-1", "cpu");
        // A device each; tensors go through the hosts' memory.
        let two = ["--device", "cuda", "--nproc", "2", "--set", "distributed.backend=gloo"];
        on_device(&workspace, &train("cuda-two", &two));
        assert_same_losses(&workspace, "cuda-two", "cpu");
    }
    let disk = [
        "--set",
        "encoders.speech.cache=disk",
        "--set",
        "encoders.image.cache=disk",
        "--set",
        "data.cache_dir=store",
        "--device",
        "cuda",
    ];
    for run in ["cuda-disk", "cuda-disk-again"] {
        on_device(&workspace, &train(run, &disk));
        assert_same_losses(&workspace, run, "cpu");
    }
    on_device(&workspace, &["cache", "tiny.toml", "--device", "cuda", "--set", "encoders.image.cache=disk"]);

    // Stopped and gone on with, there and here.
    for (run, device) in [("cuda", "cuda"), ("cuda-all", "cpu")] {
        std::fs::remove_dir_all(workspace.path(&format!("runs/{run}/checkpoints/step-000012"))).expect("removed");
        on_device(&workspace, &["train", "--resume", &format!("runs/{run}"), "--device", device]);
    }
    assert_same_losses(&workspace, "cuda", "cpu");
    assert_same_losses(&workspace, "cuda-all", "cpu-all");

    let result =
        |text: &str| -> Value { serde_json::from_str::<Value>(text).expect("JSON")["results"][0]["mean"].clone() };
    let eval = ["eval", "--checkpoint", "runs/cpu", "--json", "--device"];
    let (cuda, _) = on_device(&workspace, &[&eval[..], &["cuda", "--picture", "found.svg"]].concat());
    assert_eq!(result(&cuda), result(&workspace.ok(&[&eval[..], &["cpu"]].concat())));
    on_device(&workspace, &["train", "--config", "tiny.toml", "--dry-run", "--device", "cuda"]);
}

#[test]
fn what_is_made_of_a_run_is_the_same_there() {
    let workspace = Workspace::new(8);
    let taught = ["--set", "train.ema=0.9", "--set", "loss.distill=0.5", "--set", "loss.image_bank=all"];
    workspace.ok(&train("cpu", &taught));
    on_device(&workspace, &train("cuda", &[&taught[..], &["--device", "cuda"]].concat()));
    assert_same_losses(&workspace, "cuda", "cpu");

    let rows = |text: &str| -> Vec<f64> {
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let numbers = |line: Value| -> Vec<f64> { serde_json::from_value(line["embedding"].clone()).expect("numbers") };
        lines.flat_map(numbers).collect()
    };
    let embed = ["embed", "data/test 0.png", "data/test 1 0.wav", "--checkpoint", "runs/cpu", "--out", "-", "--device"];
    let (cuda, _) = on_device(&workspace, &[&embed[..], &["cuda", "--frames"]].concat());
    assert_close(&rows(&cuda), &rows(&workspace.ok(&[&embed[..], &["cpu"]].concat())), "embeddings");
    on_device(&workspace, &["search", "index", "data", "--out", "idx", "--checkpoint", "runs/cpu", "--device", "cuda"]);
    on_device(&workspace, &["search", "idx", "--speech", "data/test 1 0.wav", "--device", "cuda"]);
    let explain = ["explain", "--split", "test", "--count", "2", "--checkpoint", "runs/cpu", "--out"];
    on_device(&workspace, &[&explain[..], &["there", "--device", "cuda"]].concat());
    workspace.ok(&[&explain[..], &["here", "--device", "cpu"]].concat());
    let looks = |folder: &str| -> Vec<f64> {
        let text = std::fs::read(workspace.path(&format!("{folder}/explained.json"))).expect("figures");
        let told: Value = serde_json::from_slice(&text).expect("JSON");
        let look = &told["utterances"][1]["seen"][0]["look"];
        let of =
            |attention: &Value| -> Vec<f64> { serde_json::from_value(attention["weights"].clone()).expect("numbers") };
        [of(&look["whole"]), of(&look["parts"][2]["attention"])].concat()
    };
    assert_close(&looks("there"), &looks("here"), "attention");
    on_device(&workspace, &["report", "runs/cpu", "--out", "r.html", "--device", "cuda"]);
    let page = std::fs::read_to_string(workspace.path("r.html")).expect("a page");
    assert!(page.contains("where it looks") && page.contains("Cuda(0)"));
}

#[test]
fn keywords_and_words_are_the_same_there() {
    let workspace = Workspace::new(8);
    let text = format!("encoders.text.path={}", common::fixture("text.pt").display());
    let head = ["--set", &text, "--set", "speech.head=cascaded", "--set", "loss.text=0.5", "--set", "train.ema=0.9"];
    // The normalisation of a small batch makes roundings larger, step by step.
    let heard = [&head[..], &["--set", "train.steps=3"]].concat();
    workspace.ok(&train("cpu", &heard));
    on_device(&workspace, &train("cuda", &[&heard[..], &["--device", "cuda"]].concat()));
    assert_same_losses(&workspace, "cuda", "cpu");
    if rehearsal().is_some() {
        let two = ["--device", "cuda", "--nproc", "2", "--set", "distributed.backend=gloo"];
        on_device(&workspace, &train("cuda-two", &[&heard[..], &two].concat()));
        assert_same_losses(&workspace, "cuda-two", "cpu");
    }
    let means = |text: &str| -> Vec<Value> {
        let told: Value = serde_json::from_str(text).expect("JSON");
        told["results"].as_array().expect("results").iter().map(|result| result["mean"].clone()).collect()
    };
    let eval = ["eval", "--checkpoint", "runs/cpu", "--queries", "text", "--json", "--device"];
    let (cuda, _) = on_device(&workspace, &[&eval[..], &["cuda"]].concat());
    assert_eq!(means(&cuda), means(&workspace.ok(&[&eval[..], &["cpu"]].concat())));
    let explain = ["explain", "--split", "test", "--count", "1", "--checkpoint", "runs/cpu", "--out"];
    on_device(&workspace, &[&explain[..], &["there", "--device", "cuda"]].concat());
    workspace.ok(&[&explain[..], &["here", "--device", "cpu"]].concat());
    let words = |folder: &str| -> Vec<String> {
        let text = std::fs::read(workspace.path(&format!("{folder}/explained.json"))).expect("figures");
        let told: Value = serde_json::from_slice(&text).expect("JSON");
        let parts = told["utterances"][0]["seen"][0]["look"]["parts"].as_array().expect("keywords").clone();
        parts.iter().map(|part| part["word"].as_str().expect("a word").to_owned()).collect()
    };
    assert_eq!(words("there"), words("here"));
    on_device(&workspace, &["search", "index", "data", "--out", "idx", "--checkpoint", "runs/cpu", "--device", "cuda"]);
    on_device(&workspace, &["search", "idx", "--text", "a dog", "--device", "cuda"]);
}

#[test]
fn rows_that_are_not_finite_are_found_there_too() {
    let workspace = Workspace::new(8);
    common::write_wav(&workspace.path("data/train 1 0.wav"), &[0.995; 4000]);
    workspace.edit("speech.pt", "nan_when_loud.pt");
    let train = ["train", "--config", "tiny.toml", "--name", "a", "--device", "cuda", "--set", "train.on_nan=skip"];
    let (_, said) = on_device(&workspace, &train);
    assert!(said.contains("rows that are not: ") && said.contains("train 1 0.wav"), "{said}");
    assert!(workspace.state("a")["nan_batches"].as_u64() > Some(0));
}

/// How much a step costs a device: kernels, copies and reads that are waited for, from the difference of two runs.
#[test]
#[expect(clippy::print_stdout, reason = "figures for whoever looks at them")]
fn a_step_costs_few_copies_and_reads() {
    if rehearsal().is_none() {
        return;
    }
    let workspace = Workspace::new(8);
    let counts = |steps: &str, caches: &[&str]| -> Vec<f64> {
        let set = format!("train.steps={steps}");
        let train = [&["train", "--config", "tiny.toml", "--device", "cuda", "--set", &set], caches].concat();
        let quiet =
            ["--set", "log.every=1000", "--set", "train.eval_every=1000", "--set", "train.checkpoint_every=1000"];
        let (_, said) = on_device(&workspace, &[&train[..], &quiet[..]].concat());
        let line = said.lines().find(|line| line.starts_with("rehearsal: ")).expect("the device's count");
        let number = |name: &str| {
            let after = line.split_once(name).expect("a count").1;
            after.split([' ', ',']).next().and_then(|number| number.parse().ok()).expect("a number")
        };
        ["kernels ", "host->device ", "synchronisations "].map(number).to_vec()
    };
    let images = ["--set", "encoders.image.cache=disk", "--set", "data.cache_dir=store"];
    let all = [&images[..], &["--set", "encoders.speech.cache=disk"]].concat();
    let chunks = ["--set", "encoders.speech.batch_size=2"];
    println!("| a step with | kernels | copies up | reads |\n| --- | --- | --- | --- |");
    for (what, set) in [
        ("nothing kept", &[][..]),
        ("images on disk", &images),
        ("all on disk", &all),
        ("speech in chunks of 2", &chunks),
    ] {
        let (_, short, long) = (counts("10", set), counts("10", set), counts("30", set));
        let step: Vec<f64> = short.iter().zip(&long).map(|(a, b)| (b - a) / 20.0).collect();
        println!("| {what} | {:.0} | {:.1} | {:.1} |", step[0], step[1], step[2]);
        assert!(step[1] <= 4.0, "{what}: {} copies up a step", step[1]);
        assert!(step[2] <= 1.1, "{what}: {} reads a step", step[2]);
    }
}
