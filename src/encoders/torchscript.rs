//! Frozen encoders from TorchScript files.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tch::{CModule, Device, IValue, Kind, Tensor};

use super::spec::FORMAT;
use super::tokenizer::TOKENS;
use super::{
    EncoderError, FrozenEncoder, ImageSpec, ImageStates, Precision, SpeechSpec, SpeechStates, TextSpec, check,
};
use crate::data::{Pixels, Waveforms};
use crate::model::{LibtorchError, Vocabulary, catch_libtorch};

/// A TorchScript module with the spec of a modality.
#[derive(Debug)]
pub struct TorchScript<Spec> {
    module: CModule,
    path: PathBuf,
    device: Device,
    fingerprint: String,
    spec: Spec,
    /// Of its features.
    kind: Kind,
    precision: Precision,
    modality: &'static str,
}

/// What every module tells of itself in the same way.
macro_rules! as_it_says {
    () => {
        fn spec(&self) -> &Self::Spec {
            &self.spec
        }

        fn fingerprint(&self) -> &str {
            &self.fingerprint
        }

        fn kind(&self) -> Kind {
            self.kind
        }

        fn precision(&self) -> Precision {
            self.precision
        }

        fn failed(&self, why: String) -> EncoderError {
            self.forward_error(why)
        }
    };
}

impl TorchScript<SpeechSpec> {
    /// Loads a speech encoder onto `device` and checks it.
    ///
    /// # Errors
    /// When the file cannot be read, is no TorchScript or breaks the contract.
    pub fn speech(path: &Path, precision: Precision, device: Device) -> Result<Self, EncoderError> {
        let mut encoder = Self::load(path, precision, device, "speech")?;
        let SpeechSpec { layers, width, sample_rate, min_samples, hop, .. } = encoder.spec;
        encoder.positive(&[layers, width, sample_rate, min_samples, hop])?;
        let input = check::waveforms(&encoder.spec);
        // Outside no_grad, so that an output that carries a gradient shows.
        let first = encoder.run(&input).map_err(|why| encoder.broken(why))?;
        check::speech_states(&encoder.spec, &first).map_err(|why| encoder.broken(why))?;
        let second = encoder.run(&input).map_err(|why| encoder.broken(why))?;
        check::repeats("hidden states", &first.hidden, &second.hidden).map_err(|why| encoder.broken(why))?;
        encoder.settle(first.hidden.kind())?;
        Ok(encoder)
    }

    fn run(&self, input: &Waveforms) -> Result<SpeechStates, String> {
        let [hidden, frames] = self.call([&input.samples, &input.lengths])?;
        Ok(SpeechStates { hidden, frames })
    }
}

impl FrozenEncoder for TorchScript<SpeechSpec> {
    type Spec = SpeechSpec;
    type Input = Waveforms;
    type Features = SpeechStates;

    as_it_says!();

    fn forward(&self, input: &Waveforms) -> Result<SpeechStates, EncoderError> {
        tch::no_grad(|| self.run(input)).map_err(|why| self.forward_error(why))
    }
}

impl TorchScript<ImageSpec> {
    /// Loads an image encoder onto `device` and checks it.
    ///
    /// # Errors
    /// When the file cannot be read, is no TorchScript or breaks the contract.
    pub fn image(path: &Path, precision: Precision, device: Device) -> Result<Self, EncoderError> {
        let mut encoder = Self::load(path, precision, device, "image")?;
        let ImageSpec { size, grid: [rows, columns], width, .. } = encoder.spec;
        encoder.positive(&[size, rows, columns, width])?;
        let input = check::pixels(&encoder.spec);
        let first = encoder.run(&input).map_err(|why| encoder.broken(why))?;
        check::image_states(&encoder.spec, &first).map_err(|why| encoder.broken(why))?;
        let second = encoder.run(&input).map_err(|why| encoder.broken(why))?;
        check::repeats("features", &first.patches, &second.patches).map_err(|why| encoder.broken(why))?;
        encoder.settle(first.patches.kind())?;
        Ok(encoder)
    }

    fn run(&self, input: &Pixels) -> Result<ImageStates, String> {
        let [cls, patches] = self.call([&input.0])?;
        Ok(ImageStates { cls, patches })
    }
}

impl FrozenEncoder for TorchScript<ImageSpec> {
    type Spec = ImageSpec;
    type Input = Pixels;
    type Features = ImageStates;

    as_it_says!();

    fn forward(&self, input: &Pixels) -> Result<ImageStates, EncoderError> {
        tch::no_grad(|| self.run(input)).map_err(|why| self.forward_error(why))
    }
}

