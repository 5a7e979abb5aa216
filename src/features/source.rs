//! The door to frozen features of a split.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::kept::KeptSplit;
use super::memory::Pool;
use super::{FeatureConfig, FeatureError, Forwards};
use crate::data::{AudioForm, DataError, Kept, OnError, PictureForm, Split};
use crate::distributed::Crew;
use crate::encoders::{Cache, Encoders};

/// What features are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Windows of at most `audio.max_seconds`; every process needs all rows; an unreadable file is skipped unless the configuration
    /// says otherwise.
    Training,
    /// Whole utterances of at most `audio.eval_max_seconds`; processes share the rows out; an unreadable file is a failure unless the
    /// configuration says otherwise, so that nobody reports recalls on a part of a split without knowing.
    Evaluation,
}

/// Where the frozen features of a split come from.
pub struct FeatureSource<'a> {
    pub(super) encoders: &'a Encoders,
    pub(super) split: Arc<Split>,
    pub(super) config: FeatureConfig,
    pub(super) purpose: Use,
    pub(super) crew: Crew<'a>,
    pub(super) form: AudioForm,
    pub(super) kept: Arc<KeptSplit>,
    /// Utterances without features.
    pub(super) unusable: HashMap<usize, DataError>,
    /// Whether all hidden states that are to be kept have been computed.
    pub(super) is_filled: bool,
    /// Utterances by length, once they were looked at.
    pub(super) groups: OnceCell<Vec<Vec<usize>>>,
}

impl<'a> FeatureSource<'a> {
    /// The features of `split`; nothing is computed yet. What is kept in memory is shared with others where there is a `pool`.
    ///
    /// # Errors
    /// When features are to be kept on disk and that folder cannot be used.
    pub fn new(
        encoders: &'a Encoders,
        split: &Arc<Split>,
        config: &FeatureConfig,
        purpose: Use,
        crew: Crew<'a>,
        pool: Option<&Pool>,
    ) -> Result<Self, FeatureError> {
        let spec = encoders.speech().spec();
        let (speech, mut images) = (config.encoders.speech.cache, config.encoders.image.cache);
        let seconds = match purpose {
            Use::Training => config.audio.max_seconds,
            Use::Evaluation => config.audio.eval_max_seconds,
        };
        if (purpose, images) == (Use::Evaluation, Cache::Memory) && pool.is_none() {
            // Of these only CLS is used, once a run.
            images = Cache::None;
        }
        Ok(Self {
            encoders,
            split: split.clone(),
            config: config.clone(),
            purpose,
            crew,
            form: AudioForm::new(spec.sample_rate as u32, spec.min_samples as usize, seconds),
            kept: Arc::new(KeptSplit::open(
                split,
                encoders,
                &config.data,
                (speech, images),
                pool.unwrap_or(&Pool::default()),
            )?),
            unusable: HashMap::new(),
            is_filled: false,
            groups: OnceCell::new(),
        })
    }

    /// How audio is read.
    #[must_use]
    pub fn audio_form(&self) -> AudioForm {
        self.form
    }

    /// How images are read.
    #[must_use]
    pub fn picture_form(&self) -> PictureForm {
        PictureForm::new(self.encoders.image().spec().size as u32, self.config.data.max_megapixels)
    }

    /// What is known already.
    #[must_use]
    pub fn kept(&self) -> Arc<dyn Kept> {
        self.kept.clone()
    }

    /// What an unreadable file means.
    #[must_use]
    pub fn on_error(&self) -> OnError {
        let default = if self.purpose == Use::Training { OnError::Skip } else { OnError::Fail };
        self.config.data.on_error.unwrap_or(default)
    }

    /// Utterances whose features could not be computed.
    #[must_use]
    pub fn unusable(&self) -> &HashMap<usize, DataError> {
        &self.unusable
    }

    /// Samples of one forward of the speech encoder, with the padding: as many as a full one of training has.
    pub(super) fn most_samples(&self) -> i64 {
        self.config.most_samples(self.encoders.speech().spec().sample_rate as u32)
    }

    /// What makes the features of its batches.
    #[must_use]
    pub fn forwards(&self) -> Forwards {
        Forwards { pair: self.encoders.pair().clone(), kept: self.kept.clone(), most_samples: self.most_samples() }
    }
}
