//! What a training is made of, and whether that can work.

use super::captions::vocabulary;
use super::section::{
    CmdConfig, CmdTemperature, FusionConfig, Head, KeywordLayer, KeywordVocabulary, LogConfig, LossConfig, NoiseConfig,
    OptimConfig, SpeechConfig, TrainConfig,
};
use super::{AdamSettings, Schedule, TrainError};
use crate::data::Split;
use crate::encoders::Encoders;
use crate::eval::EvalConfig;
use crate::features::{FeatureConfig, FeatureError};
use crate::model::{CascadeConfig, CmdGradient, HeadKind, LossOptions, ModelConfig, Vocabulary};

/// Every setting of a training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipe {
    /// How frozen features are come by.
    pub features: FeatureConfig,
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
    /// The loop.
    pub train: TrainConfig,
    /// Evaluation.
    pub eval: EvalConfig,
    /// What is written down.
    pub log: LogConfig,
    /// What makes two configurations the same; empty where nobody compares.
    pub identity: Identity,
}

/// A configuration as others see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// BLAKE3 of what must stay the same for a run to be the same run.
    pub fixed: String,
    /// What must be the same in all processes.
    pub shared: String,
}

impl Recipe {
    /// The model for `encoders`; without denoising it has no fusion encoder.
    #[must_use]
    pub fn model(&self, encoders: &Encoders, head: HeadKind) -> ModelConfig {
        let (speech, image) = (encoders.speech().spec(), encoders.image().spec());
        ModelConfig {
            layers: speech.layers,
            speech_width: speech.width,
            width: image.width,
            head,
            heads: self.speech.heads,
            normalize_layers: self.speech.normalize_layers,
            fusion: self.denoises().then_some(self.fusion.query_norm),
            own_temperature: self.denoises() && self.cmd.temperature == CmdTemperature::Own,
        }
    }

    /// The speech head for `encoders` and what its keywords may be, of a training on `split`.
    ///
    /// # Errors
    /// When there is no text encoder for a cascaded head, or its keywords are to come from captions that are not there.
    pub fn head(&self, encoders: &Encoders, split: &Split) -> Result<(HeadKind, Option<Vocabulary>), TrainError> {
        if self.speech.head == Head::Parallel {
            return Ok((HeadKind::Parallel, None));
        }
        let text = encoders.text("speech.head = \"cascaded\"").map_err(FeatureError::from)?;
        let whole = text.vocabulary();
        let vocabulary = match self.speech.keyword_vocabulary {
            KeywordVocabulary::Whole => Vocabulary { ids: whole.ids.clone(), vectors: whole.vectors.shallow_clone() },
            KeywordVocabulary::Captions => vocabulary(text, split)?,
        };
        let config = CascadeConfig {
            keywords: self.speech.keywords,
            token_width: text.spec().token_width,
            vocabulary: vocabulary.ids.len() as i64,
            feed_forward: self.speech.keyword_layer == KeywordLayer::Transformer,
            temperature: self.speech.keyword_temperature,
        };
        if config.keywords > text.spec().context - 2 {
            return Err(TrainError::Recipe(format!(
                "speech.keywords = {} is more than the text encoder reads: {}",
                config.keywords,
                text.spec().context - 2
            )));
        }
        Ok((HeadKind::Cascaded(config), Some(vocabulary)))
    }

    /// Whether a training reads texts or keywords.
    #[must_use]
    pub fn uses_text(&self) -> bool {
        self.speech.head == Head::Cascaded || self.loss.text > 0.0
    }

    /// Whether there is an L_cmd.
    #[must_use]
    pub fn denoises(&self) -> bool {
        self.cmd.alpha != 0.0
    }

    /// The options of the losses of `step`, from 0.
    #[must_use]
    pub fn loss_options(&self, step: u64) -> LossOptions {
        let is_alone = step < self.cmd.fusion_first_steps as u64;
        LossOptions {
            alpha: self.cmd.alpha,
            pairing: self.cmd.pairing,
            same_image: self.loss.same_image,
            gradient: if is_alone { CmdGradient::Neither } else { self.cmd.gradient },
        }
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

    /// The teacher's part in what is right at `step` of a training whose epochs hold `count` utterances.
    #[must_use]
    pub fn distill(&self, step: u64, count: usize) -> f64 {
        let epochs = step as f64 * self.train.batch_size as f64 / count as f64;
        self.loss.distill * epochs.min(1.0)
    }

    /// The seed as the generator takes it.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.train.seed as u64
    }

