//! Recalls of parts of a split: whose speech, how long a caption, which images.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Embeddings, Ranks};
use crate::data::Split;

/// What utterances and images are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grouping {
    /// Who speaks.
    Speaker,
    /// How many words are said.
    Words,
    /// The folder that the image lies in, as train2014 and val2014 of COCO.
    Part,
    /// Images that differ in one detail.
    Family,
}

impl std::str::FromStr for Grouping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "speaker" => Ok(Self::Speaker),
            "words" => Ok(Self::Words),
            "part" => Ok(Self::Part),
            "family" => Ok(Self::Family),
            _ => Err("must be speaker, words, part or family".to_owned()),
        }
    }
}

/// Numbers of words that are one group, the last ones open.
const WORDS: [(usize, &str); 6] =
    [(4, "1 to 4"), (8, "5 to 8"), (12, "9 to 12"), (16, "13 to 16"), (24, "17 to 24"), (usize::MAX, "25 and more")];
/// Lines of a table; of more groups it has the worst and the best.
const LINES: usize = 24;

/// Recalls of one direction, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    /// Queries.
    pub queries: usize,
    /// R@1.
    pub r1: f64,
    /// R@5.
    pub r5: f64,
    /// R@10.
    pub r10: f64,
}

/// A group; the gallery is whole for it, too.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its utterances as queries.
    pub speech_to_image: Part,
    /// Its images as queries; none where only utterances are grouped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_to_speech: Option<Part>,
}

/// All groups of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Breakdown {
    /// The kind.
    pub by: Grouping,
    /// In the order of their names, or of their lengths.
    pub groups: Vec<Group>,
}

impl Breakdown {
    /// Groups the queries of `split`, whose embeddings have the given `ranks`.
    #[must_use]
    pub fn new(by: Grouping, split: &Split, embeddings: &Embeddings, ranks: &Ranks) -> Self {
        // The number of words comes before its name.
        let mut groups: BTreeMap<(usize, String), [Vec<usize>; 2]> = BTreeMap::new();
        let of_image = |row: usize| {
            let image = &split.images[embeddings.gallery[row]];
            let folder = || {
                image
                    .path
                    .parent()
                    .and_then(|folder| folder.file_name())
                    .map(|name| name.to_string_lossy().into_owned())
            };
            match by {
                Grouping::Part => Some(folder().unwrap_or_default()),
                Grouping::Family => Some(image.family.as_deref().unwrap_or("no family").to_owned()),
                Grouping::Speaker | Grouping::Words => None,
            }
        };
        for ((row, owner), rank) in embeddings.utterances.iter().zip(&embeddings.owners).zip(&ranks.speech) {
            let utterance = &split.utterances[*row];
            let key = match by {
                Grouping::Speaker => (0, utterance.speaker.as_deref().unwrap_or("unknown").to_owned()),
                Grouping::Words => words(utterance.text.as_deref()),
                Grouping::Part | Grouping::Family => (0, of_image(*owner).unwrap_or_default()),
            };
            groups.entry(key).or_default()[0].push(*rank);
        }
        for (row, rank) in ranks.images.iter().enumerate().filter(|(_, rank)| **rank > 0) {
            if let Some(name) = of_image(row) {
                groups.entry((0, name)).or_default()[1].push(*rank);
            }
        }
        let group = |((_, name), [speech, images]): ((usize, String), [Vec<usize>; 2])| Group {
            name,
            speech_to_image: Part::new(&speech),
            image_to_speech: (!images.is_empty()).then(|| Part::new(&images)),
        };
        Self { by, groups: groups.into_iter().map(group).collect() }
    }

    /// As a table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut shown: Vec<&Group> = self.groups.iter().collect();
        let left_out = shown.len().saturating_sub(LINES);
        if left_out > 0 {
            shown.sort_by(|a, b| a.speech_to_image.r1.total_cmp(&b.speech_to_image.r1));
            shown.drain(LINES / 2..LINES / 2 + left_out);
        }
        let by = match self.by {
            Grouping::Speaker => "speaker",
            Grouping::Words => "words",
            Grouping::Part => "part",
            Grouping::Family => "family",
        };
        let width = shown.iter().map(|group| group.name.chars().count()).max().unwrap_or(0).max(by.len());
        let header = format!("{:>7} {:>6} {:>6} {:>6}", "queries", "R@1", "R@5", "R@10");
        let has_images = shown.iter().any(|group| group.image_to_speech.is_some());
        let mut text = format!("{:width$} | {:^28}", "", "Speech -> Image");
        if has_images {
            text += &format!(" | {:^28}", "Image -> Speech");
        }
        text = format!("{}\n{by:width$} | {header}", text.trim_end());
        if has_images {
            text += &format!(" | {header}");
        }
        let part = |part: &Part| format!("{:>7} {:>6.1} {:>6.1} {:>6.1}", part.queries, part.r1, part.r5, part.r10);
        for group in shown {
            text += &format!("\n{:width$} | {}", group.name, part(&group.speech_to_image));
            if let Some(images) = &group.image_to_speech {
                text += &format!(" | {}", part(images));
            }
        }
        if left_out > 0 {
            text += &format!("\n(the worst and the best; {left_out} between them are left out, --json has all)");
        }
        text
    }
}

impl Part {
    fn new(ranks: &[usize]) -> Self {
        let recall = |k: usize| {
            let hits = ranks.iter().filter(|rank| **rank <= k).count();
            100.0 * hits as f64 / ranks.len().max(1) as f64
        };
        Self { queries: ranks.len(), r1: recall(1), r5: recall(5), r10: recall(10) }
    }
}

/// The group of a caption.
fn words(text: Option<&str>) -> (usize, String) {
    let Some(text) = text else { return (WORDS.len(), "no text".to_owned()) };
    let count = text.split_whitespace().count();
    let place = WORDS.iter().position(|(most, _)| count <= *most).unwrap_or(0);
    (place, WORDS[place].1.to_owned())
}
