//! `cmd report` and `cmd explain`: one page about runs, from hostile names, of a run that has just begun, with rows of others; and what a model
//! makes of utterances.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{Workspace, train};
use serde_json::{Value, json};

fn page(workspace: &Workspace, arguments: &[&str]) -> String {
    let said = workspace.ok(&[&["report"], arguments].concat());
    std::fs::read_to_string(workspace.path(said.trim_end())).expect("a page")
}

#[test]
fn a_page_holds_everything_and_loads_nothing() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=12", "--set", "train.eval_every=6"]));
    let text = page(&workspace, &["runs/a"]);
    assert!(workspace.path("runs/a/report.html").is_file());
    for part in [
        "Table 2",
        "data test",
        "Curves",
        "L_cmd",
        "Machines and versions",
        "Started ",
        "cmd train",
        "where it looks",
        "Nothing stops a run",
    ] {
        assert!(text.contains(part), "{part}");
    }
    // A picture of each image that is shown, by its own number and none twice.
    let pictures = text.matches("id=\"picture-0-").count();
    assert!((1..=8).contains(&pictures), "{pictures}");
    assert_eq!(text.matches("data-direction=\"speech\"").count(), 22);
    assert_eq!(text.matches("data-direction=\"image\"").count(), 8);
    // Nothing is fetched: addresses are data, places in the page, or XML's names.
    for address in ["src=\"http", "href=\"http", "url(", "@import"] {
        assert!(!text.contains(address), "{address}");
    }
    assert!(text.contains("default-src &#39;none&#39;") || text.contains("default-src 'none'"));
}

#[test]
fn hostile_names_and_captions_stay_texts() {
    let workspace = Workspace::new(8);
    let manifest = workspace.path("data/manifest.jsonl");
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    let hostile = r#"</script><script>alert(1)</script><img src=x onerror=alert(2)> \"' &amp;"#;
    std::fs::write(&manifest, text.replace("caption 0 of", hostile)).expect("written");
    let name = "<b onclick='x'>&a";
    workspace.ok(&train(name, &["--set", "train.steps=4", "--set", "data.name='<i>\"'"]));
    let text = page(&workspace, &[&format!("runs/{name}"), "--title", "<u>'\"", "--out", "page.html"]);
    assert_eq!(text.matches("<script").count(), 1);
    for raw in ["<img", "<b onclick", "<i>", "<u>", "&amp;amp;x"] {
        assert!(!text.contains(raw), "{raw}");
    }
    assert!(text.contains("&lt;/script&gt;&lt;script&gt;alert(1)") && text.contains("&lt;u&gt;'&quot;"));
}

#[test]
fn runs_are_compared_and_others_have_their_rows() {
    let workspace = Workspace::new(8);
    let steps = ["--set", "train.steps=6"];
    workspace.ok(&train("a", &[&steps[..], &["--set", "cmd.alpha=0"]].concat()));
    workspace.ok(&train("b", &[&steps[..], &["--set", "optim.lr=0.02"]].concat()));
    workspace.ok(&["eval", "--checkpoint", "runs/a", "--export", "embeddings=out/fast"]);
    let results = workspace.ok(&["eval", "--embeddings", "out/fast", "--json"]);
    std::fs::write(workspace.path("fast.json"), results).expect("written");
    let reranked = workspace.ok(&["eval", "--checkpoint", "runs/b", "--rerank", "2", "--mix", "0.5", "--json"]);
    std::fs::write(workspace.path("reranked.json"), reranked).expect("written");
    let text = page(
        &workspace,
        &["runs/a", "runs/b", "runs/b", "--results", "flickr8k=fast.json", "--results", "reranked.json"],
    );
    assert!(workspace.path("runs/report.html").is_file());
    for part in [
        "b less a",
        "w/o CMD",
        "w/ CMD, α = 0.5",
        "flickr8k test",
        "MILAN",
        "b, reranked 2, mix 0.50",
        "<code>optim.lr</code>",
        "runs disagree",
    ] {
        assert!(text.contains(part), "{part}");
    }
    assert!(text.contains("These runs differ in other keys, too"));
    // What a file says of a run again is no further run.
    assert!(!text.contains("2 runs"), "{text}");
    // The named system stands below the paper's, and a run named twice is one.
    assert!(text.find("MILAN") < text.find(">fast<"));
    assert_eq!(text.matches("All settings of b").count(), 1);
    // All runs of a folder, as a sweep leaves them with a link to the newest, in the order of their names.
    std::os::unix::fs::symlink("b", workspace.path("runs/latest-of-all")).expect("a link");
    let all = page(&workspace, &["runs", "--no-eval", "--no-audit"]);
    assert!(all.find("All settings of a") < all.find("All settings of b") && !all.contains("b (2)"));
    // Without CMD there is nothing to look with.
    assert!(text.contains("where b looks") && !text.contains("where a looks"));
}

