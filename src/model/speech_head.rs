//! The trained part of the speech encoder Psi (Section 2.2 and 3.1): a learned sum of HuBERT's hidden states, a CLS token, one
//! post-norm transformer layer, a final LayerNorm and the projection to the shared width.
//!
//! Only the CLS output is used for retrieval and for both losses, so [`SpeechHead::embed`] computes that row alone. Its
//! query comes from the CLS token, which is the same for every utterance, so keys and values need no projection of every
//! frame: with x the sequence and q the query of a head, q·(W_k x) = (W_kᵀ q)·x and Σ a (W_v x) = W_v (Σ a x). The key bias
//! adds the same number to every logit and falls out of the softmax.

use tch::{Device, Kind, Tensor};

use super::layers::{LayerNorm, Linear, l2_normalise, standardise};
use super::libtorch::{LibtorchError, catch_libtorch};
use super::parameters::{Initial, ParameterSpec, Parameters};
use crate::draw::{Draw, Purpose};

/// Dropout of one training step. The mask of a row depends on (seed, step, row of the global batch) and on nothing else:
/// neither on padding nor on how the batch is shared out over processes.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability of a zero.
    pub rate: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Training step.
    pub step: u64,
    /// Row of the global batch at which this batch starts.
    pub first_row: u64,
}

/// Which values of a batch stay, on its device.
#[derive(Debug)]
pub struct DropoutMask {
    /// u8 [b, M]: 1 where a value stays.
    stays: Tensor,
    /// Of the values that stay.
    scale: f64,
}

/// Masks of 0 and 1/(1 - rate) at the four places of PyTorch's TransformerEncoderLayer, for the CLS row.
struct Masks {
    /// [B, H, T + 1]
    attention: Tensor,
    /// [B, D], after the attention's output projection
    attended: Tensor,
    /// [B, 4D], inside the feed-forward
    inner: Tensor,
    /// [B, D], after the feed-forward
    outer: Tensor,
}

impl Dropout {
    /// Draws which values of `rows` rows stay: u8 [rows, M], on the CPU.
    fn draw(&self, rows: u64, values: usize) -> Tensor {
        let threshold = (self.rate * 2f64.powi(32)) as u32;
        let mut stays = Vec::with_capacity(rows as usize * values);
        for row in 0..rows {
            let mut draw = Draw::new(self.seed, Purpose::Dropout, [self.step, self.first_row + row]);
            stays.extend((0..values).map(|_| u8::from(draw.bits() >= threshold)));
        }
        Tensor::from_slice(&stays).view([rows as i64, values as i64])
    }
}

impl DropoutMask {
    /// What [`SpeechHead::draw_dropout`] drew for `dropout`, brought to the batch's device.
    #[must_use]
    pub fn new(stays: Tensor, dropout: Dropout) -> Self {
        Self { stays, scale: f64::from((1.0 / (1.0 - dropout.rate)) as f32) }
    }

    /// The masks of some rows, i64 `[c]`, of [CLS; frames] of `length`.
    fn of(&self, rows: &Tensor, length: i64, heads: i64, width: i64) -> Masks {
        let values = self.stays.index_select(0, rows).narrow(1, 0, 6 * width + length * heads);
        let values = values.to_kind(Kind::Float) * self.scale;
        let parts = values.split_with_sizes([width, 4 * width, width, length * heads], 1);
        Masks {
            attended: parts[0].shallow_clone(),
            inner: parts[1].shallow_clone(),
            outer: parts[2].shallow_clone(),
            // Frame by frame, so that more padding only adds draws at the end.
            attention: parts[3].reshape([-1, length, heads]).transpose(1, 2),
        }
    }
}

fn dropped(x: Tensor, mask: Option<&Tensor>) -> Tensor {
    match mask {
        Some(mask) => x * mask,
        None => x,
    }
}

/// The layers' sum and what its gradient needs.
#[derive(Debug)]
pub struct LayerSum {
    /// [B, T, D].
    pub sum: Tensor,
    /// Mean and 1/σ of every state, [B, T, 1] each, a layer, if states are normalised.
    moments: Vec<(Tensor, Tensor)>,
}

impl LayerSum {
    /// The gradient of w, `[L]`, for the hidden states [L, B, T, D] that this is the sum of, where the sum has the gradient g:
    /// d L / d softmax(w)_l = <g, LN(h_l)> = Σ 1/σ (<g, h_l> - μ Σ_d g), over frames.
    pub fn gradient(&self, head: &SpeechHead, hidden: &Tensor, gradient: &Tensor) -> Tensor {
        let over_width = |x: &Tensor| x.sum_dim_intlist([-1i64].as_slice(), true, Kind::Float);
        tch::no_grad(|| {
            let whole = over_width(gradient);
            let products: Vec<Tensor> = (0..hidden.size()[0])
                .map(|layer| {
                    let product = over_width(&(hidden.select(0, layer) * gradient));
                    match self.moments.get(layer as usize) {
                        Some((mean, rstd)) => ((product - mean * &whole) * rstd).sum(Kind::Float),
                        None => product.sum(Kind::Float),
                    }
                })
                .collect();
            let (weights, products) = (head.layer_weights.softmax(0, None), Tensor::stack(&products, 0));
            &weights * (&products - (&weights * &products).sum(Kind::Float))
        })
    }
}

