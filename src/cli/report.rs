//! `cmd report`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::Device;

use super::device::{Local, device};
use super::error::Error;
use super::eval::load_config;
use super::print;
use super::scoring::embedded_once;
use crate::VERSION;
use crate::checkpoint::{Checkpoint, Fingerprint, RunDir, write_whole};
use crate::config::{Config, Needs};
use crate::data::{Audit, Dataset, Split};
use crate::distributed::{Crew, World};
use crate::encoders::{Encoders, EncodersConfig};
use crate::eval::{Comparison, Embedder, Embeddings, EvalError, EvalSet, Ranks, SplitResult, attend};
use crate::features::FeatureConfig;
use crate::model::{CmdModel, libtorch_version};
use crate::report::{Against, Gallery, Page, Row, RunLog, read_results, tell_apart, title};
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
    /// The page, - for standard output; by default report.html in the run's folder, or for several runs in the folder in which runs are kept.
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
    /// The data set that it was trained on, if that was the only one.
    trained_on: Option<Fingerprint>,
    /// None where nothing is ranked.
    best: Option<(Checkpoint, CmdModel)>,
}

/// A split as some runs see it.
struct Target {
    config: Config,
    /// Of the data set.
    fingerprint: String,
    split: Arc<Split>,
    runs: Vec<usize>,
}

/// What a run found on a split.
struct Found {
    run: usize,
    embeddings: Embeddings,
    ranks: Ranks,
}

/// A split, and what the first run on it found.
struct Ranked {
    /// Of the data set.
    fingerprint: String,
    gallery: Gallery,
    first: Found,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let _all_along = signals.nothing_to_lose()?;
    let device = device(&args.device, Local::ALONE)?;
    let folders = args.folders()?;
    let out = args.place(&folders);
    let is_printed = out.as_os_str() == "-";
    if !is_printed {
        check_writable(&out).map_err(Error::output(&out))?;
    }
    let mut page = Page { here: here(device), ..Page::default() };
    let mut entries = Vec::new();
    for run in &folders {
        let mut log = RunLog::read(run)?;
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
        if let Some((_, model)) = &best {
            log.layer_weights = model.speech().layer_weights().map_err(EvalError::from)?;
        }
        let trained_on = log.state.as_ref().filter(|_| !log.has_other_data()).map(|state| state.data.clone());
        entries.push(Entry { config, trained_on, best });
        page.logs.push(log);
    }
    tell_apart(&mut page.logs);
    page.title = args.title.clone().unwrap_or_else(|| title(&page.logs));
    let further = args.results.iter().map(|named| further(named, &folders, &page, &entries));
    let further: Vec<Vec<Row>> = further.collect::<Result<_, _>>()?;
    if !args.no_audit {
        page.audits = args.audits(&entries)?;
    }
    if !args.no_eval {
        let world = World::alone();
        args.rank(&mut entries, device, Crew { world: &world, signals: &signals }, &mut page)?;
    }
    for row in further.into_iter().flatten() {
        // What a file says of a run again stands there already.
        if !page.rows.iter().any(|known| known.is_same(&row)) {
            page.rows.push(row);
        }
    }
    let html = page.html()?;
    if is_printed {
        return print(&html);
    }
    write_whole(&out, html.as_bytes()).map_err(Error::output(&out))?;
    print(&format!("{}\n", out.display()))
}

