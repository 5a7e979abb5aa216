//! Where the figures of a run go.

use std::path::PathBuf;

use serde::Serialize;

use crate::eval::{RetrievalSheet, SplitResult};

/// Figures of one update, of the whole global batch.
#[derive(Clone, Debug, Serialize)]
pub struct TrainRecord {
    /// L.
    pub loss: f64,
    /// L_sic.
    pub loss_sic: f64,
    /// L_cmd; null without denoising.
    pub loss_cmd: Option<f64>,
    /// The loss against the captions, where they take part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_text: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// tau.
    pub temperature: f64,
    /// tau of L_cmd, where it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd_temperature: Option<f64>,
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
    /// Batches that were passed over because a loss or gradient was not finite, since the start of the run.
    #[serde(skip_serializing_if = "is_zero")]
    pub nan_batches: u64,
    /// Steps without L_cmd because the batch held a single image, since the start of the run.
    #[serde(skip_serializing_if = "is_zero")]
    pub without_cmd: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Figures cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct SinkError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

/// A place for figures.
pub trait Sink {
    /// Makes the place that of a run that stands after `step`: what came later, and is written again, is dropped; so is the evaluation
    /// at `step` unless it was finished (`evaluated`).
    ///
    /// # Errors
    /// When it cannot be read or written.
    fn rewind(&mut self, step: u64, evaluated: bool) -> Result<(), SinkError>;

    /// Adds figures of training.
    ///
    /// # Errors
    /// When they cannot be written.
    fn train(&mut self, step: u64, record: &TrainRecord) -> Result<(), SinkError>;

    /// Adds figures of an evaluation.
    ///
    /// # Errors
    /// When they cannot be written.
    fn eval(&mut self, step: u64, result: &SplitResult) -> Result<(), SinkError>;

    /// Whether it shows what an evaluation found.
    fn wants_sheet(&self) -> bool {
        false
    }

    /// Adds that.
    ///
    /// # Errors
    /// When it cannot be written.
    fn sheet(&mut self, _step: u64, _sheet: &RetrievalSheet) -> Result<(), SinkError> {
        Ok(())
    }
}
