//! Frozen encoders from TorchScript files.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tch::{CModule, Device, IValue, Kind, Tensor};

use super::spec::FORMAT;
use super::{EncoderError, FrozenEncoder, ImageSpec, ImageStates, Precision, SpeechSpec, SpeechStates, check};
use crate::data::{Pixels, Waveforms};
use crate::model::{LibtorchError, catch_libtorch};

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

    fn spec(&self) -> &SpeechSpec {
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

    fn spec(&self) -> &ImageSpec {
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

    fn forward(&self, input: &Pixels) -> Result<ImageStates, EncoderError> {
        tch::no_grad(|| self.run(input)).map_err(|why| self.forward_error(why))
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
        match outputs.map_err(|error| one_line(&error))? {
            IValue::Tuple(outputs) => {
                let count = outputs.len();
                let tensors: Option<Vec<Tensor>> = outputs
                    .into_iter()
                    .map(|output| if let IValue::Tensor(tensor) = output { Some(tensor) } else { None })
                    .collect();
                let tensors = tensors.ok_or("forward returns something that is no tensor")?;
                <[Tensor; 2]>::try_from(tensors)
                    .map_err(|_| format!("forward returns {count} outputs where 2 are needed"))
            }
            _ => Err("forward does not return a tuple of two tensors".to_owned()),
        }
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
