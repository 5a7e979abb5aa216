//! Settings compared: mean and spread over seeds, and the difference from another one with an interval.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::outcome::Hits;
use super::{Outcome, Scores, Setting};
use crate::draw::{Draw, Purpose};
use crate::eval::percentile_interval;

/// Resamples of the bootstrap.
const RESAMPLES: u64 = 2000;

/// Figures of a run, or what they are over seeds, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// R@1 from speech to image.
    pub speech_to_image: f64,
    /// R@1 from image to speech.
    pub image_to_speech: f64,
    /// Mean R@1.
    pub mean: f64,
    /// The right one of its family first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_family: Option<f64>,
}

/// Mean R@1 of a setting less that of the one that it is compared with, over the seeds that both have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// In points.
    pub mean: f64,
    /// 95 % interval: a paired bootstrap over images and seeds together.
    pub ci95: [f64; 2],
    /// Seeds of both.
    pub seeds: usize,
}

/// A run of a setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Run {
    seed: i64,
    step: u64,
    r1: Figures,
}

/// What a setting came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The setting.
    pub name: String,
    /// Its one value, if that is a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<f64>,
    /// Seeds whose loss or gradient was not finite.
    pub failed: Vec<i64>,
    /// Means over the other seeds, if there are some.
    pub mean: Option<Figures>,
    /// Standard deviations over seeds, from two on.
    pub spread: Option<Figures>,
    /// The setting that it is compared with, unless that is itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// From that one.
    pub difference: Option<Difference>,
    runs: Vec<Run>,
}

/// All settings on one split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The split.
    pub split: String,
    /// In their order.
    pub settings: Vec<Row>,
}

/// Outcomes of a setting by seed; none of a run whose loss was not finite.
type Outcomes = BTreeMap<i64, Option<(u64, Scores)>>;

impl Summary {
    /// Compares `settings` on `split`; `outcomes` are (setting, seed, what it came to).
    #[must_use]
    pub fn new(split: &str, settings: &[Setting], outcomes: &[(usize, i64, Option<Outcome>)]) -> Self {
        let mut each: Vec<Outcomes> = vec![BTreeMap::new(); settings.len()];
        for (setting, seed, outcome) in outcomes {
            let scores = outcome.as_ref().and_then(|found| Some((found.step, found.splits.get(split)?.clone())));
            each[*setting].insert(*seed, scores);
        }
        let rows = settings.iter().enumerate().map(|(place, setting)| {
            let against = Some(setting.against).filter(|against| *against != place);
            let difference = against.and_then(|against| Difference::new(&each[against], &each[place]));
            let against = against.and_then(|against| Some(settings.get(against)?.name.clone()));
            Row::new(setting, &each[place], against, difference)
        });
        Self { split: split.to_owned(), settings: rows.collect() }
    }

    /// As a table in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let has_families = self.settings.iter().any(|row| row.mean.is_some_and(|mean| mean.in_family.is_some()));
        let families = if has_families { " in-family |" } else { "" };
        let mut text = format!(
            "| setting | seeds | speech -> image R@1 | image -> speech R@1 | mean R@1 |{families} difference, 95 % interval |\n\
             | --- | --- | --- | --- | --- |{} --- |\n",
            if has_families { " --- |" } else { "" }
        );
        for row in &self.settings {
            let with_spread = |of: &dyn Fn(&Figures) -> Option<f64>| match (
                row.mean.as_ref().and_then(of),
                row.spread.as_ref().and_then(of),
            ) {
                (Some(mean), Some(spread)) => format!("{mean:.1} ± {spread:.1}"),
                (Some(mean), None) => format!("{mean:.1}"),
                (None, _) => "-".to_owned(),
            };
            let failed =
                if row.failed.is_empty() { String::new() } else { format!(", {} not finite", row.failed.len()) };
            let _ = write!(
                text,
                "| {} | {}{failed} | {} | {} | {} |",
                row.name.replace('|', "\\|"),
                row.runs.len(),
                with_spread(&|figures| Some(figures.speech_to_image)),
                with_spread(&|figures| Some(figures.image_to_speech)),
                with_spread(&|figures| Some(figures.mean)),
            );
            if has_families {
                let _ = write!(text, " {} |", with_spread(&|figures| figures.in_family));
            }
            let difference = row.difference.map_or("-".to_owned(), |difference| {
                let [low, high] = difference.ci95;
                format!("{:+.1} [{low:+.1}, {high:+.1}]", difference.mean)
            });
            let _ = writeln!(text, " {difference} |");
        }
        let mut against: Vec<&str> = self.settings.iter().filter_map(|row| row.against.as_deref()).collect();
        against.dedup();
        let from = match against.as_slice() {
            [] => return text,
            [one] => format!("\"{one}\""),
            _ => "the nearest row above that has none".to_owned(),
        };
        let _ = writeln!(text, "\nDifferences are of mean R@1, from {from}.");
        text
    }
}

impl Row {
    /// Mean R@1 of each run.
    pub(super) fn means(&self) -> impl Iterator<Item = f64> {
        self.runs.iter().map(|run| run.r1.mean)
    }

    fn new(setting: &Setting, outcomes: &Outcomes, against: Option<String>, difference: Option<Difference>) -> Self {
        let finished = || outcomes.iter().filter_map(|(seed, outcome)| Some((*seed, outcome.as_ref()?)));
        let runs: Vec<Run> =
            finished().map(|(seed, (step, scores))| Run { seed, step: *step, r1: Figures::of(scores) }).collect();
        let figures: Vec<Figures> = runs.iter().map(|run| run.r1).collect();
        Self {
            name: setting.name.clone(),
            number: setting.number,
            failed: outcomes.iter().filter(|(_, outcome)| outcome.is_none()).map(|(seed, _)| *seed).collect(),
            mean: Figures::each(&figures, 1, mean),
            spread: Figures::each(&figures, 2, deviation),
            against,
            difference,
            runs,
        }
    }
}

