//! The trained part of the speech encoder Psi (Section 2.2 and 3.1): a learned sum of HuBERT's hidden states, a CLS token, one
//! post-norm transformer layer, a final LayerNorm and the projection to the shared width. The cascaded head has K CLS tokens, one a keyword, a
//! projection to the width of the text encoder's token embeddings, and what stands behind it ([`Cascade`]).
//!
//! Only the CLS outputs are used for retrieval and for both losses, so [`SpeechHead::project`] computes those rows alone. Their
//! queries come from the CLS tokens, which are the same for every utterance, so keys and values need no projection of every
//! frame: with x the sequence and q the query of a head, q·(W_k x) = (W_kᵀ q)·x and Σ a (W_v x) = W_v (Σ a x). The key bias
//! adds the same number to every logit and falls out of the softmax.

use tch::{Device, Kind, Tensor};

use super::cascade::{Cascade, HeadKind, Keywords};
use super::dropout::{Dropout, DropoutMask, DropoutPlaces, FeedForwardMasks, dropped};
use super::layers::{LayerNorm, Linear, l2_normalise, standardise};
use super::libtorch::{LibtorchError, catch_libtorch};
use super::parameters::{Initial, ParameterSpec, Parameters};

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

/// Weighted layer sum, CLS tokens, transformer layer, projection.
#[derive(Debug)]
pub struct SpeechHead {
    heads: i64,
    normalize_layers: bool,
    layer_weights: Tensor,
    /// [K, D]
    cls: Tensor,
    in_proj: Linear,
    out_proj: Linear,
    norm1: LayerNorm,
    feed_forward: Option<FeedForward>,
    proj: Linear,
    cascade: Option<Cascade>,
}

/// What follows the attention in a transformer layer, and the LayerNorm behind it.
#[derive(Debug)]
struct FeedForward {
    linear1: Linear,
    linear2: Linear,
    norm2: LayerNorm,
    norm: LayerNorm,
}

impl FeedForward {
    fn specs(d: i64) -> impl Iterator<Item = [ParameterSpec; 2]> {
        let linear1 = Linear::specs("speech.transformer.linear1", d, 4 * d);
        let linear2 = Linear::specs("speech.transformer.linear2", 4 * d, d);
        [linear1, linear2].into_iter()
    }

    fn bind(parameters: &Parameters) -> Self {
        Self {
            linear1: Linear::bind(parameters, "speech.transformer.linear1"),
            linear2: Linear::bind(parameters, "speech.transformer.linear2"),
            norm2: LayerNorm::bind(parameters, "speech.transformer.norm2"),
            norm: LayerNorm::bind(parameters, "speech.norm"),
        }
    }

    /// [.., D] -> [.., D].
    fn forward(&self, x: Tensor, masks: Option<&FeedForwardMasks>) -> Tensor {
        let inner = dropped(self.linear1.forward(&x).gelu("none"), masks.map(|masks| &masks.inner));
        let outer = dropped(self.linear2.forward(&inner), masks.map(|masks| &masks.outer));
        self.norm.forward(&self.norm2.forward(&(x + outer)))
    }
}

impl SpeechHead {
    /// Place of w among the leaves.
    pub const LAYER_WEIGHTS: usize = 0;

    /// Parameters for `layers` hidden states of a width `d` and a shared width `e`, started as PyTorch starts them.
    pub(super) fn specs(layers: i64, d: i64, e: i64, head: HeadKind) -> Vec<ParameterSpec> {
        let xavier = Initial::Uniform((6.0 / (4 * d) as f64).sqrt());
        let attention = "speech.transformer.self_attn";
        let [out_weight, out_bias] = Linear::specs(&format!("{attention}.out_proj"), d, d);
        let (cls, outputs, is_whole) = match head {
            HeadKind::Parallel => (vec![d], e, true),
            HeadKind::Cascaded(config) => (vec![config.keywords, d], config.token_width, config.feed_forward),
        };
        let mut specs = vec![
            ParameterSpec::new("speech.layer_weights", &[layers], Initial::Constant(0.0)),
            ParameterSpec::new("speech.cls", &cls, Initial::Normal),
            ParameterSpec::new(format!("{attention}.in_proj_weight"), &[3 * d, d], xavier),
            ParameterSpec::new(format!("{attention}.in_proj_bias"), &[3 * d], Initial::Constant(0.0)),
            out_weight,
            ParameterSpec { initial: Initial::Constant(0.0), ..out_bias },
        ];
        if is_whole {
            specs.extend(FeedForward::specs(d).flatten());
        }
        specs.extend(LayerNorm::specs("speech.transformer.norm1", d));
        if is_whole {
            specs.extend(LayerNorm::specs("speech.transformer.norm2", d));
            specs.extend(LayerNorm::specs("speech.norm", d));
        }
        specs.extend(Linear::specs("speech.proj", d, outputs));
        if let HeadKind::Cascaded(config) = head {
            specs.extend(config.specs());
        }
        specs
    }

