//! `cmd report`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::Device;

use super::device::{Local, device};
use super::error::Error;
use super::eval::load_config;
use super::print;
use super::scoring::embedded_once;
use crate::VERSION;
use crate::checkpoint::{Checkpoint, RunDir, write_whole};
use crate::config::{Config, Needs};
use crate::data::{Audit, Dataset, Split};
use crate::distributed::{Crew, World};
use crate::encoders::{Encoders, EncodersConfig};
use crate::eval::{Comparison, Embeddings, EvalSet, Ranks, SplitResult, attend};
use crate::model::{CmdModel, libtorch_version};
use crate::report::{Against, Gallery, Page, Row, RunLog, read_results};
use crate::signals::Signals;
use crate::telemetry::whole_memory;

/// Writes one HTML page about runs: curves, the paper's tables, settings that differ, hits and misses with pictures and attention, the data, what
/// made them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Runs, or sweeps whose runs are meant.
    #[arg(value_name = "RUN", default_value = "latest")]
    runs: Vec<PathBuf>,
    /// The page; by default report.html in the run's folder, or for several runs in the folder in which runs are kept.
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Heading of the page.
    #[arg(long)]
    title: Option<String>,
    /// The split to rank.
    #[arg(long, default_value = "test")]
    split: String,
    /// Configuration of the data to rank, for Table 3; by default each run's own. Repeatable.
    #[arg(long, value_name = "CONFIG")]
    data: Vec<PathBuf>,
    /// Further rows: a file of cmd eval --json. DATASET= before it says what exported embeddings are of. Repeatable.
    #[arg(long, value_name = "[DATASET=]FILE")]
    results: Vec<String>,
    /// Utterances whose findings are shown; half as many images.
    #[arg(long, default_value_t = 48, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    queries: u32,
    /// Ranks nothing: curves, settings and --results alone, without data and encoders.
    #[arg(long, conflicts_with_all = ["split", "data", "queries"])]
    no_eval: bool,
    /// Leaves out the audit of the data, which reads the header of every file.
    #[arg(long)]
    no_audit: bool,
    /// Folder in which runs are kept.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
}

const EXAMPLES: &str = "Examples:
  cmd report latest
  cmd report runs/no-cmd runs/cmd --out comparison.html
  cmd report runs/spokencoco runs/flickr8k --data configs/flickr8k.toml
  cmd report latest --results reranked.json --results flickr8k=fast-vgs.json
  cmd report latest --no-eval --no-audit";

/// Runs of which a gallery shows what they find.
const SHOWN: usize = 6;

/// A run, and what its best checkpoint holds.
struct Entry {
    /// None where neither data nor encoders are needed.
    config: Option<Config>,
    /// Name of the data set that it was trained on.
    trained_on: Option<String>,
    /// None where nothing is ranked.
    best: Option<(Checkpoint, CmdModel)>,
}

/// A data set as some runs see it.
struct Target {
    config: Config,
    runs: Vec<usize>,
}

/// A split, and what the first run on it found.
struct Ranked {
    /// Of the data set.
    fingerprint: String,
    split: String,
    gallery: Gallery,
    run: usize,
    embeddings: Embeddings,
    ranks: Ranks,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let _all_along = signals.nothing_to_lose()?;
    let device = device(&args.device, Local::ALONE)?;
    let folders = args.folders()?;
    let out = args.place(&folders);
    // Found out before hours of work.
    std::fs::OpenOptions::new().create(true).append(true).open(&out).map_err(Error::output(&out))?;
    let mut page = Page { here: here(device), ..Page::default() };
    let mut entries = Vec::new();
    for run in &folders {
        let log = RunLog::read(run)?;
        if !args.no_eval && !run.has_checkpoints() {
            let run = run.path().display();
            return Err(Error::Usage(format!(
                "{run}: has no checkpoint yet that could be ranked; its curves need none: add --no-eval"
            )));
        }
        // What is only looked at may be of another version of the program.
        let needs = if args.no_eval { Needs::Data } else { Needs::Encoders };
        let is_needed = !(args.no_eval && args.no_audit);
        let config = is_needed.then(|| Config::load(&run.config(), &[], needs)).transpose()?;
        let best = (!args.no_eval).then(|| run.best()).transpose()?;
        let best = best.map(|best| best.load(device).map(|model| (best, model))).transpose()?;
        let trained_on = log.state.as_ref().map(|state| state.data.name.clone());
        entries.push(Entry { config, trained_on, best });
        page.logs.push(log);
    }
    tell_apart(&mut page.logs);
    page.title = args.title.clone().unwrap_or_else(|| title(&page.logs));
    let further = args.results.iter().map(|named| further(named, &folders, &page, &entries));
    let further: Vec<Vec<Row>> = further.collect::<Result<_, _>>()?;
    if !args.no_eval {
        let world = World::alone();
        args.rank(&entries, device, Crew { world: &world, signals: &signals }, &mut page)?;
    }
    page.rows.extend(further.into_iter().flatten());
    if !args.no_audit {
        page.audits = audits(&entries, &args.data)?;
    }
    write_whole(&out, page.html()?.as_bytes()).map_err(Error::output(&out))?;
    print(&format!("{}\n", out.display()))
}

