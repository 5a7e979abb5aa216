//! Queries of a split and what they found, for people to look at.

use tch::Tensor;

use super::Embeddings;
use crate::data::Split;

/// A query and the rows that it found, the best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Example {
    pub(super) query: usize,
    pub(super) found: Vec<usize>,
}

/// `count` utterances spread evenly over the split, not chosen by outcome, each with its best `found` images.
pub(super) fn of_speech(embeddings: &Embeddings, count: usize, found: usize) -> Vec<Example> {
    examples(&embeddings.speech, &embeddings.images, count, found)
}

/// As [`of_speech`], of images with their best utterances.
pub(super) fn of_images(embeddings: &Embeddings, count: usize, found: usize) -> Vec<Example> {
    examples(&embeddings.images, &embeddings.speech, count, found)
}

/// What is said in the utterance of a row, or else the name of its file.
pub(super) fn said(split: &Split, embeddings: &Embeddings, row: usize) -> String {
    split.utterances[embeddings.utterances[row]].said()
}

fn examples(queries: &Tensor, gallery: &Tensor, count: usize, found: usize) -> Vec<Example> {
    let spread = spread(queries.size()[0] as usize, count).into_iter();
    spread.map(|query| Example { query, found: best(gallery, &queries.get(query as i64), found) }).collect()
}

/// `count` numbers below `total`, evenly spread.
#[must_use]
pub fn spread(total: usize, count: usize) -> Vec<usize> {
    let count = count.min(total);
    (0..count).map(|number| (2 * number + 1) * total / (2 * count)).collect()
}

/// Rows of `gallery` [I, E] that score highest with `query` `[E]`.
fn best(gallery: &Tensor, query: &Tensor, count: usize) -> Vec<usize> {
    let scores = gallery.matmul(query);
    let count = (count as i64).min(scores.size()[0]);
    let (_, rows) = scores.topk(count, 0, true, true);
    (0..count).map(|place| rows.int64_value(&[place]) as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_spread_and_what_they_found_is_in_order() {
        assert_eq!((spread(10, 5), spread(2, 5), spread(0, 5)), (vec![1, 3, 5, 7, 9], vec![0, 1], vec![]));
        let gallery = Tensor::from_slice2(&[[0.0f32, 1.0], [1.0, 0.0], [0.6, 0.8]]);
        let found = examples(&Tensor::from_slice2(&[[1.0f32, 0.1]]), &gallery, 1, 2);
        assert_eq!(found, [Example { query: 0, found: vec![1, 2] }]);
    }
}
