//! Re-ranking and query-bank normalisation by their words, on what the program gives.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;

use cmd::checkpoint::RunDir;
use cmd::config::{Config, Needs};
use cmd::data::Dataset;
use cmd::distributed::{Crew, World};
use cmd::encoders::Encoders;
use cmd::eval::{Embeddings, EvalSet, QueryBank, Ranks, Reranking};
use cmd::features::{FeatureSource, Use};
use cmd::model::CmdModel;
use cmd::signals::Signals;
use common::{Workspace, train};
use serde_json::Value;
use tch::{Device, Tensor};

const IMAGES: usize = 8;

/// A trained model, a split's embeddings and clean patches.
struct Trained {
    model: CmdModel,
    embeddings: Embeddings,
    ranks: Ranks,
    bank: Embeddings,
    /// [I, N, E].
    patches: Tensor,
}

fn trained<T>(workspace: &Workspace, look: impl FnOnce(&EvalSet, &Trained) -> T) -> T {
    let config = Config::load(&workspace.path("tiny.toml"), &[], Needs::Encoders).expect("a configuration");
    let dataset = Dataset::load(&config.data).expect("a data set");
    let encoders = Encoders::load(&config.encoders, Device::Cpu).expect("encoders");
    let (world, signals) = (World::alone(), Signals::default());
    let crew = Crew { world: &world, signals: &signals };
    let run = RunDir::open(&workspace.path("runs/a"), &workspace.path("runs")).expect("a run");
    let model = run.best().expect("a checkpoint").load(Device::Cpu).expect("a model");
    let embed = |name: &str| {
        let split = Arc::new(dataset.split(name).expect("a split"));
        let mut set = EvalSet::new(&split, &encoders, &config.features(), crew, None).expect("a set");
        let embeddings = set.embed(&model).expect("embeddings");
        (set, embeddings)
    };
    let (set, embeddings) = embed("test");
    let ranks = set.rank_each(&embeddings).expect("ranks").1;
    let mut patches = Vec::new();
    let split = Arc::new(dataset.split("test").expect("a split"));
    let source =
        FeatureSource::new(&encoders, &split, &config.features(), Use::Evaluation, crew, None).expect("features");
    let all = source.for_each_images(|images, states| {
        images.iter().enumerate().for_each(|(place, image)| patches.push((*image, states.patches.get(place as i64))));
        Ok::<(), cmd::features::FeatureError>(())
    });
    assert!(all.expect("features").is_empty());
    patches.sort_by_key(|(image, _)| *image);
    let patches = Tensor::stack(&patches.into_iter().map(|(_, patches)| patches).collect::<Vec<_>>(), 0);
    let bank = embed("train").1;
    look(&set, &Trained { model, embeddings, ranks, bank, patches })
}

fn value(tensor: &Tensor) -> f64 {
    tensor.double_value(&[])
}