impl Args {
    /// The runs, each once; those of a sweep in the order of their names.
    fn folders(&self) -> Result<Vec<RunDir>, Error> {
        let (mut folders, mut known) = (Vec::new(), HashSet::new());
        for named in &self.runs {
            let mut paths = vec![named.clone()];
            if named.join("sweep.json").is_file() && !RunDir::is_run(named) {
                let entries = std::fs::read_dir(named).map_err(Error::output(named))?;
                paths = entries.flatten().map(|entry| entry.path()).collect();
                paths.retain(|path| RunDir::is_run(path));
                paths.sort();
            }
            for path in paths {
                let run = RunDir::open(&path, &self.output)?;
                if known.insert(run.path().to_owned()) {
                    folders.push(run);
                }
            }
        }
        if folders.is_empty() {
            return Err(Error::Usage("what is named holds no run".to_owned()));
        }
        Ok(folders)
    }

    fn place(&self, folders: &[RunDir]) -> PathBuf {
        let folder = match folders {
            [run] => run.path(),
            _ => &self.output,
        };
        self.out.clone().unwrap_or_else(|| folder.join("report.html"))
    }

    /// Ranks every run on its data, or on what --data names.
    fn rank(&self, entries: &[Entry], device: Device, crew: Crew, page: &mut Page) -> Result<(), Error> {
        let mut loaded: Option<(EncodersConfig, Encoders)> = None;
        let mut all: Vec<Ranked> = Vec::new();
        for Target { config, runs } in self.targets(entries)? {
            let (_, encoders) = match loaded.take() {
                Some((known, encoders)) if known == config.encoders => loaded.insert((known, encoders)),
                _ => loaded.insert((config.encoders.clone(), Encoders::load(&config.encoders, device)?)),
            };
            let dataset = Dataset::load(&config.data)?;
            let split = Arc::new(dataset.split(&self.split)?);
            // Several runs share what was encoded.
            let features = if runs.len() > 1 { config.features() } else { embedded_once(&config) };
            let mut set = EvalSet::new(&split, encoders, &features, crew, None)?;
            for run in runs {
                let Some((checkpoint, model)) = &entries[run].best else { continue };
                checkpoint.check_encoders(model, encoders)?;
                let embeddings = set.embed(model)?;
                let (result, ranks) = set.rank_each(&embeddings)?;
                let method = page.logs[run].name.clone();
                page.rows.push(Row { run: Some(run), method, trained_on: entries[run].trained_on.clone(), result });
                let most_megapixels = config.data.max_megapixels;
                match all.iter_mut().find(|ranked| ranked.is_of(&dataset.fingerprint, &split)) {
                    Some(ranked) => {
                        page.against.extend(ranked.against(run, &embeddings, &ranks));
                        if ranked.gallery.runs() < SHOWN {
                            show(&mut ranked.gallery, run, (&embeddings, &ranks), (encoders, model), most_megapixels)?;
                        }
                    }
                    None => {
                        let mut gallery = Gallery::new(&split, &embeddings, self.queries as usize, most_megapixels);
                        show(&mut gallery, run, (&embeddings, &ranks), (encoders, model), most_megapixels)?;
                        let fingerprint = dataset.fingerprint.clone();
                        all.push(Ranked { fingerprint, split: split.name.clone(), gallery, run, embeddings, ranks });
                    }
                }
            }
        }
        for mut ranked in all {
            ranked.gallery.read_pictures()?;
            page.galleries.push(ranked.gallery);
        }
        Ok(())
    }

    /// Every data set once for all runs that see it alike.
    fn targets<'a>(&self, entries: &'a [Entry]) -> Result<Vec<Target>, Error> {
        let mut targets: Vec<Target> = Vec::new();
        let with_config = |(run, entry): (usize, &'a Entry)| Some((run, entry.config.as_ref()?));
        for (run, own) in entries.iter().enumerate().filter_map(with_config) {
            let named = self.data.iter().map(|path| load_config(path, &[], Some(own)));
            let configs: Vec<Config> = named.collect::<Result<_, _>>()?;
            for config in if configs.is_empty() { vec![own.clone()] } else { configs } {
                let is_same = |known: &Config| {
                    (&known.data, &known.audio, &known.encoders) == (&config.data, &config.audio, &config.encoders)
                };
                match targets.iter_mut().find(|target| is_same(&target.config)) {
                    Some(target) => target.runs.push(run),
                    None => targets.push(Target { config, runs: vec![run] }),
                }
            }
        }
        Ok(targets)
    }
}

impl Ranked {
    fn is_of(&self, fingerprint: &str, split: &Split) -> bool {
        self.fingerprint == fingerprint && self.split == split.name
    }

