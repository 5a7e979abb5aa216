//! Queries of a split and what each run finds for them, with the pictures.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use tch::Tensor;

use super::ReportError;
use crate::data::{DataError, PictureForm, Split};
use crate::eval::{Attention, Embeddings, Ranks, nearest, spread};

/// Pixels of a picture's side.
pub(super) const SIDE: u32 = 144;
/// Items that are shown of what a query finds.
const FOUND: usize = 5;

/// What a query found in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Rank of the right one.
    pub(super) rank: usize,
    /// Images or utterances of the split, the best first.
    pub(super) items: Vec<usize>,
}

/// What one run finds.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// Number of the run in the report.
    pub(super) run: usize,
    /// Of each utterance; none where it could not be read.
    pub(super) speech: Vec<Option<Found>>,
    /// Of each image.
    pub(super) images: Vec<Option<Found>>,
    /// Where each utterance looks in its own image; none without a fusion encoder.
    pub(super) attention: Vec<Option<Attention>>,
    /// What each utterance is heard as by a cascaded head.
    pub(super) keywords: Vec<Vec<String>>,
}

/// Queries of a split, spread evenly over it and not chosen by outcome.
#[derive(Debug)]
pub struct Gallery {
    pub(super) split: Arc<Split>,
    /// Utterances that ask.
    pub(super) speech: Vec<usize>,
    /// Images that ask.
    pub(super) images: Vec<usize>,
    pub(super) shown: Vec<Shown>,
    /// JPEG files of the images that are shown.
    pub(super) pictures: BTreeMap<usize, Vec<u8>>,
    form: PictureForm,
}

impl Gallery {
    /// `count` utterances and half as many images of `split`, of those that `embeddings` holds; `max_megapixels` as for evaluation.
    #[must_use]
    pub fn new(split: &Arc<Split>, embeddings: &Embeddings, count: usize, max_megapixels: i64) -> Self {
        let mut spoken_of: Vec<usize> = embeddings.owners.clone();
        spoken_of.sort_unstable();
        spoken_of.dedup();
        let speech = spread(embeddings.utterances.len(), count).into_iter().map(|row| embeddings.utterances[row]);
        let images = spread(spoken_of.len(), count / 2).into_iter().map(|place| embeddings.gallery[spoken_of[place]]);
        Self {
            split: split.clone(),
            speech: speech.collect(),
            images: images.collect(),
            shown: Vec::new(),
            pictures: BTreeMap::new(),
            form: PictureForm::new(SIDE, max_megapixels),
        }
    }

    /// Of what.
    #[must_use]
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// Runs whose findings are shown.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.shown.len()
    }

    /// The embeddings [Q, E] of the utterances that ask, of those that `embeddings` holds, with their places among them and their images' files.
    pub fn queries(&self, embeddings: &Embeddings) -> (Tensor, Vec<usize>, Vec<&Path>) {
        let row_of = rows(&embeddings.utterances);
        let there =
            self.speech.iter().enumerate().filter_map(|(place, utterance)| Some((place, *row_of.get(utterance)?)));
        let (places, rows): (Vec<usize>, Vec<i64>) = there.map(|(place, row)| (place, row as i64)).unzip();
        let image = |place: &usize| &*self.split.images[self.split.utterances[self.speech[*place]].image].path;
        let paths = places.iter().map(image).collect();
        (embeddings.speech.index_select(0, &Tensor::from_slice(&rows)), places, paths)
    }

    /// The files of the utterances at `places` among those that ask.
    pub fn sounds(&self, places: &[usize]) -> Vec<&Path> {
        places.iter().map(|place| &*self.split.utterances[self.speech[*place]].audio).collect()
    }

    /// Adds what `run` finds; `attention` and keywords of the utterances at the given places.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn add(
        &mut self,
        run: usize,
        embeddings: &Embeddings,
        ranks: &Ranks,
        attention: Vec<(usize, Attention)>,
        heard: Vec<(usize, Vec<String>)>,
    ) -> Result<(), ReportError> {
        let Embeddings { speech, images, utterances, gallery, .. } = embeddings;
        let speech = find(&self.speech, (utterances, speech, &ranks.speech), (gallery, images))?;
        let images = find(&self.images, (gallery, images, &ranks.images), (utterances, &embeddings.speech))?;
        let mut looks = vec![None; self.speech.len()];
        attention.into_iter().for_each(|(place, attention)| looks[place] = Some(attention));
        let mut keywords = vec![Vec::new(); self.speech.len()];
        heard.into_iter().for_each(|(place, words)| keywords[place] = words);
        self.shown.push(Shown { run, speech, images, attention: looks, keywords });
        Ok(())
    }

    /// Reads the pictures that are shown.
    ///
    /// # Errors
    /// When one cannot be read any more.
    pub fn read_pictures(&mut self) -> Result<(), ReportError> {
        let own = self.speech.iter().map(|utterance| self.split.utterances[*utterance].image);
        let found = self.shown.iter().flat_map(|shown| shown.speech.iter().flatten()).flat_map(|found| &found.items);
        let mut wanted: Vec<usize> = own.chain(self.images.iter().copied()).chain(found.copied()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for image in wanted {
            let path = &self.split.images[image].path;
            let jpeg = self.form.read(path)?.to_jpeg();
            let jpeg = jpeg.map_err(|why| DataError::Sample { path: path.to_path_buf(), why })?;
            self.pictures.insert(image, jpeg);
        }
        Ok(())
    }
}

/// The row of each item.
fn rows(items: &[usize]) -> HashMap<usize, usize> {
    items.iter().enumerate().map(|(row, item)| (*item, row)).collect()
}

/// What `queries`, items of the first side with its embeddings and ranks, find on the other side.
fn find(
    queries: &[usize],
    (items, embeddings, ranks): (&[usize], &Tensor, &[usize]),
    (others, gallery): (&[usize], &Tensor),
) -> Result<Vec<Option<Found>>, ReportError> {
    let row_of = rows(items);
    let places: Vec<Option<usize>> = queries.iter().map(|query| row_of.get(query).copied()).collect();
    let there: Vec<i64> = places.iter().flatten().map(|row| *row as i64).collect();
    let mut found = nearest(&embeddings.index_select(0, &Tensor::from_slice(&there)), gallery, FOUND)?.into_iter();
    let of = |row: usize, found: Vec<usize>| Found {
        rank: ranks[row],
        items: found.into_iter().map(|other| others[other]).collect(),
    };
    Ok(places.into_iter().map(|place| place.and_then(|row| Some(of(row, found.next()?)))).collect())
}
