//! The folder of a run, and which checkpoints stay in it.
//!
//! ```text
//! runs/<name>/config.toml, metrics.jsonl, tensorboard/, lock, checkpoints/step-000500/, best, last
//! runs/latest
//! ```
//!
//! Everything is found from `checkpoints/` and the states in it; the links are for people.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use super::disk::{aside, settle_exchange, write_whole};
use super::folder::{self, Checkpoint, MODEL, Saved};
use super::{CheckpointError, State, link};
use crate::telemetry::existing;

const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";
const BEST: &str = "best";
const LAST: &str = "last";
const LATEST: &str = "latest";

/// The folder of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Checks that `name` can be the name of a run: of one folder, and not of the link to the newest one.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check_name(name: &str) -> Result<(), CheckpointError> {
        let why = match name {
            "" => "is empty",
            LATEST => "names the newest run, whatever its name",
            _ if name.starts_with('.') => "begins with a dot",
            _ if name.contains(['/', '\\']) => "is a path",
            _ if name.contains(char::is_control) => "holds control characters",
            _ if name.len() > 200 => "is longer than 200 bytes",
            _ => return Ok(()),
        };
        Err(CheckpointError::Name { name: name.to_owned(), why })
    }

    /// Makes the folder of a new run below `output`, called `name` or after `stem` and the time, with its configuration, and points
    /// `latest` to it.
    ///
    /// # Errors
    /// When it cannot be made, or `name` is taken or none.
    pub fn create(output: &Path, name: Option<&str>, stem: &str, config: &str) -> Result<Self, CheckpointError> {
        name.map_or(Ok(()), Self::check_name)?;
        fs::create_dir_all(output).map_err(CheckpointError::write(output))?;
        let path = match name {
            Some(name) => {
                let path = output.join(name);
                fs::create_dir(&path).map_err(CheckpointError::write(&path))?;
                path
            }
            None => unused(output, &format!("{stem}-{}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S")))?,
        };
        let run = Self { path };
        fs::create_dir(run.path.join(CHECKPOINTS)).map_err(CheckpointError::write(&run.path))?;
        run.write_config(config)?;
        link::point(&output.join(LATEST), Path::new(run.path.file_name().unwrap_or_default()));
        Ok(run)
    }

    /// Checks that [`Self::create`] can make a run.
    ///
    /// # Errors
    /// When `name` is taken or none, or `output` cannot be written.
    pub fn can_create(output: &Path, name: Option<&str>) -> Result<(), CheckpointError> {
        name.map_or(Ok(()), Self::check_name)?;
        if let Some(taken) = name.map(|name| output.join(name)).filter(|path| path.exists()) {
            return Err(CheckpointError::write(taken)(Errno::EXIST.into()));
        }
        let folder = existing(output);
        let access = rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK);
        let access = if folder.is_dir() { access.map_err(Into::into) } else { Err(Errno::NOTDIR.into()) };
        access.map_err(CheckpointError::write(output))
    }

    /// The run in the folder `path`, which a killed process may have left without its configuration; then it gets `config`.
    ///
    /// # Errors
    /// When `path` is no folder of a run.
    pub fn adopt(path: &Path, config: &str) -> Result<Self, CheckpointError> {
        let run = Self { path: fs::canonicalize(path).map_err(CheckpointError::write(path))? };
        if !run.config().is_file() {
            let is_empty = fs::read_dir(&run.path).is_ok_and(|mut entries| {
                entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == CHECKPOINTS || is_hidden(&entry)))
            });
            if !is_empty || run.has_checkpoints() {
                let why = format!("not the folder of a run: it has no {CONFIG}");
                return Err(CheckpointError::Missing { path: path.to_owned(), why });
            }
            fs::create_dir_all(run.path.join(CHECKPOINTS)).map_err(CheckpointError::write(&run.path))?;
            run.write_config(config)?;
        }
        Ok(run)
    }

    /// Writes down the effective configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, config: &str) -> Result<(), CheckpointError> {
        let file = self.config();
        write_whole(&file, config.as_bytes()).map_err(CheckpointError::write(&file))
    }

    /// The run `name`: a folder, or "latest" for the newest below `output`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(name: &Path, output: &Path) -> Result<Self, CheckpointError> {
        let named = if name.as_os_str() == LATEST { output.join(LATEST) } else { name.to_owned() };
        let missing = |why: String| CheckpointError::Missing { path: named.clone(), why };
        let path = fs::canonicalize(link::follow(&named))
            .map_err(|error| missing(format!("{error}; name the folder of a run")))?;
        if Self::is_run(&path) {
            Ok(Self { path })
        } else {
            Err(missing(format!("not the folder of a run: it has no {CONFIG}")))
        }
    }

    /// The checkpoint that `named` means, a run (then its best), a checkpoint's folder or its model, and the run that it lies in, if it does.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(named: &Path, output: &Path) -> Result<(Checkpoint, Option<Self>), CheckpointError> {
        if named.as_os_str() == LATEST || Self::is_run(named) {
            let run = Self::open(named, output)?;
            return Ok((run.best()?, Some(run)));
        }
        // The link `best` of a run can be stale; the run's state is not.
        if let Some(run) = Self::of_best(named) {
            return Ok((run.best()?, Some(run)));
        }
        let checkpoint = Checkpoint::open(named)?;
        let run = Self::of(&checkpoint);
        Ok((checkpoint, run))
    }

    /// The run that `path`, a checkpoint's folder or file, lies in, if it does.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint) -> Option<Self> {
        // runs/a/checkpoints/step-1/model.safetensors, or runs/a/best/model.safetensors in a copy without links
        let mut above = checkpoint.path().ancestors().skip(2).take(2);
        above.find(|path| Self::is_run(path)).map(|path| Self { path: path.to_owned() })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of TensorBoard's event files.
    #[must_use]
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// The run whose link `best`, or the model behind it, `path` is, if it is.
    #[must_use]
    pub fn of_best(path: &Path) -> Option<Self> {
        let link = if path.file_name().is_some_and(|name| name == MODEL) { path.parent()? } else { path };
        let run = link.parent().filter(|_| link.file_name().is_some_and(|name| name == BEST))?;
        let run = if run.as_os_str().is_empty() { Path::new(".") } else { run };
        let path = fs::canonicalize(run).ok().filter(|path| Self::is_run(path))?;
        Some(Self { path })
    }

    /// Whether `path` is the folder of a run.
    #[must_use]
    pub fn is_run(path: &Path) -> bool {
        path.join(CONFIG).is_file()
    }

    /// Where the figures go.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.path.join(place(step))
    }

    /// The checkpoint of `step`, also where it stood aside when a process was killed.
    fn checkpoint(&self, step: u64) -> Result<Checkpoint, CheckpointError> {
        let path = self.checkpoint_path(step);
        let old = aside(&path);
        Checkpoint::open(if !path.exists() && old.exists() { &old } else { &path })
    }

    /// Steps that have a checkpoint, the newest first.
    fn steps(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.path.join(CHECKPOINTS)).into_iter().flatten().flatten();
        let step = |name: &str| {
            let aside = name.strip_prefix('.').and_then(|name| name.strip_suffix(".old"));
            aside.unwrap_or(name).strip_prefix("step-")?.parse().ok()
        };
        let mut steps: Vec<u64> = entries.filter_map(|entry| step(entry.file_name().to_str()?)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        steps.dedup();
        steps
    }

    /// Saves a checkpoint, points `last` and `best`, and removes what is neither best nor among the `keep` newest. Checkpoints of
    /// later steps are left alone: they are damaged, or the run would have gone on from them.
    ///
    /// # Errors
    /// When it cannot be written; the earlier ones stay.
    pub fn save(&self, saved: Saved, state: &State, keep: usize) -> Result<(), CheckpointError> {
        let path = self.checkpoint_path(state.step);
        folder::save(&path, saved, state).map_err(CheckpointError::write(&path))?;
        self.settle(state, keep);
        Ok(())
    }

    /// Writes another state for the weights that were saved at its step: after their evaluation.
    ///
    /// # Errors
    /// When it cannot be written, or the checkpoint is gone or damaged.
    pub fn amend(&self, state: &State, keep: usize) -> Result<(), CheckpointError> {
        folder::amend(&self.checkpoint_path(state.step), state)?;
        self.settle(state, keep);
        Ok(())
    }

    /// Ends what a kill cut short, points `last` and `best` to the checkpoints of `state`, which are on the disk, and removes what is
    /// neither best nor among the `keep` newest.
    pub fn settle(&self, state: &State, keep: usize) {
        let entries = fs::read_dir(self.path.join(CHECKPOINTS)).into_iter().flatten().flatten();
        for entry in entries {
            // What a process that was killed had begun.
            let name = entry.file_name().to_string_lossy().into_owned();
            let hidden =
                name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp").or(name.strip_suffix(".old")));
            if let Some(name) = hidden.filter(|name| name.starts_with("step-")) {
                settle_exchange(&self.path.join(CHECKPOINTS).join(name));
            }
        }
        let best = state.best.map(|best| best.step);
        link::point(&self.path.join(LAST), &place(state.step));
        if let Some(best) = best {
            link::point(&self.path.join(BEST), &place(best));
        }
        let earlier = self.steps().into_iter().filter(|step| *step <= state.step);
        for step in earlier.skip(keep.max(1)).filter(|step| best != Some(*step)) {
            let old = self.checkpoint_path(step);
            if let Err(error) = fs::remove_dir_all(&old) {
                tracing::warn!("{}: cannot be removed: {error}", old.display());
            }
        }
    }

    /// Whether there is a checkpoint of `step`, whole or not.
    #[must_use]
    pub fn has(&self, step: u64) -> bool {
        self.checkpoint(step).is_ok()
    }

    /// Whether there is a checkpoint, whole or not.
    #[must_use]
    pub fn has_checkpoints(&self) -> bool {
        !self.steps().is_empty()
    }

    /// The newest checkpoint that is whole; damaged ones are passed over with a warning.
    ///
    /// # Errors
    /// When there is none.
    pub fn newest(&self) -> Result<(Checkpoint, State), CheckpointError> {
        for step in self.steps() {
            match self.checkpoint(step).and_then(|checkpoint| Ok((checkpoint.verify()?, checkpoint))) {
                Ok((state, checkpoint)) => return Ok((checkpoint, state)),
                Err(error) => tracing::warn!("passed over: {error}"),
            }
        }
        let why = "this run has no whole checkpoint yet; start it again with --config".to_owned();
        Err(CheckpointError::Missing { path: self.path.clone(), why })
    }

    /// The best checkpoint by the newest state, or the newest where none has been evaluated. A link `best` that says otherwise is
    /// told.
    ///
    /// # Errors
    /// When there is none.
    pub fn best(&self) -> Result<Checkpoint, CheckpointError> {
        let (newest, state) = self.newest()?;
        let Some(best) = state.best else { return Ok(newest) };
        let path = self.checkpoint_path(best.step);
        let Ok(checkpoint) = self.checkpoint(best.step) else {
            tracing::warn!("{}: the best checkpoint is gone; {} counts", path.display(), newest.path().display());
            return Ok(newest);
        };
        let linked = fs::canonicalize(link::follow(&self.path.join(BEST))).ok();
        let is_stale = linked.is_some_and(|linked| linked.starts_with(self.path.join(CHECKPOINTS)) && linked != path);
        if is_stale {
            let best = self.path.join(BEST);
            tracing::warn!("{}: is not the best checkpoint any more; {} is", best.display(), path.display());
        }
        Ok(checkpoint)
    }
}

/// Where the checkpoint of `step` stands in a run.
fn place(step: u64) -> PathBuf {
    Path::new(CHECKPOINTS).join(format!("step-{step:06}"))
}

fn is_hidden(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with('.')
}

/// A folder of that name, or with a number behind it where the name is taken.
fn unused(output: &Path, name: &str) -> Result<PathBuf, CheckpointError> {
    for number in 1.. {
        let path = output.join(if number == 1 { name.to_owned() } else { format!("{name}-{number}") });
        match fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            result => return result.map(|()| path.clone()).map_err(CheckpointError::write(&path)),
        }
    }
    unreachable!("the numbers do not end")
}