    /// `run` less the first one, if both could read the same files.
    fn against(&self, run: usize, embeddings: &Embeddings, ranks: &Ranks) -> Option<Against> {
        let rows = |of: &Embeddings| (of.utterances.clone(), of.gallery.clone());
        let on = format!("{} {}", self.gallery.dataset(), self.split);
        let comparison = || Comparison::new(ranks, &self.ranks, &embeddings.owners);
        (rows(embeddings) == rows(&self.embeddings)).then(|| Against {
            on,
            runs: [run, self.run],
            comparison: comparison(),
        })
    }
}

/// Adds what `run` found to `gallery`, and where its fusion encoder looks.
fn show(
    gallery: &mut Gallery,
    run: usize,
    (embeddings, ranks): (&Embeddings, &Ranks),
    (encoders, model): (&Encoders, &CmdModel),
    most_megapixels: i64,
) -> Result<(), Error> {
    let mut attention = Vec::new();
    if let Some(fusion) = model.fusion() {
        let (queries, places, images) = gallery.queries(embeddings);
        let looks = attend(encoders, fusion, &queries, &images, most_megapixels)?;
        attention = places.into_iter().zip(looks).collect();
    }
    Ok(gallery.add(run, embeddings, ranks, attention)?)
}

/// The rows of a file of results; `DATASET=` before it names what exported embeddings are of.
fn further(named: &str, folders: &[RunDir], page: &Page, entries: &[Entry]) -> Result<Vec<Row>, Error> {
    let (dataset, file) = match named.split_once('=') {
        Some((dataset, file)) if !Path::new(named).exists() => (Some(dataset), file),
        _ => (None, named),
    };
    let (checkpoint, results) = read_results(Path::new(file))?;
    let run = checkpoint
        .as_deref()
        .and_then(|checkpoint| folders.iter().position(|run| Path::new(checkpoint).starts_with(run.path())));
    let own = checkpoint.as_deref().and_then(|path| Checkpoint::open(Path::new(path)).ok());
    let state = own.as_ref().and_then(|own| own.state().ok().flatten());
    let trained_on = run.and_then(|run| entries[run].trained_on.clone()).or(state.map(|state| state.data.name));
    let of_run =
        own.as_ref().and_then(RunDir::of).and_then(|run| Some(run.path().file_name()?.to_string_lossy().into_owned()));
    let stem = Path::new(file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let method = run.map(|run| page.logs[run].name.clone()).or(of_run).unwrap_or(stem);
    let row = |mut result: SplitResult| {
        // Embeddings are called after their folder.
        let method = if checkpoint.is_none() { result.dataset.clone() } else { method.clone() };
        if let (None, Some(dataset)) = (&checkpoint, dataset) {
            (result.dataset, result.split) = (dataset.to_owned(), "test".to_owned());
        }
        Row { run, method, trained_on: trained_on.clone(), result }
    };
    Ok(results.into_iter().map(row).collect())
}

/// Audits of all data sets, each once: what runs were trained on, and what --data names.
fn audits(entries: &[Entry], further: &[PathBuf]) -> Result<Vec<Audit>, Error> {
    let mut configs: Vec<Config> = entries.iter().filter_map(|entry| entry.config.clone()).collect();
    for path in further {
        configs.push(Config::load(path, &[], Needs::Data)?);
    }
    let (mut audits, mut known) = (Vec::new(), HashSet::new());
    for config in configs {
        let dataset = Dataset::load(&config.data)?;
        if known.insert(dataset.fingerprint.clone()) {
            audits.push(Audit::new(&dataset, (&config.data, &config.audio), &config.eval.split, false));
        }
    }
    Ok(audits)
}

/// Runs of one name get numbers.
fn tell_apart(logs: &mut [RunLog]) {
    let mut known = HashMap::new();
    for log in logs {
        let count = known.entry(log.name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            log.name = format!("{} ({count})", log.name);
        }
    }
}

fn title(logs: &[RunLog]) -> String {
    match logs {
        [log] => log.name.clone(),
        [one, other] => format!("{} and {}", one.name, other.name),
        _ => format!("{} runs", logs.len()),
    }
}

/// What makes the page.
fn here(device: Device) -> Vec<(String, String)> {
    let system = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = whole_memory().map_or(String::new(), |bytes| format!(", {:.0} GB", bytes as f64 / 1e9));
    let facts = [
        ("made", jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S %:z").to_string()),
        ("program", format!("cmd {VERSION}")),
        ("libtorch", libtorch_version()),
        ("device", format!("{device:?}")),
        ("host", text(system.nodename())),
        (
            "system",
            format!(
                "{} {} {}, {cores} cores{memory}",
                text(system.sysname()),
                text(system.release()),
                text(system.machine())
            ),
        ),
    ];
    facts.map(|(what, value)| (what.to_owned(), value)).into()
}
