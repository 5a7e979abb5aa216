//! safetensors files: named f32 tensors and a text each for some names.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

use super::CheckpointError;
use super::state::FORMAT;
use crate::model::{CmdModel, HeadKind, ModelConfig, ParameterSpec, Parameters};

/// The bytes of a file with `tensors`.
pub(super) fn to_safetensors(
    tensors: Vec<(String, Tensor)>,
    metadata: HashMap<String, String>,
) -> std::io::Result<Vec<u8>> {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
            let mut bytes = vec![0; 4 * tensor.numel()];
            tensor.copy_data_u8(&mut bytes, tensor.numel());
            (name, tensor.size().iter().map(|size| *size as usize).collect(), bytes)
        })
        .collect();
    let views: Result<Vec<_>, _> = bytes
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect();
    let serialized = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
    serialized.map_err(|error: safetensors::SafeTensorError| std::io::Error::other(error))
}

/// A safetensors file in memory.
pub(super) struct Tensors {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Tensors {
    /// Reads `path`, whose BLAKE3 must be `hash` where that is known.
    pub(super) fn read(path: &Path, hash: Option<&str>) -> Result<Self, CheckpointError> {
        let file = Self { path: path.to_owned(), bytes: Vec::new() };
        let bytes = fs::read(path).map_err(|error| file.damaged(&error.to_string()))?;
        if hash.is_some_and(|hash| blake3::hash(&bytes).to_hex().as_str() != hash) {
            return Err(file.damaged("its content is not what was saved"));
        }
        let file = Self { bytes, ..file };
        file.view()?;
        Ok(file)
    }

    pub(super) fn damaged(&self, why: &str) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), why: why.to_owned() }
    }

    fn view(&self) -> Result<SafeTensors<'_>, CheckpointError> {
        let view = SafeTensors::deserialize(&self.bytes);
        view.map_err(|error| self.damaged(&format!("no readable safetensors file ({error})")))
    }

    pub(super) fn metadata(&self, key: &str) -> Result<String, CheckpointError> {
        let header = SafeTensors::read_metadata(&self.bytes).ok();
        let value = header.and_then(|(_, header)| header.metadata().as_ref()?.get(key).cloned());
        value.ok_or_else(|| self.damaged(&format!("no {key} in its metadata")))
    }

    pub(super) fn model_config(&self) -> Result<ModelConfig, CheckpointError> {
        let version = self.metadata("format_version")?;
        if version != FORMAT.to_string() {
            return Err(self.damaged(&format!("format {version}, this program reads format {FORMAT}")));
        }
        let config: ModelConfig = serde_json::from_str(&self.metadata("config")?)
            .map_err(|error| self.damaged(&format!("its configuration: {error}")))?;
        let mut sizes = vec![config.layers, config.speech_width, config.width, config.heads];
        if let HeadKind::Cascaded(cascade) = config.head {
            sizes.extend([cascade.keywords, cascade.token_width, cascade.vocabulary]);
            if !(cascade.temperature > 0.0 && cascade.temperature.is_finite()) {
                return Err(self.damaged("its configuration holds an impossible temperature"));
            }
        }
        if sizes.iter().any(|size| !(1..1 << 16).contains(size)) || config.speech_width % config.heads != 0 {
            return Err(self.damaged("its configuration holds impossible sizes"));
        }
        // Before memory for a model of that size is taken.
        let largest = config.parameters().iter().map(ParameterSpec::count).max().unwrap_or(0);
        if largest as usize > self.bytes.len() / 4 {
            return Err(self.damaged("its configuration is of a larger model than its tensors"));
        }
        Ok(config)
    }

    /// Nothing but the parameters of `specs`, once under each of `prefixes`, and `buffers`.
    pub(super) fn exactly(
        &self,
        specs: &[ParameterSpec],
        prefixes: &[&str],
        buffers: &[&str],
    ) -> Result<(), CheckpointError> {
        let known = |name: &str| {
            buffers.contains(&name)
                || prefixes.iter().any(|prefix| {
                    name.strip_prefix(prefix).is_some_and(|name| specs.iter().any(|spec| spec.name == name))
                })
        };
        match self.view()?.names().into_iter().find(|name| !known(name)) {
            Some(name) => Err(self.damaged(&format!("an unknown tensor {name}"))),
            None => Ok(()),
        }
    }

    /// Fills `flat` (`[P]`), a buffer over `parameters`, from the tensors of their names after `prefix`.
    pub(super) fn copy_into(
        &self,
        parameters: &Parameters,
        flat: &Tensor,
        prefix: &str,
    ) -> Result<(), CheckpointError> {
        let view = self.view()?;
        parameters.split(flat).iter().try_for_each(|(name, part)| self.copy(&view, &format!("{prefix}{name}"), part))
    }

    /// Fills what `model` keeps beside its parameters.
    pub(super) fn copy_buffers(&self, model: &CmdModel) -> Result<(), CheckpointError> {
        let view = self.view()?;
        model.buffers().into_iter().try_for_each(|(name, buffer)| self.copy(&view, name, buffer))
    }

    /// Fills `part` from the tensor `name`.
    fn copy(&self, view: &SafeTensors, name: &str, part: &Tensor) -> Result<(), CheckpointError> {
        let tensor = view.tensor(name).map_err(|_| self.damaged(&format!("no tensor {name}")))?;
        let shape: Vec<i64> = tensor.shape().iter().map(|size| *size as i64).collect();
        if tensor.dtype() != Dtype::F32 || shape != part.size() {
            let found = format!("{name} is {:?} {shape:?}, expected F32 {:?}", tensor.dtype(), part.size());
            return Err(self.damaged(&found));
        }
        let values = Tensor::from_data_size(tensor.data(), &shape, Kind::Float);
        if values.isfinite().all().int64_value(&[]) == 0 {
            return Err(self.damaged(&format!("{name} holds NaN or infinite values")));
        }
        part.shallow_clone().copy_(&values);
        Ok(())
    }
}
