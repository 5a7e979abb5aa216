//! `cmd train`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::device::{Local, device};
use super::error::Error;
use super::launching::LaunchArgs;
use super::origin::origin;
use super::{load_dataset, print};
use crate::Resume;
use crate::checkpoint::{CheckpointError, RunDir, RunLock};
use crate::config::{Config, Needs, Override};
use crate::data::Dataset;
use crate::distributed::{Crew, DistributedConfig, Rank, World};
use crate::encoders::Encoders;
use crate::eval::SplitResult;
use crate::signals::Signals;
use crate::telemetry::Profile;
use crate::train::{Session, Sink, SinkError, TrainRecord};

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
    /// Goes on with the run --name if it is there, else starts it: the same line in a queue, always.
    #[arg(long, requires = "name", conflicts_with = "resume")]
    resume_or_start: bool,
    /// Starts from the weights of another run (then its best), a checkpoint's folder or its model.safetensors: the same encoders, other
    /// data and schedule, a fresh optimizer. The key train.init_from.
    #[arg(long, value_name = "RUN_OR_CHECKPOINT", conflicts_with = "resume")]
    init_from: Option<PathBuf>,
    /// Overrides a key of the configuration; relative paths start from the current folder. Repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Folder in which runs are kept.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
    /// Name of the run's folder; by default the configuration's name and the time.
    #[arg(long, conflicts_with = "resume")]
    name: Option<String>,
    #[command(flatten)]
    launch: LaunchArgs,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Prints the effective configuration with defaults, comments and where each other value comes from, and stops.
    #[arg(long)]
    print_config: bool,
    /// Writes what each thread of this process was at, until the first figures after 20 steps, in Chrome's trace format: for
    /// ui.perfetto.dev or chrome://tracing.
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["dry_run", "print_config"])]
    profile: Option<PathBuf>,
    /// Checks everything that the run needs, makes one update and a small evaluation, and writes nothing.
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "Examples:
  cmd train --config configs/flickr8k.toml
  cmd train --config configs/flickr8k.toml --dry-run
  cmd train --config configs/flickr8k.toml --set cmd.alpha=0 --set train.seed=1 --name no-cmd
  cmd train --config configs/demo.toml --print-config
  cmd train --config configs/flickr8k.toml --init-from runs/spokencoco --set optim.lr=1e-5
  cmd train --resume latest
  cmd train --config configs/flickr8k.toml --name paper --resume-or-start
  cmd train --config configs/flickr8k.toml --nproc 8
  cmd train --config configs/flickr8k.toml --nproc 8 --nnodes 2 --node-rank 0 --rdzv 10.0.0.1:29500
  torchrun --nproc-per-node 8 --no-python cmd-train --config configs/flickr8k.toml";

/// A run that is there, or one to be made.
enum Target {
    New,
    Known(RunDir),
}

/// Steps that a profile shows at least.
const PROFILED: u64 = 20;

/// Ends a profile after enough steps.
struct EndOfProfile {
    profile: Option<Profile>,
    last: u64,
}

impl Sink for EndOfProfile {
    fn rewind(&mut self, step: u64, _: bool) -> Result<(), SinkError> {
        self.last = step + PROFILED;
        Ok(())
    }

    fn train(&mut self, step: u64, _: &TrainRecord) -> Result<(), SinkError> {
        if step >= self.last {
            self.profile = None;
        }
        Ok(())
    }

    fn eval(&mut self, _: u64, _: &SplitResult) -> Result<(), SinkError> {
        Ok(())
    }
}

