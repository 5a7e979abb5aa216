//! Keywords and words: the cascaded head, the text anchor, and queries in words, as users run them.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::fs;

use common::{Workspace, fixture, train};
use serde_json::Value;

/// A workspace whose configuration names the text encoder.
fn workspace(images: usize) -> Workspace {
    let workspace = Workspace::new(images);
    let text = format!("[encoders]\ntext.path = '{}'\n", fixture("text.pt").display());
    workspace.edit("[encoders]\n", &text);
    workspace
}

const CASCADED: [&str; 4] = ["--set", "speech.head=cascaded", "--set", "speech.keywords=3"];

fn cascaded<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    train(name, &[&CASCADED, more].concat())
}

/// The tensors of a checkpoint's file.
fn tensors(workspace: &Workspace, file: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(workspace.path(file)).expect("a file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut all: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
    all.sort();
    all
}

/// Figures of runs whose sums were made in another order, which a small batch's normalisation makes larger.
#[track_caller]
fn assert_near(ours: &[f64], theirs: &[f64], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (line, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= 5e-4 * b.abs().max(1e-2), "{what}, line {line}: {a} and {b}");
    }
}

#[test]
fn the_number_of_processes_changes_nothing() {
    let workspace = workspace(8);
    for (name, settings) in [
        ("cascaded", &["--set", "speech.head=cascaded", "--set", "speech.keywords=3", "--set", "speech.dropout=0"][..]),
        (
            "attention",
            &[
                "--set",
                "speech.head=cascaded",
                "--set",
                "speech.keyword_layer=attention",
                "--set",
                "encoders.speech.batch_size=3",
                "--set",
                "cmd.alpha=0",
            ],
        ),
        ("anchored", &["--set", "loss.text=0.5"]),
        (
            "both",
            &[
                "--set",
                "speech.head=cascaded",
                "--set",
                "loss.text=1",
                "--set",
                "train.ema=0.9",
                "--set",
                "loss.distill=0.3",
            ],
        ),
    ] {
        let run = |count: &str| format!("{name}-{count}");
        for count in ["1", "2", "4"] {
            // A keyword that lies between two tokens may turn to the other one, so not for long.
            let few = ["--nproc", count, "--set", "train.batch_size=8", "--set", "train.steps=5"];
            let more = [&few[..], settings].concat();
            workspace.ok(&train(&run(count), &more));
        }
        for count in ["2", "4"] {
            for key in ["loss", "loss_sic", "grad_norm", "temperature"] {
                let what = format!("{name}, {count} processes, {key}");
                assert_near(&workspace.figures(&run(count), key), &workspace.figures(&run("1"), key), &what);
            }
        }
        if settings.iter().any(|setting| setting.starts_with("loss.text")) {
            let (one, four) = (workspace.figures(&run("1"), "loss_text"), workspace.figures(&run("4"), "loss_text"));
            assert_near(&four, &one, name);
        }
    }
}

#[test]
fn a_cascaded_run_goes_on_to_the_bit() {
    let workspace = workspace(8);
    let more = ["--set", "train.ema=0.9", "--set", "speech.keyword_vocabulary=captions"];
    workspace.ok(&cascaded("straight", &more));
    workspace.ok(&cascaded("resumed", &more));
    fs::remove_dir_all(workspace.path("runs/resumed/checkpoints/step-000012")).expect("removed");
    workspace.ok(&["train", "--resume", "runs/resumed"]);
    for file in ["model", "optimizer"] {
        let of = |run: &str| tensors(&workspace, &format!("runs/{run}/last/{file}.safetensors"));
        assert!(of("resumed") == of("straight"), "{file}");
    }
    let model = tensors(&workspace, "runs/straight/last/model.safetensors");
    let tokens = model.iter().find(|(name, _)| name == "speech.keywords.tokens").expect("a vocabulary");
    // "caption", "of", "train" and the numbers, as far as the text encoder has them.
    assert!((2..20).contains(&(tokens.1.len() / 4)), "{}", tokens.1.len());
    assert!(workspace.state("straight")["text_encoder"]["name"] == "tiny-text");
}

#[test]
fn other_runs_start_from_its_weights_and_others_do_not() {
    let workspace = workspace(8);
    workspace.ok(&cascaded("a", &[]));
    workspace.ok(&cascaded("b", &["--init-from", "runs/a", "--set", "train.seed=1"]));
    workspace.fails(
        2,
        &train("c", &["--init-from", "runs/a"]),
        &["speech head: cascaded with 3 keywords", "parallel here", "set the keys of these"],
    );
}

