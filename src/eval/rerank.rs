//! Re-ranking by the fusion encoder. Of each query the first K by the two towers are put in order by
//!
//! (1 - λ) S·I + λ S·F(S, clean patches of I),
//!
//! the rest stay behind them in their order (FaST-VGS's coarse-to-fine retrieval with CMD's own Omega). Both directions use the same scores of
//! pairs. Ties count against the query, as in [`super::Ranks`].

use std::time::Instant;

use tch::{Device, Tensor};

use super::nearest::nearest;
use super::ranks::values;
use super::{Embeddings, EvalError, EvalSet, Ranks, Similarities};
use crate::model::{FusionEncoder, catch_libtorch};

/// λ on the development split: 0, 1/20, ... 1.
const GRID: usize = 20;

/// Candidates of every query and their scores.
#[derive(Debug)]
pub struct Reranking {
    speech: Vec<Query>,
    images: Vec<Query>,
    /// Seconds for candidates and pairs of all queries, without the images' encoder.
    seconds: f64,
}

/// A query's candidates: S·I and S·F of each.
#[derive(Clone, Debug, Default)]
struct Query {
    /// Its rank by the two towers; 0: it is none.
    plain: usize,
    right: Vec<[f32; 2]>,
    wrong: Vec<[f32; 2]>,
}

/// The pairs of candidates for one K, and S·F of those that have come up.
struct Pairs {
    k: usize,
    /// Of each query its first K, the best first.
    of_speech: Vec<Vec<usize>>,
    of_images: Vec<Vec<usize>>,
    /// Of each image the utterances that it is scored with, in order, and S·F of each.
    wanted: Vec<Vec<usize>>,
    scored: Vec<Vec<f32>>,
    seconds: f64,
}

impl Reranking {
    /// Scores the first K of each query of `set`, whose embeddings and ranks are known, for each K of `ks`; the images are encoded once.
    ///
    /// # Errors
    /// When images cannot be encoded, libtorch fails, or a signal comes.
    pub fn each(
        set: &EvalSet,
        embeddings: &Embeddings,
        ranks: &Ranks,
        fusion: &FusionEncoder,
        ks: &[usize],
    ) -> Result<Vec<Self>, EvalError> {
        let mut each: Vec<Pairs> = ks.iter().map(|k| Pairs::new(embeddings, *k)).collect::<Result<_, _>>()?;
        set.for_each_patches(|image, patches| {
            // A device may still be at the image's features.
            catch_libtorch(|| patches.flatten(0, -1).get(0).double_value(&[]))?;
            each.iter_mut().try_for_each(|pairs| pairs.score(image, patches, &embeddings.speech, fusion))
        })?;
        Ok(each.into_iter().map(|pairs| pairs.sorted(embeddings, ranks)).collect())
    }

    /// The ranks with λ = `mix`.
    #[must_use]
    pub fn ranks(&self, mix: f64) -> Ranks {
        let of = |queries: &[Query]| queries.iter().map(|query| query.rank(mix)).collect();
        Ranks { speech: of(&self.speech), images: of(&self.images) }
    }

    /// The λ of 0, 1/20, ... 1 with the best mean R@1; the smallest where several are.
    #[must_use]
    pub fn best_mix(&self) -> f64 {
        let first = |ranks: &[usize]| {
            let queries = ranks.iter().filter(|rank| **rank > 0).count();
            ranks.iter().filter(|rank| **rank == 1).count() as f64 / queries.max(1) as f64
        };
        let (mut best, mut highest) = (0.0, f64::MIN);
        for step in 0..=GRID {
            let mix = step as f64 / GRID as f64;
            let ranks = self.ranks(mix);
            let mean = (first(&ranks.speech) + first(&ranks.images)) / 2.0;
            if mean > highest {
                (best, highest) = (mix, mean);
            }
        }
        best
    }

    /// Seconds that each query took on average, over both directions.
    #[must_use]
    pub fn seconds_per_query(&self) -> f64 {
        let queries = self.speech.iter().chain(&self.images).filter(|query| query.plain > 0).count();
        self.seconds / queries.max(1) as f64
    }
}

impl Pairs {
    fn new(embeddings: &Embeddings, k: usize) -> Result<Self, EvalError> {
        let begun = Instant::now();
        let Embeddings { speech, images, owners, .. } = embeddings;
        let (of_speech, of_images) = (nearest(speech, images, k)?, nearest(images, speech, k)?);
        let mut wanted = of_images.clone();
        for (utterance, found) in of_speech.iter().enumerate() {
            found.iter().for_each(|image| wanted[*image].push(utterance));
            wanted[owners[utterance]].push(utterance);
        }
        wanted.iter_mut().for_each(|utterances| {
            utterances.sort_unstable();
            utterances.dedup();
        });
        let scored = vec![Vec::new(); wanted.len()];
        Ok(Self { k, of_speech, of_images, wanted, scored, seconds: begun.elapsed().as_secs_f64() })
    }