    pub(super) fn bind(parameters: &Parameters, heads: i64, normalize_layers: bool, head: HeadKind) -> Self {
        let attention = "speech.transformer.self_attn";
        let cascade = match head {
            HeadKind::Parallel => None,
            HeadKind::Cascaded(config) => Some(Cascade::bind(parameters, config)),
        };
        let is_whole = cascade.as_ref().is_none_or(|cascade| cascade.config().feed_forward);
        let cls = parameters.get("speech.cls");
        let width = cls.size()[cls.dim() - 1];
        Self {
            heads,
            normalize_layers,
            layer_weights: parameters.get("speech.layer_weights"),
            cls: cls.view([-1, width]),
            in_proj: Linear {
                weight: parameters.get(&format!("{attention}.in_proj_weight")),
                bias: parameters.get(&format!("{attention}.in_proj_bias")),
            },
            out_proj: Linear::bind(parameters, &format!("{attention}.out_proj")),
            norm1: LayerNorm::bind(parameters, "speech.transformer.norm1"),
            feed_forward: is_whole.then(|| FeedForward::bind(parameters)),
            proj: Linear::bind(parameters, "speech.proj"),
            cascade,
        }
    }

    /// K: CLS tokens, 1 but for the cascaded head.
    fn tokens(&self) -> i64 {
        self.cls.size()[0]
    }

    /// D.
    fn width(&self) -> i64 {
        self.cls.size()[1]
    }

    fn dropout_places(&self) -> DropoutPlaces {
        let (tokens, width, feed_forward) = (self.tokens(), self.width(), self.feed_forward.is_some());
        DropoutPlaces { tokens, width, heads: self.heads, feed_forward }
    }

    /// What stands behind the projection of a cascaded head.
    #[must_use]
    pub fn cascade(&self) -> Option<&Cascade> {
        self.cascade.as_ref()
    }

    pub(super) fn cascade_mut(&mut self) -> Option<&mut Cascade> {
        self.cascade.as_mut()
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
        dropout.draw(rows, self.dropout_places().values(self.tokens() + frames))
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
        self.finish(&self.project(sum, frames, dropout))
    }

    /// S_cls, [B, E], L2-normalised, of what [`Self::project`] gives; that of a cascaded head by its running statistics.
    pub fn finish(&self, projected: &Tensor) -> Tensor {
        match &self.cascade {
            None => l2_normalise(&projected.squeeze_dim(1)),
            Some(cascade) => cascade.evaluate(projected),
        }
    }

    /// The CLS tokens after the layer and the projection, [B, 1, E] or, of a cascaded head, [B, K, W], of the layers' sum [B, T, D].
    pub fn project(&self, sum: &Tensor, frames: &Tensor, dropout: Option<(&DropoutMask, &Tensor)>) -> Tensor {
        let x = self.sequence(sum);
        let (batch, length, tokens, width) = (x.size()[0], x.size()[1], self.tokens(), self.width());
        let masks = dropout.map(|(mask, rows)| mask.of(rows, length, self.dropout_places()));
        let masks = masks.as_ref();

        let [query_weight, key_weight, value_weight] = self.in_proj_parts(&self.in_proj.weight);
        let [query_bias, _, value_bias] = self.in_proj_parts(&self.in_proj.bias);
        let attention = self.attention(&x, frames, [&query_weight, &query_bias, &key_weight]);
        let attention = dropped(attention, masks.map(|masks| &masks.attention));
        // Σ a x of each head and token, [B, H, K, D], then its W_v, [B, H, K, D / H]
        let pooled = attention.matmul(&x).view([batch, self.heads, tokens, width]);
        let whole = attention.sum_dim_intlist([-1i64].as_slice(), true, None).view([batch, self.heads, tokens, 1]);
        let values = pooled.matmul(&value_weight.view([self.heads, -1, width]).transpose(1, 2))
            + value_bias.view([self.heads, 1, -1]) * whole;
        let attended = self.out_proj.forward(&values.transpose(1, 2).reshape([batch, tokens, width]));

        let after = masks.and_then(|masks| masks.feed_forward.as_ref());
        let x = self.norm1.forward(&(&self.cls + dropped(attended, after.map(|masks| &masks.attended))));
        self.proj.forward(&match &self.feed_forward {
            Some(feed_forward) => feed_forward.forward(x, after),
            None => x,
        })
    }

