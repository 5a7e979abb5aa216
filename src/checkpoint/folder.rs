//! A checkpoint: `model.safetensors`, `optimizer.safetensors` and `state.json` in one folder that appears whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use super::bytes::{Tensors, to_safetensors};
use super::disk::{beside, exchange, sync_folder, write_synced, write_whole};
use super::link::follow;
use super::state::FORMAT;
use super::{CheckpointError, Fingerprint, State};
use crate::encoders::Encoders;
use crate::model::{CmdModel, ModelConfig};

pub(super) const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// The files of a checkpoint.
pub(super) const FILES: [&str; 3] = [MODEL, OPTIMIZER, STATE];

/// Of the weights that Adam moves, where the model's are an average of them.
const TRAINED: &str = "trained.";

/// What Adam carries from update to update, over the flat buffer of parameters.
#[derive(Debug)]
pub struct Moments {
    /// Updates made.
    pub step: i64,
    /// First moment, `[P]`.
    pub exp_avg: Tensor,
    /// Second moment, `[P]`.
    pub exp_avg_sq: Tensor,
}

/// What a training saves of itself beside its state.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The model that is evaluated.
    pub model: &'a CmdModel,
    /// The weights that Adam moves, `[P]`, where the model's are an average of them.
    pub trained: Option<&'a Tensor>,
    /// Adam's moments.
    pub moments: &'a Moments,
}

/// Writes a checkpoint into the folder `path`: beside it first, synced, then put into its place.
///
/// # Errors
/// When something cannot be written; then what stood at `path` still does.
pub(super) fn save(path: &Path, saved: Saved, state: &State) -> std::io::Result<()> {
    let beside = beside(path);
    if beside.exists() {
        fs::remove_dir_all(&beside)?;
    }
    fs::create_dir_all(&beside)?;
    let written = write_files(&beside, saved, state);
    let placed = written.and_then(|()| exchange(&beside, path));
    if placed.is_err() {
        let _ = fs::remove_dir_all(&beside);
    }
    placed
}

/// Writes another state for the same weights into the checkpoint `path`.
///
/// # Errors
/// When it cannot be written; then the earlier state still stands.
pub(super) fn amend(path: &Path, state: &State) -> Result<(), CheckpointError> {
    let file = path.join(STATE);
    let known = Checkpoint::open(path)?.verify()?.files;
    let state = State { files: known, ..state.clone() };
    write_whole(&file, &to_json(&state).map_err(CheckpointError::write(&file))?).map_err(CheckpointError::write(&file))
}

fn to_json(state: &State) -> std::io::Result<Vec<u8>> {
    Ok(format!("{}\n", serde_json::to_string_pretty(state)?).into_bytes())
}

