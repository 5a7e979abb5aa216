//! Results and what they are of.

use std::path::Path;

use serde_json::Value;

use super::ReportError;
use crate::eval::{Protocol, SplitResult};

/// A result and what it is of.
#[derive(Clone, Debug)]
pub struct Row {
    /// The run, if it is one of the report's.
    pub run: Option<usize>,
    /// Name of the run or system.
    pub method: String,
    /// Name of the data set that it was trained on, if that is known and the only one.
    pub trained_on: Option<String>,
    /// Whether that is the one that it is measured on.
    pub is_own: bool,
    /// Its recalls.
    pub result: SplitResult,
}

/// The results in a file of `cmd eval --json`, and the checkpoint that they are of; none for exported embeddings.
///
/// # Errors
/// When it holds none.
pub fn read_results(path: &Path) -> Result<(Option<String>, Vec<SplitResult>), ReportError> {
    let wrong = |why: String| ReportError::Read { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let mut all: Value = serde_json::from_str(&text).map_err(|error| wrong(format!("not JSON: {error}")))?;
    let mut results = serde_json::from_value::<Vec<SplitResult>>(all["results"].take());
    // In their columns stand texts, not images.
    let is_of_images = |result: &SplitResult| !matches!(result.protocol, Some(Protocol::SpeechText { .. }));
    results.iter_mut().for_each(|results| results.retain(is_of_images));
    match results {
        Ok(results) if !results.is_empty() => Ok((all["checkpoint"].as_str().map(str::to_owned), results)),
        _ => Err(wrong("holds no results; make it with cmd eval --json".to_owned())),
    }
}

impl Row {
    /// The method, with what was done beyond the plain protocol.
    pub(super) fn name(&self) -> String {
        self.result.protocol.as_ref().map_or(self.method.clone(), |protocol| format!("{}, {protocol}", self.method))
    }

    /// Whether nothing was done beyond the plain protocol.
    pub(super) fn is_plain(&self) -> bool {
        self.result.protocol.is_none()
    }

    /// Whether `other` is the same measurement of the same run.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { run, result, .. } = self;
        run.is_some()
            && *run == other.run
            && (&result.dataset, &result.split) == (&other.result.dataset, &other.result.split)
            && result.protocol == other.result.protocol
    }
}

/// Recalls at 1, 5 and 10 from speech to image, from image to speech, and their means.
pub(super) fn recalls(result: &SplitResult) -> [f64; 9] {
    let recalls = &result.recalls;
    let [speech, images] =
        [&recalls.speech_to_image, &recalls.image_to_speech].map(|side| [side.r1, side.r5, side.r10]);
    let mean = [recalls.mean.r1, recalls.mean.r5, recalls.mean.r10];
    let mut all = [0.0; 9];
    all.iter_mut().zip([speech, images, mean].into_iter().flatten()).for_each(|(place, value)| *place = value);
    all
}