#[test]
fn a_run_on_data_that_it_was_not_trained_on_is_zero_shot() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=4"]));
    let other = std::fs::read_to_string(workspace.path("tiny.toml")).expect("a configuration");
    let other = other.replace("[data]", "[data]\nname = \"elsewhere\"").replace("manifest.jsonl", "other.jsonl");
    std::fs::write(workspace.path("other.toml"), other).expect("written");
    let manifest = std::fs::read_to_string(workspace.path("data/manifest.jsonl")).expect("a manifest");
    std::fs::write(workspace.path("data/other.jsonl"), format!("{manifest}\n")).expect("written");
    let text = page(&workspace, &["runs/a", "--data", "other.toml", "--data", "tiny.toml"]);
    assert!(
        text.contains("Table 3")
            && text.contains("a, zero-shot from data")
            && !text.contains("Table 3 (zero-shot) needs"),
        "{text}"
    );
}

#[test]
fn a_run_that_has_just_begun_and_one_without_its_data_have_a_page() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=6"]));
    std::fs::remove_dir_all(workspace.path("runs/a/checkpoints")).expect("removed");
    std::fs::remove_dir_all(workspace.path("data")).expect("removed");
    let metrics = workspace.path("runs/a/metrics.jsonl");
    let text = std::fs::read_to_string(&metrics).expect("figures");
    std::fs::write(&metrics, &text[..text.len() - 20]).expect("written");
    let text = page(&workspace, &["runs/a", "--no-eval", "--no-audit"]);
    assert!(text.contains("Contrastive loss") && !text.contains("Table 2"));
    let config = std::fs::read_to_string(workspace.path("runs/a/config.toml")).expect("a configuration");
    std::fs::write(workspace.path("runs/a/config.toml"), config.replace("[optim]", "[optim]\nlater = 3"))
        .expect("written");
    std::fs::write(&metrics, "").expect("written");
    assert!(page(&workspace, &["runs/a", "--no-eval", "--no-audit"]).contains("Nothing has been logged yet"));
    std::fs::remove_file(workspace.path("runs/a/report.html")).expect("removed");
    workspace.fails(2, &["report", "runs/a"], &["runs/a: has no checkpoint yet", "--no-eval"]);
    assert!(!workspace.path("runs/a/report.html").exists());
}

#[test]
fn what_is_no_run_or_no_result_is_named() {
    let workspace = Workspace::new(4);
    workspace.fails(2, &["report", "runs/none"], &["runs/none"]);
    workspace.ok(&train("a", &["--set", "train.steps=2"]));
    std::fs::write(workspace.path("r.json"), json!({ "results": [] }).to_string()).expect("written");
    workspace.fails(2, &["report", "runs/a", "--results", "r.json"], &["r.json: holds no results"]);
    workspace.fails(2, &["report", "runs/a", "--results", "none.json"], &["none.json"]);
    workspace.fails(1, &["report", "runs/a", "--out", "none/r.html"], &["none/r.html"]);
    workspace.fails(2, &["report", "runs/a", "--queries", "0"], &["--queries"]);
}