/// Weighted layer sum, CLS token, transformer layer, projection.
#[derive(Debug)]
pub struct SpeechHead {
    heads: i64,
    normalize_layers: bool,
    layer_weights: Tensor,
    cls: Tensor,
    in_proj: Linear,
    out_proj: Linear,
    linear1: Linear,
    linear2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
    norm: LayerNorm,
    proj: Linear,
}

impl SpeechHead {
    /// Place of w among the leaves.
    pub const LAYER_WEIGHTS: usize = 0;

    /// Parameters for `layers` hidden states of width `d` and a shared width `e`, started as PyTorch starts them.
    pub(super) fn specs(layers: i64, d: i64, e: i64) -> Vec<ParameterSpec> {
        let xavier = Initial::Uniform((6.0 / (4 * d) as f64).sqrt());
        let attention = "speech.transformer.self_attn";
        let [out_weight, out_bias] = Linear::specs(&format!("{attention}.out_proj"), d, d);
        let mut specs = vec![
            ParameterSpec::new("speech.layer_weights", &[layers], Initial::Constant(0.0)),
            ParameterSpec::new("speech.cls", &[d], Initial::Normal),
            ParameterSpec::new(format!("{attention}.in_proj_weight"), &[3 * d, d], xavier),
            ParameterSpec::new(format!("{attention}.in_proj_bias"), &[3 * d], Initial::Constant(0.0)),
            out_weight,
            ParameterSpec { initial: Initial::Constant(0.0), ..out_bias },
        ];
        specs.extend(Linear::specs("speech.transformer.linear1", d, 4 * d));
        specs.extend(Linear::specs("speech.transformer.linear2", 4 * d, d));
        specs.extend(LayerNorm::specs("speech.transformer.norm1", d));
        specs.extend(LayerNorm::specs("speech.transformer.norm2", d));
        specs.extend(LayerNorm::specs("speech.norm", d));
        specs.extend(Linear::specs("speech.proj", d, e));
        specs
    }

    pub(super) fn bind(parameters: &Parameters, heads: i64, normalize_layers: bool) -> Self {
        let attention = "speech.transformer.self_attn";
        Self {
            heads,
            normalize_layers,
            layer_weights: parameters.get("speech.layer_weights"),
            cls: parameters.get("speech.cls"),
            in_proj: Linear {
                weight: parameters.get(&format!("{attention}.in_proj_weight")),
                bias: parameters.get(&format!("{attention}.in_proj_bias")),
            },
            out_proj: Linear::bind(parameters, &format!("{attention}.out_proj")),
            linear1: Linear::bind(parameters, "speech.transformer.linear1"),
            linear2: Linear::bind(parameters, "speech.transformer.linear2"),
            norm1: LayerNorm::bind(parameters, "speech.transformer.norm1"),
            norm2: LayerNorm::bind(parameters, "speech.transformer.norm2"),
            norm: LayerNorm::bind(parameters, "speech.norm"),
            proj: Linear::bind(parameters, "speech.proj"),
        }
    }

