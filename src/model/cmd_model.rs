//! The trained model as a whole and its objective L = L_sic + alpha L_cmd (Eq. 7).

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::contrastive::{SameImage, Targets};
use super::fusion::{Fused, FusionEncoder, QueryNorm, relative_entropy};
use super::layers::l2_normalise;
use super::noise::PatchNoise;
use super::parameters::{Initial, ParameterSpec, Parameters};
use super::speech_head::SpeechHead;

/// Start of the temperature (Section 2.3 leaves it open; CLIP's).
const INITIAL_TAU: f64 = 0.07;
/// 1/tau stays at or below this, as in CLIP: `log_inv_tau` <= ln 100.
const MAX_INVERSE_TAU: f64 = 100.0;
const LOG_INV_TAU: &str = "log_inv_tau";

/// Shape of the model; a checkpoint carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl ModelConfig {
    /// Names, shapes and starts of all parameters.
    #[must_use]
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let mut specs = SpeechHead::specs(self.layers, self.speech_width, self.width);
        if let Some(query_norm) = self.fusion {
            specs.extend(FusionEncoder::specs(self.width, query_norm));
        }
        specs.push(ParameterSpec::new(LOG_INV_TAU, &[], Initial::Constant((1.0 / INITIAL_TAU).ln())));
        specs
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

/// What the losses of a step depend on beside features and parameters.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// Weight of L_cmd; 0 skips the branch.
    pub alpha: f64,
    /// Which speech pools which image.
    pub pairing: Pairing,
    /// What other rows with the same image are.
    pub same_image: SameImage,
}

/// Frozen features of a batch of b rows.
#[derive(Debug)]
pub struct Encoded {
    /// Hidden states, in chunks.
    pub speech: Vec<SpeechChunk>,
    /// i64 `[b]`: where each row stands in the chunks, one behind the other.
    pub speech_place: Tensor,
    /// [b, E]: the image encoder's CLS output, not normalised.
    pub image_cls: Tensor,
    /// [b, N, E]: its patches.
    pub patches: Tensor,
}

/// Hidden states of c rows of a batch.
#[derive(Debug)]
pub struct SpeechChunk {
    /// [L, c, T, D]: hidden states of the speech encoder.
    pub hidden: Tensor,
    /// i64 `[c]`: valid frames.
    pub frames: Tensor,
    /// i64 `[c]`: their rows in the batch.
    pub rows: Tensor,
}

/// What the losses of a batch are computed from.
#[derive(Debug)]
pub struct Embedded {
    /// S_cls, [B, E].
    pub speech_cls: Tensor,
    /// [B, E]: the image encoder's CLS output, not normalised.
    pub image_cls: Tensor,
    /// [B, N, E]: its patches.
    pub patches: Tensor,
    /// i64 `[B]`: rows with equal numbers show the same image.
    pub image_ids: Tensor,
}

/// Losses of a batch, scalars but for `cmd`'s diagnostics.
#[derive(Debug)]
pub struct Losses {
    /// L, Eq. 7.
    pub total: Tensor,
    /// L_sic, Eq. 5.
    pub sic: Tensor,
    /// The denoising branch, unless alpha is 0.
    pub cmd: Option<Denoising>,
    /// S_cls, [B, E].
    pub speech_cls: Tensor,
    /// I_cls, [B, E].
    pub image_cls: Tensor,
}

/// The denoising branch.
#[derive(Debug)]
pub struct Denoising {
    /// L_cmd, Eq. 6.
    pub loss: Tensor,
    /// F^I', see [`Fused`].
    pub denoised: Tensor,
    /// Attention over the patches, see [`Fused`].
    pub attention: Tensor,
}

impl Denoising {
    /// Mean entropy of the attention relative to log N; near 1, the pooling is a mean and CMD decays to contrast with it.
    pub fn attention_entropy(&self) -> Tensor {
        relative_entropy(&self.attention)
    }
}

/// Speech head, fusion encoder and temperature over one set of parameters.
#[derive(Debug)]
pub struct CmdModel {
    config: ModelConfig,
    parameters: Parameters,
    speech: SpeechHead,
    fusion: Option<FusionEncoder>,
    log_inv_tau: Tensor,
}

impl CmdModel {
    /// A fresh model; its first values are a function of `seed`.
    #[must_use]
    pub fn new(config: ModelConfig, seed: u64, device: Device) -> Self {
        let parameters = Parameters::new(config.parameters(), seed, device);
        Self {
            speech: SpeechHead::bind(&parameters, config.heads, config.normalize_layers),
            fusion: config.fusion.map(|query_norm| FusionEncoder::bind(&parameters, query_norm)),
            log_inv_tau: parameters.get(LOG_INV_TAU),
            config,
            parameters,
        }
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

    /// Values of the speech head; those of the fusion encoder and the temperature, which the losses read, stand behind them.
    #[must_use]
    pub fn speech_count(&self) -> i64 {
        let specs = self.parameters.specs().iter();
        specs.filter(|spec| spec.name.starts_with("speech.")).map(ParameterSpec::count).sum()
    }

    /// The speech head.
    #[must_use]
    pub fn speech(&self) -> &SpeechHead {
        &self.speech
    }

    /// I_cls [B, E], L2-normalised, of the image encoder's CLS output [B, E].
    pub fn image_embedding(image_cls: &Tensor) -> Tensor {
        l2_normalise(&image_cls.to_kind(tch::Kind::Float))
    }

    /// 1/tau, a scalar, at most 100.
    pub fn inverse_tau(&self) -> Tensor {
        self.log_inv_tau.clamp_max(MAX_INVERSE_TAU.ln()).exp()
    }

    /// Brings the stored temperature back to its limit; to be called after every update.
    pub fn clamp_temperature(&mut self) {
        let _ = self.log_inv_tau.detach().clamp_max_(MAX_INVERSE_TAU.ln());
    }

    /// The losses of a batch. `noise` is used when `options.alpha` is not 0 and the model has a fusion encoder.
    ///
    /// Gradients reach `speech_cls`, the fusion encoder and the temperature, never the image side.
    #[must_use]
    pub fn losses(&self, embedded: &Embedded, noise: Option<&PatchNoise>, options: LossOptions) -> Losses {
        let inverse_tau = self.inverse_tau();
        let speech_cls = embedded.speech_cls.shallow_clone();
        let targets = Targets::new(&embedded.image_ids, options.same_image);
        let image_cls = Self::image_embedding(&embedded.image_cls);
        let sic = targets.loss(&(speech_cls.matmul(&image_cls.tr()) * &inverse_tau));

        let cmd = match (&self.fusion, noise) {
            (Some(fusion), Some(noise)) if options.alpha != 0.0 => {
                let noisy = noise.apply(&embedded.patches);
                let (Fused { denoised, attention }, similarity) = match options.pairing {
                    Pairing::Paired => {
                        let fused = fusion.paired(&speech_cls, &noisy);
                        let similarity = speech_cls.matmul(&fused.denoised.tr());
                        (fused, similarity)
                    }
                    Pairing::All => {
                        let fused = fusion.all(&speech_cls, &noisy);
                        let similarity = fused.denoised.matmul(&speech_cls.unsqueeze(-1)).squeeze_dim(-1);
                        (fused, similarity)
                    }
                };
                Some(Denoising { loss: targets.loss(&(similarity * &inverse_tau)), denoised, attention })
            }
            _ => None,
        };
        let total = match &cmd {
            Some(cmd) => &sic + &cmd.loss * options.alpha,
            None => sic.shallow_clone(),
        };
        Losses { total, sic, cmd, speech_cls, image_cls }
    }
}