#[test]
fn utterances_are_explained_with_and_without_cmd() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("with", &["--set", "train.steps=8"]));
    workspace.ok(&train("without", &["--set", "train.steps=4", "--set", "cmd.alpha=0"]));
    let explain = ["explain", "--checkpoint", "runs/with", "--beside", "runs/without"];
    let said = workspace.ok(&[&explain[..], &["--split", "test", "--count", "3", "--parts", "4", "-k", "2"]].concat());
    assert_eq!(said.trim_end(), "explained/explained.html");
    for name in ["1.png", "1-time.png", "3.png", "3-time.png", "layers.svg", "explained.html"] {
        assert!(workspace.path("explained").join(name).is_file(), "{name}");
    }
    let told: Value =
        serde_json::from_slice(&std::fs::read(workspace.path("explained/explained.json")).expect("figures"))
            .expect("JSON");
    let sum = |numbers: &Value| -> f64 { numbers.as_array().expect("numbers").iter().filter_map(Value::as_f64).sum() };
    for (model, name) in ["with", "without"].iter().enumerate() {
        assert_eq!(told["models"][model]["name"], *name);
        assert!((sum(&told["models"][model]["layer_weights"]) - 1.0).abs() < 1e-9);
    }
    for utterance in told["utterances"].as_array().expect("utterances") {
        for (model, learned) in [(0, true), (1, false)] {
            let seen = &utterance["seen"][model];
            assert_eq!(seen["learned"], learned);
            let parts = seen["look"]["parts"].as_array().expect("parts");
            assert!((1..=4).contains(&parts.len()) && parts[0]["from"] == 0.0);
            for pair in parts.windows(2) {
                assert_eq!(pair[0]["to"], pair[1]["from"]);
            }
            for attention in parts.iter().map(|part| &part["attention"]).chain([&seen["look"]["whole"]]) {
                assert!((sum(&attention["weights"]) - 1.0).abs() < 1e-5);
            }
        }
        let near = utterance["neighbours"].as_array().expect("neighbours");
        assert_eq!(near.iter().filter(|near| near["medium"] == "image").count(), 2);
        assert_eq!(
            near.iter().filter(|near| near["medium"] == "speech" && near["file"] != utterance["speech"]).count(),
            2
        );
    }
    let page = std::fs::read_to_string(workspace.path("explained/explained.html")).expect("a page");
    assert!(page.contains("before anything is learned") && page.contains("caption") && !page.contains("src=\"http"));

    // Files, with an index.
    workspace.ok(&["search", "index", "data", "--out", "idx", "--checkpoint", "runs/with"]);
    let query = ["explain", "--speech", "data/test 2 0.wav", "--out", "why"];
    workspace.ok(&[&query[..], &["--index", "idx"]].concat());
    workspace.ok(&[&query[..], &["--image", "data/test 2.png", "--checkpoint", "runs/without"]].concat());
    workspace.fails(2, &query, &["--image"]);
    workspace.fails(2, &["explain"], &["--speech"]);
    let two =
        ["--speech", "data/test 3 0.wav", "--speech", "data/test 4 0.wav", "--image", "data/test 2.png", "--image"];
    workspace.fails(2, &[&query[..], &two, &["data/test 3.png"]].concat(), &["2 pictures for 3 utterances"]);
    workspace.fails(2, &[&query[..], &["--index", "idx", "--checkpoint", "runs/without"]].concat(), &["another model"]);
    workspace.fails(1, &["explain", "--speech", "none.wav", "--image", "data/test 2.png"], &["none.wav"]);
}

#[test]
fn a_report_shows_what_the_layers_count() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("a", &["--set", "train.steps=4"]));
    let text = page(&workspace, &["runs/a"]);
    assert!(text.contains("How much each layer of the speech encoder counts") && text.contains("counts most"));
    let text = page(&workspace, &["runs/a", "--no-eval"]);
    assert!(!text.contains("How much each layer"));
}