#[test]
fn what_cannot_be_is_said_before_an_hour_is_lost() {
    let workspace = workspace(8);
    let refused = |more: &[&str], parts: &[&str]| workspace.fails(2, &cascaded("refused", more), parts);
    refused(&["--set", "train.batch_size=1", "--set", "cmd.alpha=0"], &["a cascaded head normalises over the batch"]);
    refused(&["--set", "speech.keywords=0"], &["speech.keywords"]);
    refused(&["--set", "speech.keyword_temperature=1e-30"], &["must be from 0.001 to 100"]);
    let text = |name: &str| format!("encoders.text.path={}", fixture(name).display());
    refused(&["--set", &text("image.pt")], &["names a frozen image encoder", "the text encoder is needed"]);
    refused(&["--set", &text("text_wide.pt")], &["[B, width]"]);
    refused(&["--set", &text("text_deaf.pt")], &["keywords gives no gradient for its input"]);
    refused(&["--set", &text("text_other_words.pt")], &["something else of a vocabulary's vectors"]);
    refused(&["--set", "encoders.text.path=nowhere.pt"], &["encoders.text.path must name the TorchScript file"]);
    refused(&["--set", "loss.text=-1"], &["loss.text"]);

    let manifest = fs::read_to_string(workspace.path("data/manifest.jsonl")).expect("a manifest");
    fs::write(workspace.path("data/manifest.jsonl"), manifest.replacen("\"text\":\"caption 0", "\"speaker2\":\"", 1))
        .expect("written");
    for more in [["--set", "loss.text=1"], ["--set", "speech.keyword_vocabulary=captions"]] {
        refused(&more, &["needs the caption of every training utterance", "has none"]);
    }
    let alone = Workspace::new(8);
    for set in ["speech.head=cascaded", "loss.text=0.5"] {
        alone.fails(2, &train("refused", &["--set", set]), &["needs a frozen text encoder", "export_clip.py --text"]);
    }
    assert!(!workspace.path("runs/refused").exists() && !alone.path("runs/refused").exists());
}

/// What is of another text encoder is not used with this one.
#[test]
fn a_checkpoint_knows_its_text_encoder() {
    let workspace = workspace(8);
    workspace.ok(&cascaded("a", &[]));
    let bytes = fs::read(fixture("text.pt")).expect("a file");
    // Another file with the same content for libtorch: an archive may have something behind it.
    fs::write(workspace.path("other.pt"), [bytes, vec![0]].concat()).expect("written");
    let eval = ["eval", "--checkpoint", "runs/a", "--split", "val", "--set", "encoders.text.path=other.pt"];
    let output = workspace.cmd(&eval);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("was trained on the text encoder"), "{said}");
    let config = workspace.path("runs/a/config.toml");
    let text = fs::read_to_string(&config).expect("a configuration");
    let without: String = text.lines().filter(|line| !line.contains("text.pt")).flat_map(|line| [line, "\n"]).collect();
    fs::write(&config, without).expect("written");
    let said = ["a cascaded head needs a frozen text encoder", "encoders.text.path"];
    workspace.fails(2, &["eval", "--checkpoint", "runs/a", "--split", "val"], &said);
}

