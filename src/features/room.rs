//! How much memory or disk kept features take.

use super::kept::Place;
use super::{FeatureError, FeatureSource};
use crate::data::{Header, Split};
use crate::encoders::Encoders;
use crate::telemetry::free_disk;

/// Utterances whose headers tell the mean length.
const MEASURED: usize = 200;

/// Bytes of the features of `count` images.
#[must_use]
pub fn image_bytes(encoders: &Encoders, count: usize) -> u64 {
    let (spec, width) = (encoders.image().spec(), encoders.image().kind().elt_size_in_bytes());
    count as u64 * ((1 + spec.patches()) * spec.width) as u64 * width as u64
}

/// Bytes of the hidden states of `count` utterances of `split`, of which at most `seconds` each count: from the mean length of some.
#[must_use]
pub fn hidden_bytes(encoders: &Encoders, split: &Split, count: usize, seconds: f64) -> u64 {
    let (spec, width) = (encoders.speech().spec(), encoders.speech().kind().elt_size_in_bytes());
    let every = split.utterances.len().div_ceil(MEASURED).max(1);
    let headers = split.utterances.iter().step_by(every).filter_map(|utterance| Header::read(&utterance.audio).ok());
    let lengths: Vec<f64> = headers.filter_map(|header| Some(header.seconds()?.min(seconds))).collect();
    let mean = lengths.iter().sum::<f64>() / lengths.len().max(1) as f64;
    let frames = mean * spec.sample_rate as f64 / spec.hop as f64;
    (count as f64 * frames * (spec.layers * spec.width) as f64) as u64 * width as u64
}

impl FeatureSource<'_> {
    /// Says how much the features of images that are not on disk yet will take.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn check_image_room(&self) -> Result<(), FeatureError> {
        let count = self.split.images.len();
        let missing = (0..count).filter(|image| !self.kept.has_image(*image)).count();
        self.check_room(&self.kept.images, ("images", missing, count), image_bytes(self.encoders, missing))
    }

    /// The same of `missing` utterances' hidden states.
    pub(super) fn check_speech_room(&self, missing: usize) -> Result<(), FeatureError> {
        if missing == 0 || !matches!(self.kept.speech, Place::Disk(_)) {
            return Ok(());
        }
        let (split, count) = (&self.split, self.split.utterances.len());
        let bytes = hidden_bytes(self.encoders, split, missing, self.form.seconds());
        self.check_room(&self.kept.speech, ("utterances", missing, count), bytes)
    }

    fn check_room(
        &self,
        place: &Place,
        (what, missing, count): (&str, usize, usize),
        bytes: u64,
    ) -> Result<(), FeatureError> {
        let Place::Disk(store) = place else { return Ok(()) };
        if !store.is_writable() {
            tracing::warn!(
                "{}: cannot be written, so what is missing there is computed whenever it comes up",
                store.folder().display()
            );
            return Ok(());
        }
        let giga = |bytes: u64| bytes as f64 / 1e9;
        let free = free_disk(store.folder()).unwrap_or(u64::MAX);
        let name = &self.split.name;
        if bytes > free {
            return Err(FeatureError::NoRoom {
                path: store.folder().to_owned(),
                what: format!("the features of {missing} {what} of split {name}"),
                needed: giga(bytes),
                free: giga(free),
            });
        }
        if missing > 0 && self.crew.world.is_first() {
            tracing::info!(
                "{}: features of {} of {count} {what} of split {name} are kept; the others take some {:.2} GB, {:.1} GB are free",
                store.folder().display(),
                count - missing,
                giga(bytes),
                giga(free)
            );
        }
        Ok(())
    }
}
