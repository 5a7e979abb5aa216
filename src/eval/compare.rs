//! Two systems on the same queries: the difference of their recalls with a paired bootstrap over images.

use serde::Serialize;

use super::{Ranks, percentile_interval};
use crate::draw::{Draw, Purpose};

/// Resamples of the bootstrap.
const RESAMPLES: u64 = 2000;
/// K.
const KS: [usize; 3] = [1, 5, 10];

/// A difference in points, and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Of all queries.
    pub points: f64,
    /// Of resampled images, each with all its queries; the gallery stays whole.
    pub ci95: [f64; 2],
}

/// Differences of recalls at 1, 5 and 10.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Differences {
    /// Of R@1.
    pub r1: Difference,
    /// Of R@5.
    pub r5: Difference,
    /// Of R@10.
    pub r10: Difference,
}

/// One system less another one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Which image is spoken of.
    pub speech_to_image: Differences,
    /// Which utterance speaks of the image.
    pub image_to_speech: Differences,
    /// Their average.
    pub mean: Differences,
}

/// Queries of an image, and hits of them at each K.
type Counts = [[f64; 4]; 2];

impl Comparison {
    /// `ours` less `theirs`, which rank the same queries; `owners[s]` is the image of utterance s.
    #[must_use]
    pub fn new(ours: &Ranks, theirs: &Ranks, owners: &[usize]) -> Self {
        let (ours, theirs) = (counts(ours, owners), counts(theirs, owners));
        let asked: Vec<usize> = (0..ours.len()).filter(|image| ours[*image].iter().any(|side| side[0] > 0.0)).collect();
        let difference = |chosen: &mut dyn Iterator<Item = usize>| {
            let (mut of_ours, mut of_theirs) = (Counts::default(), Counts::default());
            for image in chosen {
                add(&mut of_ours, &ours[image]);
                add(&mut of_theirs, &theirs[image]);
            }
            let recall = |counts: &[f64; 4], place: usize| 100.0 * counts[1 + place] / counts[0].max(1.0);
            let side = |side: usize, place: usize| recall(&of_ours[side], place) - recall(&of_theirs[side], place);
            [0, 1, 2].map(|place| {
                let (speech, images) = (side(0, place), side(1, place));
                [speech, images, (speech + images) / 2.0]
            })
        };
        let found = difference(&mut asked.iter().copied());
        let resampled: Vec<[[f64; 3]; 3]> = (0..RESAMPLES)
            .map(|resample| {
                let mut draw = Draw::new(0, Purpose::Bootstrap, [resample, 2]);
                difference(&mut asked.iter().map(|_| asked[draw.below(asked.len())]))
            })
            .collect();
        let of = |side: usize, place: usize| {
            let ci95 = percentile_interval(resampled.iter().map(|sample| sample[place][side]).collect());
            Difference { points: found[place][side], ci95 }
        };
        let each = |side: usize| Differences { r1: of(side, 0), r5: of(side, 1), r10: of(side, 2) };
        Self { speech_to_image: each(0), image_to_speech: each(1), mean: each(2) }
    }
}

/// Of each image: its utterances and the image itself as queries.
fn counts(ranks: &Ranks, owners: &[usize]) -> Vec<Counts> {
    let of = |rank: usize| [1.0, f64::from(rank <= KS[0]), f64::from(rank <= KS[1]), f64::from(rank <= KS[2])];
    let none = [0.0; 4];
    let mut all: Vec<Counts> =
        ranks.images.iter().map(|rank| [none, if *rank > 0 { of(*rank) } else { none }]).collect();
    for (owner, rank) in owners.iter().zip(&ranks.speech) {
        add(&mut all[*owner], &[of(*rank), none]);
    }
    all
}

fn add(total: &mut Counts, other: &Counts) {
    for (total, other) in total.iter_mut().flatten().zip(other.iter().flatten()) {
        *total += other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 images with two utterances, of which the first `found` images are found in both directions.
    fn ranks(found: usize) -> Ranks {
        let rank = |image: usize| if image < found { 1 } else { 7 };
        Ranks { speech: (0..200).map(|utterance| rank(utterance / 2)).collect(), images: (0..100).map(rank).collect() }
    }

    #[test]
    fn the_difference_is_that_of_the_recalls_and_pairing_makes_it_sure() {
        let owners: Vec<usize> = (0..200).map(|utterance| utterance / 2).collect();
        let Comparison { speech_to_image, image_to_speech, mean } = Comparison::new(&ranks(52), &ranks(50), &owners);
        for side in [speech_to_image, image_to_speech, mean] {
            assert!((side.r1.points - 2.0).abs() < 1e-9 && side.r1.ci95[0] >= 0.0 && side.r1.ci95[1] < 6.0, "{side:?}");
            assert_eq!((side.r5.points, side.r10.points), (side.r1.points, 0.0));
        }
        let same = Comparison::new(&ranks(50), &ranks(50), &owners);
        assert_eq!((same.mean.r1.points, same.mean.r1.ci95), (0.0, [0.0, 0.0]));
    }

    #[test]
    fn an_image_that_nobody_speaks_of_is_no_query() {
        let (ours, theirs) =
            (Ranks { speech: vec![1], images: vec![1, 0] }, Ranks { speech: vec![2], images: vec![1, 0] });
        let comparison = Comparison::new(&ours, &theirs, &[0]);
        assert_eq!((comparison.speech_to_image.r1.points, comparison.image_to_speech.r1.points), (100.0, 0.0));
        assert_eq!(comparison.speech_to_image.r1.ci95, [100.0, 100.0]);
    }
}
