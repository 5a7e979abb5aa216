//! `cmd search`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::error::Error;
use super::print;
use super::trained::{How, Trained, TrainedArgs};
use crate::checkpoint::RunLock;
use crate::data::{Content, Dataset, Medium, files_below};
use crate::encoders::is_blank;
use crate::eval::Growing;
use crate::report::{Asked, Query, found_page};
use crate::search::{EFFORT, Entry, GraphConfig, GraphHead, Hit, Index, Plan, Rows};
use crate::signals::Signals;
use crate::telemetry::warn_once;

/// Finds pictures by speech and speech by pictures, in folders that were made ready once by `cmd search index`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Folder of an index.
    #[arg(value_name = "IDX", required = true)]
    index: Option<PathBuf>,
    /// A spoken query. Repeatable.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["image", "text"])]
    speech: Vec<PathBuf>,
    /// A picture as a query. Repeatable.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// A query in words, which the frozen text encoder reads. Repeatable.
    #[arg(long, value_name = "WORDS", value_parser = words)]
    text: Vec<String>,
    /// What is to be found: images or speech; by default pictures by speech and words, and speech by pictures, where the index holds some.
    #[arg(long, value_name = "MEDIUM")]
    find: Option<Medium>,
    /// Files that are shown for each query.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Looks at every file, also where an index of many has a graph of neighbours.
    #[arg(long, conflicts_with = "effort")]
    exact: bool,
    /// Files of a graph that are looked at: more find more of what --exact finds.
    #[arg(long, value_name = "FILES", default_value_t = EFFORT)]
    effort: usize,
    /// Prints what was found as JSON.
    #[arg(long)]
    json: bool,
    /// Writes a page with the pictures that were found.
    #[arg(long, value_name = "FILE.html")]
    sheet: Option<PathBuf>,
    #[command(flatten)]
    trained: TrainedArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Index(IndexArgs),
}

/// Makes an index of the sounds and pictures in folders or of a split, or brings one up to date: only files that are new or were changed are embedded.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cmd search index photos/ --out photos.idx\n  cmd search index talks/ photos/ --out all.idx --rows f16\n  cmd search index --checkpoint runs/latest --split test --out test.idx"
)]
struct IndexArgs {
    /// Folders; those in them are searched too.
    #[arg(value_name = "FOLDER", required_unless_present = "split")]
    folders: Vec<PathBuf>,
    /// A split of the data instead, with what is said in it.
    #[arg(long, value_name = "SPLIT", conflicts_with = "folders")]
    split: Option<String>,
    /// Folder of the index.
    #[arg(long, value_name = "IDX")]
    out: PathBuf,
    /// How rows are stored: f32, f16 (half the size) or i8 (a quarter); by default as the index has them, else f32.
    #[arg(long, value_name = "FORM")]
    rows: Option<Rows>,
    /// Pictures, or sounds, above which a graph of neighbours (HNSW) is made of them, so that a query looks at few.
    #[arg(long, value_name = "FILES", default_value_t = GraphConfig::default().above)]
    graph_above: usize,
    /// Neighbours of each file in the graph.
    #[arg(long, value_name = "M", default_value_t = GraphConfig::default().links as u16, value_parser = clap::value_parser!(u16).range(2..=512))]
    graph_links: u16,
    /// Files that are looked at to find them.
    #[arg(long, value_name = "EF", default_value_t = GraphConfig::default().effort as u16, value_parser = clap::value_parser!(u16).range(1..))]
    graph_effort: u16,
    #[command(flatten)]
    trained: TrainedArgs,
}

const EXAMPLES: &str = "Examples:
  cmd search index photos/ --out photos.idx
  cmd search photos.idx --speech question.wav
  cmd search photos.idx --speech question.wav -k 24 --sheet found.html
  cmd search photos.idx --image dog.jpg --find images --json
  cmd search photos.idx --text \"a dog on a beach\"";

/// A text with something in it.
fn words(text: &str) -> Result<String, String> {
    if is_blank(text) { Err("must hold words".to_owned()) } else { Ok(text.to_owned()) }
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let _all_along = signals.nothing_to_lose()?;
    match (&args.command, &args.index) {
        (Some(Command::Index(args)), _) => index(args),
        (None, Some(folder)) => args.search(folder),
        (None, None) => unreachable!("one of them is required"),
    }
}

