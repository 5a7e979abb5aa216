//! What is kept of a split, and where.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::FeatureError;
use super::memory::{Memory, Pool};
use super::store::{Form, Store};
use crate::data::{DataConfig, Kept, Row, Split};
use crate::encoders::{Cache, Encoders, ImageStates, Precision};
use crate::model::catch_libtorch;

/// Where the features of one modality lie.
#[derive(Debug)]
pub(super) enum Place {
    Nowhere,
    Memory(Arc<Memory>),
    Disk(Store),
}

impl Place {
    /// Whether rows can be put there.
    pub(super) fn takes_rows(&self) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Memory(_) => true,
            Self::Disk(store) => store.is_writable(),
        }
    }
}

/// The known features of a split.
#[derive(Debug)]
pub(super) struct KeptSplit {
    split: Arc<Split>,
    pub(super) speech: Place,
    pub(super) images: Place,
}

impl KeptSplit {
    /// As the two keys `encoders.*.cache` say.
    pub(super) fn open(
        split: &Arc<Split>,
        encoders: &Encoders,
        data: &DataConfig,
        (speech, images): (Cache, Cache),
        pool: &Pool,
    ) -> Result<Self, FeatureError> {
        let place = |cache: Cache, memory: &Arc<Memory>, form: &dyn Fn() -> Form| {
            Ok::<Place, FeatureError>(match cache {
                Cache::None => Place::Nowhere,
                Cache::Memory => Place::Memory(memory.clone()),
                Cache::Disk => Place::Disk(Store::open(&cache_folder(data), &form())?),
            })
        };
        let (speech_encoder, image_encoder) = (encoders.speech(), encoders.image());
        let (speech_spec, image_spec) = (speech_encoder.spec(), image_encoder.spec());
        let kind = |kind: Kind, precision: Precision| (kind, precision == Precision::Tf32);
        let speech_form = || {
            let shape = [speech_spec.layers, -1, speech_spec.width];
            Form::new(
                "speech",
                speech_encoder.fingerprint(),
                kind(speech_encoder.kind(), speech_encoder.precision()),
                &shape,
            )
        };
        let image_form = || {
            let shape = [1 + image_spec.patches(), image_spec.width];
            Form::new(
                "image",
                image_encoder.fingerprint(),
                kind(image_encoder.kind(), image_encoder.precision()),
                &shape,
            )
        };
        Ok(Self {
            speech: place(speech, &pool.speech, &speech_form)?,
            images: place(images, &pool.images, &image_form)?,
            split: split.clone(),
        })
    }

    fn audio(&self, utterance: usize) -> &Arc<Path> {
        &self.split.utterances[utterance].audio
    }

    fn picture(&self, image: usize) -> &Arc<Path> {
        &self.split.images[image].path
    }

    /// Whether the hidden states of an utterance are there; on disk they are read for that, since nothing may be wrong with them later.
    pub(super) fn has_speech(&self, utterance: usize) -> bool {
        match &self.speech {
            Place::Nowhere => false,
            Place::Memory(memory) => memory.has(self.audio(utterance)),
            Place::Disk(store) => store.get(self.audio(utterance)).is_some(),
        }
    }

    /// Whether the features of an image are there.
    pub(super) fn has_image(&self, image: usize) -> bool {
        match &self.images {
            Place::Nowhere => false,
            Place::Memory(memory) => memory.has(self.picture(image)),
            Place::Disk(store) => store.has(self.picture(image)),
        }
    }

    /// Keeps the hidden states [L, t, D] of utterances.
    pub(super) fn put_speech(&self, rows: Vec<(usize, Row)>) {
        put(&self.speech, rows, |utterance| self.audio(utterance));
    }

    /// Keeps the features of images, where they are to be kept.
    pub(super) fn keep_images(&self, images: &[usize], states: &ImageStates) -> Result<(), FeatureError> {
        if matches!(self.images, Place::Nowhere) {
            return Ok(());
        }
        let rows = catch_libtorch(|| {
            let all = Tensor::cat(&[states.cls.unsqueeze(1), states.patches.shallow_clone()], 1).to_device(Device::Cpu);
            let rows = images.iter().enumerate().map(|(row, image)| (*image, Row::of(&all.get(row as i64))));
            rows.collect::<Vec<(usize, Row)>>()
        })?;
        put(&self.images, rows, |image| self.picture(image));
        Ok(())
    }

    /// Looks by its content whether the file of an utterance is still what its features were made from.
    pub(super) fn verify_speech(&self, utterance: usize) {
        if let Place::Disk(store) = &self.speech {
            store.verify(self.audio(utterance));
        }
    }

    /// The same of an image.
    pub(super) fn verify_image(&self, image: usize) {
        if let Place::Disk(store) = &self.images {
            store.verify(self.picture(image));
        }
    }
}

fn put<'a>(place: &Place, rows: Vec<(usize, Row)>, file: impl Fn(usize) -> &'a Arc<Path>) {
    match place {
        Place::Nowhere => {}
        Place::Memory(memory) => rows.iter().for_each(|(index, row)| memory.put(file(*index), row)),
        Place::Disk(store) => {
            let rows: Vec<(&Path, Row)> = rows.into_iter().map(|(index, row)| (&**file(index), row)).collect();
            store.put(&rows);
        }
    }
}

impl Kept for KeptSplit {
    fn speech(&self, utterance: usize) -> Option<Row> {
        match &self.speech {
            Place::Nowhere => None,
            Place::Memory(memory) => memory.get(self.audio(utterance)),
            Place::Disk(store) => store.get(self.audio(utterance)),
        }
    }

    fn image(&self, image: usize) -> Option<Row> {
        match &self.images {
            Place::Nowhere => None,
            Place::Memory(memory) => memory.get(self.picture(image)),
            Place::Disk(store) => store.get(self.picture(image)),
        }
    }
}

/// The folder of features on disk: `data.cache_dir`, or one beside the data set, or where that cannot be written the user's.
pub fn cache_folder(data: &DataConfig) -> PathBuf {
    const NAME: &str = "cmd-features";
    if let Some(folder) = &data.cache_dir {
        return folder.clone();
    }
    let beside = data.folder().join(NAME);
    let is_writable = |folder: &Path| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    if beside.is_dir() || is_writable(data.folder()) {
        return beside;
    }
    let named = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")));
    user.map_or(beside, |user| user.join(NAME))
}
