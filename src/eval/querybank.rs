//! Query-bank normalisation (Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation", CVPR 2022), dynamic inverted softmax: an item
//! that many queries of a bank find scores less,
//!
//! s'(q, g) = exp(β s(q, g)) / Σ_u exp(β s(u, g)) over the bank's queries u,
//!
//! but only for a query whose first item by s is the first of some query of the bank.

use tch::{Kind, Tensor};

use super::ranks::values;
use super::{Embeddings, EvalError, Ranks, RecallError};
use crate::model::catch_libtorch;

/// β, as in the paper.
pub const BETA: f64 = 20.0;
/// Scores that are held at once.
const BLOCK: i64 = 4 << 20;

/// Queries of another split, both kinds.
#[derive(Debug)]
pub struct QueryBank {
    /// S_cls, [U, E].
    speech: Tensor,
    /// I_cls, [V, E].
    images: Tensor,
}

impl QueryBank {
    /// The utterances and images of `embeddings`.
    #[must_use]
    pub fn new(embeddings: &Embeddings) -> Self {
        Self { speech: embeddings.speech.shallow_clone(), images: embeddings.images.shallow_clone() }
    }

    /// Utterances and images.
    #[must_use]
    pub fn size(&self) -> [usize; 2] {
        [&self.speech, &self.images].map(|rows| rows.size()[0] as usize)
    }

    /// The ranks of `embeddings` by s'.
    ///
    /// # Errors
    /// When a score is NaN or infinite, or libtorch fails.
    pub fn ranks(&self, embeddings: &Embeddings) -> Result<Ranks, EvalError> {
        let Embeddings { speech, images, owners, .. } = embeddings;
        let mut utterances: Vec<Vec<usize>> = vec![Vec::new(); images.size()[0] as usize];
        owners.iter().enumerate().for_each(|(utterance, owner)| utterances[*owner].push(utterance));
        let own: Vec<Vec<usize>> = owners.iter().map(|owner| vec![*owner]).collect();
        let ranks = catch_libtorch(|| {
            Ok::<Ranks, RecallError>(Ranks {
                speech: ranks(speech, images, &self.speech, &own)?,
                images: ranks(images, speech, &self.images, &utterances)?,
            })
        })?;
        Ok(ranks?)
    }
}

/// Of each query of [Q, E] the rank of the best of its `right` items of `gallery` [G, E], with the queries `bank` [U, E]; 0 for a query without.
fn ranks(queries: &Tensor, gallery: &Tensor, bank: &Tensor, right: &[Vec<usize>]) -> Result<Vec<usize>, RecallError> {
    let items = gallery.size()[0] as usize;
    let (mut sums, mut is_first) = (vec![0.0; items], vec![false; items]);
    for_each_row(bank, gallery, |_, scores| {
        is_first[first(scores)?] = true;
        sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += (BETA * f64::from(*score)).exp());
        Ok(())
    })?;
    let offsets: Vec<f64> = sums.into_iter().map(f64::ln).collect();
    let mut ranks = Vec::with_capacity(right.len());
    for_each_row(queries, gallery, |query, scores| {
        let is_normalised = is_first[first(scores)?];
        // log s', which has the order of s'.
        let score = |item: usize| match is_normalised {
            true => BETA * f64::from(scores[item]) - offsets[item],
            false => f64::from(scores[item]),
        };
        let own = &right[query];
        let rank = own
            .iter()
            .map(|item| score(*item))
            .max_by(f64::total_cmp)
            .map_or(0, |best| 1 + (0..items).filter(|item| score(*item) >= best && !own.contains(item)).count());
        ranks.push(rank);
        Ok(())
    })?;
    Ok(ranks)
}

/// The first of the items that score highest.
fn first(scores: &[f32]) -> Result<usize, RecallError> {
    if !scores.iter().all(|score| score.is_finite()) {
        return Err(RecallError::NotFinite);
    }
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter().position(|score| *score == highest).ok_or(RecallError::Empty)
}

/// Calls `visit` with each row's number and scores: products in f64, rounded to f32.
fn for_each_row(
    rows: &Tensor,
    gallery: &Tensor,
    mut visit: impl FnMut(usize, &[f32]) -> Result<(), RecallError>,
) -> Result<(), RecallError> {
    let (count, items) = (rows.size()[0], gallery.size()[0].max(1));
    let gallery = gallery.to_kind(Kind::Double).tr();
    let step = (BLOCK / items).max(1);
    for start in (0..count).step_by(step as usize) {
        let block = rows.narrow(0, start, step.min(count - start)).to_kind(Kind::Double);
        let scores = values(&block.matmul(&gallery));
        for (number, row) in (start as usize..).zip(scores.chunks_exact(items as usize)) {
            visit(number, row)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_scores_less_and_only_where_it_is_one() {
        // Item 0 is the first of both queries of the bank, so of the first query it counts less; the second query's first is no hub.
        let row = |values: &[f32]| Tensor::from_slice(values);
        let gallery = Tensor::stack(&[row(&[1.0, 0.0, 0.0]), row(&[0.0, 1.0, 0.0]), row(&[0.0, 0.0, 1.0])], 0);
        let bank = Tensor::stack(&[row(&[0.9, 0.1, 0.0]), row(&[0.8, 0.0, 0.1])], 0);
        let queries = Tensor::stack(&[row(&[0.6, 0.5, 0.0]), row(&[0.1, 0.6, 0.5])], 0);
        let found = ranks(&queries, &gallery, &bank, &[vec![1], vec![2]]).expect("finite");
        assert_eq!(found, [1, 2]);
        // s' of the first query by its definition.
        let sum = |item: usize| (0..2).map(|u| (20.0 * bank.double_value(&[u, item as i64])).exp()).sum::<f64>();
        let normalised = |score: f64, item: usize| (20.0 * score).exp() / sum(item);
        assert!(normalised(0.5, 1) > normalised(0.6, 0));
    }
}