fn index(args: &IndexArgs) -> Result<(), Error> {
    std::fs::create_dir_all(&args.out).map_err(Error::output(&args.out))?;
    let _lock = RunLock::take(&args.out)?;
    // What is in no folder is said before anything is loaded.
    let in_folders = args.split.is_none().then(|| args.in_folders()).transpose()?;
    let trained = args.trained.load(None)?;
    let files = match (&args.split, in_folders) {
        (Some(split), _) => of_split(&trained, split)?,
        (None, files) => files.unwrap_or_default(),
    };
    let (model, width) = (trained.fingerprint()?, trained.embedder().width());
    let checkpoint =
        std::path::absolute(trained.checkpoint.path()).map_err(Error::output(trained.checkpoint.path()))?;
    let plan = Plan::new(&args.out, (&model, &checkpoint, width), args.rows, files);
    let missing = plan.missing();
    let job = json!({ "format": 1, "model": model });
    let target = args.out.join("new");
    let mut growing = Growing::open(&target, &job, width, (&missing, true)).map_err(Error::output(&target))?;
    let done = growing.done().len();
    let how = How { frames: false, skips: true };
    trained.embed(&missing, done, how, |made| growing.push(made).map_err(Error::output(&target)))?;
    let (links, effort) = (usize::from(args.graph_links), usize::from(args.graph_effort));
    let update = plan.write(&growing, GraphConfig { above: args.graph_above, links, effort })?;
    growing.remove().map_err(Error::output(&target))?;
    let out = args.out.display();
    print(&format!(
        "{out}: {} files, {} of them new or changed; {} are gone, {} cannot be read\n",
        update.files, update.made, update.gone, update.skipped
    ))?;
    for GraphHead { medium, count, recall, .. } in &update.graphs {
        let recall = 100.0 * recall;
        let medium = medium.name();
        print(&format!("{out}: a graph of {count} {medium}, which finds {recall:.1} % of the ten nearest\n"))?;
    }
    Ok(())
}

impl IndexArgs {
    fn in_folders(&self) -> Result<Vec<Entry>, Error> {
        let mut files = Vec::new();
        for folder in &self.folders {
            // Found from wherever the index is asked.
            let folder = std::fs::canonicalize(folder).map_err(|error| {
                Error::Usage(format!("{}: {error}; name folders of sounds and pictures", folder.display()))
            })?;
            files.extend(files_below(&folder, &mut |error| {
                warn_once(format!("skipped: {error}"));
                Ok(())
            })?);
        }
        files.sort();
        files.dedup();
        if files.is_empty() {
            return Err(Error::Usage("there are no sounds or pictures in these folders".to_owned()));
        }
        Ok(files.into_iter().map(|(file, medium)| Entry::of(file, medium, None)).collect())
    }
}

/// Images of a split, and utterances with what is said in them.
fn of_split(trained: &Trained, name: &str) -> Result<Vec<Entry>, Error> {
    let split = Dataset::load(&trained.config.data)?.split(name)?;
    let images = split.images.iter().map(|image| (&image.path, Medium::Image, None));
    let utterances = split.utterances.iter().map(|utterance| {
        let said = utterance.text.as_ref().map(ToString::to_string);
        (&utterance.audio, Medium::Speech, said)
    });
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    for (path, medium, said) in images.chain(utterances) {
        let path = resolved(path)?;
        if seen.insert(path.clone()) {
            entries.push(Entry::of(path, medium, said));
        }
    }
    Ok(entries)
}

/// `path` as it is found from everywhere, through no links.
fn resolved(path: &Path) -> Result<PathBuf, Error> {
    std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).map_err(Error::output(path))
}

impl Args {
    fn search(&self, folder: &Path) -> Result<(), Error> {
        let index = if self.exact { Index::open_rows(folder) } else { Index::open(folder) }?;
        let trained = self.trained.load(Some(index.checkpoint()))?;
        trained.check_index(&index, folder)?;
        let embedder = trained.embedder();
        let speech = self.speech.iter().map(|path| (path, Medium::Speech));
        let files: Vec<_> = speech.chain(self.image.iter().map(|path| (path, Medium::Image))).collect();
        let mut contents = Vec::new();
        for (path, medium) in &files {
            contents.push(Content::read(path, *medium, embedder.audio_form(), embedder.picture_form())?);
        }
        let mut rows = embedder.rows(&contents.iter().collect::<Vec<_>>(), false)?;
        if !self.text.is_empty() {
            rows.extend(embedder.texts(&self.text)?);
        }
        let files = files.into_iter().map(|(path, medium)| Query::File(path, medium));
        let mut found: Vec<(Query, Vec<Hit>)> = Vec::new();
        for (query, row) in files.chain(self.text.iter().map(|words| Query::Words(words))).zip(&rows) {
            let wanted = self.find.unwrap_or_else(|| index.asked_by(query.asks_as()));
            let effort = (!self.exact).then_some(self.effort);
            found.push((query, index.search(row, wanted, self.k as usize, effort)?));
        }
        if let Some(sheet) = &self.sheet {
            let asked = found.iter().map(|(query, hits)| Asked { query: *query, hits });
            let page = found_page(&asked.collect::<Vec<_>>(), trained.config.data.max_megapixels);
            std::fs::write(sheet, page).map_err(Error::output(sheet))?;
        }
        if self.json {
            let queries: Vec<Value> = found
                .iter()
                .map(|(query, found)| match query {
                    Query::File(path, medium) => json!({ "query": path, "medium": medium, "found": found }),
                    Query::Words(words) => json!({ "query": words, "medium": "text", "found": found }),
                })
                .collect();
            return print(&format!("{:#}\n", json!({ "index": folder, "queries": queries })));
        }
        let mut text = String::new();
        for (query, hits) in &found {
            text += &format!("{query}\n");
            for hit in hits {
                text += &format!("{:8.4}  {}\n", hit.score, hit.file.display());
            }
        }
        print(&text)
    }
}
