//! What is kept on disk of a split.

use std::path::PathBuf;

use super::kept::Place;
use super::whole::FILES;
use super::{FeatureError, FeatureSource};

/// What a store holds of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnDisk {
    /// Its folder.
    pub folder: PathBuf,
    /// Rows that are there.
    pub kept: usize,
    /// Rows that there can be.
    pub count: usize,
}

impl FeatureSource<'_> {
    /// Forgets what is kept on disk of files whose content is not what it was made from, whatever their size and time say. Every process
    /// has to know of all.
    ///
    /// # Errors
    /// When a signal comes.
    pub fn verify(&self) -> Result<(), FeatureError> {
        let (kept, images) = (self.kept.clone(), self.split.images.len());
        let read = move |index: usize| {
            match index.checked_sub(images) {
                None => kept.verify_image(index),
                Some(utterance) => kept.verify_speech(utterance),
            }
            Ok(())
        };
        let all: Vec<usize> = (0..images + self.split.utterances.len()).collect();
        let groups = all.chunks(FILES).map(<[usize]>::to_vec).collect();
        let what = format!("comparing {} files", self.split.name);
        self.for_each((&what, "files"), groups, read, |_| Ok::<(), FeatureError>(()))?;
        Ok(())
    }

    /// Where the features on disk lie and how many of the split's are there: speech, images.
    #[must_use]
    pub fn on_disk(&self) -> [Option<OnDisk>; 2] {
        let found = |place: &Place, count: usize, has: &dyn Fn(usize) -> bool| match place {
            Place::Disk(store) => Some(OnDisk {
                folder: store.folder().to_owned(),
                kept: (0..count).filter(|index| has(*index)).count(),
                count,
            }),
            Place::Nowhere | Place::Memory(_) => None,
        };
        let (speech, images) = (self.split.utterances.len(), self.split.images.len());
        [
            found(&self.kept.speech, speech, &|utterance| self.kept.has_speech(utterance)),
            found(&self.kept.images, images, &|image| self.kept.has_image(image)),
        ]
    }
}