impl Args {
    /// The runs, each once; those of a sweep in the order of their names.
    fn folders(&self) -> Result<Vec<RunDir>, Error> {
        let (mut folders, mut known) = (Vec::new(), HashSet::new());
        for named in &self.runs {
            let within = std::fs::read_dir(named).into_iter().flatten().flatten();
            // Not the link to the newest one, which has a name of its own.
            let runs =
                within.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
            let mut paths: Vec<PathBuf> = runs.filter(|path| RunDir::is_run(path)).collect();
            paths.sort();
            if RunDir::is_run(named) || paths.is_empty() {
                paths = vec![named.clone()];
            }
            for path in paths {
                let run = RunDir::open(&path, &self.output)?;
                if known.insert(run.path().to_owned()) {
                    folders.push(run);
                }
            }
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
    fn rank(&self, entries: &mut [Entry], device: Device, crew: Crew, page: &mut Page) -> Result<(), Error> {
        let mut loaded: Option<(EncodersConfig, Encoders)> = None;
        let mut all: Vec<Ranked> = Vec::new();
        for Target { config, fingerprint, split, runs } in self.targets(entries)? {
            let (_, encoders) = match loaded.take() {
                Some((known, encoders)) if known == config.encoders => loaded.insert((known, encoders)),
                _ => loaded.insert((config.encoders.clone(), Encoders::load(&config.encoders, device)?)),
            };
            // Several runs share what was encoded.
            let features = if runs.len() > 1 { config.features() } else { embedded_once(&config) };
            let mut set = EvalSet::new(&split, encoders, &features, crew, None)?;
            for run in runs {
                let Entry { trained_on, best: Some((checkpoint, model)), .. } = &mut entries[run] else { continue };
                checkpoint.connect(model, encoders)?;
                let model = &*model;
                let embeddings = set.embed(model)?;
                let (result, ranks) = set.rank_each(&embeddings)?;
                page.rows.push(Row {
                    run: Some(run),
                    method: page.logs[run].name.clone(),
                    trained_on: trained_on.as_ref().map(|data| data.name.clone()),
                    is_own: trained_on.as_ref().is_some_and(|data| data.fingerprint == fingerprint),
                    result,
                });
                let found = Found { run, embeddings, ranks };
                let seen_by = (&*encoders, model, &features);
                match all.iter_mut().find(|ranked| ranked.is_of(&fingerprint, &split)) {
                    Some(ranked) => {
                        page.against.extend(ranked.against(&found));
                        if ranked.gallery.runs() < SHOWN {
                            show(&mut ranked.gallery, &found, seen_by)?;
                        }
                    }
                    None => {
                        let count = self.queries as usize;
                        let mut gallery = Gallery::new(&split, &found.embeddings, count, config.data.max_megapixels);
                        show(&mut gallery, &found, seen_by)?;
                        all.push(Ranked { fingerprint: fingerprint.clone(), gallery, first: found });
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

    /// Audits of all data sets, each once: what --data names, and what runs were trained on, if it is there.
    fn audits(&self, entries: &[Entry]) -> Result<Vec<Audit>, Error> {
        let named = self.data.iter().map(|path| Config::load(path, &[], Needs::Data));
        let named: Vec<Config> = named.collect::<Result<_, _>>()?;
        let own = entries.iter().filter_map(|entry| entry.config.clone());
        let count = named.len();
        let (mut audits, mut known) = (Vec::new(), HashSet::new());
        for (place, config) in named.into_iter().chain(own).enumerate() {
            let dataset = match Dataset::load(&config.data) {
                Err(error) if count > 0 && place >= count => {
                    tracing::warn!("no audit of what a run was trained on: {error}");
                    continue;
                }
                dataset => dataset?,
            };
            if known.insert(dataset.fingerprint.clone()) {
                audits.push(Audit::new(&dataset, (&config.data, &config.audio), &config.eval.split, false));
            }
        }
        Ok(audits)
    }

    /// Every split once for all runs that see it alike; what is not there is told before anything is ranked.
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
                    Some(target) if target.runs.contains(&run) => {}
                    Some(target) => target.runs.push(run),
                    None => {
                        let dataset = Dataset::load(&config.data)?;
                        let split = Arc::new(dataset.split(&self.split)?);
                        targets.push(Target { config, fingerprint: dataset.fingerprint, split, runs: vec![run] });
                    }
                }
            }
        }
        Ok(targets)
    }
}

impl Ranked {
    fn is_of(&self, fingerprint: &str, split: &Split) -> bool {
        self.fingerprint == fingerprint && self.gallery.split().name == split.name
    }

    /// `found` less what the first run found, if both could read the same files.
    fn against(&self, found: &Found) -> Option<Against> {
        let Found { run, embeddings, ranks } = found;
        let rows = |of: &Embeddings| (of.utterances.clone(), of.gallery.clone());
        if rows(embeddings) != rows(&self.first.embeddings) {
            return None;
        }
        let split = self.gallery.split();
        let on = format!("{} {}", split.dataset, split.name);
        let comparison = Comparison::new(ranks, &self.first.ranks, &embeddings.owners);
        Some(Against { on, runs: [*run, self.first.run], comparison })
    }
}

/// Adds what was found to `gallery`, where the model's fusion encoder looks, and what a cascaded head hears.
fn show(
    gallery: &mut Gallery,
    Found { run, embeddings, ranks }: &Found,
    (encoders, model, config): (&Encoders, &CmdModel, &FeatureConfig),
) -> Result<(), Error> {
    let (queries, places, images) = gallery.queries(embeddings);
    let mut attention = Vec::new();
    if let Some(fusion) = model.fusion() {
        let looks = attend(encoders, fusion, &queries, &images, config.data.max_megapixels)?;
        attention = places.iter().copied().zip(looks).collect();
    }
    let heard = Embedder::new(encoders, model, config).heard(&gallery.sounds(&places))?;
    let heard = places.into_iter().zip(heard).collect();
    Ok(gallery.add(*run, embeddings, ranks, attention, heard)?)
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
    let trained_on = match run {
        Some(run) => entries[run].trained_on.as_ref().map(|data| data.name.clone()),
        None => state.map(|state| state.data.name),
    };
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
        let is_own = trained_on.as_ref() == Some(&result.dataset);
        Row { run, method, trained_on: trained_on.clone(), is_own, result }
    };
    Ok(results.into_iter().map(row).collect())
}

/// Finds out before hours of work whether `path` can be written, and leaves it as it was.
fn check_writable(path: &Path) -> std::io::Result<()> {
    let is_new = !path.exists();
    std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    if is_new { std::fs::remove_file(path) } else { Ok(()) }
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