fn write_files(folder: &Path, saved: Saved, state: &State) -> std::io::Result<()> {
    let Saved { model, trained, moments } = saved;
    let parameters = model.parameters();
    let metadata = [
        ("format_version".to_owned(), FORMAT.to_string()),
        ("config".to_owned(), serde_json::to_string(model.config())?),
    ];
    let buffers = model.buffers().into_iter().map(|(name, buffer)| (name.to_owned(), buffer.shallow_clone()));
    let tensors = parameters.split(parameters.flat()).into_iter().chain(buffers).collect();
    let model_bytes = to_safetensors(tensors, metadata.into())?;
    let both = [("exp_avg.", &moments.exp_avg), ("exp_avg_sq.", &moments.exp_avg_sq)];
    let all = both.into_iter().chain(trained.map(|trained| (TRAINED, trained)));
    let all = all.flat_map(|(prefix, flat)| {
        parameters.split(flat).into_iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
    });
    let metadata = [("step".to_owned(), moments.step.to_string())];
    let optimizer_bytes = to_safetensors(all.collect(), metadata.into())?;

    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let files = [(MODEL.to_owned(), hash(&model_bytes)), (OPTIMIZER.to_owned(), hash(&optimizer_bytes))];
    let state = State { files: files.into(), ..state.clone() };
    write_synced(&folder.join(MODEL), &model_bytes)?;
    write_synced(&folder.join(OPTIMIZER), &optimizer_bytes)?;
    // Last, because it vouches for the others.
    write_synced(&folder.join(STATE), &to_json(&state)?)?;
    sync_folder(folder)
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
        let path = fs::canonicalize(follow(path)).map_err(|error| {
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
        let damaged = |why: String| CheckpointError::Damaged { path: self.folder.join(STATE), why };
        let state = self.state()?.ok_or_else(|| damaged("missing".to_owned()))?;
        for name in [MODEL, OPTIMIZER] {
            let hash = state.files.get(name);
            let hash = hash.ok_or_else(|| damaged(format!("it does not vouch for {name}")))?;
            Tensors::read(&self.folder.join(name), Some(hash))?;
        }
        Ok(state)
    }

    /// The model for inference: without the fusion encoder, whether the file holds one or not.
    ///
    /// # Errors
    /// When the file is damaged, or is not the one that `state.json` beside it vouches for.
    pub fn load_for_inference(&self, device: Device) -> Result<CmdModel, CheckpointError> {
        self.load_as(device, |config| ModelConfig { fusion: None, ..config })
    }

    /// The model with everything that was trained and that the file holds.
    ///
    /// # Errors
    /// As [`Self::load_for_inference`].
    pub fn load(&self, device: Device) -> Result<CmdModel, CheckpointError> {
        self.load_as(device, |config| config)
    }

    /// Connects `model`, which was loaded from here, with these encoders: it is of use only with those that it was trained on.
    ///
    /// # Errors
    /// When they are others, or the text encoder that it needs is not there.
    pub fn connect(&self, model: &mut CmdModel, encoders: &Encoders) -> Result<(), CheckpointError> {
        let mismatch = |why: String| Err(CheckpointError::Mismatch { path: self.model.clone(), why });
        let (speech, image) = (encoders.speech().spec(), encoders.image().spec());
        let config = model.config();
        let (theirs, ours) =
            ((config.layers, config.speech_width, config.width), (speech.layers, speech.width, image.width));
        if theirs != ours {
            return mismatch(format!(
                "the checkpoint was trained on encoders with {} layers of width {} and image width {}; the configuration's have {}, {} \
                 and {}",
                theirs.0, theirs.1, theirs.2, ours.0, ours.1, ours.2
            ));
        }
        if let Err(error) = encoders.connect(model) {
            return mismatch(error.to_string());
        }
        let Some(state) = self.state()? else { return Ok(()) };
        for (modality, then, now) in [
            ("speech", &state.speech_encoder, Fingerprint::new(&speech.name, encoders.speech().fingerprint())),
            ("image", &state.image_encoder, Fingerprint::new(&image.name, encoders.image().fingerprint())),
        ] {
            if then.fingerprint != now.fingerprint {
                return mismatch(format!(
                    "the checkpoint was trained on the {modality} encoder {}, but encoders.{modality}.path names {}",
                    then.describe(),
                    now.describe()
                ));
            }
        }
        let Some(then) = state.text_encoder.filter(|_| model.speech().cascade().is_some()) else { return Ok(()) };
        if let Ok(text) = encoders.text("a cascaded head") {
            let now = Fingerprint::new(&text.spec().name, text.fingerprint());
            if then.fingerprint != now.fingerprint {
                return mismatch(format!(
                    "the checkpoint was trained on the text encoder {}, but encoders.text.path names {}",
                    then.describe(),
                    now.describe()
                ));
            }
        }
        Ok(())
    }

    fn load_as(
        &self,
        device: Device,
        form: impl FnOnce(ModelConfig) -> ModelConfig,
    ) -> Result<CmdModel, CheckpointError> {
        let name = self.model.file_name().unwrap_or_default().to_string_lossy();
        let vouched = self.state()?.and_then(|state| state.files.get(&*name).cloned());
        let file = Tensors::read(&self.model, vouched.as_deref())?;
        let model = CmdModel::new(form(file.model_config()?), 0, device);
        file.copy_into(model.parameters(), model.parameters().flat(), "")?;
        file.copy_buffers(&model)?;
        Ok(model)
    }

    /// Puts the weights into `model`, to go on training, with their average into `average` where that is kept, and returns the optimizer's
    /// moments.
    ///
    /// # Errors
    /// When a file is damaged, or the model is of another shape.
    pub fn load_for_training(&self, model: &CmdModel, average: Option<&CmdModel>) -> Result<Moments, CheckpointError> {
        let file = Tensors::read(&self.model, None)?;
        let found = file.model_config()?;
        if found != *model.config() {
            let why = format!(
                "the checkpoint's model is another one than the configuration's: {}",
                found.unlike(model.config())
            );
            return Err(CheckpointError::Mismatch { path: self.model.clone(), why });
        }
        let parameters = model.parameters();
        let buffers: Vec<&str> = model.buffers().into_iter().map(|(name, _)| name).collect();
        file.exactly(parameters.specs(), &[""], &buffers)?;
        file.copy_into(parameters, average.unwrap_or(model).parameters().flat(), "")?;
        file.copy_buffers(model)?;

        let file = Tensors::read(&self.folder.join(OPTIMIZER), None)?;
        let prefixes = ["exp_avg.", "exp_avg_sq.", TRAINED];
        file.exactly(parameters.specs(), &prefixes[..if average.is_some() { 3 } else { 2 }], &[])?;
        if average.is_some() {
            file.copy_into(parameters, parameters.flat(), TRAINED)?;
        }
        let step = file.metadata("step")?.parse().map_err(|_| file.damaged("its step is no number"))?;
        let moment = |prefix: &str| {
            let moment = parameters.flat().zeros_like();
            file.copy_into(parameters, &moment, prefix)?;
            Ok(moment)
        };
        Ok(Moments { step, exp_avg: moment("exp_avg.")?, exp_avg_sq: moment("exp_avg_sq.")? })
    }
}
