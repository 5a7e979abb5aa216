//! The trained model as a whole and its objective L = L_sic + alpha L_cmd (Eq. 7).

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::cascade::{HeadKind, KeywordReader, Vocabulary};
use super::contrastive::{SameImage, Targets, TeacherLogits};
use super::fusion::{Fused, FusionEncoder, QueryNorm};
use super::layers::l2_normalise;
use super::noise::PatchNoise;
use super::parameters::{Initial, ParameterSpec, Parameters};
use super::speech_head::SpeechHead;
use super::stages::{Denoising, Embedded, FurtherImages, Losses, Teacher, TextAnchor};

/// Start of the temperature (Section 2.3 leaves it open; CLIP's).
const INITIAL_TAU: f64 = 0.07;
/// 1/tau stays at or below this, as in CLIP: `log_inv_tau` <= ln 100.
const MAX_INVERSE_TAU: f64 = 100.0;
const LOG_INV_TAU: &str = "log_inv_tau";
const CMD_LOG_INV_TAU: &str = "cmd_log_inv_tau";

/// Shape of the model; a checkpoint carries it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// L: hidden states of the speech encoder.
    pub layers: i64,
    /// D: width of the speech encoder.
    pub speech_width: i64,
    /// E: width of the image encoder's output.
    pub width: i64,
    /// H: attention heads of the speech head.
    pub heads: i64,
    /// Whether hidden states are layer-normalised before they are summed.
    pub normalize_layers: bool,
    /// The fusion encoder, or none: training without CMD, and inference.
    pub fusion: Option<QueryNorm>,
    /// Whether L_cmd has a temperature of its own; of no use without a fusion encoder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_temperature: bool,
    /// What makes S_cls of the hidden states.
    #[serde(default, skip_serializing_if = "HeadKind::is_parallel")]
    pub head: HeadKind,
}

impl ModelConfig {
    /// Names, shapes and starts of all parameters.
    #[must_use]
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let mut specs = SpeechHead::specs(self.layers, self.speech_width, self.width, self.head);
        if let Some(query_norm) = self.fusion {
            specs.extend(FusionEncoder::specs(self.width, query_norm));
        }
        let start = Initial::Constant((1.0 / INITIAL_TAU).ln());
        specs.push(ParameterSpec::new(LOG_INV_TAU, &[], start));
        if self.has_own_temperature() {
            specs.push(ParameterSpec::new(CMD_LOG_INV_TAU, &[], start));
        }
        specs
    }

    /// In what it is unlike `ours`, in words.
    #[must_use]
    pub fn unlike(&self, ours: &Self) -> String {
        let parts = |config: &Self| {
            [
                ("layers of the speech encoder", config.layers.to_string()),
                ("width of the speech encoder", config.speech_width.to_string()),
                ("width of the image encoder", config.width.to_string()),
                ("speech heads", config.heads.to_string()),
                ("speech normalises layers", config.normalize_layers.to_string()),
                ("fusion encoder", config.fusion.map_or("none".to_owned(), |norm| format!("normalising {norm:?}"))),
                ("L_cmd has its own temperature", config.own_temperature.to_string()),
                ("speech head", config.head.to_string()),
            ]
        };
        let pairs = parts(self).into_iter().zip(parts(ours)).filter(|(theirs, ours)| theirs != ours);
        let each: Vec<String> =
            pairs.map(|((name, theirs), (_, ours))| format!("{name}: {theirs} there, {ours} here")).collect();
        each.join("; ")
    }

    fn has_own_temperature(&self) -> bool {
        self.own_temperature && self.fusion.is_some()
    }
}

/// Which speech pools which image in the fusion encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Image j with its own speech (Eq. 6, Figure 1b).
    #[default]
    Paired,
    /// Image j with every speech k (X-Pool).
    All,
}

/// Through which use of S_cls the gradient of L_cmd reaches it; a reading of Eq. 6 that the paper leaves open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CmdGradient {
    /// As query of the fusion encoder and in the similarity with what that denoised.
    #[default]
    Both,
    /// In the similarity alone.
    Similarity,
    /// As query alone.
    Query,
    /// None: the fusion encoder (and the temperature) learns alone.
    Neither,
}

impl CmdGradient {
    /// S_cls as query and for the similarity.
    fn sides(self, speech_cls: &Tensor) -> (Tensor, Tensor) {
        let side = |learns: bool| if learns { speech_cls.shallow_clone() } else { speech_cls.detach() };
        (side(matches!(self, Self::Both | Self::Query)), side(matches!(self, Self::Both | Self::Similarity)))
    }
}

/// What the losses of a step depend on beside features and parameters.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// Weight of L_cmd; 0 skips the branch.
    pub alpha: f64,
    /// Which speech pools which image.
    pub pairing: Pairing,
    /// What other rows with the same image are.
    pub same_image: SameImage,
    /// Where L_cmd teaches the speech head.
    pub gradient: CmdGradient,
}

