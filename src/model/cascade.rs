//! The cascaded head (SpeechCLIP, Shih et al., SLT 2022, and its published code, `KW_CascadedBranch`): K keywords of an utterance, each brought to
//! the statistics of the text encoder's token embeddings, replaced by the nearest token, and all read by the frozen text encoder: S_cls is what
//! that makes of them.
//!
//! Dimension letters beyond those of the other files: K keywords, W width of a token's embedding, V tokens that a keyword may be.

use std::collections::HashMap;
use std::fmt::Debug;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::layers::l2_normalise;
use super::parameters::{Initial, ParameterSpec, Parameters};

/// What PyTorch's BatchNorm1d adds to a variance.
const EPSILON: f64 = 1e-5;
/// Part of a batch in the running statistics, PyTorch's default.
const MOMENTUM: f64 = 0.1;
const WEIGHT: &str = "speech.keywords.norm.weight";
const BIAS: &str = "speech.keywords.norm.bias";
const MEAN: &str = "speech.keywords.norm.running_mean";
const VARIANCE: &str = "speech.keywords.norm.running_var";
const TOKENS: &str = "speech.keywords.tokens";

/// Which head makes S_cls; a checkpoint carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// The paper's: a CLS token and a projection, as in parallel SpeechCLIP.
    #[default]
    Parallel,
    /// By keywords.
    Cascaded(CascadeConfig),
}

impl HeadKind {
    /// Whether it is the paper's.
    #[must_use]
    pub fn is_parallel(&self) -> bool {
        *self == Self::Parallel
    }
}

impl std::fmt::Display for HeadKind {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Parallel => out.write_str("parallel"),
            Self::Cascaded(CascadeConfig { keywords, token_width, vocabulary, feed_forward, temperature }) => {
                let layer = if *feed_forward { "transformer" } else { "attention" };
                write!(
                    out,
                    "cascaded with {keywords} keywords of {token_width} numbers out of {vocabulary}, {layer} layer, temperature {temperature}"
                )
            }
        }
    }
}

/// Shape of the cascaded head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CascadeConfig {
    /// K: keywords of an utterance.
    pub keywords: i64,
    /// W: width of a token's embedding.
    pub token_width: i64,
    /// V: tokens that a keyword may be.
    pub vocabulary: i64,
    /// Whether the keywords go through a whole transformer layer, or through its attention and the LayerNorm after it alone.
    pub feed_forward: bool,
    /// Temperature of the softmax over cosines through which the gradient goes.
    pub temperature: f64,
}

/// A frozen text encoder, as far as keywords need it.
pub trait KeywordReader: Debug {
    /// The embedding [B, E], not normalised, of rows of token embeddings [B, K, W], with a gradient for them.
    fn read(&self, keywords: &Tensor) -> Tensor;
}

/// Tokens and their embeddings.
#[derive(Debug)]
pub struct Vocabulary {
    /// Ids of V tokens.
    pub ids: Vec<i64>,
    /// f32 [V, W].
    pub vectors: Tensor,
}

/// Mean and variance of the projected keywords of a batch, each [K, W].
#[derive(Debug)]
pub struct BatchStatistics {
    mean: Tensor,
    /// With Bessel's correction, as the running variance has it.
    variance: Tensor,
}

/// Which tokens the keywords of utterances are.
#[derive(Debug)]
pub struct Keywords {
    /// i64 [B, K]: ids.
    pub ids: Tensor,
    /// f32 [B, K]: the cosine with the token's embedding.
    pub cosines: Tensor,
    /// [B, K, W]: the tokens' embeddings.
    pub vectors: Tensor,
}

/// What stands behind the projection of the cascaded head.
#[derive(Debug)]
pub struct Cascade {
    config: CascadeConfig,
    /// Learned, [K, W].
    weight: Tensor,
    /// Learned, [K, W].
    bias: Tensor,
    running: Running,
    text: Option<Text>,
}

/// What a cascaded head holds beside what is learned.
#[derive(Debug)]
struct Running {
    /// [K, W], over the batches of the training.
    mean: Tensor,
    /// [K, W].
    variance: Tensor,
    /// `[V]`: ids of the tokens that a keyword may be, as f32, which holds each.
    tokens: Tensor,
}

