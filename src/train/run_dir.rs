//! The folder of a run, and which checkpoints stay in it.
//!
//! ```text
//! runs/<name>/config.toml, metrics.jsonl, checkpoints/step-000500/, best, last
//! runs/latest
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Adam;
use super::checkpoint::{self, Checkpoint, CheckpointError, State};
use crate::config::Config;
use crate::error::Error;
use crate::model::CmdModel;

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
    /// Makes the folder of a new run below `output`, called `name` or after `stem` and the time, and points `latest` to it.
    ///
    /// # Errors
    /// When it cannot be made, or `name` is taken.
    pub fn create(output: &Path, name: Option<&str>, stem: &str, config: &Config) -> Result<Self, Error> {
        fs::create_dir_all(output).map_err(Error::output(output))?;
        let path = match name {
            Some(name) => {
                let path = output.join(name);
                fs::create_dir(&path).map_err(Error::output(&path))?;
                path
            }
            None => unused(output, &format!("{stem}-{}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S")))?,
        };
        let run = Self { path };
        fs::create_dir(run.path.join(CHECKPOINTS)).map_err(Error::output(&run.path))?;
        run.write_config(config)?;
        let folder = run.path.file_name().unwrap_or_default();
        link(&output.join(LATEST), Path::new(folder)).map_err(Error::output(output))?;
        Ok(run)
    }

    /// Writes down the effective configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, config: &Config) -> Result<(), Error> {
        let file = self.config();
        fs::write(&file, config.to_commented_toml()).map_err(Error::output(&file))
    }

    /// The run `name`: a folder, or "latest" for the newest below `output`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(name: &Path, output: &Path) -> Result<Self, Error> {
        let named = if name.as_os_str() == LATEST { output.join(LATEST) } else { name.to_owned() };
        let missing = |why: String| CheckpointError::Missing { path: named.clone(), why };
        let path = fs::canonicalize(&named).map_err(|error| missing(format!("{error}; name the folder of a run")))?;
        if path.join(CONFIG).is_file() {
            Ok(Self { path })
        } else {
            Err(missing(format!("not the folder of a run: it has no {CONFIG}")).into())
        }
    }

    /// The run that a checkpoint lies in, if it does.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let path = checkpoint.path().ancestors().nth(3)?.to_owned();
        path.join(CONFIG).is_file().then_some(Self { path })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// Where the figures go.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.path.join(CHECKPOINTS).join(format!("step-{step:06}"))
    }

    /// Steps that have a checkpoint, the newest first.
    fn steps(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.path.join(CHECKPOINTS)).into_iter().flatten().flatten();
        let mut steps: Vec<u64> =
            entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        steps
    }

    /// Saves a checkpoint, points `last` (and `best`, if it is) to it, and removes those that are neither best nor among the `keep`
    /// newest.
    ///
    /// # Errors
    /// When it cannot be written; the earlier ones stay.
    pub fn save(&self, model: &CmdModel, adam: &Adam, state: &State, keep: usize) -> Result<(), Error> {
        let path = self.checkpoint_path(state.step);
        checkpoint::save(&path, model, adam, state).map_err(Error::output(&path))?;
        let target = Path::new(CHECKPOINTS).join(path.file_name().unwrap_or_default());
        let best = state.best.map(|best| best.step);
        link(&self.path.join(LAST), &target).map_err(Error::output(&path))?;
        if best == Some(state.step) {
            link(&self.path.join(BEST), &target).map_err(Error::output(&path))?;
        }
        for step in self.steps().into_iter().skip(keep).filter(|step| best != Some(*step)) {
            let old = self.checkpoint_path(step);
            fs::remove_dir_all(&old).map_err(Error::output(&old))?;
        }
        Ok(())
    }

    /// The newest checkpoint that is whole; damaged ones are passed over with a warning.
    ///
    /// # Errors
    /// When there is none.
    pub fn newest(&self) -> Result<(Checkpoint, State), CheckpointError> {
        for step in self.steps() {
            let path = self.checkpoint_path(step);
            match Checkpoint::open(&path).and_then(|checkpoint| Ok((checkpoint.verify()?, checkpoint))) {
                Ok((state, checkpoint)) => return Ok((checkpoint, state)),
                Err(error) => tracing::warn!("passed over: {error}"),
            }
        }
        let why = "this run has no whole checkpoint yet; start it again with --config".to_owned();
        Err(CheckpointError::Missing { path: self.path.clone(), why })
    }

    /// The best checkpoint, or the last where none has been evaluated.
    ///
    /// # Errors
    /// When there is none.
    pub fn best(&self) -> Result<Checkpoint, CheckpointError> {
        let named = [BEST, LAST].map(|name| self.path.join(name)).into_iter().find(|path| path.exists());
        let why = || "this run has no checkpoint yet".to_owned();
        Checkpoint::open(&named.ok_or_else(|| CheckpointError::Missing { path: self.path.clone(), why: why() })?)
    }
}

/// A folder of that name, or with a number behind it where the name is taken.
fn unused(output: &Path, name: &str) -> Result<PathBuf, Error> {
    for number in 1.. {
        let path = output.join(if number == 1 { name.to_owned() } else { format!("{name}-{number}") });
        match fs::create_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            result => return result.map(|()| path.clone()).map_err(Error::output(&path)),
        }
    }
    unreachable!("the numbers do not end")
}

/// Points the symbolic link `link` to `target`, at once.
fn link(link: &Path, target: &Path) -> std::io::Result<()> {
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let beside = link.with_file_name(format!(".{name}.tmp"));
    let _ = fs::remove_file(&beside);
    symlink(target, &beside)?;
    fs::rename(&beside, link)
}