#[test]
fn words_ask_and_are_asked() {
    let workspace = workspace(8);
    workspace.ok(&cascaded("a", &[]));
    let transcripts: String = fs::read_to_string(workspace.path("data/manifest.jsonl"))
        .expect("a manifest")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .flat_map(|line| line["captions"].as_array().expect("captions").clone())
        .map(|caption| format!("{}\n", serde_json::json!({"audio": caption["audio"], "text": caption["text"]})))
        .collect();
    fs::write(workspace.path("data/asr.jsonl"), &transcripts).expect("written");
    let eval = [
        "eval",
        "--checkpoint",
        "runs/a",
        "--split",
        "test",
        "--queries",
        "text",
        "--reference",
        "asr=data/asr.jsonl",
        "--json",
    ];
    let told: Value = serde_json::from_str(&workspace.ok(&eval)).expect("JSON");
    let results = told["results"].as_array().expect("results");
    assert_eq!(results.len(), 4);
    assert!(results[0]["protocol"].is_null() && results[1]["protocol"]["of"] == "captions");
    assert!(results[2]["protocol"]["name"] == "speechtext" && results[3]["protocol"]["of"] == "asr");
    // The same words are the same row.
    assert_eq!(results[1]["mean"], results[3]["mean"]);
    assert_eq!(results[1]["utterances"], results[0]["utterances"]);
    let table = workspace.ok(&eval[..eval.len() - 1]);
    assert!(table.contains("captions as words") && table.contains("asr as words"), "{table}");

    let above = transcripts.replace("\"audio\":\"", "\"audio\":\"../data/");
    fs::write(workspace.path("data/asr.jsonl"), above).expect("written");
    workspace.ok(&["eval", "--checkpoint", "runs/a", "--split", "test", "--reference", "asr=data/asr.jsonl"]);
    let broken = transcripts.lines().skip(60).flat_map(|line| [line, "\n"]).collect::<String>();
    for (text, said) in [
        (broken, "has no transcript of"),
        ("\n\nno JSON\n".to_owned(), "asr.jsonl:3: "),
        (transcripts.clone() + &transcripts, "has several transcripts of"),
    ] {
        fs::write(workspace.path("data/asr.jsonl"), text).expect("written");
        let eval = ["eval", "--checkpoint", "runs/a", "--split", "test", "--reference", "asr=data/asr.jsonl"];
        workspace.fails(2, &eval, &["asr.jsonl", said]);
    }
    fs::write(workspace.path("data/asr.jsonl"), [transcripts.as_bytes(), b"\xff\n"].concat()).expect("written");
    let eval = |reference| ["eval", "--checkpoint", "runs/a", "--split", "test", "--reference", reference];
    workspace.fails(2, &eval("asr=data/asr.jsonl"), &["asr.jsonl:67: not UTF-8"]);
    workspace.fails(2, &eval("asr=/dev/zero"), &["/dev/zero: it is a device and no file"]);
    let output = workspace.cmd(&eval("\u{1b}[31m=data/asr.jsonl"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("must hold no control characters"));

    workspace.ok(&["search", "index", "--checkpoint", "runs/a", "--split", "test", "--out", "test.idx"]);
    let found = workspace.ok(&[
        "search",
        "test.idx",
        "--text",
        "caption 0 of test",
        "-k",
        "3",
        "--json",
        "--sheet",
        "found.html",
    ]);
    let found: Value = serde_json::from_str(&found).expect("JSON");
    let hits = found["queries"][0]["found"].as_array().expect("hits");
    assert!(hits.len() == 3 && hits.iter().all(|hit| hit["medium"] == "image"), "{found}");
    assert!(found["queries"][0]["medium"] == "text" && found["queries"][0]["query"] == "caption 0 of test");
    assert!(fs::read_to_string(workspace.path("found.html")).expect("a page").contains("“caption 0 of test”"));
    let of_speech = ["search", "test.idx", "--text", "caption", "--find", "speech", "--json"];
    assert!(workspace.ok(&of_speech).contains("\"medium\": \"speech\""));
    workspace.fails(
        2,
        &["embed", "--checkpoint", "runs/a", "--frames", "--out", "f.safetensors", "data/test 0 0.wav"],
        &["keywords and no frames"],
    );

    workspace.ok(&["explain", "--checkpoint", "runs/a", "--split", "test", "--count", "2", "--out", "why"]);
    let told = fs::read_to_string(workspace.path("why/explained.json")).expect("JSON");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let parts = told["utterances"][0]["seen"][0]["look"]["parts"].as_array().expect("keywords");
    assert_eq!(parts.len(), 3);
    assert!(parts.iter().all(|part| part["word"].as_str().is_some_and(|word| !word.is_empty())), "{parts:?}");
    assert!(fs::read_to_string(workspace.path("why/explained.html")).expect("a page").contains("Keywords"));
    workspace.ok(&["report", "runs/a", "--split", "test", "--out", "report.html"]);
    assert!(fs::read_to_string(workspace.path("report.html")).expect("a page").contains("heard: "));
}

/// Where a run is without a text encoder, words cannot ask.
#[test]
fn without_a_text_encoder_words_are_refused() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=2"]));
    let said = ["--queries text needs a frozen text encoder", "encoders.text.path"];
    workspace.fails(2, &["eval", "--checkpoint", "runs/a", "--queries", "text"], &said);
    workspace.ok(&["search", "index", "--checkpoint", "runs/a", "--split", "test", "--out", "test.idx"]);
    workspace.fails(2, &["search", "test.idx", "--text", "a dog"], &["a query in words needs a frozen text encoder"]);
    for text in [" ", "&nbsp;", "\u{feff}"] {
        let blank = workspace.cmd(&["search", "test.idx", "--text", text]);
        assert!(blank.status.code() == Some(2) && String::from_utf8_lossy(&blank.stderr).contains("must hold words"));
    }
}
