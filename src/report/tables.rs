//! The paper's Tables 2 to 4 in its form, with rows of one's own in bold.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::log::differences;
use super::page::wide_table;
use super::published::{self, Published};
use super::results::recalls;
use super::{Row, RunLog};

/// Keys that do not tell two settings of Table 4 apart: α and the seed, and how and where things are done.
const SAME_SETTING: [&str; 7] =
    ["cmd.alpha", "train.seed", "data.workers", "data.prefetch", "data.cache", "distributed.", "log."];

/// Table 2: every row below its data set, after what the paper reports there.
pub(super) fn retrieval(rows: &[Row]) -> Markup {
    html! {
        (wide_table("Table 2: recalls in percent", "recalls", &html! {
            (head())
            @for (dataset, split) in sections(rows) {
                tbody {
                    (section(&dataset, &split, rows))
                    @for published in published::systems(&dataset, &split) { (published_row(published)) }
                    @for row in rows.iter().filter(|row| is_of(row, &dataset, &split)) { (own_row(&row.name(), row)) }
                }
            }
        }))
        p.note {
            "Bold: measured here, with 95 % intervals from a bootstrap over images. The gallery is the unique images and all utterances of the split; ties count \
             against the query. Other rows are the paper’s."
        }
    }
}

/// Table 3: data sets that a run was not trained on. None without such a result.
pub(super) fn zero_shot(rows: &[Row]) -> Option<Markup> {
    let is_shown = |row: &&Row| row.is_plain() && row.trained_on.is_some();
    let rows: Vec<Row> = rows.iter().filter(is_shown).cloned().collect();
    let is_zero_shot =
        |(dataset, split): &(String, String)| rows.iter().any(|row| is_of(row, dataset, split) && !row.is_own);
    let sections: Vec<(String, String)> = sections(&rows).into_iter().filter(is_zero_shot).collect();
    let name = |row: &Row| {
        let from = row.trained_on.as_deref().unwrap_or_default();
        let how = if row.is_own { "supervised".to_owned() } else { format!("zero-shot from {from}") };
        format!("{}, {how}", row.method)
    };
    (!sections.is_empty()).then(|| {
        wide_table(
            "Table 3: zero-shot recalls in percent",
            "recalls",
            &html! {
                (head())
                @for (dataset, split) in &sections {
                    tbody {
                        (section(dataset, split, &rows))
                        @if let Some(zero_shot) = published::zero_shot(dataset, split) {
                            @for published in published::systems(dataset, split).last().into_iter().chain([&zero_shot]) { (published_row(published)) }
                        }
                        @for row in rows.iter().filter(|row| is_of(row, dataset, split)) { (own_row(&name(row), row)) }
                    }
                }
            },
        )
    })
}

/// By α in thousandths: runs and their mean R@1.
type ByAlpha = BTreeMap<i64, Vec<(usize, f64)>>;

