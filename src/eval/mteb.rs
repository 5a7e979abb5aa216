//! Results in the form of MTEB (`mteb.results.TaskResult`): a file for each direction.

use std::io::Result;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::exports::{DEPTH, SPEECH, sides};
use super::{Ranks, Vectors};

/// The version of MTEB whose tasks and form these are.
const MTEB: &str = "2.26.24";
/// K of every metric.
const KS: [usize; 7] = [1, 3, 5, 10, 20, 100, 1000];
/// Images and utterances of the split that MTEB's tasks are on: the Karpathy test split of SpokenCOCO.
const SPOKENCOCO: [usize; 2] = [5000, 25_031];
const SPOKENCOCO_REVISIONS: [&str; 2] =
    ["72731c49562b73ea7e1cbd296c40f3924a4e5fad", "d9bb53ec91142fbc8a1bcefea200d835bd916a8b"];
/// What MTEB says for a data set without one.
const NO_REVISION: &str = "no_revision_available";

/// Writes `NAMEA2IRetrieval.json` and `NAMEI2ARetrieval.json` into `folder`. Only the test split of SpokenCOCO is a task of MTEB; returns whether
/// these are that one's.
///
/// # Errors
/// When they cannot be written.
pub fn export_mteb(folder: &Path, vectors: &Vectors, ranks: &Ranks, dataset: &str, split: &str) -> Result<bool> {
    std::fs::create_dir_all(folder)?;
    let sizes = [vectors.image_ids.len(), vectors.owners.len()];
    let is_task = dataset == "spokencoco" && split == "test" && sizes == SPOKENCOCO;
    let dataset = if is_task { "SpokenCOCO".to_owned() } else { dataset.replace('/', "-") };
    for side in sides(vectors, ranks) {
        let (direction, place) = if side.direction == SPEECH { ("A2I", 0) } else { ("I2A", 1) };
        let mut metrics = Metrics::default();
        side.each(DEPTH, |query, found| {
            let right = &side.right[query];
            let hits: Vec<bool> = found.iter().map(|(item, _)| right.contains(item)).collect();
            metrics.add(&hits, right.len());
            Ok(())
        })?;
        let mut scores = metrics.scores();
        scores.insert("hf_subset".to_owned(), "default".into());
        scores.insert("languages".to_owned(), json!(["eng-Latn"]));
        scores.insert("mteb_version".to_owned(), MTEB.into());
        let name = format!("{dataset}{direction}Retrieval");
        let result = json!({
            "dataset_revision": if is_task { SPOKENCOCO_REVISIONS[place] } else { NO_REVISION },
            "task_name": name,
            "mteb_version": MTEB,
            "scores": { split: [scores] },
            "evaluation_time": null,
            "kg_co2_emissions": null,
        });
        std::fs::write(folder.join(format!("{name}.json")), format!("{result:#}\n"))?;
    }
    Ok(is_task)
}

/// Sums over queries, at each K.
#[derive(Default)]
struct Metrics {
    queries: f64,
    /// nDCG, average precision, recall, precision, reciprocal rank and hit rate.
    sums: [[f64; 6]; KS.len()],
}

const NAMES: [&str; 6] = ["ndcg", "map", "recall", "precision", "mrr", "hit_rate"];

impl Metrics {
    /// A query with `right` right items: which of the first items, the best first, are some of them.
    fn add(&mut self, hits: &[bool], right: usize) {
        self.queries += 1.0;
        let right = right as f64;
        for (k, sums) in KS.into_iter().zip(&mut self.sums) {
            let (mut found, mut gain, mut precisions, mut first) = (0.0, 0.0, 0.0, 0.0);
            for (rank, _) in (1..=k).zip(hits).filter(|(_, hit)| **hit) {
                let rank = rank as f64;
                found += 1.0;
                gain += 1.0 / (1.0 + rank).log2();
                precisions += found / rank;
                if first == 0.0 {
                    first = 1.0 / rank;
                }
            }
            let best: f64 = (1..=k.min(right as usize)).map(|rank| 1.0 / (1.0 + rank as f64).log2()).sum();
            let of_query =
                [gain / best, precisions / right, found / right, found / k as f64, first, f64::from(found > 0.0)];
            sums.iter_mut().zip(of_query).for_each(|(sum, value)| *sum += value);
        }
    }

    fn scores(&self) -> Map<String, Value> {
        let mut scores = Map::new();
        for (place, name) in NAMES.into_iter().enumerate() {
            for (k, sums) in KS.into_iter().zip(&self.sums) {
                scores.insert(format!("{name}_at_{k}"), (sums[place] / self.queries.max(1.0)).into());
            }
        }
        let main = scores["ndcg_at_10"].clone();
        scores.insert("main_score".to_owned(), main);
        scores
    }
}
