//! `cmd card`.

use std::path::PathBuf;

use tch::Device;

use super::error::Error;
use super::print;
use crate::checkpoint::{CheckpointError, RunDir};
use crate::report::ModelCard;

/// Writes a folder that a model hub takes: README.md with figures in its head, config.json, model.safetensors.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cmd eval --split test --json > test.json\n  cmd card latest --results test.json --out card"
)]
pub(super) struct Args {
    /// A run (then its best checkpoint), a checkpoint's folder or its model.safetensors.
    #[arg(value_name = "RUN_OR_CHECKPOINT", default_value = "latest")]
    run: PathBuf,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Figures to tell: a file of cmd eval --json. Repeatable.
    #[arg(long, value_name = "FILE")]
    results: Vec<PathBuf>,
    /// Name of the model; by default the run's.
    #[arg(long)]
    name: Option<String>,
    /// Folder in which runs are kept.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
}

/// Keys that say where things lie on this machine.
const PLACES: [&str; 7] = ["path", "root", "images", "karpathy", "cache_dir", "init_from", "mix"];

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let (checkpoint, run) = RunDir::find(&args.run, &args.output)?;
    let state = checkpoint.verify()?;
    let mut results = Vec::new();
    for file in &args.results {
        results.extend(ModelCard::read_results(file, &checkpoint)?);
    }
    let model = checkpoint.load(Device::Cpu)?;
    let Some(run) = run else {
        let why = "lies in no run, whose configuration a card tells; name a run".to_owned();
        return Err(CheckpointError::Missing { path: checkpoint.path().to_owned(), why }.into());
    };
    let text = std::fs::read_to_string(run.config()).map_err(Error::output(run.config()))?;
    let named = run.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let card = ModelCard { name: args.name.clone().unwrap_or(named), state, config: shown(&text), results };
    card.write(&checkpoint, &model, &args.out)?;
    print(&format!("{}\n", args.out.display()))
}

/// The configuration without comments and without where things lie.
fn shown(text: &str) -> String {
    let is_place = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| PLACES.contains(&key));
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty() && !is_place(line));
    lines.flat_map(|line| [line, "\n"]).collect()
}
