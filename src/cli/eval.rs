//! `cmd eval`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::device::{Local, device};
use super::error::Error;
use super::print;
use crate::checkpoint::{Checkpoint, CheckpointError, Fingerprint, RunDir, State};
use crate::config::{Config, ConfigError, Needs, Override};
use crate::data::Dataset;
use crate::distributed::{Crew, World};
use crate::encoders::{Cache, Encoders, EncodersConfig};
use crate::eval::{EvalSet, retrieval_picture, table};
use crate::model::CmdModel;
use crate::signals::Signals;

/// Ranks a split with a trained model: recalls in both directions.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A run, a checkpoint's folder or its model.safetensors; by default the best checkpoint of the latest run.
    #[arg(long, value_name = "DIR_OR_FILE")]
    checkpoint: Option<PathBuf>,
    /// The split to rank.
    #[arg(long, default_value = "test")]
    split: String,
    /// Configuration of the data to rank; by default the run's own. Several give one table: zero-shot across data sets. Encoders that
    /// it does not name are the run's.
    #[arg(long, value_name = "CONFIG")]
    data: Vec<PathBuf>,
    /// Overrides a key of the configuration; relative paths start from the current folder. Repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Folder in which runs are kept.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Prints the results as JSON.
    #[arg(long)]
    json: bool,
    /// Draws queries and what they found into an SVG file.
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  cmd eval --split test
  cmd eval --checkpoint runs/latest --split dev --json
  cmd eval --checkpoint runs/spokencoco --data configs/flickr8k.toml --split test";

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let overrides: Vec<Override> = args.overrides.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let device = device(&args.device, Local::ALONE)?;
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let _all_along = signals.nothing_to_lose()?;
    let (checkpoint, run) = find_checkpoint(args)?;
    let model = checkpoint.load_for_inference(device)?;
    let state = checkpoint.state()?;
    let configs = match (args.data.as_slice(), &run) {
        ([], Some(run)) => vec![run.config()],
        ([], None) => {
            let why = "this checkpoint lies in no run, so name the data with --data CONFIG".to_owned();
            return Err(CheckpointError::Missing { path: checkpoint.path().to_owned(), why }.into());
        }
        (data, _) => data.to_vec(),
    };

    let (world, picture) = (World::alone(), args.picture.as_deref().map(PictureFile::create).transpose()?);
    let crew = Crew { world: &world, signals: &signals };
    let mut drawn = Ok(());
    let mut results = Vec::new();
    let mut loaded: Option<(EncodersConfig, Encoders)> = None;
    let own = run.as_ref().map(|run| Config::load(&run.config(), &[], Needs::Encoders)).transpose()?;
    for (number, path) in configs.iter().enumerate() {
        let config = load_config(path, &overrides, own.as_ref())?;
        let dataset = Dataset::load(&config.data)?;
        let split = Arc::new(dataset.split(&args.split)?);
        if state.as_ref().is_some_and(|state| state.data.fingerprint == dataset.fingerprint) {
            let leaks = split.leak_warning(&dataset, config.data.workers as usize);
            leaks.into_iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        let (_, encoders) = match loaded.take() {
            Some((known, encoders)) if known == config.encoders => loaded.insert((known, encoders)),
            _ => loaded.insert((config.encoders.clone(), Encoders::load(&config.encoders, device)?)),
        };
        check_encoders(&checkpoint, &model, state.as_ref(), encoders)?;
        let mut features = config.features();
        // Embedded once, so nothing is worth keeping in memory.
        if features.encoders.speech.cache == Cache::Memory {
            features.encoders.speech.cache = Cache::None;
        }
        let mut set = EvalSet::new(&split, encoders, &features, crew)?;
        let embeddings = set.embed(&model)?;
        let result = set.rank(&embeddings)?;
        if let Some(file) = picture.as_ref().filter(|_| number == 0) {
            drawn = retrieval_picture(&split, &embeddings, &result, config.data.max_megapixels)
                .map_err(Error::from)
                .and_then(|svg| file.write(&svg));
        }
        results.push(result);
    }

    if args.json {
        let all = json!({ "checkpoint": checkpoint.path(), "results": results });
        print(&format!("{all:#}\n"))?;
    } else {
        print(&format!("{}\n", table(&results)))?;
    }
    // After the table: a picture that cannot be drawn costs no result.
    drawn
}

/// A picture that was found to be writable before hours of work.
struct PictureFile<'a>(&'a Path);

impl<'a> PictureFile<'a> {
    fn create(path: &'a Path) -> Result<Self, Error> {
        std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(Error::output(path))?;
        Ok(Self(path))
    }

    fn write(&self, svg: &str) -> Result<(), Error> {
        std::fs::write(self.0, svg).map_err(Error::output(self.0))
    }
}

/// The configuration at `path`; encoders that it does not name are those of the run.
fn load_config(path: &Path, overrides: &[Override], own: Option<&Config>) -> Result<Config, ConfigError> {
    let Some(own) = own else { return Config::load(path, overrides, Needs::Encoders) };
    let mut config = Config::load(path, overrides, Needs::Data)?;
    let (named, own) = (&mut config.encoders, &own.encoders);
    named.speech.path = named.speech.path.take().or_else(|| own.speech.path.clone());
    named.image.path = named.image.path.take().or_else(|| own.image.path.clone());
    Ok(config)
}

fn find_checkpoint(args: &Args) -> Result<(Checkpoint, Option<RunDir>), Error> {
    match &args.checkpoint {
        Some(path) if !RunDir::is_run(path) => {
            // The link `best` of a run can be stale; the run's state is not.
            if let Some(run) = RunDir::of_best(path) {
                return Ok((run.best()?, Some(run)));
            }
            let checkpoint = Checkpoint::open(path)?;
            let run = RunDir::of(&checkpoint);
            Ok((checkpoint, run))
        }
        named => {
            let run = RunDir::open(named.as_deref().unwrap_or(Path::new("latest")), &args.output)?;
            Ok((run.best()?, Some(run)))
        }
    }
}

/// A checkpoint is of use only with the encoders that it was trained on.
fn check_encoders(
    checkpoint: &Checkpoint,
    model: &CmdModel,
    state: Option<&State>,
    encoders: &Encoders,
) -> Result<(), CheckpointError> {
    let mismatch = |why: String| Err(CheckpointError::Mismatch { path: checkpoint.path().to_owned(), why });
    let (speech, image) = (encoders.speech().spec(), encoders.image().spec());
    let config = model.config();
    let (theirs, ours) =
        ((config.layers, config.speech_width, config.width), (speech.layers, speech.width, image.width));
    if theirs != ours {
        return mismatch(format!(
            "the checkpoint was trained on encoders with {} layers of width {} and image width {}; the configuration's have {}, {} \
             and {}",
            theirs.0, theirs.1, theirs.2, ours.0, ours.1, ours.2
        ));
    }
    let Some(state) = state else { return Ok(()) };
    for (modality, then, now) in [
        ("speech", &state.speech_encoder, Fingerprint::new(&speech.name, encoders.speech().fingerprint())),
        ("image", &state.image_encoder, Fingerprint::new(&image.name, encoders.image().fingerprint())),
    ] {
        if then.fingerprint != now.fingerprint {
            return mismatch(format!(
                "the checkpoint was trained on the {modality} encoder {}, but encoders.{modality}.path names {}",
                then.describe(),
                now.describe()
            ));
        }
    }
    Ok(())
}