/// Speech head, fusion encoder and temperature over one set of parameters.
#[derive(Debug)]
pub struct CmdModel {
    config: ModelConfig,
    parameters: Parameters,
    speech: SpeechHead,
    fusion: Option<FusionEncoder>,
    log_inv_tau: Tensor,
    /// That of L_cmd, if it has its own.
    cmd_log_inv_tau: Option<Tensor>,
}

impl CmdModel {
    /// A fresh model; its first values are a function of `seed`.
    #[must_use]
    pub fn new(config: ModelConfig, seed: u64, device: Device) -> Self {
        let parameters = Parameters::new(config.parameters(), seed, device);
        Self {
            speech: SpeechHead::bind(&parameters, config.heads, config.normalize_layers, config.head),
            fusion: config.fusion.map(|query_norm| FusionEncoder::bind(&parameters, query_norm)),
            log_inv_tau: parameters.get(LOG_INV_TAU),
            cmd_log_inv_tau: config.has_own_temperature().then(|| parameters.get(CMD_LOG_INV_TAU)),
            config,
            parameters,
        }
    }

    /// One of the same shape with the same values of its own; what a cascaded head holds beside its parameters is shared.
    #[must_use]
    pub fn twin(&self) -> Self {
        let mut twin = Self::new(self.config.clone(), 0, self.parameters.flat().device());
        tch::no_grad(|| twin.parameters.flat().shallow_clone().copy_(self.parameters.flat()));
        twin.share_keywords(self);
        twin
    }

    /// Shares what a cascaded head of `other`, a model of the same shape, holds beside its parameters: running statistics, vocabulary, text encoder.
    pub fn share_keywords(&mut self, other: &Self) {
        if let (Some(own), Some(other)) = (self.speech.cascade_mut(), other.speech.cascade()) {
            own.share(other);
        }
    }

    /// Has a cascaded head, if it is one, read its keywords by `reader`, which knows `vocabulary`.
    ///
    /// # Errors
    /// When that lacks a token that a keyword may be.
    pub fn read_by(&mut self, reader: Rc<dyn KeywordReader>, vocabulary: &Vocabulary) -> Result<(), String> {
        self.speech.cascade_mut().map_or(Ok(()), |cascade| cascade.read_by(reader, vocabulary))
    }

    /// Lets keywords be the tokens of `vocabulary`, and starts the batch normalisation at their statistics.
    pub fn start_keywords(&self, vocabulary: &Vocabulary) {
        if let Some(cascade) = self.speech.cascade() {
            cascade.start(&vocabulary.ids, &vocabulary.vectors);
        }
    }

    /// What is kept beside the parameters, f32, by the name that it has in a checkpoint.
    pub fn buffers(&self) -> Vec<(&'static str, &Tensor)> {
        self.speech.cascade().map(|cascade| cascade.buffers().to_vec()).unwrap_or_default()
    }

    /// Its shape.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its parameters.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Its parameters, to change them.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Leaves of the speech head, and those that the losses read, which stand behind them: fusion encoder and temperature.
    pub fn leaves(&self) -> (&[Tensor], &[Tensor]) {
        let of_head = self.parameters.specs().iter().filter(|spec| spec.name.starts_with("speech.")).count();
        self.parameters.leaves().split_at(of_head)
    }

    /// The speech head.
    #[must_use]
    pub fn speech(&self) -> &SpeechHead {
        &self.speech
    }

    /// I_cls [B, E], L2-normalised, of the image encoder's CLS output [B, E]; and the same of what the text encoder makes of texts.
    pub fn frozen_embedding(output: &Tensor) -> Tensor {
        l2_normalise(&output.to_kind(tch::Kind::Float))
    }

    /// 1/tau, a scalar, at most 100.
    pub fn inverse_tau(&self) -> Tensor {
        inverse(&self.log_inv_tau)
    }

    /// 1/tau of L_cmd.
    pub fn cmd_inverse_tau(&self) -> Tensor {
        inverse(self.cmd_log_inv_tau.as_ref().unwrap_or(&self.log_inv_tau))
    }

    /// Brings the stored temperatures back to their limit; to be called after every update.
    pub fn clamp_temperature(&mut self) {
        for stored in [Some(&self.log_inv_tau), self.cmd_log_inv_tau.as_ref()].into_iter().flatten() {
            let _ = stored.detach().clamp_max_(MAX_INVERSE_TAU.ln());
        }
    }

