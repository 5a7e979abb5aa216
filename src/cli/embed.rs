//! `cmd embed`.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::error::Error;
use super::print;
use super::trained::{Trained, TrainedArgs};
use crate::data::{Content, DataError, Dataset, GroupReader, Medium, OnError, files_below};
use crate::eval::{Embedded, Form, Growing, json_line};
use crate::signals::Signals;

/// Files that are embedded at once, and behind which a run that was stopped goes on.
const GROUP: usize = 64;

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
    #[arg(long)]
    skip: bool,
    #[command(flatten)]
    trained: TrainedArgs,
}

/// What is embedded.
struct Inputs {
    /// In their order.
    files: Vec<(PathBuf, Medium)>,
    /// Of a split, the place of each utterance's image, by the utterance's place.
    owners: Option<HashMap<usize, usize>>,
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
    let trained = args.trained.load(false)?;
    let Inputs { files, owners } = args.inputs(&trained)?;
    let Some(form) = form.filter(|_| !is_printed) else {
        return args.embed(&trained, &files, 0, |embedded| {
            embedded.into_iter().try_for_each(|(file, rows)| {
                print(&format!("{}\n", json_line(&file, &rows, trained.embedder().width())))
            })
        });
    };
    let job = json!({ "format": 1, "model": trained.fingerprint()?, "frames": args.frames, "skip": args.skip });
    let width = trained.embedder().width();
    let mut growing = Growing::open(&args.out, &job, width, &files).map_err(Error::output(&args.out))?;
    let done = growing.done().len();
    if done > 0 {
        tracing::info!("{done} of {} files are embedded already", files.len());
    }
    args.embed(&trained, &files, done, |embedded| growing.push(embedded).map_err(Error::output(&args.out)))?;
    let owners = owners.map(|owners| owners_among(&owners, growing.done()));
    form.write(&growing, owners.as_deref(), &args.out).map_err(Error::output(&args.out))?;
    growing.remove().map_err(Error::output(&args.out))?;
    print(&format!("{}\n", args.out.display()))
}

impl Args {
    fn inputs(&self, trained: &Trained) -> Result<Inputs, Error> {
        if let Some(name) = &self.split {
            let split = Dataset::load(&trained.config.data)?.split(name)?;
            let images = split.images.iter().map(|image| (image.path.to_path_buf(), Medium::Image));
            let utterances = split.utterances.iter().map(|utterance| (utterance.audio.to_path_buf(), Medium::Speech));
            let first = split.images.len();
            let owners = split.utterances.iter().enumerate().map(|(place, utterance)| (first + place, utterance.image));
            return Ok(Inputs { files: images.chain(utterances).collect(), owners: Some(owners.collect()) });
        }
        let mut files = Vec::new();
        for input in &self.inputs {
            if input.as_os_str() == "-" {
                for line in std::io::stdin().lock().lines() {
                    let line = line.map_err(Error::output("standard input"))?;
                    if !line.is_empty() {
                        add(Path::new(&line), &mut files)?;
                    }
                }
            } else {
                add(input, &mut files)?;
            }
        }
        if files.is_empty() {
            return Err(Error::Usage("there are no sounds or pictures in what is named".to_owned()));
        }
        Ok(Inputs { files, owners: None })
    }

    /// Embeds `files` from the one at `done` on, and hands what was made of each group to `put`.
    fn embed(
        &self,
        trained: &Trained,
        files: &[(PathBuf, Medium)],
        done: usize,
        mut put: impl FnMut(Vec<(Embedded, Vec<f32>)>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let embedder = trained.embedder();
        let (audio, pictures, width) = (embedder.audio_form(), embedder.picture_form(), embedder.width());
        let all = files.to_vec();
        let read = move |index: usize| Content::read(&all[index].0, all[index].1, audio, pictures);
        let indices: Vec<usize> = (done..files.len()).collect();
        let groups = indices.chunks(GROUP).map(<[usize]>::to_vec).collect();
        let on_error = if self.skip { OnError::Skip } else { OnError::Fail };
        let reader = GroupReader { data: &trained.config.data, on_error, is_stopped: &|| false };
        let embedded = |index: usize, rows: Vec<f32>, skipped: Option<String>| {
            let (file, medium) = files[index].clone();
            (Embedded { file, medium, rows: rows.len() / width, skipped }, rows)
        };
        // The files of a group come in their order; those between them could not be read.
        let mut next = done;
        let mut skipped = |until: usize| {
            let missing = next..until;
            next = until + 1;
            missing.map(|index| embedded(index, Vec::new(), Some("cannot be read".to_owned())))
        };
        let agree = || Ok::<(), Error>(());
        reader.for_each(("embedding", "files"), groups, read, &agree, |group: &[(usize, Content)]| {
            let contents: Vec<&Content> = group.iter().map(|(_, content)| content).collect();
            let mut made = Vec::with_capacity(group.len());
            for ((index, _), rows) in group.iter().zip(embedder.rows(&contents, self.frames)?) {
                made.extend(skipped(*index));
                made.push(embedded(*index, rows, None));
            }
            put(made)
        })?;
        put(skipped(files.len()).collect())
    }
}

/// Adds a file, or all of a folder.
fn add(path: &Path, files: &mut Vec<(PathBuf, Medium)>) -> Result<(), DataError> {
    if path.is_dir() {
        files.extend(files_below(path)?);
    } else {
        files.push((path.to_owned(), Medium::of(path)?));
    }
    Ok(())
}

/// Of each utterance that has a row, the row of its image among the images that have one.
fn owners_among(owners: &HashMap<usize, usize>, done: &[Embedded]) -> Vec<i64> {
    let mut row_of = HashMap::new();
    for (place, _) in done.iter().enumerate().filter(|(_, file)| file.medium == Medium::Image && file.rows > 0) {
        row_of.insert(place, row_of.len() as i64);
    }
    let there = done.iter().enumerate().filter(|(_, file)| file.medium == Medium::Speech && file.rows > 0);
    there.map(|(place, _)| owners.get(&place).and_then(|image| row_of.get(image)).copied().unwrap_or(-1)).collect()
}