/// The text encoder's part.
#[derive(Debug)]
struct Text {
    reader: Rc<dyn KeywordReader>,
    /// [V, W].
    vectors: Tensor,
    /// [W, V], each column of length 1.
    directions: Tensor,
}

impl CascadeConfig {
    /// Parameters of the batch normalisation.
    pub(super) fn specs(&self) -> [ParameterSpec; 2] {
        let shape = [self.keywords, self.token_width];
        [
            ParameterSpec::new(WEIGHT, &shape, Initial::Constant(1.0)),
            ParameterSpec::new(BIAS, &shape, Initial::Constant(0.0)),
        ]
    }
}

impl Cascade {
    pub(super) fn bind(parameters: &Parameters, config: CascadeConfig) -> Self {
        let (shape, options) = ([config.keywords, config.token_width], (Kind::Float, parameters.flat().device()));
        let running = Running {
            mean: Tensor::zeros(shape, options),
            variance: Tensor::ones(shape, options),
            tokens: Tensor::zeros([config.vocabulary], options),
        };
        Self { config, weight: parameters.get(WEIGHT), bias: parameters.get(BIAS), running, text: None }
    }

    /// Its shape.
    #[must_use]
    pub fn config(&self) -> &CascadeConfig {
        &self.config
    }

    /// f32 `[V]`: ids of the tokens that a keyword may be.
    pub(super) fn tokens(&self) -> &Tensor {
        &self.running.tokens
    }

