//! `cmd eval`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::device::device;
use super::print;
use crate::config::{Config, ConfigError, EncodersConfig, Needs, Override};
use crate::data::Dataset;
use crate::distributed::World;
use crate::encoders::Encoders;
use crate::error::Error;
use crate::eval::{EvalSet, SplitResult, retrieval_picture, table};
use crate::model::CmdModel;
use crate::signals::Signals;
use crate::train::{Checkpoint, CheckpointError, RunDir, State};

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
    let device = device(&args.device, 0)?;
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
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

    let world = World::alone();
    let mut results = Vec::new();
    let mut loaded: Option<(EncodersConfig, Encoders)> = None;
    let own = run.as_ref().map(|run| Config::load(&run.config(), &[], Needs::Encoders)).transpose()?;
    for (number, path) in configs.iter().enumerate() {
        let config = load_config(path, &overrides, own.as_ref())?;
        let split = Arc::new(Dataset::load(&config.data)?.split(&args.split)?);
        let (_, encoders) = match loaded.take() {
            Some((known, encoders)) if known == config.encoders => loaded.insert((known, encoders)),
            _ => loaded.insert((config.encoders.clone(), Encoders::load(&config.encoders, device)?)),
        };
        check_encoders(&checkpoint, &model, state.as_ref(), encoders)?;
        let mut set = EvalSet::new(&split, encoders, &config, &world, &signals)?;
        let embeddings = set.embed(&model, &world, &signals)?;
        let result = SplitResult::new(&split, &embeddings)?;
        if let Some(file) = args.picture.as_ref().filter(|_| number == 0) {
            let svg = retrieval_picture(&split, &embeddings, &result)?;
            std::fs::write(file, svg).map_err(Error::output(file))?;
        }
        results.push(result);
    }

    if args.json {
        let all = json!({ "checkpoint": checkpoint.path(), "results": results });
        print(&format!("{all:#}\n"))
    } else {
        print(&format!("{}\n", table(&results)))
    }
}

/// The configuration at `path`; encoders that it does not name are those of the run.
fn load_config(path: &Path, overrides: &[Override], own: Option<&Config>) -> Result<Config, ConfigError> {
    let Some(own) = own else { return Config::load(path, overrides, Needs::Encoders) };
    let mut config = Config::load(path, overrides, Needs::Data)?;
    for (named, own) in
        [(&mut config.encoders.speech, &own.encoders.speech), (&mut config.encoders.image, &own.encoders.image)]
    {
        if named.path.is_none() {
            named.path.clone_from(&own.path);
        }
    }
    Ok(config)
}

fn find_checkpoint(args: &Args) -> Result<(Checkpoint, Option<RunDir>), Error> {
    let is_run = |path: &Path| path.join("config.toml").is_file();
    match &args.checkpoint {
        Some(path) if !is_run(path) => {
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
    for (modality, then, name, fingerprint) in [
        ("speech", &state.speech_encoder, &speech.name, encoders.speech().fingerprint()),
        ("image", &state.image_encoder, &image.name, encoders.image().fingerprint()),
    ] {
        if then.fingerprint != fingerprint {
            return mismatch(format!(
                "the checkpoint was trained on the {modality} encoder {} ({}), but encoders.{modality}.path names {name} ({})",
                then.name,
                short(&then.fingerprint),
                short(fingerprint)
            ));
        }
    }
    Ok(())
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}