impl TorchScript<TextSpec> {
    /// Loads a text encoder onto `device` and checks it; with the tokens that keywords may be.
    ///
    /// # Errors
    /// When the file cannot be read, is no TorchScript or breaks the contract.
    pub fn text(path: &Path, precision: Precision, device: Device) -> Result<(Self, Vocabulary), EncoderError> {
        let mut encoder = Self::load(path, precision, device, "text")?;
        let TextSpec { context, width, token_width, vocabulary, .. } = encoder.spec;
        encoder.positive(&[context, width, token_width, vocabulary])?;
        let marks = [encoder.spec.start, encoder.spec.end];
        if vocabulary != TOKENS || context < 4 || !marks.iter().all(|mark| (0..vocabulary).contains(mark)) {
            return Err(encoder.broken(format!(
                "its spec() has a vocabulary of {vocabulary}, context {context}, start {} and end {}; CLIP's tokenizer has {TOKENS} tokens, start and end among \
                 them, and two words with these need a context of 4",
                marks[0], marks[1]
            )));
        }
        let broken = |encoder: &Self, why| Err(encoder.broken(why));
        let words = match catch_libtorch(|| encoder.words()).unwrap_or_else(|error| Err(error.why)) {
            Ok(words) => words,
            Err(why) => return broken(&encoder, why),
        };
        let checked = catch_libtorch(|| check::text(&encoder.spec, &words, &encoder));
        match checked.unwrap_or_else(|error| Err(error.why)) {
            Ok(kind) => encoder.settle(kind)?,
            Err(why) => return broken(&encoder, why),
        }
        Ok((encoder, words))
    }

    fn words(&self) -> Result<Vocabulary, String> {
        let output = self.module.method_is::<IValue>("vocabulary", &[]).map_err(|error| one_line(&error))?;
        let [ids, vectors] = two_tensors(output, "vocabulary")?;
        let ids = Vec::try_from(&ids.to_device(Device::Cpu))
            .map_err(|_| "vocabulary gives ids that are no row of whole numbers")?;
        Ok(Vocabulary { ids, vectors: vectors.to_kind(Kind::Float) })
    }

    /// The embedding [B, E] of rows of tokens i64 [B, n].
    pub(super) fn tokens(&self, tokens: &Tensor) -> Result<Tensor, String> {
        self.precision.apply();
        let output = self.module.forward_ts(&[tokens.to_device(self.device)]);
        Precision::F32.apply();
        output.map_err(|error| one_line(&error))
    }

    /// The embedding [B, E] of token embeddings [B, K, W] between start and end, with a gradient for them.
    ///
    /// # Panics
    /// When libtorch fails, as tch does: it is called within `catch_libtorch` alone, which makes an error of that.
    pub(super) fn keywords(&self, vectors: &Tensor) -> Tensor {
        // Gradients of 16-bit floats with five bits of exponent would be rounded to 0 on their way back.
        let scale = if self.kind == Kind::Half { HALF_SCALE } else { 1.0 };
        self.precision.apply();
        let output = self.module.method_ts("keywords", &[with_gradient_times(vectors, 1.0 / scale)]);
        Precision::F32.apply();
        let output = output.unwrap_or_else(|error| panic!("{}", one_line(&error)));
        with_gradient_times(&output.to_kind(Kind::Float), scale)
    }
}

impl FrozenEncoder for TorchScript<TextSpec> {
    type Spec = TextSpec;
    type Input = Tensor;
    type Features = Tensor;

    as_it_says!();

    fn forward(&self, input: &Tensor) -> Result<Tensor, EncoderError> {
        tch::no_grad(|| self.tokens(input)).map_err(|why| self.forward_error(why))
    }
}

