//! `cmd sweep`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use tch::Device;

use super::device::{Local, device};
use super::error::Error;
use super::origin::origin;
use super::{load_dataset, print};
use crate::checkpoint::write_whole;
use crate::config::{Config, Needs, Override};
use crate::distributed::{Crew, World};
use crate::encoders::Encoders;
use crate::signals::Signals;
use crate::sweep::{Job, Outcome, Plan, Setting, Summary, SweepError, Workplace, plot};

/// Trains every setting of a sweep with every seed, in one process, and compares them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The sweep (the shipped ones are in configs/sweeps/).
    #[arg(value_name = "SWEEP.toml")]
    plan: PathBuf,
    /// Overrides a key for all runs; relative paths start from the current folder. Repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Seeds 0, 1, ... of each setting, in place of the sweep's own.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i64).range(1..10_000))]
    seeds: Option<i64>,
    /// Folder in which sweeps are kept.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Prints the result as JSON; it also lies in the sweep's folder.
    #[arg(long)]
    json: bool,
    /// Says what would be trained and what is finished, and stops.
    #[arg(long)]
    list: bool,
}

const EXAMPLES: &str = "Examples:
  cmd sweep configs/sweeps/demo_cmd.toml
  cmd sweep configs/sweeps/flickr8k_alpha.toml --seeds 3
  cmd sweep configs/sweeps/demo_readings.toml --set train.steps=300 --list

A run that is finished is not repeated, one that was interrupted goes on: the same line again continues a sweep.";

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let plan = Plan::read(&args.plan)?;
    let settings = plan.settings();
    let name = args.plan.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = args.output.join(format!("sweep-{name}"));
    let mut jobs = jobs(args, &plan, &settings, &folder)?;
    if args.list {
        return list(&jobs, &plan.splits);
    }
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let device = device(&args.device, Local::ALONE)?;
    for (job, _) in &mut jobs {
        job.config.insert_str(0, &origin(None, device, 1, job.seed));
    }
    let world = World::alone();
    let crew = Crew { world: &world, signals: &signals };
    let outcomes = Outcomes { jobs: &jobs, splits: &plan.splits, found: Vec::new() }.complete(device, crew)?;

    std::fs::create_dir_all(&folder).map_err(Error::output(&folder))?;
    let keep = |file: String, text: &str| {
        let file = folder.join(file);
        write_whole(&file, text.as_bytes()).map_err(Error::output(&file)).map(|()| file)
    };
    let (mut summaries, mut tables) = (Vec::new(), String::new());
    for split in &plan.splits {
        let summary = Summary::new(split, &settings, &outcomes);
        let title = format!("{name}, {split} split: mean and standard deviation over seeds");
        let picture = match plot(&summary, &title) {
            Ok(picture) => keep(format!("{split}.svg"), &picture)?.display().to_string(),
            Err(why) => format!("no picture: {why}"),
        };
        tables += &format!("{split} split, best checkpoint of each run; {picture}\n\n{}\n", summary.table());
        summaries.push(summary);
    }
    let result = format!("{:#}\n", json!({ "sweep": name, "summaries": summaries }));
    keep("sweep.json".to_owned(), &result)?;
    keep("sweep.md".to_owned(), &tables)?;
    print(if args.json { &result } else { &tables })
}

/// Every run of the sweep, with its configuration.
fn jobs(args: &Args, plan: &Plan, settings: &[Setting], folder: &Path) -> Result<Vec<(Job, Config)>, Error> {
    let own: Vec<Override> = args.overrides.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    check_keys(plan, &own)?;
    let place = args.plan.display().to_string();
    let from = args.plan.parent().unwrap_or(Path::new("."));
    let seeds = args.seeds.map_or_else(|| plan.seeds.clone(), |count| (0..count).collect());
    let mut jobs = Vec::new();
    // Seed by seed, so that a sweep which is cut short has all settings.
    for seed in seeds {
        for (number, setting) in settings.iter().enumerate() {
            let mut overrides = Vec::new();
            for (key, value) in &setting.changes {
                overrides.push(Override::new(key, value.clone(), &place, from)?);
            }
            overrides.extend(own.iter().cloned());
            overrides.push(format!("train.seed={seed}").parse()?);
            let config = Config::load(&plan.config, &overrides, Needs::Encoders)?;
            let recipe = config.recipe();
            // All but where things lie; of that what this sweep itself names.
            let decisive = format!("{}\n{:?}\n{:?}", recipe.identity.shared, setting.changes, args.overrides);
            let key = &blake3::hash(decisive.as_bytes()).to_hex()[..8];
            let folder = folder.join(format!("{}-seed{seed}-{key}", plain(&setting.name)));
            let text = config.to_commented_toml();
            jobs.push((Job { setting: number, seed, folder, recipe, config: text }, config));
        }
    }
    Ok(jobs)
}

