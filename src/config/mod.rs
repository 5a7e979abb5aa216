//! The configuration of a run: the sections of all areas composed, loaded from TOML with overrides, and printed. What a key is, its
//! default and its range stand with its section, in the area that it belongs to.

mod change;
mod layers;
mod load;
mod print;
mod resume;

use serde::{Deserialize, Serialize};

pub use change::Override;
pub use layers::Sources;
pub use load::{ConfigError, Needs};

use crate::Key;
use crate::data::{AudioConfig, DataConfig};
use crate::distributed::DistributedConfig;
use crate::encoders::{EncodersConfig, ImageEncoderConfig, SpeechEncoderConfig, TextEncoderConfig};
use crate::eval::EvalConfig;
use crate::features::FeatureConfig;
use crate::train::{
    CmdConfig, FusionConfig, Identity, LogConfig, LossConfig, NoiseConfig, OptimConfig, Recipe, SpeechConfig,
    TrainConfig,
};

/// Everything that decides a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Which data.
    pub data: DataConfig,
    /// Lengths of audio.
    pub audio: AudioConfig,
    /// The frozen encoders.
    pub encoders: EncodersConfig,
    /// The speech head.
    pub speech: SpeechConfig,
    /// The fusion encoder.
    pub fusion: FusionConfig,
    /// Patch noise.
    pub noise: NoiseConfig,
    /// The contrastive loss.
    pub loss: LossConfig,
    /// Cross-modal denoising.
    pub cmd: CmdConfig,
    /// Adam and its learning rate.
    pub optim: OptimConfig,
    /// The training loop.
    pub train: TrainConfig,
    /// Evaluation during training.
    pub eval: EvalConfig,
    /// Several processes.
    pub distributed: DistributedConfig,
    /// What is written down.
    pub log: LogConfig,
}

/// Names and keys of the sections, in the order in which they are shown.
const SECTIONS: [(&str, &[Key]); 15] = [
    ("data", DataConfig::KEYS),
    ("audio", AudioConfig::KEYS),
    ("encoders.speech", SpeechEncoderConfig::KEYS),
    ("encoders.image", ImageEncoderConfig::KEYS),
    ("encoders.text", TextEncoderConfig::KEYS),
    ("speech", SpeechConfig::KEYS),
    ("fusion", FusionConfig::KEYS),
    ("noise", NoiseConfig::KEYS),
    ("loss", LossConfig::KEYS),
    ("cmd", CmdConfig::KEYS),
    ("optim", OptimConfig::KEYS),
    ("train", TrainConfig::KEYS),
    ("eval", EvalConfig::KEYS),
    ("distributed", DistributedConfig::KEYS),
    ("log", LogConfig::KEYS),
];

/// All keys with their full names.
fn keys() -> impl Iterator<Item = (String, &'static Key)> {
    SECTIONS
        .into_iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| (format!("{section}.{}", key.name), key)))
}

impl Config {
    /// What a training session takes.
    #[must_use]
    pub fn recipe(&self) -> Recipe {
        Recipe {
            features: self.features(),
            speech: self.speech.clone(),
            fusion: self.fusion.clone(),
            noise: self.noise.clone(),
            loss: self.loss.clone(),
            cmd: self.cmd.clone(),
            optim: self.optim.clone(),
            train: self.train.clone(),
            eval: self.eval.clone(),
            log: self.log.clone(),
            identity: Identity { fixed: self.fixed_hash(), shared: self.shared_text() },
        }
    }

    /// How frozen features are come by.
    #[must_use]
    pub fn features(&self) -> FeatureConfig {
        FeatureConfig { data: self.data.clone(), audio: self.audio.clone(), encoders: self.encoders.clone() }
    }
}
