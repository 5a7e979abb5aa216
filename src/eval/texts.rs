//! Words in the place of speech: the captions of a split, or what a recogniser made of its utterances, by the frozen text encoder and the same rule.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use tch::{Device, Tensor};

use super::{Embeddings, EvalError, EvalSet, Protocol, Ranks, Recalls, Similarities, SplitResult};
use crate::data::{Split, Utterance, read_text};
use crate::distributed::World;
use crate::encoders::{TextEncoder, is_blank};
use crate::features::FeatureError;
use crate::model::catch_libtorch;

/// What each utterance of a split says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts(Vec<String>);

/// A line of a file of transcripts.
#[derive(Debug, Deserialize)]
struct Line {
    audio: PathBuf,
    text: String,
}

impl Texts {
    /// The captions of `split`.
    ///
    /// # Errors
    /// When an utterance has none.
    pub fn captions(split: &Split) -> Result<Self, EvalError> {
        let text = |utterance: &Utterance| {
            let text = utterance.text.as_ref().filter(|text| !is_blank(text));
            text.map(ToString::to_string).ok_or_else(|| EvalError::Texts {
                what: "--queries text".to_owned(),
                why: format!("{} has no caption", utterance.audio.display()),
            })
        };
        split.utterances.iter().map(text).collect::<Result<_, _>>().map(Self)
    }

    /// Transcripts from a file of JSON Lines, `{"audio": "a.wav", "text": "..."}`: audio is a path from the folder of the file, or the end of one that fits
    /// a single utterance.
    ///
    /// # Errors
    /// When a line is none of these, or fits several utterances of `split`, or one of these has none, or several.
    pub fn transcripts(path: &Path, split: &Split) -> Result<Self, EvalError> {
        const MUST: &str = "write a line {\"audio\": \"a.wav\", \"text\": \"...\"} for each utterance";
        let wrong = |why: String| EvalError::Texts { what: path.display().to_string(), why };
        let file = read_text(path, MUST)?;
        let mut by_name: HashMap<OsString, Vec<(usize, Line)>> = HashMap::new();
        for (number, line) in file.lines() {
            // A mark is there too where files were joined.
            let mut line: Line = serde_json::from_str(line.trim_start_matches('\u{feff}')).map_err(|error| {
                let why = error.to_string();
                file.error(number, format!("{}; {MUST}", why.split(" at line ").next().unwrap_or(&why)))
            })?;
            line.audio = line.audio.strip_prefix(".").map(Path::to_owned).unwrap_or(line.audio);
            by_name.entry(line.audio.file_name().unwrap_or_default().to_owned()).or_default().push((number, line));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut used = HashMap::new();
        let mut texts = Vec::new();
        for Utterance { audio, .. } in &split.utterances {
            let named = audio.file_name().and_then(|name| by_name.get(name)).map(Vec::as_slice).unwrap_or_default();
            let is_whole = |line: &Line| {
                let there = folder.join(&line.audio);
                // Over other folders, as `../a.wav`.
                let leads_up = line.audio.components().any(|part| part == Component::ParentDir);
                let is_same = || std::fs::canonicalize(&there).ok() == std::fs::canonicalize(audio).ok();
                **audio == *line.audio || **audio == *there || leads_up && there.exists() && is_same()
            };
            let whole: Vec<_> = named.iter().filter(|(_, line)| is_whole(line)).collect();
            let ends = || named.iter().filter(|(_, line)| audio.ends_with(&line.audio)).collect();
            let fits = if whole.is_empty() { ends() } else { whole };
            let (number, line) = match fits[..] {
                [one] => one,
                [] => return Err(wrong(format!("has no transcript of {}", audio.display()))),
                _ => return Err(wrong(format!("has several transcripts of {}", audio.display()))),
            };
            // A sound may stand in a split more than once.
            if used.insert(*number, audio).is_some_and(|other| other != audio) {
                return Err(wrong(format!(
                    "line {number} fits {} and others; name it by more of its path",
                    audio.display()
                )));
            }
            texts.push(line.text.clone());
        }
        Ok(Self(texts))
    }

    /// Those of the utterances of `embeddings`.
    fn of(&self, embeddings: &Embeddings) -> Vec<&str> {
        embeddings.utterances.iter().map(|utterance| &*self.0[*utterance]).collect()
    }

    /// The embeddings of what the utterances of `embeddings` say, [S, E], L2-normalised, on the CPU.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn embed(&self, encoder: &TextEncoder, embeddings: &Embeddings) -> Result<Tensor, EvalError> {
        let rows = encoder.embed(&self.of(embeddings)).map_err(FeatureError::from)?;
        Ok(catch_libtorch(|| rows.to_device(Device::Cpu))?)
    }

    /// The row of texts and images, `rows` being the embeddings of the texts.
    ///
    /// # Errors
    /// When scores cannot be ranked.
    pub fn rank(
        set: &EvalSet,
        embeddings: &Embeddings,
        rows: &Tensor,
        protocol: Protocol,
    ) -> Result<SplitResult, EvalError> {
        let words = Embeddings {
            speech: rows.shallow_clone(),
            images: embeddings.images.shallow_clone(),
            utterances: embeddings.utterances.clone(),
            gallery: embeddings.gallery.clone(),
            owners: embeddings.owners.clone(),
            skipped: embeddings.skipped.clone(),
            copies: embeddings.copies,
        };
        Ok(SplitResult { protocol: Some(protocol), ..set.rank(&words)? })
    }

    /// The row of speech and texts: of each utterance its own among all that are said, and of each text an utterance that says it.
    ///
    /// # Errors
    /// When scores cannot be ranked.
    pub fn beside_speech(
        &self,
        embeddings: &Embeddings,
        rows: &Tensor,
        plain: &SplitResult,
        device: Device,
    ) -> Result<SplitResult, EvalError> {
        let (mut places, mut first) = (HashMap::new(), Vec::new());
        let owners: Vec<usize> = (0i64..)
            .zip(self.of(embeddings))
            .map(|(row, text)| {
                *places.entry(text).or_insert_with(|| {
                    first.push(row);
                    first.len() - 1
                })
            })
            .collect();
        let ranks = catch_libtorch(|| {
            let texts = rows.index_select(0, &Tensor::from_slice(&first));
            Ranks::new(&Similarities::of_embeddings(&embeddings.speech, &texts, device), &owners, &World::alone())
        })??;
        let images: Vec<usize> = first.iter().map(|row| embeddings.owners[*row as usize]).collect();
        let recalls = Recalls::of_groups(&ranks, &embeddings.owners, &images)?;
        let protocol = Some(Protocol::SpeechText { texts: first.len() });
        Ok(SplitResult { images: first.len(), protocol, recalls, in_family: None, ..plain.clone() })
    }
}
