//! `cmd train`.

use std::path::{Path, PathBuf};

use super::device::device;
use super::print;
use crate::config::{Config, Needs, Override};
use crate::data::Dataset;
use crate::encoders::Encoders;
use crate::error::Error;
use crate::signals::Signals;
use crate::train::{RunDir, Trainer};

/// Trains a model and keeps its checkpoints, figures and configuration in a folder of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Configuration file (the shipped ones are in configs/).
    #[arg(long, value_name = "FILE", required_unless_present = "resume", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Goes on exactly where a run stopped: its folder, or "latest".
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Overrides a key of the configuration; relative paths start from the current folder. Repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Folder in which runs are kept.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
    /// Name of the run's folder; by default the configuration's name and the time.
    #[arg(long)]
    name: Option<String>,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Prints the effective configuration with defaults and comments, and stops.
    #[arg(long)]
    print_config: bool,
}

const EXAMPLES: &str = "Examples:
  cmd train --config configs/flickr8k.toml
  cmd train --config configs/flickr8k.toml --set cmd.alpha=0 --set train.seed=1 --name no-cmd
  cmd train --config configs/demo.toml --print-config
  cmd train --resume latest";

/// Keys that a resumed run may change: they do not decide what is computed.
const FREE_ON_RESUME: [&str; 11] = [
    "data.path",
    "data.root",
    "data.images",
    "data.karpathy",
    "data.workers",
    "data.prefetch",
    "encoders.speech.path",
    "encoders.image.path",
    "train.checkpoint_every",
    "train.keep",
    "log.every",
];

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let overrides: Vec<Override> = args.overrides.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let resumed = args.resume.as_ref().map(|name| RunDir::open(name, &args.output)).transpose()?;
    if let (Some(run), Some(fixed)) =
        (&resumed, overrides.iter().find(|change| !FREE_ON_RESUME.contains(&change.key())))
    {
        return Err(Error::Usage(format!(
            "--set {}: cannot change in a resumed run; start a new one with --config {}",
            fixed.key(),
            run.config().display()
        )));
    }
    let path = match (&resumed, &args.config) {
        (Some(run), _) => run.config(),
        (None, Some(path)) => path.clone(),
        (None, None) => return Err(Error::Usage("--config FILE or --resume RUN is needed".to_owned())),
    };
    let config = Config::load(&path, &overrides, Needs::Encoders)?;
    if args.print_config {
        return print(&config.to_commented_toml());
    }

    let device = device(&args.device)?;
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let checkpoint = resumed.as_ref().map(RunDir::newest).transpose()?;
    let dataset = Dataset::load(&config.data)?;
    let encoders = Encoders::load(&config.encoders, device)?;
    let mut trainer = Trainer::new(config.clone(), &dataset, &encoders, &signals)?;
    let run = match (resumed, checkpoint) {
        (Some(run), Some((checkpoint, state))) => {
            tracing::info!("resuming {} after step {}", run.path().display(), state.step);
            trainer.restore(&checkpoint, state)?;
            run.write_config(&config)?;
            run
        }
        _ => {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            RunDir::create(&args.output, args.name.as_deref(), &stem, &config)?
        }
    };
    tracing::info!(
        "{}: {} images, {} utterances; speech encoder {}, image encoder {}",
        dataset.name,
        dataset.images.len(),
        dataset.utterances.len(),
        encoders.speech().spec().name,
        encoders.image().spec().name
    );
    let count = trainer.model().parameters().count();
    tracing::info!("{} trainable parameters on {device:?}; run {}", grouped(count), run.path().display());
    trainer.train(&run)?;
    if let Some(best) = trainer.best() {
        tracing::info!("best: step {} with mean R@1 {:.1} on {}", best.step, best.mean_r1, config.eval.split);
    }
    tracing::info!("next: cmd eval --checkpoint {} --split test", display_relative(run.path()));
    Ok(())
}

/// 13980186 -> 13,980,186.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn display_relative(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
