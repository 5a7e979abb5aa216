//! The configuration of a run: TOML with a default for every key that has one, overrides, and errors that name the key.

mod keys;
mod load;
mod print;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use load::{ConfigError, Needs, Override};

use crate::model::{DonorPosition, LossOptions, ModelConfig, Pairing, QueryNorm, SameImage};
use crate::train::{AdamSettings, Schedule};

/// Everything that decides a run. Sections and keys are described in `keys.rs`, which `--print-config` shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Which data.
    pub data: DataConfig,
    /// Lengths of audio.
    pub audio: AudioConfig,
    /// The two frozen encoders.
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

/// Form of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// JSON Lines, one image a line.
    Manifest,
    /// Flickr8k Audio Captions as downloaded.
    Flickr8k,
    /// SpokenCOCO with the Karpathy split.
    SpokenCoco,
}

/// What a file that cannot be read means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// It is left out, counted and named.
    Skip,
    /// It ends the command.
    Fail,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataConfig {
    /// Form of the data set.
    pub kind: DataKind,
    /// Name in results.
    pub name: Option<String>,
    /// The manifest.
    pub path: Option<PathBuf>,
    /// Folder of the data set; for a manifest, where its paths start from.
    pub root: Option<PathBuf>,
    /// Folder of the images, if they are elsewhere.
    pub images: Option<PathBuf>,
    /// The Karpathy split of COCO, if it is elsewhere.
    pub karpathy: Option<PathBuf>,
    /// What an unreadable file means; none: training skips, evaluation fails.
    pub on_error: Option<OnError>,
    /// Threads that read and decode; 0 is one a core.
    pub workers: i64,
    /// Batches read ahead.
    pub prefetch: i64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            kind: DataKind::Manifest,
            name: None,
            path: None,
            root: None,
            images: None,
            karpathy: None,
            on_error: None,
            workers: 0,
            prefetch: 8,
        }
    }
}

/// `[audio]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AudioConfig {
    /// Window of training, in seconds.
    pub max_seconds: f64,
    /// Longest utterance of evaluation, in seconds.
    pub eval_max_seconds: f64,
    /// Shorter utterances are named by `cmd data check`, in seconds.
    pub min_seconds: f64,
}

impl Default for AudioConfig {
    fn default() -> Self {
        Self { max_seconds: 6.4, eval_max_seconds: 60.0, min_seconds: 0.1 }
    }
}

/// `[encoders]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncodersConfig {
    /// HuBERT.
    pub speech: EncoderConfig,
    /// CLIP's image tower.
    pub image: EncoderConfig,
}

/// `[encoders.speech]`, `[encoders.image]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncoderConfig {
    /// TorchScript file.
    pub path: Option<PathBuf>,
    /// Samples in one forward.
    pub batch_size: i64,
    /// Whether the features of the training data are computed once and kept in memory.
    pub cache: bool,
}

impl Default for EncoderConfig {
    fn default() -> Self {
        Self { path: None, batch_size: 32, cache: false }
    }
}

/// `[speech]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpeechConfig {
    /// H.
    pub heads: i64,
    /// Rate of dropout.
    pub dropout: f64,
    /// Whether hidden states are layer-normalised.
    pub normalize_layers: bool,
}

impl Default for SpeechConfig {
    fn default() -> Self {
        Self { heads: 8, dropout: 0.1, normalize_layers: true }
    }
}

/// `[fusion]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FusionConfig {
    /// What stands before the attention.
    pub query_norm: QueryNorm,
}

/// `[noise]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NoiseConfig {
    /// Part of the patches that is replaced.
    pub ratio: f64,
    /// Where the replacing patches come from.
    pub donor_position: DonorPosition,
}

impl Default for NoiseConfig {
    fn default() -> Self {
        Self { ratio: 0.3, donor_position: DonorPosition::Random }
    }
}

/// `[loss]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossConfig {
    /// What other rows with the same image are.
    pub same_image: SameImage,
}

/// `[cmd]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CmdConfig {
    /// Weight of L_cmd.
    pub alpha: f64,
    /// Which speech pools which image.
    pub pairing: Pairing,
}

impl Default for CmdConfig {
    fn default() -> Self {
        Self { alpha: 0.5, pairing: Pairing::Paired }
    }
}

/// `[optim]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimConfig {
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Learning rate of the last step.
    pub final_lr: f64,
    /// Steps of warm-up.
    pub warmup_steps: i64,
    /// L2.
    pub weight_decay: f64,
    /// Adam's betas.
    pub betas: [f64; 2],
    /// Adam's epsilon.
    pub eps: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self { lr: 1e-4, final_lr: 1e-8, warmup_steps: 4000, weight_decay: 1e-6, betas: [0.9, 0.999], eps: 1e-8 }
    }
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// Updates.
    pub steps: i64,
    /// Pairs in the global batch.
    pub batch_size: i64,
    /// Seed of every draw.
    pub seed: i64,
    /// Largest norm of the gradient.
    pub grad_clip: f64,
    /// Steps between checkpoints.
    pub checkpoint_every: i64,
    /// Steps between evaluations.
    pub eval_every: i64,
    /// Checkpoints kept beside the best.
    pub keep: i64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 60_000,
            batch_size: 128,
            seed: 0,
            grad_clip: 4.0,
            checkpoint_every: 1000,
            eval_every: 1000,
            keep: 2,
        }
    }
}

/// `[eval]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvalConfig {
    /// Split that chooses the best checkpoint.
    pub split: String,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { split: "dev".to_owned() }
    }
}

/// `[distributed]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DistributedConfig {
    /// How long a process waits for the others, in seconds.
    pub timeout_seconds: i64,
}

impl Default for DistributedConfig {
    fn default() -> Self {
        Self { timeout_seconds: 600 }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Steps between lines of metrics.jsonl.
    pub every: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { every: 50 }
    }
}

impl Config {
    /// The model for encoders of these sizes; without denoising it has no fusion encoder.
    #[must_use]
    pub fn model(&self, layers: i64, speech_width: i64, width: i64) -> ModelConfig {
        ModelConfig {
            layers,
            speech_width,
            width,
            heads: self.speech.heads,
            normalize_layers: self.speech.normalize_layers,
            fusion: (self.cmd.alpha != 0.0).then_some(self.fusion.query_norm),
        }
    }

    /// The options of the losses.
    #[must_use]
    pub fn loss_options(&self) -> LossOptions {
        LossOptions { alpha: self.cmd.alpha, pairing: self.cmd.pairing, same_image: self.loss.same_image }
    }

    /// The constants of Adam.
    #[must_use]
    pub fn adam(&self) -> AdamSettings {
        AdamSettings { weight_decay: self.optim.weight_decay, betas: self.optim.betas, eps: self.optim.eps }
    }

    /// The learning rate.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule {
            peak: self.optim.lr,
            last: self.optim.final_lr,
            warmup_steps: self.optim.warmup_steps,
            steps: self.train.steps,
        }
    }

    /// The seed as the generator takes it.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.train.seed as u64
    }
}
