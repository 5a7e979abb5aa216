//! `metrics.jsonl`: one object a line, of training or of evaluation.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::eval::SplitResult;

/// Figures of one update, of the whole global batch.
#[derive(Clone, Debug, Serialize)]
pub struct TrainRecord {
    /// L.
    pub loss: f64,
    /// L_sic.
    pub loss_sic: f64,
    /// L_cmd; null without denoising.
    pub loss_cmd: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// tau.
    pub temperature: f64,
    /// Norm of the gradient before it was clipped.
    pub grad_norm: f64,
    /// Mean entropy of the fusion encoder's attention relative to log N; null without denoising.
    pub attention_entropy: Option<f64>,
    /// Speech-image pairs a second since the last record.
    pub samples_per_second: f64,
    /// Part of the time since the last record that was spent waiting for data.
    pub data_wait: f64,
    /// Times that a sample could not be read and was replaced, since the start of the run.
    pub skipped: u64,
}

#[derive(Serialize)]
struct Line<'a, T> {
    step: u64,
    time: f64,
    kind: &'a str,
    #[serde(flatten)]
    record: &'a T,
}

/// The open file.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens `path` to append. Lines beyond `step`, which a resumed run writes again, are dropped first; so is the evaluation at
    /// `step` unless it was finished (`evaluated`).
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, step: u64, evaluated: bool) -> Result<Self, Error> {
        let old = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(Error::output(path))?,
        };
        let stays = |line: &&str| {
            let Ok(line) = serde_json::from_str::<Value>(line) else { return false };
            let at = line["step"].as_u64().unwrap_or(u64::MAX);
            at < step || (at == step && (evaluated || line["kind"] != "eval"))
        };
        let kept: String = old.lines().filter(stays).flat_map(|line| [line, "\n"]).collect();
        if kept != old {
            let beside = path.with_extension("jsonl.tmp");
            fs::write(&beside, kept).map_err(Error::output(&beside))?;
            fs::rename(&beside, path).map_err(Error::output(path))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::output(path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds figures of training.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn train(&mut self, step: u64, record: &TrainRecord) -> Result<(), Error> {
        self.write(step, "train", record)
    }

    /// Adds figures of an evaluation.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn eval(&mut self, step: u64, result: &SplitResult) -> Result<(), Error> {
        self.write(step, "eval", result)
    }

    fn write(&mut self, step: u64, kind: &str, record: &impl Serialize) -> Result<(), Error> {
        let time = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
        let line = serde_json::to_string(&Line { step, time, kind, record }).map_err(std::io::Error::other);
        let written = line.and_then(|line| writeln!(self.file, "{line}"));
        written.map_err(Error::output(&self.path))
    }
}
