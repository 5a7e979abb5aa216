//! Ranks in both directions, from one pass over the scores of every utterance with every image.
//!
//! A score counts as its product in f64, rounded to f32, so that equal embeddings give equal scores whatever the order of the sums. Most
//! scores are far from the one that they are compared with: a product in f32, whose error has a bound, decides them. Only what lies within
//! that bound is multiplied in f64.

use tch::{Device, Kind, Tensor};

use super::{EvalError, RecallError};
use crate::distributed::World;

/// Scores that are held at once.
const BLOCK: usize = 16 << 20;
/// A block of which one score in so many lies within the bound is multiplied in f64 as a whole: collapsed embeddings score alike.
const MANY: usize = 64;

/// Scores of every utterance (rows) with every image (columns).
#[derive(Debug)]
pub struct Similarities {
    utterances: usize,
    images: usize,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// [S, I], as they are.
    Matrix(Vec<f32>),
    Products(Products),
}

/// Products of embeddings [S, E] and [I, E].
#[derive(Debug)]
struct Products {
    speech: Tensor,
    images: Tensor,
    speech_rows: Vec<f32>,
    image_rows: Vec<f32>,
    width: usize,
    /// How far a product in f32 may be from the score.
    slack: f32,
}

/// Rows of scores.
struct Block {
    scores: Vec<f32>,
    /// How far they may be off; 0: they are the scores.
    slack: f32,
}

/// 1 plus the number of wrong items that score at least as high as the best right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// Of each utterance among the images.
    pub speech: Vec<usize>,
    /// Of each image among the utterances; 0 for one that nobody speaks of.
    pub images: Vec<usize>,
}

impl Similarities {
    /// Scores [S, I] that are already there.
    #[must_use]
    pub fn from_matrix(matrix: &Tensor) -> Self {
        let (utterances, images) = (matrix.size()[0] as usize, matrix.size()[1] as usize);
        Self { utterances, images, source: Source::Matrix(values(matrix)) }
    }

    /// Products of embeddings [S, E] and [I, E], made on `device`.
    #[must_use]
    pub fn of_embeddings(speech: &Tensor, images: &Tensor, device: Device) -> Self {
        let (utterances, width) = (speech.size()[0] as usize, speech.size()[1] as usize);
        let (speech_rows, image_rows) = (values(speech), values(images));
        let longest =
            |rows: &[f32]| rows.chunks_exact(width.max(1)).map(|row| dot(row, row).sqrt()).fold(0.0, f64::max);
        // A sum of E rounded products is off by E u |a| |b| at most (Higham, Accuracy and Stability of Numerical Algorithms, 3.1); some
        // more for the roundings of the score and of the bound itself.
        let unit = f64::from(f32::EPSILON) / 2.0;
        let slack = ((width + 8) as f64 * unit * longest(&speech_rows) * longest(&image_rows)) as f32;
        let on_device = |embeddings: &Tensor| embeddings.detach().to_device(device).to_kind(Kind::Float);
        let (speech, images) = (on_device(speech), on_device(images));
        let products = Products { speech, images, speech_rows, image_rows, width, slack };
        Self { utterances, images: products.images.size()[0] as usize, source: Source::Products(products) }
    }

    /// The score of an utterance with an image.
    #[must_use]
    pub fn score(&self, utterance: usize, image: usize) -> f32 {
        match &self.source {
            Source::Matrix(scores) => scores[utterance * self.images + image],
            Source::Products(Products { speech_rows, image_rows, width, .. }) => {
                let speech = &speech_rows[utterance * width..][..*width];
                dot(speech, &image_rows[image * width..][..*width]) as f32
            }
        }
    }

    /// The rows of the utterances `start..start + count`; `right` are the scores with their own images.
    fn block(&self, start: usize, count: usize, right: &[f32]) -> Block {
        match &self.source {
            Source::Matrix(scores) => {
                Block { scores: scores[start * self.images..][..count * self.images].to_vec(), slack: 0.0 }
            }
            Source::Products(Products { speech, images, slack, .. }) => {
                let rows = speech.narrow(0, start as i64, count as i64);
                let scores = values(&rows.matmul(&images.tr()));
                let near = |(row, right): (&[f32], &f32)| {
                    row.iter().filter(|score| (**score - *right).abs() <= *slack).count()
                };
                let near: usize = scores.chunks_exact(self.images).zip(right).map(near).sum();
                if near > count + scores.len() / MANY {
                    let exact = rows.to_kind(Kind::Double).matmul(&images.to_kind(Kind::Double).tr());
                    return Block { scores: values(&exact), slack: 0.0 };
                }
                Block { scores, slack: *slack }
            }
        }
    }

    /// Wrong images that are level with each of the utterances `chosen`, and wrong utterances of them that are level with each image.
    fn count(&self, owners: &[usize], chosen: std::ops::Range<usize>) -> Result<[Vec<i64>; 2], RecallError> {
        let right: Vec<f32> = owners.iter().enumerate().map(|(row, owner)| self.score(row, *owner)).collect();
        let mut best = vec![f32::NEG_INFINITY; self.images];
        for (owner, score) in owners.iter().zip(&right) {
            if !score.is_finite() {
                return Err(RecallError::NotFinite);
            }
            best[*owner] = best[*owner].max(*score);
        }
        // Nothing is level with an image that nobody speaks of.
        best.iter_mut().filter(|best| !best.is_finite()).for_each(|best| *best = f32::INFINITY);
        let (mut speech, mut images) = (vec![0; self.utterances], vec![0; self.images]);
        let step = (BLOCK / self.images.max(1)).max(1);
        for start in chosen.clone().step_by(step) {
            let count = step.min(chosen.end - start);
            let Block { scores, slack } = self.block(start, count, &right[start..start + count]);
            if !scores.iter().all(|score| score.is_finite()) {
                return Err(RecallError::NotFinite);
            }
            for (utterance, row) in (start..).zip(scores.chunks_exact(self.images)) {
                for (image, score) in row.iter().enumerate().filter(|(image, _)| *image != owners[utterance]) {
                    let is_level = |best: f32| {
                        *score > best + slack
                            || *score >= best - slack && (slack == 0.0 || self.score(utterance, image) >= best)
                    };
                    speech[utterance] += i64::from(is_level(right[utterance]));
                    images[image] += i64::from(is_level(best[image]));
                }
            }
        }
        Ok([speech, images])
    }
}

