//! The bytes of a checkpoint: `model.safetensors`, `optimizer.safetensors` and `state.json` in one folder that appears whole or
//! not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{Adam, AdamSettings};
use crate::model::{CmdModel, ModelConfig, ParameterSpec, Parameters};

/// Version of the files.
const FORMAT: u32 = 1;
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// A checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is none at the place that was named.
    #[error("{}: {why}", path.display())]
    Missing {
        /// The place.
        path: PathBuf,
        /// What was looked for.
        why: String,
    },
    /// It is damaged, or none at all.
    #[error("{}: not a checkpoint of this program: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It does not go with the encoders or data of this run.
    #[error("{}: {why}", path.display())]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// Both sides.
        why: String,
    },
}

/// Name and BLAKE3 of something that a checkpoint depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// BLAKE3 of its file.
    pub fingerprint: String,
}

/// Step and score of the best checkpoint so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Updates made.
    pub step: u64,
    /// Mean R@1 on the development split, in percent.
    pub mean_r1: f64,
}

/// `state.json`: where the run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the files.
    pub format: u32,
    /// Version of the program.
    pub version: String,
    /// Updates made.
    pub step: u64,
    /// Epoch of the next sample.
    pub epoch: u64,
    /// Place of the next sample in it.
    pub position: u64,
    /// Seed of every draw; each is keyed by it and by where it stands, so that there is no other generator state.
    pub seed: u64,
    /// Times that a sample could not be read and was replaced.
    #[serde(default)]
    pub skipped: u64,
    /// Whether the evaluation that is due at this step has been made.
    pub evaluated: bool,
    /// The best checkpoint so far.
    pub best: Option<Best>,
    /// The training data.
    pub data: Source,
    /// The frozen speech encoder.
    pub speech_encoder: Source,
    /// The frozen image encoder.
    pub image_encoder: Source,
    /// BLAKE3 of the other files of the checkpoint.
    pub files: BTreeMap<String, String>,
}

impl State {
    /// A state of this version of the program.
    #[must_use]
    pub fn new(seed: u64, data: Source, speech_encoder: Source, image_encoder: Source) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            step: 0,
            epoch: 0,
            position: 0,
            seed,
            skipped: 0,
            evaluated: true,
            best: None,
            data,
            speech_encoder,
            image_encoder,
            files: BTreeMap::new(),
        }
    }
}

/// Writes a checkpoint into the new folder `path`: beside it first, synced, then renamed.
///
/// # Errors
/// When something cannot be written; then `path` does not exist.
pub fn save(path: &Path, model: &CmdModel, adam: &Adam, state: &State) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.tmp"));
    if beside.exists() {
        fs::remove_dir_all(&beside)?;
    }
    fs::create_dir_all(&beside)?;
    let written = write_files(&beside, model, adam, state);
    let renamed = written.and_then(|()| {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        fs::rename(&beside, path)?;
        sync_folder(path.parent().unwrap_or(Path::new(".")))
    });
    if renamed.is_err() {
        let _ = fs::remove_dir_all(&beside);
    }
    renamed
}