/// Places of `scores`, the highest first.
fn sorted(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

/// Rank of the best of `right` when the first `k` by `scores` are put in order by `mixed`.
fn rank(scores: &[f64], mixed: &[f64], k: usize, right: &[usize]) -> usize {
    let mut order = sorted(scores);
    order[..k.min(scores.len())].sort_by(|a, b| mixed[*b].total_cmp(&mixed[*a]));
    1 + order.iter().take_while(|item| !right.contains(item)).count()
}

#[test]
fn candidates_are_put_in_order_by_both_scores() {
    let workspace = Workspace::new(IMAGES);
    workspace.ok(&train("a", &["--set", "train.steps=30"]));
    trained(&workspace, |set, trained| {
        let Trained { model, embeddings, ranks, patches, .. } = trained;
        let fusion = model.fusion().expect("trained with CMD");
        let (utterances, owners) = (embeddings.owners.len(), &embeddings.owners);
        // Pair by pair, by the module that training uses.
        let tower = |u: usize, i: usize| {
            value(&(embeddings.speech.get(u as i64) * embeddings.images.get(i as i64)).sum(tch::Kind::Double))
        };
        let pair = |u: usize, i: usize| {
            let speech = embeddings.speech.get(u as i64).unsqueeze(0);
            let denoised = fusion.paired(&speech, &patches.get(i as i64).unsqueeze(0)).denoised;
            value(&(denoised * speech).sum(tch::Kind::Double))
        };
        let each = |score: &dyn Fn(usize, usize) -> f64| -> Vec<Vec<f64>> {
            (0..utterances).map(|u| (0..IMAGES).map(|i| score(u, i)).collect()).collect()
        };
        let (towers, pairs) = (each(&tower), each(&pair));
        for (k, mix) in [(1, 0.7), (3, 0.4), (5, 1.0), (100, 0.25)] {
            let each = Reranking::each(set, embeddings, ranks, fusion, &[2, k]).expect("re-ranked");
            let found = each[1].ranks(mix);
            let mixed = |u: usize, i: usize| (1.0 - mix) * towers[u][i] + mix * pairs[u][i];
            let speech = (0..utterances).map(|u| {
                let mixed: Vec<f64> = (0..IMAGES).map(|i| mixed(u, i)).collect();
                rank(&towers[u], &mixed, k, &[owners[u]])
            });
            let images = (0..IMAGES).map(|i| {
                let column = |score: &dyn Fn(usize) -> f64| (0..utterances).map(score).collect::<Vec<f64>>();
                let right: Vec<usize> = (0..utterances).filter(|u| owners[*u] == i).collect();
                rank(&column(&|u| towers[u][i]), &column(&|u| mixed(u, i)), k, &right)
            });
            assert_eq!(found, Ranks { speech: speech.collect(), images: images.collect() }, "{k} {mix}");
        }
        let plain = Reranking::each(set, embeddings, ranks, fusion, &[4]).expect("re-ranked");
        assert_eq!(plain[0].ranks(0.0), *ranks);
    });
}

#[test]
fn a_bank_of_queries_changes_what_hubs_score() {
    let workspace = Workspace::new(IMAGES);
    workspace.ok(&train("a", &["--set", "train.steps=6"]));
    trained(&workspace, |_, Trained { embeddings, bank, .. }| {
        let found = QueryBank::new(bank).ranks(embeddings).expect("finite");
        let products = |a: &Tensor, b: &Tensor| -> Vec<Vec<f64>> {
            let scores = a.to_kind(tch::Kind::Double).matmul(&b.to_kind(tch::Kind::Double).tr());
            Vec::try_from(scores).expect("numbers")
        };
        let by_definition = |queries: &Tensor, gallery: &Tensor, bank: &Tensor, right: &dyn Fn(usize) -> Vec<usize>| {
            let (scores, bank) = (products(queries, gallery), products(bank, gallery));
            let hubs: Vec<usize> = bank.iter().map(|row| sorted(row)[0]).collect();
            let sum = |g: usize| bank.iter().map(|row| (20.0 * row[g]).exp()).sum::<f64>();
            let ranks = scores.iter().enumerate().map(|(query, row)| {
                let normalised: Vec<f64> = row.iter().enumerate().map(|(g, s)| (20.0 * s).exp() / sum(g)).collect();
                let used = if hubs.contains(&sorted(row)[0]) { &normalised } else { row };
                rank(used, used, 0, &right(query))
            });
            ranks.collect::<Vec<usize>>()
        };
        let owners = &embeddings.owners;
        let speech = by_definition(&embeddings.speech, &embeddings.images, &bank.speech, &|query| vec![owners[query]]);
        let of_image = |image: usize| (0..owners.len()).filter(|u| owners[*u] == image).collect();
        let images = by_definition(&embeddings.images, &embeddings.speech, &bank.images, &of_image);
        assert_eq!(found, Ranks { speech, images });
    });
}

#[test]
fn the_plain_protocol_is_the_first_row_always() {
    let workspace = Workspace::new(IMAGES);
    workspace.ok(&train("a", &[]));
    let eval = ["eval", "--checkpoint", "runs/a", "--split", "test"];
    let json = |more: &[&str]| -> Value {
        serde_json::from_str(&workspace.ok(&[&eval[..], &["--json"], more].concat())).expect("JSON")
    };
    let plain = json(&[]);
    let all = json(&["--rerank", "3", "--rerank", "5", "--querybank", "train"]);
    let rows = all["results"].as_array().expect("rows");
    assert_eq!((rows.len(), &rows[0]), (4, &plain["results"][0]));
    assert_eq!((&rows[1]["protocol"]["k"], &rows[1]["protocol"]["mix_from"]), (&3.into(), &"dev".into()));
    assert_eq!(rows[3]["protocol"]["utterances"], 22);
    let given = json(&["--rerank", "3", "--mix", "0"]);
    assert_eq!(given["results"][1]["speech_to_image"], plain["results"][0]["speech_to_image"]);
    assert!(given["results"][1]["protocol"]["mix_from"].is_null());
    let table = workspace.ok(&[&eval[..], &["--rerank", "3", "--mix", "0.5"]].concat());
    assert!(table.contains("data test, reranked 3, mix 0.50: the mix was given;"), "{table}");

    workspace.ok(&train("plain", &["--set", "cmd.alpha=0", "--set", "train.steps=2"]));
    let without = ["eval", "--checkpoint", "runs/plain", "--rerank", "3"];
    workspace.fails(2, &without, &["was trained without CMD, so it has no fusion encoder"]);
    workspace.fails(2, &[&eval[..], &["--mix", "0.5"]].concat(), &["--rerank"]);
    workspace.fails(2, &[&eval[..], &["--querybank", "trian"]].concat(), &["no split trian"]);
    let dev = ["eval", "--checkpoint", "runs/a", "--split", "val", "--rerank", "3"];
    workspace.fails(2, &dev, &["the mix would be chosen on the split that is scored; give it with --mix"]);
    workspace.fails(2, &[&eval[..], &["--rerank", "3", "--mix", "1.5"]].concat(), &["from 0 to 1"]);
}