impl Figures {
    fn of(scores: &Scores) -> Self {
        let hits = scores.hits().into_iter().fold(Hits::default(), Hits::and);
        let [speech_to_image, image_to_speech] = hits.recalls();
        Self { speech_to_image, image_to_speech, mean: hits.mean(), in_family: scores.in_family }
    }

    /// `join` over runs, if there are at least `least`.
    fn each(runs: &[Self], least: usize, join: fn(&[f64]) -> f64) -> Option<Self> {
        let of = |figure: fn(&Self) -> f64| join(&runs.iter().map(figure).collect::<Vec<f64>>());
        let in_family: Option<Vec<f64>> = runs.iter().map(|run| run.in_family).collect();
        (runs.len() >= least).then(|| Self {
            speech_to_image: of(|run| run.speech_to_image),
            image_to_speech: of(|run| run.image_to_speech),
            mean: of(|run| run.mean),
            in_family: in_family.map(|values| join(&values)),
        })
    }
}

impl Difference {
    /// Of seeds that both settings have, scored on the same images.
    fn new(first: &Outcomes, other: &Outcomes) -> Option<Self> {
        let pairs: Vec<(Vec<Hits>, Vec<Hits>)> = other
            .iter()
            .filter_map(|(seed, outcome)| {
                let ((_, first), (_, other)) = (first.get(seed)?.as_ref()?, outcome.as_ref()?);
                (first.owners == other.owners).then(|| (first.hits(), other.hits()))
            })
            .collect();
        let images = pairs.first()?.0.len();
        // Of other images a resample would not be the same one.
        let pairs: Vec<_> = pairs.into_iter().filter(|pair| pair.0.len() == images && pair.1.len() == images).collect();
        let all: Vec<usize> = (0..images).collect();
        let difference = |(first, other): &(Vec<Hits>, Vec<Hits>), chosen: &[usize]| {
            let of = |hits: &[Hits]| chosen.iter().map(|image| hits[*image]).fold(Hits::default(), Hits::and).mean();
            of(other) - of(first)
        };
        let resampled: Vec<f64> = (0..RESAMPLES)
            .map(|resample| {
                let mut draw = Draw::new(0, Purpose::Bootstrap, [resample, 1]);
                let chosen: Vec<usize> = (0..images).map(|_| draw.below(images)).collect();
                let drawn = (0..pairs.len()).map(|_| difference(&pairs[draw.below(pairs.len())], &chosen));
                mean(&drawn.collect::<Vec<f64>>())
            })
            .collect();
        let found: Vec<f64> = pairs.iter().map(|pair| difference(pair, &all)).collect();
        Some(Self { mean: mean(&found), ci95: percentile_interval(resampled), seeds: pairs.len() })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation of a sample.
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 images with two utterances each, of which the first `found` images and their utterances are found.
    fn outcome(found: usize) -> Outcome {
        let rank = |image: usize| if image < found { 1 } else { 3 };
        let scores = Scores {
            in_family: None,
            speech: (0..200).map(|utterance| rank(utterance / 2)).collect(),
            images: (0..100).map(rank).collect(),
            owners: (0..200).map(|utterance| utterance / 2).collect(),
        };
        Outcome { step: 7, sources: Vec::new(), splits: BTreeMap::from([("test".to_owned(), scores)]) }
    }

    fn setting(name: &str) -> Setting {
        Setting { name: name.to_owned(), changes: Vec::new(), number: None, against: 0 }
    }

    #[test]
    fn means_spreads_and_differences_are_those_of_the_runs() {
        let outcomes = vec![
            (0, 0, Some(outcome(40))),
            (0, 1, Some(outcome(44))),
            (1, 0, Some(outcome(50))),
            (1, 1, Some(outcome(54))),
            (1, 2, None),
        ];
        let summary = Summary::new("test", &[setting("a"), setting("b")], &outcomes);
        let [first, second] = &summary.settings[..] else { panic!("two settings") };
        assert_eq!(first.mean.expect("runs").mean, 42.0);
        assert!((first.spread.expect("two runs").speech_to_image - 8f64.sqrt()).abs() < 1e-9);
        assert_eq!((first.difference, &second.failed), (None, &vec![2]));
        let difference = second.difference.expect("two seeds");
        assert_eq!((difference.mean, difference.seeds), (10.0, 2));
        assert!(difference.ci95[0] > 3.0 && difference.ci95[1] < 17.0, "{difference:?}");
        assert!(summary.table().contains("| b | 2, 1 not finite | 52.0 ± 2.8 | 52.0 ± 2.8 | 52.0 ± 2.8 | +10.0 ["));
    }

    #[test]
    fn a_paired_difference_is_surer_than_its_parts() {
        // The same images are found, and one more: no resample turns that round.
        let outcomes = vec![(0, 0, Some(outcome(50))), (1, 0, Some(outcome(51)))];
        let difference =
            Summary::new("test", &[setting("a"), setting("b")], &outcomes).settings[1].difference.expect("a seed");
        assert!(difference.ci95[0] >= 0.0 && difference.ci95[1] < 4.0, "{difference:?}");
    }
}