pub(super) fn run(args: &Args, profile: Option<Profile>) -> Result<(), Error> {
    let mut overrides: Vec<Override> = args.overrides.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    args.name.as_deref().map_or(Ok(()), RunDir::check_name)?;
    let rank = Rank::from_environment();
    // Rank 0 alone sees the run's folder; on other machines it may not exist.
    let sees_run = match &rank {
        Ok(Some(rank)) => rank.rank == 0,
        _ => args.launch.is_first_machine(),
    };
    if let Some(named) = args.init_from.as_deref().filter(|_| sees_run) {
        overrides.extend(args.initial_weights(named)?);
    }
    let overrides = overrides;
    let (target, config) = if sees_run { find(args, &overrides)? } else { (Target::New, None) };
    let config = match (config, &args.config) {
        (Some(config), _) => Some(config),
        (None, Some(path)) => Some(Config::load(path, &overrides, Needs::Encoders)?),
        (None, None) => None,
    };
    if args.print_config {
        return if sees_run { args.print_config(&target, &overrides) } else { Ok(()) };
    }

    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let distributed = distributed(args, config.as_ref(), &overrides);
    if args.launch.launches() {
        let patience = Duration::from_secs(distributed.timeout_seconds.unsigned_abs());
        return args.launch.launch(&args.device, patience, &signals);
    }
    let starting = signals.nothing_to_lose()?;
    let rank = rank?;
    let device = device(&args.device, Local::of(rank.as_ref()))?;
    let world = World::join(rank, device, &distributed)?;
    let config = match config {
        _ if args.resume.is_some() => sent_config(config, &overrides, &world)?,
        Some(config) => config,
        None => return Err(Error::Usage("--config FILE or --resume RUN is needed".to_owned())),
    };

    let lock = match &target {
        _ if !world.is_first() => None,
        Target::Known(run) if args.dry_run => {
            RunLock::check(run.path())?;
            None
        }
        Target::Known(run) => Some(RunLock::take(run.path())?),
        Target::New => {
            RunDir::can_create(&args.output, args.name.as_deref())?;
            None
        }
    };
    let dataset = load_dataset(&config)?;
    let encoders = Encoders::load(&config.encoders, device)?;
    let crew = Crew { world: &world, signals: &signals };
    let mut session = Session::new(config.recipe(), &dataset, &encoders, crew)?;
    match &target {
        Target::Known(run) if run.has_checkpoints() => {
            session.restore(run)?;
            tracing::info!("resuming {} after step {}", run.path().display(), session.state().step);
        }
        target => {
            if let Target::Known(run) = target {
                tracing::info!("{} has no checkpoint yet, so it starts", run.path().display());
            }
            session.initialise()?;
        }
    }
    if args.dry_run {
        let found = session.dry_run(&args.output)?;
        return if world.is_first() { print(&found.to_string()) } else { Ok(()) };
    }
    drop(starting);
    if !world.is_first() {
        // Only the first process writes the run.
        return Ok(session.train()?);
    }
    let text =
        |before: Option<&str>| origin(before, device, world.size(), config.train.seed) + &config.to_commented_toml();
    let (run, _lock) = match (target, lock) {
        (Target::Known(run), Some(lock)) => {
            let before = std::fs::read_to_string(run.config()).ok();
            run.write_config(&text(before.as_deref()))?;
            (run, lock)
        }
        _ => {
            let stem = args.config.as_deref().and_then(Path::file_stem).unwrap_or_default().to_string_lossy();
            let run = RunDir::create(&args.output, args.name.as_deref(), &stem, &text(None))?;
            let lock = RunLock::take(run.path())?;
            (run, lock)
        }
    };
    describe(&dataset, &encoders, &session, &world, &run);
    session.write_to(run.clone());
    if profile.is_some() {
        session.add_sink(EndOfProfile { profile, last: 0 });
    }
    session.train()?;
    if let Some(best) = session.best() {
        tracing::info!("best: step {} with mean R@1 {:.1} on {}", best.step, best.mean_r1, config.eval.split);
    }
    tracing::info!("next: cmd eval --checkpoint {} --split test", display_relative(run.path()));
    Ok(())
}

/// How this process meets the others. A rank that does not have the configuration of a resumed run yet takes it from the run's folder where
/// it sees that, or from the command line.
fn distributed(args: &Args, config: Option<&Config>, overrides: &[Override]) -> DistributedConfig {
    let seen = || {
        let run = RunDir::open(args.resume.as_ref()?, &args.output).ok()?;
        Some(Config::load(&run.config(), overrides, Needs::Encoders).ok()?.distributed)
    };
    let said = || {
        let seconds = overrides.iter().rev().find_map(|change| change.whole("distributed.timeout_seconds"));
        let default = DistributedConfig::default();
        DistributedConfig { timeout_seconds: seconds.unwrap_or(default.timeout_seconds), ..default }
    };
    config.map(|config| config.distributed.clone()).or_else(seen).unwrap_or_else(said)
}