    /// Checks that settings, encoders, data and the number of processes go together; what is odd but possible is warned of.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self, encoders: &Encoders, split: &Split, processes: usize) -> Result<(), TrainError> {
        let refuse = |why: String| Err(TrainError::Recipe(why));
        let (batch, size) = (self.train.batch_size, processes as i64);
        if batch % size != 0 {
            let (below, above) = (batch / size * size, (batch / size + 1) * size);
            let nearest = if below > 0 && batch - below <= above - batch { below } else { above };
            return refuse(format!(
                "train.batch_size = {batch} is the global batch and cannot be shared out over {size} processes; the nearest that can is \
                 {nearest}"
            ));
        }
        let (heads, width) = (self.speech.heads, encoders.speech().spec().width);
        if width % heads != 0 {
            return refuse(format!("speech.heads = {heads} does not divide the speech encoder's width {width}"));
        }
        if self.loss.distill > 0.0 && self.train.ema == 0.0 {
            return refuse(format!(
                "loss.distill = {} needs averaged weights to learn from: set train.ema too, for instance to 0.99",
                self.loss.distill
            ));
        }
        if self.speech.head == Head::Cascaded && self.train.batch_size == 1 {
            return refuse(
                "train.batch_size = 1: a cascaded head normalises over the batch, which takes two or more".to_owned(),
            );
        }
        if self.denoises() {
            self.check_noise(encoders.image().spec().patches(), split)?;
        }
        for warning in self.oddities(split) {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    fn check_noise(&self, patches: i64, split: &Split) -> Result<(), TrainError> {
        let first = split.utterances.first().map(|utterance| utterance.image);
        let is_one_image = split.utterances.iter().all(|utterance| Some(utterance.image) == first);
        if is_one_image || self.train.batch_size == 1 {
            return Err(TrainError::OneImageOnly);
        }
        let ratio = self.noise.ratio;
        if ratio > 0.0 && (ratio * patches as f64).round() == 0.0 {
            return Err(TrainError::Recipe(format!(
                "noise.ratio = {ratio} of {patches} patches rounds to none: raise it to at least {:.3}, or set it to 0 for L_cmd on clean \
                 patches",
                0.5 / patches as f64
            )));
        }
        Ok(())
    }

    fn oddities(&self, split: &Split) -> Vec<String> {
        let (optim, train) = (&self.optim, &self.train);
        let mut found = Vec::new();
        if optim.warmup_steps >= train.steps {
            found.push(format!(
                "optim.warmup_steps = {} is not below train.steps = {}: the learning rate only rises, up to {:.3e}",
                optim.warmup_steps,
                train.steps,
                self.schedule().at(train.steps - 1)
            ));
        }
        if optim.final_lr > optim.lr {
            found.push(format!("optim.final_lr = {} is above optim.lr = {}: the rate grows", optim.final_lr, optim.lr));
        }
        if self.denoises() && self.noise.ratio == 0.0 {
            found.push("noise.ratio = 0: L_cmd is computed on clean patches".to_owned());
        }
        let SpeechConfig { heads, dropout, normalize_layers, .. } = self.speech;
        let of_no_keywords = SpeechConfig { heads, dropout, normalize_layers, ..SpeechConfig::default() };
        if self.speech.head == Head::Parallel && self.speech != of_no_keywords {
            found.push(
                "speech.keywords and speech.keyword_* are of no effect without speech.head = \"cascaded\"".to_owned(),
            );
        }
        if train.batch_size == 1 {
            found.push("train.batch_size = 1: L_sic of a single pair is always 0".to_owned());
        }
        let count = split.utterances.len();
        if train.batch_size as usize > count {
            found.push(format!("train.batch_size = {} is more than the {count} training utterances", train.batch_size));
        }
        if train.batch_size as usize > split.images.len() {
            found.push(format!(
                "train.batch_size = {} is more than the {} training images, so a batch holds few negatives",
                train.batch_size,
                split.images.len()
            ));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_teachers_part_grows_over_the_first_epoch() {
        let mut recipe = Recipe::default();
        (recipe.loss.distill, recipe.train.batch_size) = (0.4, 10);
        assert_eq!([0, 5, 10, 90].map(|step| recipe.distill(step, 100)), [0.0, 0.2, 0.4, 0.4]);
    }
}