fn write_files(folder: &Path, model: &CmdModel, adam: &Adam, state: &State) -> std::io::Result<()> {
    let parameters = model.parameters();
    let metadata = [
        ("format_version".to_owned(), FORMAT.to_string()),
        ("config".to_owned(), serde_json::to_string(model.config())?),
    ];
    let model_bytes = to_safetensors(parameters.split(parameters.flat()), metadata.into())?;
    let (exp_avg, exp_avg_sq) = adam.moments();
    let moments = [("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)];
    let moments = moments.iter().flat_map(|(moment, flat)| {
        parameters.split(flat).into_iter().map(move |(name, tensor)| (format!("{moment}.{name}"), tensor))
    });
    let metadata = [("step".to_owned(), adam.step().to_string())];
    let optimizer_bytes = to_safetensors(moments.collect(), metadata.into())?;

    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let files = [(MODEL.to_owned(), hash(&model_bytes)), (OPTIMIZER.to_owned(), hash(&optimizer_bytes))];
    let state = State { files: files.into(), ..state.clone() };
    write_synced(&folder.join(MODEL), &model_bytes)?;
    write_synced(&folder.join(OPTIMIZER), &optimizer_bytes)?;
    // Last, because it vouches for the others.
    write_synced(&folder.join(STATE), format!("{}\n", serde_json::to_string_pretty(&state)?).as_bytes())?;
    sync_folder(folder)
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn to_safetensors(
    tensors: Vec<(String, Tensor)>,
    metadata: std::collections::HashMap<String, String>,
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

/// A checkpoint on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    folder: PathBuf,
    model: PathBuf,
}

impl Checkpoint {
    /// The checkpoint in the folder `path`, or the file `path` alone.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let missing = |why: &str| CheckpointError::Missing { path: path.to_owned(), why: why.to_owned() };
        let path = fs::canonicalize(path).map_err(|error| {
            missing(&format!("{error}; name a run, a checkpoint's folder or its model.safetensors"))
        })?;
        if path.is_file() {
            let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
            return Ok(Self { folder, model: path });
        }
        let model = path.join(MODEL);
        if model.is_file() {
            return Ok(Self { folder: path, model });
        }
        Err(missing("no checkpoint there; name a run, a checkpoint's folder or its model.safetensors"))
    }

    /// The file with the model.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.model
    }

    /// `state.json`, if the folder has one.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn state(&self) -> Result<Option<State>, CheckpointError> {
        let path = self.folder.join(STATE);
        let damaged = |why: String| CheckpointError::Damaged { path: path.clone(), why };
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(damaged(error.to_string())),
            Ok(bytes) => {
                let state: State = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
                if state.format == FORMAT {
                    Ok(Some(state))
                } else {
                    Err(damaged(format!("format {}, this program reads format {FORMAT}", state.format)))
                }
            }
        }
    }

    /// Checks that every file is there, whole and unchanged.
    ///
    /// # Errors
    /// When one is not.
    pub fn verify(&self) -> Result<State, CheckpointError> {
        let damaged = |path: PathBuf, why: String| CheckpointError::Damaged { path, why };
        let missing = || damaged(self.folder.join(STATE), "missing".to_owned());
        let state = self.state()?.ok_or_else(missing)?;
        for (name, hash) in &state.files {
            let path = self.folder.join(name);
            let bytes = fs::read(&path).map_err(|error| damaged(path.clone(), error.to_string()))?;
            if blake3::hash(&bytes).to_hex().as_str() != hash {
                return Err(damaged(path, "its content is not what was saved".to_owned()));
            }
        }
        Ok(state)
    }

    /// The model for inference: without the fusion encoder, whether the file holds one or not.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn load_for_inference(&self, device: Device) -> Result<CmdModel, CheckpointError> {
        let file = Tensors::read(&self.model)?;
        let config = ModelConfig { fusion: None, ..file.model_config()? };
        let mut model = CmdModel::new(config, 0, device);
        file.copy_into(model.parameters_mut(), "")?;
        Ok(model)
    }

    /// Restores model and optimizer to go on training.
    ///
    /// # Errors
    /// When a file is damaged, or the model is of another shape.
    pub fn load_for_training(&self, model: &mut CmdModel, settings: AdamSettings) -> Result<Adam, CheckpointError> {
        let file = Tensors::read(&self.model)?;
        let found = file.model_config()?;
        if found != *model.config() {
            let why = format!("the checkpoint's model is {found:?}, the configuration's is {:?}", model.config());
            return Err(CheckpointError::Mismatch { path: self.model.clone(), why });
        }
        file.exactly(model.parameters().specs(), &[""])?;
        file.copy_into(model.parameters_mut(), "")?;

        let file = Tensors::read(&self.folder.join(OPTIMIZER))?;
        file.exactly(model.parameters().specs(), &["exp_avg.", "exp_avg_sq."])?;
        let step = file.metadata("step")?.parse().map_err(|_| file.damaged("its step is no number"))?;
        let mut moments = ["exp_avg.", "exp_avg_sq."].into_iter().map(|prefix| {
            let device = model.parameters().flat().device();
            let mut moment = Parameters::new(model.config().parameters(), 0, device);
            file.copy_into(&mut moment, prefix)?;
            Ok(moment.flat().shallow_clone())
        });
        let (Some(exp_avg), Some(exp_avg_sq)) = (moments.next(), moments.next()) else {
            return Err(file.damaged("it holds no moments"));
        };
        Ok(Adam::restore(settings, step, exp_avg?, exp_avg_sq?))
    }
}