/// The run that the arguments mean, and the configuration with which it goes on.
fn find(args: &Args, overrides: &[Override]) -> Result<(Target, Option<Config>), Error> {
    if let Some(name) = &args.resume {
        let run = RunDir::open(name, &args.output)?;
        if let Some(fixed) = overrides.iter().find(|change| change.resume() == Resume::Fixed) {
            return Err(Error::Usage(format!(
                "--set {}: cannot change in a resumed run; start a new one with --config {}",
                fixed.key(),
                run.config().display()
            )));
        }
        let before = Config::load(&run.config(), &[], Needs::Encoders)?;
        let config = Config::load(&run.config(), overrides, Needs::Encoders)?;
        args.tell_changes(&before, &config);
        return Ok((Target::Known(run), Some(config)));
    }
    let (Some(name), true) = (&args.name, args.resume_or_start) else { return Ok((Target::New, None)) };
    let path = args.output.join(name);
    if !path.exists() {
        return Ok((Target::New, None));
    }
    let file = args.config.as_deref().unwrap_or(Path::new(""));
    let config = Config::load(file, overrides, Needs::Encoders)?;
    let run = if args.dry_run || args.print_config {
        let Ok(run) = RunDir::open(&path, &args.output) else { return Ok((Target::New, Some(config))) };
        run
    } else {
        RunDir::adopt(&path, &config.to_commented_toml())?
    };
    let before = Config::load(&run.config(), &[], Needs::Encoders)?;
    if let Some(key) = before.changed_keys(&config, Resume::Fixed).first() {
        let why = format!("{key} is another here than in {}, so --name {name} is another run", file.display());
        return Err(CheckpointError::Mismatch { path: run.config(), why }.into());
    }
    args.tell_changes(&before, &config);
    Ok((Target::Known(run), Some(config)))
}

impl Args {
    /// The file of the profile; the process that starts others makes none.
    pub(super) fn profile_file(&self) -> Result<Option<std::fs::File>, Error> {
        let path = self.profile.as_deref().filter(|_| !self.launch.launches());
        path.map(|path| std::fs::File::create(path).map_err(Error::output(path))).transpose()
    }

    /// The configuration with where each value comes from.
    fn print_config(&self, target: &Target, overrides: &[Override]) -> Result<(), Error> {
        let file = match (target, &self.config) {
            (Target::Known(run), None) => run.config(),
            (_, file) => file.clone().unwrap_or_default(),
        };
        let (config, sources) = Config::load_with_sources(&file, overrides, Needs::Encoders)?;
        print(&config.to_toml_with(&sources))
    }

    /// The key that --init-from stands for. A run that is there has it in its configuration: what `named` means may have changed since.
    fn initial_weights(&self, named: &Path) -> Result<Option<Override>, Error> {
        let known = self.name.as_ref().filter(|_| self.resume_or_start).map(|name| self.output.join(name));
        let path = match known.filter(|path| RunDir::is_run(path)) {
            Some(run) => {
                Config::load(&RunDir::open(&run, &self.output)?.config(), &[], Needs::Encoders)?.train.init_from
            }
            None => Some(RunDir::find(named, &self.output)?.0.path().to_owned()),
        };
        Ok(path.map(|path| Override::path("train.init_from", &path)).transpose()?)
    }

    /// Says what a resumed run does differently from now on; of a launcher and its ranks, rank 0 does.
    fn tell_changes(&self, before: &Config, config: &Config) {
        if self.launch.launches() {
            return;
        }
        for key in before.changed_keys(config, Resume::Inexact) {
            tracing::warn!("{key} has changed: the run goes on, but not to the bit as it would have");
        }
        let (old, new) = (before.recipe().schedule(), config.recipe().schedule());
        if old.steps != new.steps {
            tracing::warn!(
                "train.steps was {} and is {}: the learning rate now falls to {:.1e} at step {} instead of step {}",
                old.steps,
                new.steps,
                new.last,
                new.steps,
                old.steps
            );
        }
    }
}

/// Rank 0's configuration of a run that goes on; what `--set` says of this machine counts here.
fn sent_config(own: Option<Config>, overrides: &[Override], world: &World) -> Result<Config, Error> {
    let text = world.first_text(&own.as_ref().map(Config::to_commented_toml).unwrap_or_default())?;
    match own {
        Some(config) => Ok(config),
        None => Ok(Config::from_text(&text, Path::new("the configuration of rank 0"), overrides, Needs::Encoders)?),
    }
}

fn describe(dataset: &Dataset, encoders: &Encoders, session: &Session, world: &World, run: &RunDir) {
    tracing::info!(
        "{}: {} images, {} utterances; speech encoder {}, image encoder {}{}",
        dataset.name,
        dataset.images.len(),
        dataset.utterances.len(),
        encoders.speech().spec().name,
        encoders.image().spec().name,
        session.state().text_encoder.as_ref().map_or(String::new(), |text| format!(", text encoder {}", text.name))
    );
    let processes = if world.size() > 1 { format!(" in {} processes", world.size()) } else { String::new() };
    tracing::info!(
        "{} trainable parameters on {:?}{processes}; run {}",
        grouped(session.model().parameters().count()),
        encoders.device(),
        run.path().display()
    );
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
