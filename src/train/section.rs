//! The sections that decide what is trained: `[speech]`, `[fusion]`, `[noise]`, `[loss]`, `[cmd]`, `[optim]`, `[train]` and `[log]`,
//! with the paper's values as defaults.

use std::path::PathBuf;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{CmdGradient, DonorPosition, Pairing, QueryNorm, SameImage};
use crate::{Range, at_least, between, section};

section! {
    /// `[speech]`: the speech head.
    pub struct SpeechConfig {
        /// Attention heads of the speech head's transformer layer.
        Fixed, at_least(1) => heads: i64 = 8;
        /// Dropout of the speech head's transformer layer.
        Fixed, Range::Rate => dropout: f64 = 0.1;
        /// Layer-normalise each hidden state before the weighted sum.
        Fixed, Range::Any => normalize_layers: bool = true;
        /// What makes S_cls of the hidden states: "parallel" (the paper's: a CLS token and a projection) or "cascaded" (keywords that the frozen text
        /// encoder reads, as in cascaded SpeechCLIP; needs encoders.text.path).
        Fixed, Range::Any => head: Head = Head::Parallel;
        /// Keywords of an utterance, of the cascaded head.
        Fixed, between(1, 64) => keywords: i64 = 8;
        /// What the cascaded head's CLS tokens go through: a whole "transformer" layer, or its "attention" and the LayerNorm after it alone, as in
        /// SpeechCLIP's code.
        Fixed, Range::Any => keyword_layer: KeywordLayer = KeywordLayer::Transformer;
        /// Temperature of the softmax over the cosines with all tokens, through which the cascaded head's gradient goes.
        Fixed, Range::Within { least: 0.001, most: 100.0 } => keyword_temperature: f64 = 0.1;
        /// Tokens that a keyword may be: the "whole" vocabulary of the text encoder, or those of the training split's "captions", as in SpeechCLIP's
        /// code, which then is told which words are in use.
        Fixed, Range::Any => keyword_vocabulary: KeywordVocabulary = KeywordVocabulary::Whole;
    }
}

/// What makes S_cls of the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// A CLS token and a projection.
    Parallel,
    /// Keywords that the frozen text encoder reads.
    Cascaded,
}

/// What the cascaded head's CLS tokens go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeywordLayer {
    /// A post-norm transformer layer and a LayerNorm, as the parallel head's.
    Transformer,
    /// Attention and the LayerNorm after it.
    Attention,
}

/// Tokens that a keyword may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeywordVocabulary {
    /// All that the text encoder offers.
    Whole,
    /// Those of the captions of the training split.
    Captions,
}

/// How FC of the fusion encoder starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FusionStart {
    /// Uniform within ±1/√E.
    Random,
    /// 0.
    Zero,
}

/// The temperature of L_cmd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CmdTemperature {
    /// That of L_sic.
    Shared,
    /// Another learned one.
    Own,
}

section! {
    /// `[fusion]`: the fusion encoder.
    pub struct FusionConfig {
        /// "layer_norm" (shared by query and patches) or "none" (Eq. 1 to the letter).
        Fixed, Range::Any => query_norm: QueryNorm = QueryNorm::LayerNorm;
        /// FC of Eq. 2 starts "random" (as PyTorch starts it) or "zero" (then F is at first the attended patches, normalised).
        Fixed, Range::Any => start: FusionStart = FusionStart::Random;
    }
}

section! {
    /// `[noise]`: patch noise.
    pub struct NoiseConfig {
        /// Part of each image's patches that is replaced (Section 3.1: 30 %).
        Fixed, Range::Share => ratio: f64 = 0.3;
        /// Place of the replacing patch in its own image: "random" or "same".
        Fixed, Range::Any => donor_position: DonorPosition = DonorPosition::Random;
    }
}

/// Images of the training split that speech is told from beside those of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageBank {
    /// So many, drawn anew for each step; 0: none.
    Some(i64),
    /// All.
    All,
}

impl Serialize for ImageBank {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Some(count) => serializer.serialize_i64(*count),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for ImageBank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Integer(count) => Ok(Self::Some(count)),
            toml::Value::String(text) if text == "all" => Ok(Self::All),
            value => Err(D::Error::custom(format!("is {value}, but must be a number of images or \"all\""))),
        }
    }
}

section! {
    /// `[loss]`: the contrastive loss.
    pub struct LossConfig {
        /// Other utterances of the same image in a batch: "positives" (1/n each) or "masked".
        Fixed, Range::Any => same_image: SameImage = SameImage::Positives;
        /// Images of the training split that speech is told from beside those of its batch: so many, drawn anew for each step, or "all"; exact, as
        /// the image encoder is frozen. 0: none, as in the paper.
        Fixed, at_least(0) => image_bank: ImageBank = ImageBank::Some(0);
        /// Part of the averaged weights' judgement (`train.ema`) in what counts as right in L_sic, of which there is none at the start and all after
        /// the first epoch; 0: none, as in the paper.
        Fixed, Range::Rate => distill: f64 = 0.0;
        /// b: weight of a loss that draws speech to the frozen text encoder's embedding of its caption too, L += b/2 [H(s2t) + H(t2s)]; 0: none, as in the
        /// paper, whose training sees no text. Needs encoders.text.path.
        Fixed, Range::NotNegative => text: f64 = 0.0;
    }
}