    /// The keywords of a cascaded head, for the frozen encoder's `hidden` states [L, B, T, D], and what of their attention falls on each frame, the mean over
    /// heads, [B, K, T].
    pub fn keywords(&self, hidden: &Tensor, frames: &Tensor) -> Option<(Keywords, Tensor)> {
        let cascade = self.cascade.as_ref()?;
        let sum = self.layer_sum(hidden).sum;
        let (batch, tokens) = (sum.size()[0], self.tokens());
        let [query_weight, key_weight, _] = self.in_proj_parts(&self.in_proj.weight);
        let [query_bias, ..] = self.in_proj_parts(&self.in_proj.bias);
        let attention = self.attention(&self.sequence(&sum), frames, [&query_weight, &query_bias, &key_weight]);
        let attention = attention.view([batch, self.heads, tokens, -1]).mean_dim([1i64].as_slice(), false, Kind::Float);
        let of_frames = attention.narrow(2, tokens, sum.size()[1]);
        Some((cascade.keywords(&self.project(&sum, frames, None)), of_frames))
    }

    /// Softmax of the CLS tokens' queries, by these parts of the projection, over the sequence x [B, K + T, D]: [B, H K, K + T], token by token within each
    /// head.
    fn attention(&self, x: &Tensor, frames: &Tensor, [query_weight, query_bias, key_weight]: [&Tensor; 3]) -> Tensor {
        let (length, tokens, width) = (x.size()[1], self.tokens(), self.width());
        let head_width = width / self.heads;
        let query = self.cls.linear(query_weight, Some(query_bias));
        let query = query.view([tokens, self.heads, head_width]).transpose(0, 1);
        // W_kᵀ q of each head and token, [H K, D]
        let key_query = query.matmul(&key_weight.view([self.heads, head_width, width])).view([-1, width]);
        let logits = x.matmul(&key_query.tr()).transpose(1, 2) / (head_width as f64).sqrt();
        let hidden = padding(frames, length, tokens).unsqueeze(1);
        logits.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1, None)
    }

    /// S = {S_cls, s_1, ..., s_T}, [B, T + 1, E], each L2-normalised, without dropout: for those who want the frames too. None of a cascaded head,
    /// which gives keywords in their place.
    pub fn forward_frames(&self, hidden: &Tensor, frames: &Tensor) -> Option<Tensor> {
        let feed_forward = self.feed_forward.as_ref().filter(|_| self.cascade.is_none())?;
        let x = self.sequence(&self.layer_sum(hidden).sum);
        let (batch, length, width) = (x.size()[0], x.size()[1], self.width());
        let per_head = |x: &Tensor| x.view([batch, length, self.heads, -1]).transpose(1, 2);
        let projected = self.in_proj.forward(&x);
        let parts = projected.chunk(3, -1);
        let (query, key, value) = (per_head(&parts[0]), per_head(&parts[1]), per_head(&parts[2]));
        let logits = query.matmul(&key.transpose(-2, -1)) / ((width / self.heads) as f64).sqrt();
        let hidden_keys = padding(frames, length, 1).view([batch, 1, 1, length]);
        let attention = logits.masked_fill(&hidden_keys, f64::NEG_INFINITY).softmax(-1, None);
        let values = attention.matmul(&value).transpose(1, 2).reshape([batch, length, width]);
        let x = self.norm1.forward(&(x + self.out_proj.forward(&values)));
        Some(l2_normalise(&self.proj.forward(&feed_forward.forward(x, None))))
    }

    /// [CLS; frames], [B, K + T, D].
    fn sequence(&self, sum: &Tensor) -> Tensor {
        let tokens = self.cls.unsqueeze(0).expand([sum.size()[0], -1, -1], false);
        Tensor::cat(&[tokens, sum.shallow_clone()], 1)
    }

    /// The query, key and value part of a fused attention parameter.
    fn in_proj_parts(&self, fused: &Tensor) -> [Tensor; 3] {
        // Not three times `narrow`, whose gradient is as large as `fused` each time.
        let parts = fused.split(self.width(), 0);
        [0, 1, 2].map(|part| parts[part].shallow_clone())
    }
}

/// [B, length], true where a position of [CLS; frames] with so many CLS `tokens` is padding.
fn padding(frames: &Tensor, length: i64, tokens: i64) -> Tensor {
    let position = Tensor::arange(length, (Kind::Int64, frames.device()));
    position.unsqueeze(0).ge_tensor(&(frames + tokens).unsqueeze(1))
}
