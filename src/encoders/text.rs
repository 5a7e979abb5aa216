//! The frozen text encoder: CLIP's text tower, asked by texts, and by token embeddings that come from elsewhere.

use std::path::PathBuf;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::{EncoderError, FrozenEncoder, TextEncoderConfig, TextSpec, Tokenizer, TorchScript};
use crate::model::{CmdModel, KeywordReader, Vocabulary, catch_libtorch};
use crate::telemetry::warn_once;

/// A text encoder with its tokenizer.
#[derive(Debug)]
pub struct TextEncoder {
    module: Rc<TorchScript<TextSpec>>,
    path: PathBuf,
    vocabulary: Vocabulary,
    tokenizer: Tokenizer,
    /// Texts of one forward.
    rows: usize,
    device: Device,
}

impl TextEncoder {
    /// Loads it onto `device` and checks it.
    ///
    /// # Errors
    /// When the file cannot be read, is no TorchScript or breaks the contract.
    pub fn load(config: &TextEncoderConfig, device: Device) -> Result<Self, EncoderError> {
        let path = config.path.clone().unwrap_or_default();
        let (module, vocabulary) = TorchScript::text(&path, config.dtype, device)?;
        let rows = config.batch_size as usize;
        Ok(Self { module: Rc::new(module), path, vocabulary, tokenizer: Tokenizer::default(), rows, device })
    }

    /// What it says of itself.
    #[must_use]
    pub fn spec(&self) -> &TextSpec {
        self.module.spec()
    }

    /// BLAKE3 of its file.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        self.module.fingerprint()
    }

    /// The tokens that keywords may be.
    #[must_use]
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Reads the keywords of `model`'s cascaded head from now on.
    ///
    /// # Errors
    /// When it is not the text encoder that these keywords are of.
    pub fn connect(&self, model: &mut CmdModel) -> Result<(), EncoderError> {
        let ours = self.spec().token_width;
        let theirs = model.speech().cascade().map_or(ours, |cascade| cascade.config().token_width);
        let read = if theirs == ours {
            catch_libtorch(|| model.read_by(self.module.clone(), &self.vocabulary))
                .unwrap_or_else(|error| Err(error.why))
        } else {
            Err(format!("its tokens are {ours} wide and the keywords {theirs}"))
        };
        read.map_err(|why| EncoderError::OtherText { path: self.path.clone(), why })
    }

    /// Texts to tokens and back.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens of a text that are read; what a longer one has behind them is not.
    fn room(&self) -> usize {
        self.spec().context as usize - 2
    }

    /// Whether `text` is longer than that.
    #[must_use]
    pub fn cuts(&self, text: &str) -> bool {
        self.tokenizer.ids(text).len() > self.room()
    }

    /// Ids of `text` with start and end; of a text that is too long, the first that have room.
    #[must_use]
    pub fn row(&self, text: &str) -> Vec<i64> {
        let (TextSpec { start, end, .. }, room) = (self.spec(), self.room());
        let mut ids = self.tokenizer.ids(text);
        if ids.len() > room {
            warn_once(format!("texts of more than {room} tokens are cut to that"));
            ids.truncate(room);
        }
        [&[*start][..], &ids, &[*end]].concat()
    }

    /// The embeddings of `texts`, f32 [B, E], L2-normalised, on the encoder's device.
    ///
    /// # Errors
    /// When a forward fails.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Tensor, EncoderError> {
        let width = self.spec().width;
        let encode = || {
            let mut parts = vec![Tensor::zeros([0, width], (Kind::Float, self.device))];
            for texts in texts.chunks(self.rows) {
                let rows: Vec<Vec<i64>> = texts.iter().map(|text| self.row(text.as_ref())).collect();
                parts.push(CmdModel::frozen_embedding(&self.module.forward(&padded(&rows))?));
            }
            Ok(Tensor::cat(&parts, 0))
        };
        catch_libtorch(encode).unwrap_or_else(|error| Err(self.module.failed(error.why)))
    }
}

/// Rows of ids, zero-padded to the longest: i64 [B, n].
fn padded(rows: &[Vec<i64>]) -> Tensor {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let ids = rows.iter().flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0, longest - row.len())));
    Tensor::from_slice(&ids.collect::<Vec<_>>()).view([rows.len() as i64, longest as i64])
}

impl KeywordReader for TorchScript<TextSpec> {
    fn read(&self, keywords: &Tensor) -> Tensor {
        self.keywords(keywords)
    }
}