/// Table 4: mean R@1 by α, over runs. None unless there are runs with and without CMD on one data set.
pub(super) fn ablation(rows: &[Row], logs: &[RunLog]) -> Option<Markup> {
    let mut found: BTreeMap<(String, String), ByAlpha> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.is_plain() && row.is_own) {
        let Some((run, alpha)) = row.run.and_then(|run| Some((run, logs.get(run)?.alpha()?))) else { continue };
        let of = (row.result.dataset.clone(), row.result.split.clone());
        let alpha = (alpha * 1000.0).round() as i64;
        found.entry(of).or_default().entry(alpha).or_default().push((run, row.result.recalls.mean.r1));
    }
    found.retain(|_, alphas| alphas.len() > 1 && alphas.contains_key(&0));
    if found.is_empty() {
        return None;
    }
    let mut alphas: Vec<i64> = found.values().flat_map(|alphas| alphas.keys().copied()).collect();
    alphas.sort_unstable();
    alphas.dedup();
    let name = |alpha: &i64| match alpha {
        0 => "w/o CMD".to_owned(),
        alpha => format!("w/ CMD, α = {}", *alpha as f64 / 1000.0),
    };
    let runs: Vec<usize> = found.values().flat_map(|alphas| alphas.values().flatten().map(|(run, _)| *run)).collect();
    let others = other_differences(logs, &runs);
    let table = wide_table(
        "Table 4: mean R@1 in percent, without and with CMD",
        "recalls",
        &html! {
            thead { tr { th scope="col" { "Training task" } @for (dataset, split) in found.keys() { th scope="col" { (dataset) " " (split) } } } }
            tbody {
                @if found.keys().any(|(dataset, _)| published::ablation(dataset).is_some()) {
                    @for (place, task) in ["w/o CMD, the paper", "w/ CMD, the paper"].iter().enumerate() {
                        tr { th scope="row" { (task) } @for (dataset, _) in found.keys() {
                            td { @if let Some(means) = published::ablation(dataset) { (decimal(means[place])) } @else { "—" } }
                        } }
                    }
                }
                @for alpha in &alphas {
                    tr.own { th scope="row" { (name(alpha)) } @for alphas in found.values() { td { (spread(alphas.get(alpha))) } } }
                }
            }
        },
    );
    Some(html! {
        (table)
        @if !others.is_empty() {
            p.note { "These runs differ in other keys, too: " @for (place, key) in others.iter().enumerate() { @if place > 0 { ", " } code { (key) } } "." }
        }
    })
}

/// Keys beyond α and the seed in which `runs` differ, so that a difference may be theirs.
fn other_differences(logs: &[RunLog], runs: &[usize]) -> Vec<String> {
    let of: Vec<RunLog> = runs.iter().map(|run| logs[*run].clone()).collect();
    let differs = differences(&of);
    let keys = differs.into_iter().map(|(key, _)| key.to_owned());
    keys.filter(|key| !SAME_SETTING.iter().any(|same| key.starts_with(same))).collect()
}

/// Mean and standard deviation of runs.
fn spread(runs: Option<&Vec<(usize, f64)>>) -> String {
    let Some(runs) = runs.filter(|runs| !runs.is_empty()) else { return "—".to_owned() };
    let count = runs.len() as f64;
    let mean = runs.iter().map(|(_, r1)| r1).sum::<f64>() / count;
    if runs.len() == 1 {
        return decimal(mean);
    }
    let variance = runs.iter().map(|(_, r1)| (r1 - mean).powi(2)).sum::<f64>() / (count - 1.0);
    format!("{mean:.1} ± {:.1} ({} runs)", variance.sqrt(), runs.len())
}

/// Data sets and splits in the order in which they come up.
fn sections(rows: &[Row]) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for row in rows {
        let of = (row.result.dataset.clone(), row.result.split.clone());
        if !all.contains(&of) {
            all.push(of);
        }
    }
    all
}

fn is_of(row: &Row, dataset: &str, split: &str) -> bool {
    row.result.dataset == dataset && row.result.split == split
}

fn head() -> Markup {
    html! {
        thead {
            tr {
                th scope="col" rowspan="2" { "Method" }
                @for side in ["Speech → Image", "Image → Speech", "Mean"] { th.side scope="colgroup" colspan="3" { (side) } }
            }
            tr { @for _ in 0..3 { @for k in ["R@1", "R@5", "R@10"] { th scope="col" { (k) } } } }
        }
    }
}

fn section(dataset: &str, split: &str, rows: &[Row]) -> Markup {
    let sizes =
        rows.iter().find(|row| is_of(row, dataset, split)).map(|row| (row.result.images, row.result.utterances));
    html! {
        tr.section { th scope="rowgroup" colspan="10" {
            (dataset) " " (split)
            @if let Some((images, utterances)) = sizes { span.size { " (" (images) " images, " (utterances) " utterances)" } }
        } }
    }
}

fn published_row(Published { method, recalls }: &Published) -> Markup {
    html! { tr { th scope="row" { (method) } @for recall in recalls { td { (decimal(*recall)) } } } }
}