    /// What is kept beside the parameters, by the name that it has in a checkpoint.
    pub(super) fn buffers(&self) -> [(&'static str, &Tensor); 3] {
        let Running { mean, variance, tokens } = &self.running;
        [(MEAN, mean), (VARIANCE, variance), (TOKENS, tokens)]
    }

    /// Has the running statistics, the vocabulary and the text encoder of `other`, of the same shape, from now on.
    pub(super) fn share(&mut self, other: &Self) {
        let Running { mean, variance, tokens } = &other.running;
        let [mean, variance, tokens] = [mean, variance, tokens].map(Tensor::shallow_clone);
        self.running = Running { mean, variance, tokens };
        self.text = other.text.as_ref().map(|Text { reader, vectors, directions }| Text {
            reader: reader.clone(),
            vectors: vectors.shallow_clone(),
            directions: directions.shallow_clone(),
        });
    }

    /// Starts anew: keywords may be the tokens `ids`, V of them, and the batch normalisation brings them to the mean and deviation of the
    /// embeddings `vectors` [V, W] of these, each dimension by itself.
    pub(super) fn start(&self, ids: &[i64], vectors: &Tensor) {
        tch::no_grad(|| {
            let ids: Vec<f32> = ids.iter().map(|id| *id as f32).collect();
            let (mut tokens, rows) = (self.running.tokens.shallow_clone(), [0i64]);
            tokens.copy_(&Tensor::from_slice(&ids));
            let deviation = vectors.std_dim(rows.as_slice(), true, true);
            self.weight.detach().copy_(&deviation.expand_as(&self.weight));
            self.bias.detach().copy_(&vectors.mean_dim(rows.as_slice(), true, Kind::Float).expand_as(&self.bias));
        });
    }

    /// Keywords are read by `reader`, which knows `vocabulary`, from now on.
    ///
    /// # Errors
    /// When it lacks a token that a keyword may be.
    pub(super) fn read_by(&mut self, reader: Rc<dyn KeywordReader>, vocabulary: &Vocabulary) -> Result<(), String> {
        let places: HashMap<i64, i64> = vocabulary.ids.iter().copied().zip(0..).collect();
        let tokens: Vec<f32> = Vec::try_from(self.running.tokens.to_device(Device::Cpu)).unwrap_or_default();
        let rows: Result<Vec<i64>, String> = tokens
            .iter()
            .map(|token| places.get(&(*token as i64)).copied().ok_or(format!("it has no token {token}")))
            .collect();
        let device = self.running.tokens.device();
        let vectors =
            vocabulary.vectors.index_select(0, &Tensor::from_slice(&rows?).to_device(vocabulary.vectors.device()));
        let vectors = vectors.to_kind(Kind::Float).to_device(device);
        self.text = Some(Text { reader, directions: l2_normalise(&vectors).tr().contiguous(), vectors });
        Ok(())
    }

    /// S_cls [B, E], L2-normalised, of projected keywords [B, K, W], by the running statistics.
    pub(super) fn evaluate(&self, projected: &Tensor) -> Tensor {
        self.read(&self.keywords(projected).vectors)
    }

    /// The tokens nearest to projected keywords [B, K, W], by the running statistics.
    pub(super) fn keywords(&self, projected: &Tensor) -> Keywords {
        let Running { mean, variance, .. } = &self.running;
        self.nearest(&self.scaled(&(projected - mean), variance))
    }

    /// S_cls of n keywords [.., W], as if each were all that is said: [n, E], L2-normalised.
    pub fn read_alone(&self, vectors: &Tensor) -> Tensor {
        self.read(&vectors.reshape([-1, 1, self.config.token_width]))
    }

    /// S_cls [b, E], L2-normalised, of the rows from `first` on of a training batch whose projected keywords are `all` [B, K, W], and the statistics of
    /// that batch. Forward each keyword is its nearest token; the gradient is that of the softmax over the cosines with all tokens.
    pub fn train(&self, all: &Tensor, first: i64, rows: i64) -> (Tensor, BatchStatistics) {
        let mean = all.mean_dim([0i64].as_slice(), true, Kind::Float);
        let centred = all - &mean;
        let variance = centred.square().mean_dim([0i64].as_slice(), true, Kind::Float);
        let count = all.size()[0] as f64;
        let statistics = BatchStatistics {
            mean: mean.detach().squeeze_dim(0),
            variance: variance.detach().squeeze_dim(0) * (count / (count - 1.0)),
        };
        let own = self.scaled(&centred.narrow(0, first, rows), &variance);
        let text = self.text();
        let cosines = l2_normalise(&own).matmul(&text.directions);
        let tokens = self.of_tokens(&cosines.argmax(-1, false));
        let soft = (cosines / self.config.temperature).softmax(-1, Kind::Float).matmul(&text.vectors);
        let keywords = tokens + (&soft - soft.detach());
        (self.read(&keywords), statistics)
    }

    /// Takes a batch into the running statistics.
    pub fn take_in(&self, statistics: &BatchStatistics) {
        tch::no_grad(|| {
            let pairs = [(&self.running.mean, &statistics.mean), (&self.running.variance, &statistics.variance)];
            for (running, new) in pairs {
                let _ = running.shallow_clone().lerp_(new, MOMENTUM);
            }
        });
    }

    /// What the batch normalisation makes of keywords around their mean.
    fn scaled(&self, centred: &Tensor, variance: &Tensor) -> Tensor {
        centred / (variance + EPSILON).sqrt() * &self.weight + &self.bias
    }

    /// S_cls of tokens' embeddings [B, K, W], [B, E], L2-normalised.
    pub fn read(&self, keywords: &Tensor) -> Tensor {
        l2_normalise(&self.text().reader.read(keywords).to_kind(Kind::Float))
    }

    /// The tokens nearest to keywords [B, K, W].
    fn nearest(&self, keywords: &Tensor) -> Keywords {
        let (cosines, rows) = l2_normalise(keywords).matmul(&self.text().directions).max_dim(-1, false);
        let ids = self.running.tokens.take(&rows).to_kind(Kind::Int64);
        Keywords { ids, cosines, vectors: self.of_tokens(&rows) }
    }

    /// Embeddings of the vocabulary's rows i64 [B, K].
    fn of_tokens(&self, rows: &Tensor) -> Tensor {
        let shape = [rows.size()[0], rows.size()[1], self.config.token_width];
        self.text().vectors.index_select(0, &rows.flatten(0, -1)).view(shape)
    }

    /// # Panics
    /// When no text encoder was given: whoever makes or loads a model gives it.
    fn text(&self) -> &Text {
        #[expect(clippy::expect_used, reason = "see above")]
        self.text.as_ref().expect("a cascaded head without its text encoder")
    }
}