    /// Takes the values of another model: of the speech head and the temperature, and where both have one and `with_fusion` says so, of the
    /// fusion encoder. Returns whether that was taken.
    ///
    /// # Errors
    /// When the models are of different forms.
    pub fn take(&mut self, other: &Self, with_fusion: bool) -> Result<bool, String> {
        let takes_fusion = with_fusion && self.fusion.is_some() && other.fusion.is_some();
        let mut form =
            ModelConfig { fusion: self.config.fusion, own_temperature: self.config.own_temperature, ..other.config };
        if takes_fusion {
            (form.fusion, form.own_temperature) = (other.config.fusion, other.config.own_temperature);
        }
        if let (HeadKind::Cascaded(own), HeadKind::Cascaded(theirs)) = (self.config.head, &mut form.head) {
            theirs.vocabulary = own.vocabulary;
        }
        let tokens = |model: &Self| model.speech.cascade().map(|cascade| cascade.tokens().shallow_clone());
        if form == self.config && tokens(self).zip(tokens(other)).is_some_and(|(own, theirs)| own != theirs) {
            let why = "its keywords may be other tokens than the configuration's; train both with speech.keyword_vocabulary = \"whole\"";
            return Err(why.to_owned());
        }
        if form != self.config {
            return Err(format!("its model is another one than the configuration's: {}", form.unlike(&self.config)));
        }
        let is_fusion = |name: &str| name.starts_with("fusion.") || name == CMD_LOG_INV_TAU;
        for ((_, own), (_, theirs)) in self.buffers().into_iter().zip(other.buffers()) {
            tch::no_grad(|| own.shallow_clone().copy_(theirs));
        }
        for (spec, values) in other.parameters.iter().filter(|(spec, _)| takes_fusion || !is_fusion(&spec.name)) {
            self.parameters.set(&spec.name, values);
        }
        Ok(takes_fusion)
    }

    /// Sets FC of the fusion encoder to 0, so that it starts as the attended patches themselves.
    pub fn start_fusion_at_zero(&mut self) {
        if let Some(fusion) = &self.fusion {
            fusion.zero();
        }
    }

    /// The fusion encoder, if there is one.
    #[must_use]
    pub fn fusion(&self) -> Option<&FusionEncoder> {
        self.fusion.as_ref()
    }

    /// The losses of a batch. `noise` is used when `options.alpha` is not 0 and the model has a fusion encoder; L_sic tells the speech from
    /// `further` images too.
    ///
    /// Gradients reach `speech_cls`, the fusion encoder and the temperature, never the image side.
    #[must_use]
    pub fn losses(
        &self,
        embedded: &Embedded,
        noise: Option<&PatchNoise>,
        further: Option<&FurtherImages>,
        options: LossOptions,
    ) -> Losses {
        let inverse_tau = self.inverse_tau();
        let speech_cls = embedded.speech_cls.shallow_clone();
        let targets = Targets::new(&embedded.image_ids, options.same_image);
        let image_cls = Self::frozen_embedding(&embedded.image_cls);
        let logits = speech_cls.matmul(&image_cls.tr()) * &inverse_tau;
        let teacher = embedded.teacher.as_ref().map(|Teacher { speech_cls, weight }| {
            let inverse_tau = inverse_tau.detach();
            let own = speech_cls.matmul(&image_cls.tr()) * &inverse_tau;
            let further = further.map(|further| further.logits(speech_cls, &inverse_tau));
            TeacherLogits { own, further, weight: *weight }
        });
        let further = further.map(|further| further.logits(&speech_cls, &inverse_tau));
        let sic = targets.loss_beside(&logits, further.as_ref(), teacher.as_ref());

        let cmd = match (&self.fusion, noise) {
            (Some(fusion), Some(noise)) if options.alpha != 0.0 => {
                let noisy = noise.apply(&embedded.patches);
                let (query, scored) = options.gradient.sides(&speech_cls);
                let (Fused { denoised, attention }, similarity) = match options.pairing {
                    Pairing::Paired => {
                        let fused = fusion.paired(&query, &noisy);
                        let similarity = scored.matmul(&fused.denoised.tr());
                        (fused, similarity)
                    }
                    Pairing::All => {
                        let fused = fusion.all(&query, &noisy);
                        let similarity = fused.denoised.matmul(&scored.unsqueeze(-1)).squeeze_dim(-1);
                        (fused, similarity)
                    }
                };
                Some(Denoising { loss: targets.loss(&(similarity * self.cmd_inverse_tau())), denoised, attention })
            }
            _ => None,
        };
        let text = embedded.text.as_ref().map(|TextAnchor { cls, ids, .. }| {
            let targets = Targets::new(ids, SameImage::Positives);
            targets.loss(&(speech_cls.matmul(&cls.tr()) * &inverse_tau))
        });
        let with_cmd = match &cmd {
            Some(cmd) => &sic + &cmd.loss * options.alpha,
            None => sic.shallow_clone(),
        };
        let total = match (&text, &embedded.text) {
            (Some(loss), Some(anchor)) => with_cmd + loss * anchor.weight,
            _ => with_cmd,
        };
        Losses { total, sic, cmd, text, speech_cls, image_cls }
    }
}

/// 1/tau of a stored log(1/tau).
fn inverse(log_inv_tau: &Tensor) -> Tensor {
    log_inv_tau.clamp_max(MAX_INVERSE_TAU.ln()).exp()
}