/// A safetensors file in memory.
struct Tensors {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Tensors {
    fn read(path: &Path) -> Result<Self, CheckpointError> {
        let file = Self { path: path.to_owned(), bytes: Vec::new() };
        let bytes = fs::read(path).map_err(|error| file.damaged(&error.to_string()))?;
        let file = Self { bytes, ..file };
        file.view()?;
        Ok(file)
    }

    fn damaged(&self, why: &str) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), why: why.to_owned() }
    }

    fn view(&self) -> Result<SafeTensors<'_>, CheckpointError> {
        let view = SafeTensors::deserialize(&self.bytes);
        view.map_err(|error| self.damaged(&format!("no readable safetensors file ({error})")))
    }

    fn metadata(&self, key: &str) -> Result<String, CheckpointError> {
        let header = SafeTensors::read_metadata(&self.bytes).ok();
        let value = header.and_then(|(_, header)| header.metadata().as_ref()?.get(key).cloned());
        value.ok_or_else(|| self.damaged(&format!("no {key} in its metadata")))
    }

    fn model_config(&self) -> Result<ModelConfig, CheckpointError> {
        let version = self.metadata("format_version")?;
        if version != FORMAT.to_string() {
            return Err(self.damaged(&format!("format {version}, this program reads format {FORMAT}")));
        }
        let config: ModelConfig = serde_json::from_str(&self.metadata("config")?)
            .map_err(|error| self.damaged(&format!("its configuration: {error}")))?;
        let sizes = [config.layers, config.speech_width, config.width, config.heads];
        if sizes.iter().any(|size| !(1..1 << 16).contains(size)) || config.speech_width % config.heads != 0 {
            return Err(self.damaged("its configuration holds impossible sizes"));
        }
        Ok(config)
    }

    /// Nothing but the parameters of `specs`, once under each of `prefixes`.
    fn exactly(&self, specs: &[ParameterSpec], prefixes: &[&str]) -> Result<(), CheckpointError> {
        let known = |name: &str| {
            prefixes
                .iter()
                .any(|prefix| name.strip_prefix(prefix).is_some_and(|name| specs.iter().any(|spec| spec.name == name)))
        };
        match self.view()?.names().into_iter().find(|name| !known(name)) {
            Some(name) => Err(self.damaged(&format!("an unknown tensor {name}"))),
            None => Ok(()),
        }
    }

    /// Copies every parameter from the tensor of its name after `prefix`.
    fn copy_into(&self, parameters: &mut Parameters, prefix: &str) -> Result<(), CheckpointError> {
        let view = self.view()?;
        for spec in parameters.specs().to_vec() {
            let name = format!("{prefix}{}", spec.name);
            let tensor = view.tensor(&name).map_err(|_| self.damaged(&format!("no tensor {name}")))?;
            let shape: Vec<i64> = tensor.shape().iter().map(|size| *size as i64).collect();
            if tensor.dtype() != Dtype::F32 || shape != spec.shape {
                let found = format!("{name} is {:?} {shape:?}, expected F32 {:?}", tensor.dtype(), spec.shape);
                return Err(self.damaged(&found));
            }
            parameters.set(&spec.name, &Tensor::from_data_size(tensor.data(), &shape, Kind::Float));
        }
        Ok(())
    }
}