impl<Spec: DeserializeOwned> TorchScript<Spec> {
    fn load(path: &Path, precision: Precision, device: Device, modality: &'static str) -> Result<Self, EncoderError> {
        let key = format!("encoders.{modality}.path");
        let unreadable =
            |source| EncoderError::Unreadable { path: path.to_owned(), source, key: key.clone(), modality };
        let fingerprint = blake3::Hasher::new()
            .update_reader(std::fs::File::open(path).map_err(unreadable)?)
            .map_err(unreadable)?
            .finalize()
            .to_hex()
            .to_string();
        let contract = |why: String| EncoderError::Contract { path: path.to_owned(), why };

        // The profiling executor specialises every new shape, which costs more than it gains on padded batches.
        tch::jit::set_graph_executor_optimize(false);
        let mut module = CModule::load_on_device(path, device).map_err(|error| EncoderError::NotTorchScript {
            path: path.to_owned(),
            why: one_line(&error),
            key: key.clone(),
        })?;
        module.f_set_eval().map_err(|error| contract(one_line(&error)))?;
        if let Some(kind) = precision.kind() {
            catch_libtorch(|| module.to(device, kind, false)).map_err(|error| contract(error.why))?;
        }
        let text = match module.method_is::<IValue>("spec", &[]) {
            Ok(IValue::String(text)) => text,
            Ok(_) => return Err(contract("its method spec() does not return a string".to_owned())),
            Err(_) => return Err(contract("it has no method spec() -> str".to_owned())),
        };

        #[derive(Deserialize)]
        struct Contract {
            format: i64,
            modality: String,
        }
        let spec_error = |error: serde_json::Error| contract(format!("its spec() is not as it should be: {error}"));
        let kind: Contract = serde_json::from_str(&text).map_err(spec_error)?;
        if kind.modality != modality {
            return Err(EncoderError::Swapped { path: path.to_owned(), key, found: kind.modality, expected: modality });
        }
        if kind.format != FORMAT {
            return Err(contract(format!("it is of format {}; this program reads format {FORMAT}", kind.format)));
        }
        let spec = serde_json::from_str(&text).map_err(spec_error)?;
        Ok(Self { module, path: path.to_owned(), device, fingerprint, spec, kind: Kind::Float, precision, modality })
    }

    /// Calls `forward`, which must return two tensors.
    fn call<const N: usize>(&self, inputs: [&Tensor; N]) -> Result<[Tensor; 2], String> {
        let inputs = inputs.map(|tensor| IValue::Tensor(tensor.to_device(self.device)));
        self.precision.apply();
        let outputs = self.module.forward_is(&inputs);
        // What is trained is computed in full.
        Precision::F32.apply();
        two_tensors(outputs.map_err(|error| one_line(&error))?, "forward")
    }

    /// Notes the kind of the features, which has to be the one that was asked for.
    fn settle(&mut self, kind: Kind) -> Result<(), EncoderError> {
        self.kind = kind;
        if self.precision.kind().is_some_and(|wanted| wanted != kind) {
            let modality = self.modality;
            return Err(self.broken(format!(
                "its features stay {kind:?} with encoders.{modality}.dtype; it was frozen with its kind: export it in the one that is wanted"
            )));
        }
        if self.device.is_cuda() && kind == Kind::Float && matches!(self.precision, Precision::File | Precision::F32) {
            let modality = self.modality;
            tracing::warn!(
                "the {modality} encoder computes in 32 bits without CUDA's matrix units: encoders.{modality}.dtype = \"bf16\" or \"tf32\" uses them"
            );
        }
        Ok(())
    }

    fn positive(&self, sizes: &[i64]) -> Result<(), EncoderError> {
        if sizes.iter().all(|size| (1..1 << 24).contains(size)) {
            Ok(())
        } else {
            Err(self.broken("a size in its spec() is not positive, or absurdly large".to_owned()))
        }
    }

    fn broken(&self, why: String) -> EncoderError {
        let advice = match self.precision.kind() {
            Some(_) => format!(
                "; it was changed by encoders.{}.dtype: a module has to bring its input to the kind of its weights, as those of the exporters do",
                self.modality
            ),
            None => String::new(),
        };
        EncoderError::Contract { path: self.path.clone(), why: why + &advice }
    }

    fn forward_error(&self, why: String) -> EncoderError {
        EncoderError::Forward { path: self.path.clone(), why, key: format!("encoders.{}.batch_size", self.modality) }
    }
}

/// The line of a libtorch error that says what is wrong.
fn one_line(error: &tch::TchError) -> String {
    LibtorchError::new(&error.to_string()).why
}

/// By what gradients of a text encoder in f16 are multiplied on their way back through it.
const HALF_SCALE: f64 = 4096.0;

/// `x`, whose gradient is multiplied by `scale` on its way back.
fn with_gradient_times(x: &Tensor, scale: f64) -> Tensor {
    if scale == 1.0 {
        return x.shallow_clone();
    }
    let scaled = x * scale;
    &scaled + (x - &scaled).detach()
}

/// The two tensors that `method` returned.
fn two_tensors(output: IValue, method: &str) -> Result<[Tensor; 2], String> {
    let IValue::Tuple(outputs) = output else {
        return Err(format!("{method} does not return a tuple of two tensors"));
    };
    let count = outputs.len();
    let tensors: Option<Vec<Tensor>> = outputs
        .into_iter()
        .map(|output| if let IValue::Tensor(tensor) = output { Some(tensor) } else { None })
        .collect();
    let tensors = tensors.ok_or_else(|| format!("{method} returns something that is no tensor"))?;
    <[Tensor; 2]>::try_from(tensors).map_err(|_| format!("{method} returns {count} outputs where 2 are needed"))
}
