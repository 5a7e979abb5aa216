//! Rankings as files: every query with its rank, and the forms of TREC.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

use serde::Serialize;
use tch::{Device, Tensor};

use super::nearest::for_each_nearest;
use super::{Ranks, Similarities, Vectors};
use crate::model::LibtorchError;

/// Items of each query in a list of ranks.
const FOUND: usize = 10;
/// Items of each query in a run of TREC, as its own runs have.
pub(super) const DEPTH: usize = 1000;
/// Items that are looked at beyond those.
const EDGE: usize = 32;

/// A query and what it found.
#[derive(Serialize)]
struct Line<'a> {
    direction: &'a str,
    query: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speaker: Option<&'a str>,
    rank: usize,
    right: Vec<&'a str>,
    found: Vec<Found<'a>>,
}

#[derive(Serialize)]
struct Found<'a> {
    id: &'a str,
    score: f32,
}

/// One direction: queries, items, and which are right.
pub(super) struct Side<'a> {
    pub(super) direction: &'static str,
    queries: (&'a Tensor, &'a [String]),
    items: (&'a Tensor, &'a [String]),
    /// Of each query its right items.
    pub(super) right: Vec<Vec<usize>>,
    ranks: &'a [usize],
}

/// What is known of each utterance beside its name: text and speaker.
pub type Said<'a> = Option<&'a dyn Fn(usize) -> (Option<&'a str>, Option<&'a str>)>;

/// Writes `ranks.jsonl` and `ranks.csv` into `folder`: of every query its rank, the right items and the first ten.
///
/// # Errors
/// When they cannot be written.
pub fn export_ranks(folder: &Path, vectors: &Vectors, ranks: &Ranks, said: Said) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut lines = BufWriter::new(File::create(folder.join("ranks.jsonl"))?);
    let mut table = BufWriter::new(File::create(folder.join("ranks.csv"))?);
    writeln!(table, "direction,query,rank,right,first,score")?;
    for side in sides(vectors, ranks) {
        let is_speech = side.direction == SPEECH;
        side.each(FOUND, |query, found| {
            let (text, speaker) = said.filter(|_| is_speech).map_or((None, None), |said| said(query));
            let items = side.items.1;
            let line = Line {
                direction: side.direction,
                query: &side.queries.1[query],
                text,
                speaker,
                rank: side.ranks[query],
                right: side.right[query].iter().map(|item| &*items[*item]).collect(),
                found: found.iter().map(|(item, score)| Found { id: &items[*item], score: *score }).collect(),
            };
            writeln!(lines, "{}", serde_json::to_string(&line)?)?;
            let first = line.found.first().map_or((String::new(), 0.0), |first| (quoted(first.id), first.score));
            let right = quoted(&line.right.join(" "));
            writeln!(table, "{},{},{},{right},{},{}", side.direction, quoted(line.query), line.rank, first.0, first.1)
        })?;
    }
    lines.flush()?;
    table.flush()
}

/// Writes a run and its relevance judgements for each direction into `folder`, in the forms of `trec_eval`. Of each query the first 1,000
/// items stand in the order of this program's rule, wrong before right where they are level, with scores that fall strictly.
///
/// # Errors
/// When they cannot be written.
pub fn export_trec(folder: &Path, vectors: &Vectors, ranks: &Ranks, tag: &str) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for side in sides(vectors, ranks) {
        let mut run = BufWriter::new(File::create(folder.join(format!("{}.run", side.direction)))?);
        let mut judgements = BufWriter::new(File::create(folder.join(format!("{}.qrels", side.direction)))?);
        side.each(DEPTH, |query, found| {
            let (name, items) = (&side.queries.1[query], side.items.1);
            for item in &side.right[query] {
                writeln!(judgements, "{name} 0 {} 1", items[*item])?;
            }
            // As f32, in which trec_eval holds scores.
            let mut before = f32::INFINITY;
            for (place, (item, score)) in (1..).zip(found) {
                before = score.min(before.next_down());
                writeln!(run, "{name} Q0 {} {place} {before:?} {tag}", items[*item])?;
            }
            Ok(())
        })?;
        run.flush()?;
        judgements.flush()?;
    }
    Ok(())
}

pub(super) const SPEECH: &str = "speech_to_image";
const IMAGES: &str = "image_to_speech";

pub(super) fn sides<'a>(vectors: &'a Vectors, ranks: &'a Ranks) -> [Side<'a>; 2] {
    let speech = (&vectors.speech, &vectors.speech_ids[..]);
    let images = (&vectors.images, &vectors.image_ids[..]);
    let mut of_images = vec![Vec::new(); vectors.image_ids.len()];
    vectors.owners.iter().enumerate().for_each(|(utterance, owner)| of_images[*owner].push(utterance));
    let of_speech = vectors.owners.iter().map(|owner| vec![*owner]).collect();
    [
        Side { direction: SPEECH, queries: speech, items: images, right: of_speech, ranks: &ranks.speech },
        Side { direction: IMAGES, queries: images, items: speech, right: of_images, ranks: &ranks.images },
    ]
}

impl Side<'_> {
    /// Calls `visit` with every query that has a right item, and its first `most` items with their scores, the best first and wrong before right
    /// where they are level.
    pub(super) fn each(&self, most: usize, mut visit: impl FnMut(usize, &[(usize, f32)]) -> Result<()>) -> Result<()> {
        let (queries, items) = (self.queries.0, self.items.0);
        let is_speech = self.direction == SPEECH;
        let (speech, images) = if is_speech { (queries, items) } else { (items, queries) };
        let exact = Similarities::of_embeddings(speech, images, Device::Cpu);
        // Some more than are needed: those at the edge may be level with others.
        for_each_nearest(queries, items, most + EDGE, |query, places| {
            let right = &self.right[query];
            if right.is_empty() {
                return Ok(());
            }
            // 0 and -0 are level.
            let score = |item: usize| 0.0 + if is_speech { exact.score(query, item) } else { exact.score(item, query) };
            let mut found: Vec<(usize, f32)> = places.iter().map(|item| (*item, score(*item))).collect();
            let is_right = |item: usize| right.contains(&item);
            found.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| is_right(a.0).cmp(&is_right(b.0))));
            found.truncate(most);
            visit(query, &found).map_err(Failure::Writing)
        })
        .map_err(|failure| match failure {
            Failure::Writing(error) => error,
            Failure::Libtorch(error) => std::io::Error::other(error),
        })
    }
}

/// Why a listing ended.
enum Failure {
    Writing(std::io::Error),
    Libtorch(LibtorchError),
}

impl From<LibtorchError> for Failure {
    fn from(error: LibtorchError) -> Self {
        Self::Libtorch(error)
    }
}

/// A field of a CSV file.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