    /// `patches` [N, E] of `image`, `speech` [S, E] of all utterances.
    fn score(
        &mut self,
        image: usize,
        patches: &Tensor,
        speech: &Tensor,
        fusion: &FusionEncoder,
    ) -> Result<(), EvalError> {
        let begun = Instant::now();
        let rows: Vec<i64> = self.wanted[image].iter().map(|row| *row as i64).collect();
        if !rows.is_empty() {
            self.scored[image] = catch_libtorch(|| {
                let rows = speech.index_select(0, &Tensor::from_slice(&rows)).to_device(patches.device());
                values(&tch::no_grad(|| fusion.scores(&rows, patches)))
            })?;
        }
        self.seconds += begun.elapsed().as_secs_f64();
        Ok(())
    }

    fn sorted(self, embeddings: &Embeddings, ranks: &Ranks) -> Reranking {
        let begun = Instant::now();
        let Self { k, of_speech, of_images, wanted, scored, seconds } = self;
        let Embeddings { speech, images, owners, .. } = embeddings;
        let towers = Similarities::of_embeddings(speech, images, Device::Cpu);
        let pair = |utterance: usize, image: usize| {
            let place = wanted[image].binary_search(&utterance).ok()?;
            Some([towers.score(utterance, image), *scored[image].get(place)?])
        };
        let speech = of_speech.into_iter().enumerate().map(|(utterance, found)| {
            Query::new(ranks.speech[utterance], k, &found, &[owners[utterance]], |image| pair(utterance, image))
        });
        let speech = speech.collect();
        let mut right: Vec<Vec<usize>> = vec![Vec::new(); wanted.len()];
        owners.iter().enumerate().for_each(|(utterance, owner)| right[*owner].push(utterance));
        let images = of_images.into_iter().enumerate().map(|(image, found)| {
            Query::new(ranks.images[image], k, &found, &right[image], |utterance| pair(utterance, image))
        });
        let images = images.collect();
        Reranking { speech, images, seconds: seconds + begun.elapsed().as_secs_f64() }
    }
}

impl Query {
    /// `found` are the first `k` in some order; of these the plain rank decides whether a right one is among them.
    fn new(plain: usize, k: usize, found: &[usize], right: &[usize], pair: impl Fn(usize) -> Option<[f32; 2]>) -> Self {
        if plain == 0 || plain > k {
            return Self { plain, ..Self::default() };
        }
        let is_right = |item: &usize| right.contains(item);
        let of = |items: Vec<&usize>| items.into_iter().filter_map(|item| pair(*item)).collect();
        let mut own: Vec<[f32; 2]> = of(found.iter().filter(|item| is_right(item)).collect());
        if own.is_empty() {
            // Rounding left it out at the edge.
            own = of(right.iter().collect());
        }
        let wrong = of(found.iter().filter(|item| !is_right(item)).collect());
        Self { plain, right: own, wrong }
    }

    fn rank(&self, mix: f64) -> usize {
        let mixed = |[tower, fused]: &[f32; 2]| (1.0 - mix) * f64::from(*tower) + mix * f64::from(*fused);
        let Some(best) = self.right.iter().map(mixed).max_by(f64::total_cmp) else { return self.plain };
        1 + self.wrong.iter().filter(|pair| mixed(pair) >= best).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(plain: usize, right: &[[f32; 2]], wrong: &[[f32; 2]]) -> Query {
        Query { plain, right: right.to_vec(), wrong: wrong.to_vec() }
    }

    #[test]
    fn only_candidates_change_places_and_ties_count_against_the_query() {
        let pairs = query(2, &[[0.5, 0.9], [0.4, 0.1]], &[[0.6, 0.2], [0.3, 0.9]]);
        assert_eq!([0.0, 0.5, 1.0].map(|mix| pairs.rank(mix)), [2, 1, 2]);
        assert_eq!(query(40, &[], &[]).rank(0.5), 40);
        assert_eq!(query(0, &[], &[]).rank(0.5), 0);
    }

    #[test]
    fn the_best_mix_is_the_smallest_of_equals() {
        let speech = vec![query(2, &[[0.5, 0.9]], &[[0.6, 0.2]]); 3];
        let reranking = Reranking { speech, images: vec![query(1, &[[0.9, 0.9]], &[[0.1, 0.1]])], seconds: 8.0 };
        assert_eq!((reranking.best_mix(), reranking.seconds_per_query()), (0.15, 2.0));
    }
}
