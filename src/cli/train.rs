//! `cmd train`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::device::device;
use super::print;
use crate::config::{Config, Needs, Override};
use crate::data::Dataset;
use crate::distributed::{Nodes, Place, World, launch};
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
    /// Trains in N processes on this machine, each with a share of the batch. With torchrun or SLURM leave it out.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    nproc: usize,
    /// Machines that train together; run the same command on each, with its own --node-rank.
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = count)]
    nnodes: usize,
    /// This machine, from 0.
    #[arg(long, value_name = "K", default_value_t = 0)]
    node_rank: usize,
    /// Where the processes of several machines meet: the address of machine 0 and a free port there.
    #[arg(long, value_name = "HOST:PORT")]
    rdzv: Option<String>,
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
  cmd train --resume latest
  cmd train --config configs/flickr8k.toml --nproc 8
  cmd train --config configs/flickr8k.toml --nproc 8 --nnodes 2 --node-rank 0 --rdzv 10.0.0.1:29500
  torchrun --nproc-per-node 8 --no-python cmd-train --config configs/flickr8k.toml";

/// Options of the launcher, which its ranks do not get.
const LAUNCH_OPTIONS: [&str; 4] = ["--nproc", "--nnodes", "--node-rank", "--rdzv"];

/// Keys that a resumed run may change: they do not decide what is computed.
const FREE_ON_RESUME: [&str; 12] = [
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
    "distributed.timeout_seconds",
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

    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    if args.nproc > 1 || args.nnodes > 1 {
        return launch(&without_launch_options(), args.nproc, nodes(args)?, &signals);
    }
    let place = Place::from_environment()?;
    let device = device(&args.device, place.as_ref().map_or(0, |place| place.local_rank))?;
    let world = World::join(place, device, Duration::from_secs(config.distributed.timeout_seconds as u64))?;
    let checkpoint = resumed.as_ref().map(RunDir::newest).transpose()?;
    let dataset = Dataset::load(&config.data)?;
    let encoders = Encoders::load(&config.encoders, device)?;
    let mut trainer = Trainer::new(config.clone(), &dataset, &encoders, &world, &signals)?;
    let run = match (resumed, checkpoint) {
        (Some(run), Some((checkpoint, state))) => {
            tracing::info!("resuming {} after step {}", run.path().display(), state.step);
            trainer.restore(&checkpoint, state)?;
            if world.is_first() {
                run.write_config(&config)?;
            }
            Some(run)
        }
        _ if world.is_first() => {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            Some(RunDir::create(&args.output, args.name.as_deref(), &stem, &config)?)
        }
        _ => None,
    };
    // Only the first process writes.
    let run = run.filter(|_| world.is_first());
    let Some(run) = run else { return trainer.train(None) };
    tracing::info!(
        "{}: {} images, {} utterances; speech encoder {}, image encoder {}",
        dataset.name,
        dataset.images.len(),
        dataset.utterances.len(),
        encoders.speech().spec().name,
        encoders.image().spec().name
    );
    let count = trainer.model().parameters().count();
    let processes = if world.size() > 1 { format!(" in {} processes", world.size()) } else { String::new() };
    tracing::info!("{} trainable parameters on {device:?}{processes}; run {}", grouped(count), run.path().display());
    trainer.train(Some(&run))?;
    if let Some(best) = trainer.best() {
        tracing::info!("best: step {} with mean R@1 {:.1} on {}", best.step, best.mean_r1, config.eval.split);
    }
    tracing::info!("next: cmd eval --checkpoint {} --split test", display_relative(run.path()));
    Ok(())
}

/// A number of processes or machines.
fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=4096).contains(count)).ok_or_else(|| "must be from 1 to 4096".to_owned())
}

fn nodes(args: &Args) -> Result<Option<Nodes>, Error> {
    if args.nnodes == 1 {
        return Ok(None);
    }
    if args.node_rank >= args.nnodes {
        return Err(Error::Usage(format!("--node-rank {}: must be below --nnodes {}", args.node_rank, args.nnodes)));
    }
    let meeting = args.rdzv.as_deref().and_then(|text| text.rsplit_once(':'));
    let meeting = meeting.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    let why = "--nnodes needs --rdzv HOST:PORT, the address of machine 0 and a free port there";
    let meeting = meeting.ok_or_else(|| Error::Usage(why.to_owned()))?;
    Ok(Some(Nodes { count: args.nnodes, rank: args.node_rank, meeting }))
}

/// The arguments of this program but for those of the launcher.
fn without_launch_options() -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        let name = text.split('=').next().unwrap_or_default();
        if !LAUNCH_OPTIONS.contains(&name) {
            kept.push(argument);
        } else if name == text {
            arguments.next();
        }
    }
    kept
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
