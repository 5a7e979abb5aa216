//! Recall at K in both directions, by a stated rule.
//!
//! The gallery is the unique images and all utterances of the split. Speech to image: a hit at K if the utterance's image is
//! among the top K. Image to speech: a hit if any of the image's utterances is. Ties count against the query: the rank is 1
//! plus the number of wrong items that score at least as high as the best right one, so constant embeddings score 0.

use serde::{Deserialize, Serialize};

use super::{Ranks, percentile_interval};
use crate::draw::{Draw, Purpose};

/// Resamples of the bootstrap.
const RESAMPLES: u64 = 1000;
/// The scores cannot be ranked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecallError {
    /// A score is NaN or infinite.
    #[error("a similarity score is NaN or infinite: the embeddings are broken, so no recall can be given")]
    NotFinite,
    /// Nothing to rank.
    #[error("there are no utterances with images to rank")]
    Empty,
}

/// 95 % intervals of the recalls, in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Intervals {
    /// Of R@1.
    pub r1: [f64; 2],
    /// Of R@5.
    pub r5: [f64; 2],
    /// Of R@10.
    pub r10: [f64; 2],
}

/// Figures of one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Queries whose right item is first, in percent.
    pub r1: f64,
    /// Among the first five.
    pub r5: f64,
    /// Among the first ten.
    pub r10: f64,
    /// Median of the ranks, counted from 1; of an even count the mean of the two in the middle.
    pub median_rank: f64,
    /// Mean of the ranks.
    pub mean_rank: f64,
    /// Mean reciprocal rank.
    pub mrr: f64,
    /// Bootstrap over images.
    pub ci95: Intervals,
}

/// Averages of the two directions, in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// R@1.
    pub r1: f64,
    /// R@5.
    pub r5: f64,
    /// R@10.
    pub r10: f64,
}

/// Recalls of a split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recalls {
    /// Which image is spoken of.
    pub speech_to_image: Direction,
    /// Which utterance speaks of the image.
    pub image_to_speech: Direction,
    /// Their average.
    pub mean: Mean,
}

impl Recalls {
    /// The recalls of `ranks`; `owners[s]` is the image of utterance s.
    ///
    /// # Errors
    /// When there is nothing to rank. Images without an utterance stay in the gallery but are no queries.
    pub fn new(ranks: &Ranks, owners: &[usize]) -> Result<Self, RecallError> {
        Self::of_groups(ranks, owners, &(0..ranks.images.len()).collect::<Vec<_>>())
    }

    /// As [`Self::new`]; of each query its image is given, by which the bootstrap resamples: of each utterance, and of each item that they are ranked with.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn of_groups(ranks: &Ranks, speech: &[usize], items: &[usize]) -> Result<Self, RecallError> {
        if speech.is_empty() {
            return Err(RecallError::Empty);
        }
        let groups = |images: &[usize], ranks: &[usize]| {
            let mut groups = vec![Vec::new(); images.iter().max().map_or(0, |most| most + 1)];
            // Rank 0 is of no query.
            images
                .iter()
                .zip(ranks)
                .filter(|(_, rank)| **rank > 0)
                .for_each(|(image, rank)| groups[*image].push(*rank));
            groups
        };
        let speech_to_image = Direction::new(&groups(speech, &ranks.speech));
        let image_to_speech = Direction::new(&groups(items, &ranks.images));
        let mean = Mean {
            r1: (speech_to_image.r1 + image_to_speech.r1) / 2.0,
            r5: (speech_to_image.r5 + image_to_speech.r5) / 2.0,
            r10: (speech_to_image.r10 + image_to_speech.r10) / 2.0,
        };
        Ok(Self { speech_to_image, image_to_speech, mean })
    }
}

impl Direction {
    /// `groups[i]`: ranks of the queries that belong to image i.
    fn new(groups: &[Vec<usize>]) -> Self {
        let mut ranks: Vec<usize> = groups.iter().flatten().copied().collect();
        ranks.sort_unstable();
        let count = ranks.len();
        let recall = |k| 100.0 * ranks.partition_point(|rank| *rank <= k) as f64 / count as f64;
        Self {
            r1: recall(1),
            r5: recall(5),
            r10: recall(10),
            median_rank: (ranks[(count - 1) / 2] + ranks[count / 2]) as f64 / 2.0,
            mean_rank: ranks.iter().sum::<usize>() as f64 / count as f64,
            mrr: ranks.iter().map(|rank| 1.0 / *rank as f64).sum::<f64>() / count as f64,
            ci95: Intervals::new(groups),
        }
    }
}