/// Every key has one source: a setting's name would not be true otherwise.
fn check_keys(plan: &Plan, own: &[Override]) -> Result<(), Error> {
    let varied = plan.varied();
    if let Some(key) = own.iter().map(Override::key).find(|key| varied.contains(key)) {
        return Err(Error::Usage(format!("--set {key}: the sweep varies this key; change its values there")));
    }
    let all: Vec<String> =
        plan.settings().into_iter().flat_map(|setting| setting.changes).map(|(key, _)| key).collect();
    if all.iter().map(String::as_str).chain(own.iter().map(Override::key)).any(|key| key == "train.seed") {
        return Err(Error::Usage(
            "train.seed: a sweep takes its seeds from the list seeds, or from --seeds".to_owned(),
        ));
    }
    Ok(())
}

/// `name` as part of a folder's.
fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "=.-_".contains(c) { c } else { '-' };
    name.chars().map(plain).take(80).collect::<String>().trim_start_matches('.').to_owned()
}

fn list(jobs: &[(Job, Config)], splits: &[String]) -> Result<(), Error> {
    let mut text = String::new();
    for (job, _) in jobs {
        let stands = match job.outcome()? {
            Some(outcome) if outcome.has(splits) => "finished",
            Some(_) => "to be scored",
            None if job.folder.exists() => "interrupted",
            None => "to be trained",
        };
        text += &format!("{stands:<13} {}\n", job.folder.display());
    }
    print(&text)
}

/// What is known of each job.
struct Outcomes<'a> {
    jobs: &'a [(Job, Config)],
    splits: &'a [String],
    found: Vec<Option<Outcome>>,
}

impl Outcomes<'_> {
    /// Trains and scores those that are missing, those of the same data and encoders one after the other.
    fn complete(mut self, device: Device, crew: Crew) -> Result<Vec<(usize, i64, Option<Outcome>)>, Error> {
        self.found = self.jobs.iter().map(|(job, _)| job.outcome()).collect::<Result<_, _>>()?;
        let mut open: Vec<usize> = (0..self.jobs.len()).collect();
        while let Some(first) = open.first() {
            let config = &self.jobs[*first].1;
            let is_alike =
                |other: &Config| other.features() == config.features() && other.train.mix == config.train.mix;
            let (alike, others): (Vec<usize>, _) = open.into_iter().partition(|number| is_alike(&self.jobs[*number].1));
            let dataset = load_dataset(config)?;
            let encoders = Encoders::load(&config.encoders, device)?;
            for number in &alike {
                self.jobs[*number].0.check(self.found[*number].as_ref(), &dataset, &encoders)?;
            }
            let is_open = |number: &usize| !self.found[*number].as_ref().is_some_and(|found| found.has(self.splits));
            let missing: Vec<usize> = alike.iter().copied().filter(is_open).collect();
            tracing::info!("{} runs, {} of them finished before", alike.len(), alike.len() - missing.len());
            if !missing.is_empty() {
                let place = Workplace::new(&dataset, &encoders, crew, &config.features(), self.splits)?;
                self.train(place, &missing)?;
            }
            open = others;
        }
        Ok(self.jobs.iter().zip(self.found).map(|((job, _), outcome)| (job.setting, job.seed, outcome)).collect())
    }

    fn train(&mut self, mut place: Workplace, missing: &[usize]) -> Result<(), SweepError> {
        let begun = Instant::now();
        for (done, number) in missing.iter().enumerate() {
            let job = &self.jobs[*number].0;
            let left = begun.elapsed().as_secs_f64() / done as f64 * (missing.len() - done) as f64 / 60.0;
            let left = if done > 0 { format!(", {left:.0} minutes left") } else { String::new() };
            tracing::info!("run {} of {}{left}: {}", done + 1, missing.len(), job.folder.display());
            match place.run(job) {
                Ok(outcome) => self.found[*number] = Some(outcome),
                Err(error) if error.is_not_finite() => {
                    tracing::warn!("{}: {error}; the sweep goes on without it", job.folder.display());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
