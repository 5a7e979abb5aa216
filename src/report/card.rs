//! A folder that a model hub takes: `README.md` with figures in its head, `config.json`, `model.safetensors`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ReportError;
use super::results::{read_results, recalls};
use crate::VERSION;
use crate::checkpoint::{Checkpoint, CheckpointError, State};
use crate::eval::{Protocol, SplitResult};
use crate::model::CmdModel;

/// What a folder holds that is a card already.
const MARK: &str = "config.json";
/// K of the recalls in a card.
const KS: [u32; 3] = [1, 5, 10];
const SIDES: [&str; 3] = ["speech -> image", "image -> speech", "mean"];

/// A card cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file of results is none.
    #[error(transparent)]
    Results(#[from] ReportError),
    /// It cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What a card tells.
#[derive(Debug)]
pub struct ModelCard {
    /// Name of the model.
    pub name: String,
    /// Where the run stood.
    pub state: State,
    /// The configuration as TOML, without the paths of this machine.
    pub config: String,
    /// Results of `cmd eval --json`.
    pub results: Vec<SplitResult>,
}

impl ModelCard {
    /// The results in a file of `cmd eval --json` with `checkpoint`.
    ///
    /// # Errors
    /// When it holds none, or those of another checkpoint.
    pub fn read_results(path: &Path, checkpoint: &Checkpoint) -> Result<Vec<SplitResult>, CardError> {
        let (of, results) = read_results(path)?;
        if of.as_deref().map(Path::new) == Some(checkpoint.path()) {
            // What words find is no figure of this model.
            let is_of_speech = |result: &SplitResult| !matches!(result.protocol, Some(Protocol::Text { .. }));
            return Ok(results.into_iter().filter(is_of_speech).collect());
        }
        let whose = of.as_deref().unwrap_or("no checkpoint");
        let why = format!("holds results of {whose}, not of {}", checkpoint.path().display());
        Err(ReportError::Read { path: path.to_owned(), why }.into())
    }

    /// Writes the card of `checkpoint`, whose weights are `model`'s, into `folder`, which is made.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn write(&self, checkpoint: &Checkpoint, model: &CmdModel, folder: &Path) -> Result<(), CardError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CardError::Write { path, source }
        };
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
        let is_empty = std::fs::read_dir(folder).map_err(failed(folder))?.next().is_none();
        if !is_empty && !folder.join(MARK).is_file() {
            let why = "holds something else; name a new or empty folder with --out";
            return Err(failed(folder)(std::io::Error::other(why)));
        }
        let weights = folder.join("model.safetensors");
        std::fs::copy(checkpoint.path(), &weights).map_err(failed(&weights))?;
        for (name, text) in [(MARK, self.config_json(model)), ("README.md", self.readme(model))] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(failed(&path))?;
        }
        Ok(())
    }

    /// Sizes, encoders and versions.
    fn config_json(&self, model: &CmdModel) -> String {
        let State { step, seed, data, speech_encoder, image_encoder, text_encoder, .. } = &self.state;
        let mut config = json!({
            "model_type": "cmd",
            "cmd_version": VERSION,
            "model": model.config(),
            "step": step,
            "seed": seed,
            "data": data,
            "speech_encoder": speech_encoder,
            "image_encoder": image_encoder,
        });
        if let Some(text_encoder) = text_encoder {
            config["text_encoder"] = json!(text_encoder);
        }
        format!("{config:#}\n")
    }

    fn readme(&self, model: &CmdModel) -> String {
        let Self { name, state, config, .. } = self;
        let parameters = model.parameters().count();
        let how = if model.fusion().is_some() {
            "with cross-modal denoising (CMD)"
        } else {
            "without cross-modal denoising (CMD)"
        };
        let text = state.text_encoder.as_ref();
        let text_row = text.map_or(String::new(), |text| format!("| `{}` | `{}` |\n", text.name, text.fingerprint));
        let in_pytorch = match model.speech().cascade() {
            Some(_) => "Its head is cascaded: what is said becomes keywords, which the text encoder reads.",
            None => "`scripts/open_in_pytorch.py` opens it with `torch.nn` alone.",
        };
        format!(
            "---\n{}---\n\n# {name}\n\nA speech head for speech-image retrieval, trained {how}: it maps what the frozen speech \
             encoder `{}` hears to the space of the frozen image encoder `{}`. {parameters} parameters, step {} on {} (seed {}), by cmd {VERSION}.\n\n\
             {}## Use\n\nThe encoders are not part of it; their files are known by BLAKE3:\n\n| encoder | BLAKE3 |\n| --- | --- |\n| `{}` | `{}` |\n| `{}` | `{}` |\n{text_row}\n    \
             cmd eval --checkpoint model.safetensors --data CONFIG --split test\n\n{in_pytorch}\n\n\
             ## Configuration\n\n```toml\n{config}```\n",
            self.head(model),
            state.speech_encoder.name,
            state.image_encoder.name,
            state.step,
            state.data.name,
            state.seed,
            self.table(),
            state.speech_encoder.name,
            state.speech_encoder.fingerprint,
            state.image_encoder.name,
            state.image_encoder.fingerprint,
        )
    }

    /// Figures as hubs read them, in YAML: JSON's texts are YAML's.
    fn head(&self, model: &CmdModel) -> String {
        let text = |text: &str| Value::from(text).to_string();
        let mut head = format!(
            "library_name: cmd\ntags:\n- speech-image-retrieval\n{}datasets:\n- {}\nmodel-index:\n- name: {}\n  results:\n",
            if model.fusion().is_some() { "- cross-modal-denoising\n" } else { "" },
            text(&self.state.data.name),
            text(&self.name)
        );
        for result in &self.results {
            let SplitResult { dataset, split, .. } = result;
            let _ = write!(
                head,
                "  - task:\n      type: audio-to-image-retrieval\n      name: speech-image retrieval{}\n    dataset:\n      type: {}\n      name: {}\n      \
                 split: {}\n    metrics:\n",
                protocol(result),
                text(dataset),
                text(&format!("{dataset} {split}")),
                text(split)
            );
            for (recalls, side) in recalls(result).chunks_exact(KS.len()).zip(SIDES) {
                for (value, k) in recalls.iter().zip(KS) {
                    let _ = writeln!(
                        head,
                        "    - type: recall_at_{k}\n      name: {}\n      value: {value:.2}",
                        text(&format!("{side} R@{k}"))
                    );
                }
            }
        }
        if self.results.is_empty() {
            head.truncate(head.len() - "model-index:\n- name: \n  results:\n".len() - text(&self.name).len());
        }
        head
    }

    fn table(&self) -> String {
        if self.results.is_empty() {
            return String::new();
        }
        let mut table = String::from(
            "| data | images | utterances | S -> I R@1 | R@5 | R@10 | I -> S R@1 | R@5 | R@10 | mean R@1 |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for result in &self.results {
            let named = |name: &str| name.replace('|', "\\|");
            let SplitResult { dataset, split, images, utterances, .. } = result;
            let (dataset, split) = (named(dataset), named(split));
            let _ = write!(table, "| {dataset} {split}{} | {images} | {utterances} |", protocol(result));
            for recall in &recalls(result)[..2 * KS.len() + 1] {
                let _ = write!(table, " {recall:.1} |");
            }
            table.push('\n');
        }
        table
            + "\nIn percent; the gallery is the unique images and all utterances of the split, ties count against the query.\n\n"
    }
}

/// What was done beyond the plain protocol.
fn protocol(result: &SplitResult) -> String {
    result.protocol.as_ref().map_or(String::new(), |protocol| format!(", {protocol}"))
}
