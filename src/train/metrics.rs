//! `metrics.jsonl`: one object a line, of training or of evaluation.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::sinks::{Sink, SinkError, TrainRecord};
use crate::checkpoint::write_whole;
use crate::eval::SplitResult;

#[derive(Serialize)]
struct Line<'a, T> {
    step: u64,
    time: f64,
    kind: &'a str,
    #[serde(flatten)]
    record: &'a T,
}

/// The file.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: Option<File>,
}

impl Metrics {
    /// The file `path`, which may not be there yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None }
    }

    fn error(&self, source: std::io::Error) -> SinkError {
        SinkError { path: self.path.clone(), source }
    }

    fn try_rewind(&mut self, step: u64, evaluated: bool) -> std::io::Result<()> {
        let old = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let stays = |line: &&str| {
            let Ok(line) = serde_json::from_str::<Value>(line) else { return false };
            let at = line["step"].as_u64().unwrap_or(u64::MAX);
            at < step || (at == step && (evaluated || line["kind"] != "eval"))
        };
        let kept: String = old.lines().filter(stays).flat_map(|line| [line, "\n"]).collect();
        if kept != old {
            write_whole(&self.path, kept.as_bytes())?;
        }
        self.file = Some(OpenOptions::new().create(true).append(true).open(&self.path)?);
        Ok(())
    }

    fn write(&mut self, step: u64, kind: &str, record: &impl Serialize) -> Result<(), SinkError> {
        let time = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
        let line = serde_json::to_string(&Line { step, time, kind, record }).map_err(std::io::Error::other);
        let written = line.and_then(|line| match &mut self.file {
            // At once, so that no other line comes between and a killed process leaves whole lines.
            Some(file) => file.write_all(format!("{line}\n").as_bytes()),
            None => Err(std::io::Error::other("not opened yet")),
        });
        written.map_err(|error| self.error(error))
    }
}

impl Sink for Metrics {
    fn rewind(&mut self, step: u64, evaluated: bool) -> Result<(), SinkError> {
        self.try_rewind(step, evaluated).map_err(|error| self.error(error))
    }

    fn train(&mut self, step: u64, record: &TrainRecord) -> Result<(), SinkError> {
        self.write(step, "train", record)
    }

    fn eval(&mut self, step: u64, result: &SplitResult) -> Result<(), SinkError> {
        self.write(step, "eval", result)
    }
}
