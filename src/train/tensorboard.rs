//! The figures of a run as TensorBoard reads them: `tensorboard/` in its folder.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::Recipe;
use super::sinks::{Sink, SinkError, TrainRecord};
use crate::eval::{RetrievalSheet, SplitResult};
use crate::telemetry::EventFile;

/// The folder.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    /// The figures that are there twice, for those that a rewind takes along.
    metrics: PathBuf,
    settings: Vec<(String, Value)>,
    events: Option<EventFile>,
}

impl TensorBoard {
    /// The folder `folder`, which may not be there yet, for a training by `recipe` whose `metrics.jsonl` is rewound before it.
    #[must_use]
    pub fn new(folder: &Path, metrics: &Path, recipe: &Recipe) -> Self {
        let Recipe { speech, fusion, noise, loss, cmd, optim, train, .. } = recipe;
        let sections = [
            ("speech", serde_json::to_value(speech)),
            ("fusion", serde_json::to_value(fusion)),
            ("noise", serde_json::to_value(noise)),
            ("loss", serde_json::to_value(loss)),
            ("cmd", serde_json::to_value(cmd)),
            ("optim", serde_json::to_value(optim)),
            ("train", serde_json::to_value(train)),
        ];
        let mut settings = Vec::new();
        for (name, section) in sections {
            leaves(name, &section.unwrap_or_default(), &mut |key, value| settings.push((key, value.clone())));
        }
        Self { folder: folder.to_owned(), metrics: metrics.to_owned(), settings, events: None }
    }

    fn write(&mut self, work: impl FnOnce(&mut EventFile) -> std::io::Result<()>) -> Result<(), SinkError> {
        let Some(events) = &mut self.events else {
            return Err(SinkError { path: self.folder.clone(), source: std::io::Error::other("not opened yet") });
        };
        work(events).map_err(|source| SinkError { path: events.path().to_owned(), source })
    }

    fn scalars(&mut self, step: u64, group: &str, record: &impl Serialize) -> Result<(), SinkError> {
        let mut numbers = Vec::new();
        let record = serde_json::to_value(record).unwrap_or_default();
        leaves(group, &record, &mut |tag, value| numbers.extend(value.as_f64().map(|number| (tag, number))));
        self.write(|events| events.scalars(step, &numbers))
    }
}

impl Sink for TensorBoard {
    fn rewind(&mut self, step: u64, evaluated: bool) -> Result<(), SinkError> {
        // An evaluation at `step` that comes again takes the figures of training along, which are written again.
        let events = EventFile::create(&self.folder, if evaluated { step + 1 } else { step });
        self.events = Some(events.map_err(|source| SinkError { path: self.folder.clone(), source })?);
        let settings = self.settings.clone();
        self.write(|events| events.hyper_parameters(&settings))?;
        if !evaluated {
            let text = std::fs::read_to_string(&self.metrics).unwrap_or_default();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            for mut line in lines.filter(|line| line["step"] == step && line["kind"] == "train") {
                line.as_object_mut().into_iter().for_each(|line| {
                    line.shift_remove("step");
                    line.shift_remove("time");
                });
                self.scalars(step, "train", &line)?;
            }
        }
        Ok(())
    }

    fn train(&mut self, step: u64, record: &TrainRecord) -> Result<(), SinkError> {
        self.scalars(step, "train", record)
    }

    fn eval(&mut self, step: u64, result: &SplitResult) -> Result<(), SinkError> {
        self.scalars(step, &format!("eval {}", result.split), result)
    }

    fn wants_sheet(&self) -> bool {
        true
    }

    fn sheet(&mut self, step: u64, sheet: &RetrievalSheet) -> Result<(), SinkError> {
        let RetrievalSheet { png, size, said, heard } = sheet;
        self.write(|events| {
            events.image(step, "retrieval/speech to image", png.clone(), *size, said)?;
            events.text(step, "retrieval/image to speech", heard)
        })
    }
}

/// Numbers, texts and switches of `value`, with their names behind `name`; lists are none.
fn leaves(name: &str, value: &Value, visit: &mut impl FnMut(String, &Value)) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| leaves(&format!("{name}/{key}"), value, visit));
        }
        Value::Null | Value::Array(_) => {}
        value => visit(name.to_owned(), value),
    }
}