impl Intervals {
    /// Percentile bootstrap: images are drawn with replacement, each with all its queries; the gallery stays.
    fn new(groups: &[Vec<usize>]) -> Self {
        // Of each image: queries, and hits at 1, 5 and 10.
        let counts: Vec<[u32; 4]> = groups
            .iter()
            .filter(|ranks| !ranks.is_empty())
            .map(|ranks| {
                let hits = |k| ranks.iter().filter(|rank| **rank <= k).count() as u32;
                [ranks.len() as u32, hits(1), hits(5), hits(10)]
            })
            .collect();
        let mut samples: [Vec<f64>; 3] = Default::default();
        for resample in 0..RESAMPLES {
            let mut draw = Draw::new(0, Purpose::Bootstrap, [resample, 0]);
            let mut total = [0u64; 4];
            for _ in 0..counts.len() {
                let image = counts[draw.below(counts.len())];
                for (total, count) in total.iter_mut().zip(image) {
                    *total += u64::from(count);
                }
            }
            for (samples, hits) in samples.iter_mut().zip(&total[1..]) {
                samples.push(100.0 * *hits as f64 / total[0] as f64);
            }
        }
        let [r1, r5, r10] = samples.map(percentile_interval);
        Self { r1, r5, r10 }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::distributed::World;
    use crate::eval::{EvalError, Similarities};

    fn recalls(scores: &Similarities, owners: &[usize]) -> Result<Recalls, EvalError> {
        Ok(Recalls::new(&Ranks::new(scores, owners, &World::alone())?, owners)?)
    }

    #[test]
    fn constant_embeddings_recall_nothing() {
        let row = Tensor::from_slice(&[0.3f32, -0.1, 0.7, 0.05, 0.2]);
        let scores = Similarities::of_embeddings(&row.repeat([61, 1]), &row.repeat([13, 1]), Device::Cpu);
        let owners: Vec<usize> = (0..61).map(|utterance| utterance % 13).collect();
        let recalls = recalls(&scores, &owners).expect("finite");
        assert_eq!((recalls.mean.r1, recalls.mean.r5, recalls.mean.r10), (0.0, 0.0, 0.0));
    }

    #[test]
    fn perfect_embeddings_recall_everything() {
        let scores = Similarities::from_matrix(&Tensor::eye(20, (Kind::Float, Device::Cpu)));
        let recalls = recalls(&scores, &(0..20).collect::<Vec<_>>()).expect("finite");
        assert_eq!((recalls.mean.r1, recalls.speech_to_image.mean_rank), (100.0, 1.0));
        assert_eq!(recalls.speech_to_image.ci95.r1, [100.0, 100.0]);
    }

    #[test]
    fn the_interval_holds_the_recall() {
        let groups: Vec<Vec<usize>> = (0..200).map(|image| vec![1 + image % 3, 1, 4]).collect();
        let direction = Direction::new(&groups);
        let [low, high] = direction.ci95.r1;
        assert!(low < direction.r1 && direction.r1 < high && high - low < 15.0, "{low} {} {high}", direction.r1);
    }

    #[test]
    fn nan_is_an_error() {
        let broken = [
            Similarities::from_matrix(&Tensor::from_slice(&[0.1f32, f32::NAN]).view([1, 2])),
            Similarities::of_embeddings(
                &Tensor::from_slice(&[0.1f32]).view([1, 1]),
                &Tensor::from_slice(&[0.5f32, f32::INFINITY]).view([2, 1]),
                Device::Cpu,
            ),
        ];
        for scores in broken {
            assert!(matches!(recalls(&scores, &[0]), Err(EvalError::Recall(RecallError::NotFinite))));
        }
    }

    #[test]
    fn an_image_without_utterances_is_no_query() {
        let scores = Similarities::from_matrix(&Tensor::from_slice(&[0.9f32, 0.1]).view([1, 2]));
        assert_eq!(recalls(&scores, &[0]).expect("finite").image_to_speech.r1, 100.0);
    }
}
