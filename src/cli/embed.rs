//! `cmd embed`.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::error::Error;
use super::print;
use super::trained::{How, Trained, TrainedArgs};
use crate::data::{DataError, Dataset, Medium, files_below};
use crate::eval::{EvalError, Form, Growing, json_line};
use crate::signals::Signals;
use crate::telemetry::warn_once;

/// Writes embeddings of sounds and pictures for other tools, in the order of the files. A run that was stopped goes on with the same line.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Sounds, pictures, and folders of them; - reads paths from standard input, one a line.
    #[arg(value_name = "FILE_OR_FOLDER", required_unless_present = "split")]
    inputs: Vec<PathBuf>,
    /// A split of the data: its images, then its utterances.
    #[arg(long, value_name = "SPLIT", conflicts_with = "inputs")]
    split: Option<String>,
    /// The file to write: .safetensors, .npy or .jsonl; - prints a line of JSON for each file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// All of S = {S_cls, s_1 ... s_T} for sounds, a row for each frame behind the utterance's own.
    #[arg(long)]
    frames: bool,
    /// Leaves out files that cannot be read, with a warning, instead of stopping there.
    #[arg(long, conflicts_with = "split")]
    skip: bool,
    #[command(flatten)]
    trained: TrainedArgs,
}

/// What is embedded.
struct Inputs {
    /// In their order.
    files: Vec<(PathBuf, Medium)>,
    /// Of a split, whose images come first, the one that each utterance speaks of.
    owners: Option<Vec<i64>>,
}

const EXAMPLES: &str = "Examples:
  cmd embed photos/ --out photos.safetensors
  cmd embed question.wav --out - --frames
  find . -name '*.flac' | cmd embed - --out speech.npy
  cmd embed --checkpoint runs/latest --split test --out vectors/embeddings.safetensors";

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let _all_along = signals.nothing_to_lose()?;
    let is_printed = args.out.as_os_str() == "-";
    let form = Form::by_name(&args.out);
    if form.is_none() && !is_printed {
        let out = args.out.display();
        return Err(Error::Usage(format!(
            "--out {out}: its name must end in .safetensors, .npy or .jsonl, or be - for standard output"
        )));
    }
    let trained = args.trained.load(None)?;
    let Inputs { files, owners } = args.inputs(&trained)?;
    let Some(form) = form.filter(|_| !is_printed) else {
        return trained.embed(&files, 0, args.how(), |embedded| {
            embedded.into_iter().try_for_each(|(file, rows)| {
                print(&format!("{}\n", json_line(&file, &rows, trained.embedder().width())))
            })
        });
    };
    let is_of = |medium| files.iter().any(|(_, of)| *of == medium);
    if !form.holds_both() && is_of(Medium::Speech) && is_of(Medium::Image) {
        let out = args.out.display();
        let why = "one array cannot hold sounds and pictures; name a file that ends in .safetensors or .jsonl";
        return Err(Error::Usage(format!("--out {out}: {why}")));
    }
    if args.frames && trained.model.speech().cascade().is_some() {
        return Err(EvalError::NoFrames.into());
    }
    let job = json!({ "format": 1, "model": trained.fingerprint()?, "frames": args.frames });
    let width = trained.embedder().width();
    let mut growing = Growing::open(&args.out, &job, width, (&files, args.skip)).map_err(Error::output(&args.out))?;
    let done = growing.done().len();
    if done > 0 {
        tracing::info!("{done} of {} files are embedded already", files.len());
    }
    trained.embed(&files, done, args.how(), |embedded| growing.push(embedded).map_err(Error::output(&args.out)))?;
    form.write(&growing, owners.as_deref(), &args.out).map_err(Error::output(&args.out))?;
    growing.remove().map_err(Error::output(&args.out))?;
    print(&format!("{}\n", args.out.display()))
}

impl Args {
    fn how(&self) -> How {
        How { frames: self.frames, skips: self.skip }
    }

    fn inputs(&self, trained: &Trained) -> Result<Inputs, Error> {
        if let Some(name) = &self.split {
            let split = Dataset::load(&trained.config.data)?.split(name)?;
            let images = split.images.iter().map(|image| (image.path.to_path_buf(), Medium::Image));
            let utterances = split.utterances.iter().map(|utterance| (utterance.audio.to_path_buf(), Medium::Speech));
            let owners = split.utterances.iter().map(|utterance| utterance.image as i64);
            return Ok(Inputs { files: images.chain(utterances).collect(), owners: Some(owners.collect()) });
        }
        let mut files = Vec::new();
        for input in &self.inputs {
            if input.as_os_str() == "-" {
                for line in std::io::stdin().lock().lines() {
                    let line = line.map_err(Error::output("standard input"))?;
                    if !line.is_empty() {
                        add(Path::new(&line), self.skip, &mut files)?;
                    }
                }
            } else {
                add(input, self.skip, &mut files)?;
            }
        }
        if files.is_empty() {
            return Err(Error::Usage("there are no sounds or pictures in what is named".to_owned()));
        }
        Ok(Inputs { files, owners: None })
    }
}

/// Adds a file, or all of a folder; with `skips` without what is neither sound nor picture, or cannot stand in a list.
fn add(path: &Path, skips: bool, files: &mut Vec<(PathBuf, Medium)>) -> Result<(), DataError> {
    let mut refused = |error: DataError| {
        if !skips {
            return Err(error);
        }
        warn_once(format!("skipped: {error}"));
        Ok(())
    };
    if path.is_dir() {
        files.extend(files_below(path, &mut refused)?);
        return Ok(());
    }
    match Medium::of(path) {
        Ok(medium) => files.push((path.to_owned(), medium)),
        Err(error) => refused(error)?,
    }
    Ok(())
}