    /// softmax(w), `[L]`: what each hidden state of the speech encoder counts.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn layer_weights(&self) -> Result<Vec<f64>, LibtorchError> {
        let weights = || self.layer_weights.detach().softmax(0, Kind::Double).to_device(Device::Cpu);
        catch_libtorch(|| Vec::try_from(weights()).unwrap_or_default())
    }

    /// Draws the dropout of `rows` rows of at most `frames` frames: which values stay, on the CPU.
    pub fn draw_dropout(&self, dropout: Dropout, rows: u64, frames: i64) -> Tensor {
        dropout.draw(rows, (6 * self.cls.size()[0] + (frames + 1) * self.heads) as usize)
    }

    /// S_cls, [B, E], L2-normalised, without dropout and without a gradient for the weights of the layers.
    ///
    /// `hidden` [L, B, T, D]: the frozen encoder's hidden states; `frames` `[B]`: valid frames of each utterance. What stands
    /// in `hidden` beyond them has no influence as long as it is finite.
    pub fn forward(&self, hidden: &Tensor, frames: &Tensor) -> Tensor {
        self.embed(&self.layer_sum(hidden).sum, frames, None)
    }

    /// Σ_l softmax(w)_l LN(hidden_l), [B, T, D], without a gradient, layer by layer: no copy of all layers is made.
    /// [`LayerSum::gradient`] has the gradient of w.
    pub fn layer_sum(&self, hidden: &Tensor) -> LayerSum {
        tch::no_grad(|| {
            let weights = self.layer_weights.softmax(0, None);
            let size = hidden.size();
            let mut sum = Tensor::zeros(&size[1..], (Kind::Float, hidden.device()));
            let mut moments = Vec::new();
            for layer in 0..size[0] {
                let state = hidden.select(0, layer).to_kind(Kind::Float);
                let state = if self.normalize_layers {
                    let (state, mean, rstd) = standardise(&state);
                    moments.push((mean, rstd));
                    state
                } else {
                    state
                };
                let _ = sum.addcmul_(&state, &weights.get(layer));
            }
            LayerSum { sum, moments }
        })
    }

    /// S_cls, [B, E], L2-normalised, of the layers' sum [B, T, D]; with the dropout of these rows, i64 `[B]`, of a batch.
    pub fn embed(&self, sum: &Tensor, frames: &Tensor, dropout: Option<(&DropoutMask, &Tensor)>) -> Tensor {
        let x = self.sequence(sum);
        let (batch, length, width) = (x.size()[0], x.size()[1], self.cls.size()[0]);
        let masks = dropout.map(|(mask, rows)| mask.of(rows, length, self.heads, width));
        let masks = masks.as_ref();

        let (head_width, per_head) = (width / self.heads, [self.heads, -1, width]);
        let [query_weight, key_weight, value_weight] = self.in_proj_parts(&self.in_proj.weight);
        let [query_bias, _, value_bias] = self.in_proj_parts(&self.in_proj.bias);
        let query = self.cls.unsqueeze(0).linear(&query_weight, Some(&query_bias)).view([self.heads, 1, head_width]);
        // W_kᵀ q of each head, [H, D]
        let key_query = query.matmul(&key_weight.view(per_head)).squeeze_dim(1);
        let logits = x.matmul(&key_query.tr()).transpose(1, 2) / (head_width as f64).sqrt();
        let attention = logits.masked_fill(&padding(frames, length).unsqueeze(1), f64::NEG_INFINITY).softmax(-1, None);
        let attention = dropped(attention, masks.map(|masks| &masks.attention));
        // Σ a x of each head, [B, H, D], then its W_v, [B, H, D / H]
        let pooled = attention.matmul(&x).unsqueeze(2);
        let values = pooled.matmul(&value_weight.view(per_head).transpose(1, 2)).squeeze_dim(2)
            + value_bias.view([self.heads, head_width]) * attention.sum_dim_intlist([-1i64].as_slice(), true, None);
        let attended = self.out_proj.forward(&values.reshape([batch, width]));

        let x = self.norm1.forward(&(&self.cls + dropped(attended, masks.map(|masks| &masks.attended))));
        let inner = dropped(self.linear1.forward(&x).gelu("none"), masks.map(|masks| &masks.inner));
        let outer = dropped(self.linear2.forward(&inner), masks.map(|masks| &masks.outer));
        self.project(&self.norm2.forward(&(x + outer)))
    }

    /// S = {S_cls, s_1, ..., s_T}, [B, T + 1, E], each L2-normalised, without dropout: for those who want the frames too.
    pub fn forward_frames(&self, hidden: &Tensor, frames: &Tensor) -> Tensor {
        let x = self.sequence(&self.layer_sum(hidden).sum);
        let (batch, length, width) = (x.size()[0], x.size()[1], self.cls.size()[0]);
        let per_head = |x: &Tensor| x.view([batch, length, self.heads, -1]).transpose(1, 2);
        let projected = self.in_proj.forward(&x);
        let parts = projected.chunk(3, -1);
        let (query, key, value) = (per_head(&parts[0]), per_head(&parts[1]), per_head(&parts[2]));
        let logits = query.matmul(&key.transpose(-2, -1)) / ((width / self.heads) as f64).sqrt();
        let hidden_keys = padding(frames, length).view([batch, 1, 1, length]);
        let attention = logits.masked_fill(&hidden_keys, f64::NEG_INFINITY).softmax(-1, None);
        let values = attention.matmul(&value).transpose(1, 2).reshape([batch, length, width]);
        let x = self.norm1.forward(&(x + self.out_proj.forward(&values)));
        let outer = self.linear2.forward(&self.linear1.forward(&x).gelu("none"));
        self.project(&self.norm2.forward(&(x + outer)))
    }

    /// [CLS; frames], [B, T + 1, D].
    fn sequence(&self, sum: &Tensor) -> Tensor {
        Tensor::cat(&[self.cls.expand([sum.size()[0], 1, self.cls.size()[0]], false), sum.shallow_clone()], 1)
    }

    fn project(&self, x: &Tensor) -> Tensor {
        l2_normalise(&self.proj.forward(&self.norm.forward(x)))
    }

    /// The query, key and value part of a fused attention parameter.
    fn in_proj_parts(&self, fused: &Tensor) -> [Tensor; 3] {
        // Not three times `narrow`, whose gradient is as large as `fused` each time.
        let parts = fused.split(self.cls.size()[0], 0);
        [0, 1, 2].map(|part| parts[part].shallow_clone())
    }
}

/// [B, length], true where a position of [CLS; frames] is padding.
fn padding(frames: &Tensor, length: i64) -> Tensor {
    let position = Tensor::arange(length, (Kind::Int64, frames.device()));
    position.unsqueeze(0).gt_tensor(&frames.unsqueeze(1))
}