fn own_row(name: &str, row: &Row) -> Markup {
    let of = &row.result.recalls;
    let intervals: Vec<Option<[f64; 2]>> = [&of.speech_to_image.ci95, &of.image_to_speech.ci95]
        .into_iter()
        .flat_map(|ci95| [Some(ci95.r1), Some(ci95.r5), Some(ci95.r10)])
        .chain([None; 3])
        .collect();
    html! {
        tr.own {
            th scope="row" {
                (name)
                @if row.result.skipped > 0 { span.warning { " without " (row.result.skipped) " unreadable files" } }
            }
            @for (recall, interval) in recalls(&row.result).iter().zip(intervals) {
                td { (decimal(*recall)) @if let Some([low, high]) = interval { span.interval { (decimal(low)) "–" (decimal(high)) } } }
            }
        }
    }
}

fn decimal(value: f64) -> String {
    format!("{value:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Mean, Recalls, SplitResult};

    fn row(run: usize, method: &str, trained_on: &str, dataset: &str, r1: f64) -> Row {
        let recalls = Recalls { mean: Mean { r1, r5: 80.0, r10: 90.0 }, ..Recalls::default() };
        let result = SplitResult {
            dataset: dataset.to_owned(),
            split: "test".to_owned(),
            images: 1000,
            utterances: 5000,
            skipped: 0,
            skipped_files: Vec::new(),
            duplicates: 0,
            protocol: None,
            recalls,
            in_family: None,
        };
        let is_own = dataset == trained_on;
        Row { run: Some(run), method: method.to_owned(), trained_on: Some(trained_on.to_owned()), is_own, result }
    }

    fn log(alpha: &str, steps: &str) -> RunLog {
        let settings = [("cmd.alpha", alpha), ("train.steps", steps)];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        RunLog { settings, ..RunLog::default() }
    }

    #[test]
    fn own_rows_stand_below_the_papers_of_their_data_set() {
        let text =
            retrieval(&[row(0, "mine", "flickr8k", "flickr8k", 50.0), row(0, "mine", "flickr8k", "demo", 9.0)]).0;
        let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(
            place("flickr8k test") < place("MILAN")
                && place("MILAN") < place("mine")
                && place("mine") < place("demo test")
        );
        assert_eq!(text.matches("class=\"own\"").count(), 2);
        assert!(!text.contains("ResDAVEnet"));
    }

    #[test]
    fn zero_shot_is_what_was_trained_on_something_else() {
        let supervised = row(0, "a", "flickr8k", "flickr8k", 48.0);
        assert!(zero_shot(std::slice::from_ref(&supervised)).is_none());
        let text = zero_shot(&[supervised, row(1, "b", "spokencoco", "flickr8k", 55.0)]).expect("a table").0;
        assert!(text.contains("a, supervised") && text.contains("b, zero-shot from spokencoco"), "{text}");
        assert!(text.contains("CMD, zero-shot from SpokenCOCO"), "{text}");
    }

    #[test]
    fn the_ablation_is_over_runs_and_names_what_else_differs() {
        let rows: Vec<Row> =
            [40.0, 44.0, 46.0].into_iter().enumerate().map(|(run, r1)| row(run, "x", "demo", "demo", r1)).collect();
        let logs = [log("0.0", "600"), log("0.5", "600"), log("0.5", "600")];
        let text = ablation(&rows, &logs).expect("a table").0;
        assert!(text.contains("40.0") && text.contains("45.0 ± 1.4 (2 runs)") && text.contains("α = 0.5"), "{text}");
        assert!(!text.contains("differ in other keys"));
        let text = ablation(&rows, &[log("0", "600"), log("0.5", "600"), log("0.5", "700")]).expect("a table").0;
        assert!(text.contains("<code>train.steps</code>"), "{text}");
        assert!(ablation(&rows[1..], &logs).is_none());
    }
}