impl Ranks {
    /// Ranks every utterance and every image; `owners[s]` is the image of utterance s. Processes share the utterances out.
    ///
    /// # Errors
    /// When a score is NaN or infinite, or another process is gone.
    pub fn new(scores: &Similarities, owners: &[usize], world: &World) -> Result<Self, EvalError> {
        let share = owners.len().div_ceil(world.size());
        let start = (share * world.rank()).min(owners.len());
        let own = scores.count(owners, start..(start + share).min(owners.len()));
        let is_broken = i64::from(own.is_err());
        let [speech, images] = own.unwrap_or_else(|_| [vec![0; scores.utterances], vec![0; scores.images]]);
        let all = world.sum_numbers(&[&speech[..], &images, &[is_broken]].concat())?;
        if all.last() != Some(&0) {
            return Err(RecallError::NotFinite.into());
        }
        let mut is_query = vec![0; scores.images];
        owners.iter().for_each(|owner| is_query[*owner] = 1);
        let (speech, images) = all.split_at(scores.utterances);
        Ok(Self {
            speech: speech.iter().map(|wrong| 1 + *wrong as usize).collect(),
            images: images.iter().zip(is_query).map(|(wrong, query)| (1 + *wrong as usize) * query).collect(),
        })
    }
}

/// a · b in f64.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// All values, in order.
pub(super) fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut values = vec![0.0; tensor.numel()];
    tensor.copy_data(&mut values, tensor.numel());
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::{Draw, Purpose};

    fn ranks(scores: &Similarities, owners: &[usize]) -> Ranks {
        Ranks::new(scores, owners, &World::alone()).expect("finite")
    }

    /// The rule by its words, every score in f64.
    fn by_definition(speech: &Tensor, images: &Tensor, owners: &[usize]) -> Ranks {
        let exact = speech.to_kind(Kind::Double).matmul(&images.to_kind(Kind::Double).tr());
        let (scores, count) = (values(&exact), images.size()[0] as usize);
        let score = |utterance: usize, image: usize| scores[utterance * count + image];
        let all = 0..owners.len();
        let speech = all.clone().map(|own| {
            let wrong = (0..count).filter(|image| *image != owners[own]);
            1 + wrong.filter(|image| score(own, *image) >= score(own, owners[own])).count()
        });
        let images = (0..count).map(|image| {
            let right = all.clone().filter(|utterance| owners[*utterance] == image);
            let best = right.map(|utterance| score(utterance, image)).fold(f32::NEG_INFINITY, f32::max);
            let wrong = all.clone().filter(|utterance| owners[*utterance] != image);
            1 + wrong.filter(|utterance| score(*utterance, image) >= best).count()
        });
        Ranks { speech: speech.collect(), images: images.collect() }
    }

    fn random(rows: usize, width: usize, seed: u64) -> Tensor {
        let mut draw = Draw::new(seed, Purpose::Init, [0, 0]);
        let values: Vec<f32> = (0..rows * width).map(|_| draw.normal()).collect();
        let rows = Tensor::from_slice(&values).view([rows as i64, width as i64]);
        &rows / rows.norm_scalaropt_dim(2, [1i64].as_slice(), true)
    }

    #[test]
    fn ranks_are_those_of_exact_scores() {
        let owners: Vec<usize> = (0..301).map(|utterance| utterance * 7 % 60).collect();
        for width in [5, 96, 768] {
            let images = random(60, width, 1);
            let own =
                images.index_select(0, &Tensor::from_slice(&owners.iter().map(|o| *o as i64).collect::<Vec<_>>()));
            // Far apart; so near that products in f32 decide little; equal in pairs; all alike.
            for noise in [0.5, 1e-7] {
                let speech = &own + random(301, width, 2) * noise;
                let doubled = Tensor::cat(&[images.narrow(0, 0, 30), images.narrow(0, 0, 30)], 0);
                for images in [images.shallow_clone(), doubled, images.narrow(0, 0, 1).repeat([60, 1])] {
                    let scores = Similarities::of_embeddings(&speech, &images, Device::Cpu);
                    assert_eq!(ranks(&scores, &owners), by_definition(&speech, &images, &owners), "{width} {noise}");
                }
            }
        }
    }

    #[test]
    #[ignore = "a measurement"]
    #[expect(clippy::print_stdout, reason = "it measures")]
    fn the_size_of_spokencoco() {
        let images = random(5000, 768, 1);
        let owners: Vec<usize> = (0..25_031).map(|utterance| utterance % 5000).collect();
        let own = images.index_select(0, &Tensor::from_slice(&owners.iter().map(|o| *o as i64).collect::<Vec<_>>()));
        let speech = &own + random(25_031, 768, 2) * 2.0;
        let begun = std::time::Instant::now();
        let ranks = ranks(&Similarities::of_embeddings(&speech, &images, Device::Cpu), &owners);
        println!("{:?}", begun.elapsed());
        assert_eq!(ranks.speech.iter().filter(|rank| **rank == 1).count(), owners.len());
    }
}