section! {
    /// `[cmd]`: cross-modal denoising.
    pub struct CmdConfig {
        /// Weight of L_cmd in Eq. 7; 0 trains without denoising. The best value differs by data set (Figure 2).
        Fixed, Range::NotNegative => alpha: f64 = 0.5;
        /// "paired": an image is denoised with its own speech (Eq. 6); "all": with every speech of the batch.
        Fixed, Range::Any => pairing: Pairing = Pairing::Paired;
        /// Temperature of L_cmd: "shared" with L_sic or its "own", learned beside it.
        Fixed, Range::Any => temperature: CmdTemperature = CmdTemperature::Shared;
        /// Use of S_cls through which the gradient of L_cmd reaches it: "both", "similarity", "query" or "neither".
        Fixed, Range::Any => gradient: CmdGradient = CmdGradient::Both;
        /// First steps in which L_cmd teaches the fusion encoder and the temperature alone.
        Fixed, at_least(0) => fusion_first_steps: i64 = 0;
    }
}

section! {
    /// `[optim]`: Adam and its learning rate.
    pub struct OptimConfig {
        /// Learning rate after warm-up.
        Fixed, Range::AboveZero => lr: f64 = 1e-4;
        /// Learning rate of the last step; the way there is linear.
        Fixed, Range::NotNegative => final_lr: f64 = 1e-8;
        /// Steps of linear warm-up.
        Fixed, at_least(0) => warmup_steps: i64 = 4000;
        /// L2 weight decay of Adam.
        Fixed, Range::NotNegative => weight_decay: f64 = 1e-6;
        /// Decay of Adam's moments.
        Fixed, Range::Rate => betas: [f64; 2] = [0.9, 0.999];
        /// Epsilon of Adam.
        Fixed, Range::AboveZero => eps: f64 = 1e-8;
    }
}

/// What a loss or gradient that is not finite means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNan {
    /// The run stops before the update.
    Stop,
    /// The batch is passed over without an update, up to `train.max_nan_batches`.
    Skip,
}

/// What becomes of the fusion encoder of a checkpoint that a run starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitFusion {
    /// It goes on, if the checkpoint has one.
    Taken,
    /// The run starts its own.
    Anew,
}

/// A further data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixedData {
    /// A configuration, of which `[data]` counts.
    pub config: PathBuf,
    /// How often an epoch holds each of its utterances.
    #[serde(default = "once")]
    pub weight: f64,
}

fn once() -> f64 {
    1.0
}

section! {
    /// `[train]`: the training loop.
    pub struct TrainConfig {
        /// Updates. A resumed run may raise it; the learning rate then falls more slowly from there on.
        Inexact, at_least(1) => steps: i64 = 60_000;
        /// Speech-image pairs in the global batch.
        Fixed, between(1, 1 << 20) => batch_size: i64 = 128;
        /// Seed of every draw: first values, order, crops, noise, dropout.
        Fixed, at_least(0) => seed: i64 = 0;
        /// A run (then its best), a checkpoint's folder or its model.safetensors whose weights the run starts from (--init-from).
        Here, Range::Path("\"runs/spokencoco/best/model.safetensors\"") => init_from: Option<PathBuf> = None;
        /// The fusion encoder of that checkpoint: "taken" (if it has one) or started "anew".
        Fixed, Range::Any => init_fusion: InitFusion = InitFusion::Taken;
        /// Images of the training split that are used, drawn by the seed, with all their captions; 0: all.
        Fixed, at_least(0) => images: i64 = 0;
        /// Configurations whose data sets are trained on too, by their training splits: an epoch holds each `weight` times (by default once);
        /// for instance [{ config = "spokencoco.toml", weight = 0.5 }].
        Here, Range::Configs => mix: Vec<MixedData> = Vec::new();
        /// Decay of an average of the weights along the training, which is evaluated and kept as the model in place of the weights themselves; 0: none, as
        /// in the paper.
        Fixed, Range::Rate => ema: f64 = 0.0;
        /// Largest norm of the gradient; 0: no limit.
        Fixed, Range::NotNegative => grad_clip: f64 = 4.0;
        /// Steps between checkpoints.
        Free, at_least(1) => checkpoint_every: i64 = 1000;
        /// Steps between evaluations on eval.split; the best mean R@1 is kept.
        Free, at_least(1) => eval_every: i64 = 1000;
        /// Newest checkpoints that are kept, beside the best.
        Free, at_least(1) => keep: i64 = 2;
        /// Where several processes train on CPUs, each makes the features of its next batch while this one is exchanged with the others: faster, but a
        /// second batch of hidden states is in memory.
        Here, Range::Any => encode_ahead: bool = true;
        /// A loss or gradient that is not finite: "stop" (before the update) or "skip" (the batch is passed over and counted).
        Free, Range::Any => on_nan: OnNan = OnNan::Stop;
        /// Batches that may be passed over in a run, with train.on_nan = "skip".
        Free, at_least(0) => max_nan_batches: i64 = 10;
    }
}

section! {
    /// `[log]`: what is written down.
    pub struct LogConfig {
        /// Steps between lines of metrics.jsonl.
        Free, at_least(1) => every: i64 = 50;
        /// Writes the same figures, and what each evaluation found, for TensorBoard into tensorboard/ of the run.
        Free, Range::Any => tensorboard: bool = true;
    }
}
