//! What `cmd eval` makes of a ranking beside its recalls: parts of a split, another system on the same queries, files.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use tch::Device;

use super::error::Error;
use crate::checkpoint::{Checkpoint, CheckpointError, RunDir};
use crate::config::{Config, Needs};
use crate::data::Split;
use crate::distributed::Crew;
use crate::encoders::{Cache, Encoders};
use crate::eval::{
    Breakdown, Comparison, Differences, Embeddings, EvalSet, Grouping, Ranks, Vectors, export_mteb, export_ranks,
    export_trec,
};
use crate::features::FeatureConfig;
use crate::model::CmdModel;

/// Options of that.
#[derive(Debug, clap::Args)]
pub(super) struct ScoringArgs {
    /// Another run or checkpoint on the same queries (with --embeddings: another folder): differences, with a paired bootstrap over images.
    #[arg(long, value_name = "RUN_OR_FOLDER")]
    pub(super) compare: Option<PathBuf>,
    /// Recalls of parts of the split, by speaker, words (their number), part (the folder of the image) or family. Repeatable.
    #[arg(long, value_name = "KIND")]
    pub(super) by: Vec<Grouping>,
    /// Files in a folder: ranks (every query with its rank and the first ten, JSONL and CSV), trec (runs and judgements in both directions), mteb (TaskResult) or
    /// embeddings (as --embeddings reads them). Repeatable.
    #[arg(long, value_name = "FORM=FOLDER")]
    pub(super) export: Vec<Export>,
}

/// A form and where it goes.
#[derive(Clone, Debug)]
pub(super) struct Export {
    form: Form,
    folder: PathBuf,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Ranks,
    Trec,
    Mteb,
    Embeddings,
}

impl FromStr for Export {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (form, folder) = text.split_once('=').unwrap_or((text, ""));
        let form = match form {
            "ranks" => Form::Ranks,
            "trec" => Form::Trec,
            "mteb" => Form::Mteb,
            "embeddings" => Form::Embeddings,
            _ => return Err("must be ranks=FOLDER, trec=FOLDER, mteb=FOLDER or embeddings=FOLDER".to_owned()),
        };
        if folder.is_empty() {
            return Err("must name a folder, for instance ranks=FOLDER".to_owned());
        }
        Ok(Self { form, folder: folder.into() })
    }
}

/// A ranking of one system.
pub(super) struct Ranking<'a> {
    /// Data set, or folder of embeddings.
    pub(super) dataset: String,
    pub(super) split: String,
    pub(super) vectors: Vectors,
    pub(super) ranks: &'a Ranks,
    /// Where the queries come from, if that is known.
    pub(super) of: Option<(&'a Split, &'a Embeddings)>,
}

impl Ranking<'_> {
    /// How it is called in tables.
    fn name(&self) -> String {
        if self.of.is_some() { format!("{} {}", self.dataset, self.split) } else { self.dataset.clone() }
    }
}

/// What was found of it.
#[derive(Default)]
pub(super) struct Findings {
    /// Folders that rankings have been written to.
    folders: HashSet<PathBuf>,
    tables: Vec<String>,
    breakdowns: Vec<Value>,
    comparisons: Vec<Value>,
}

impl ScoringArgs {
    /// Makes folders before hours of work.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.export
            .iter()
            .try_for_each(|export| std::fs::create_dir_all(&export.folder).map_err(Error::output(&export.folder)))
    }

    /// Writes the files of `ranking`, one of `count`, and adds its parts to `findings`.
    pub(super) fn apply(&self, ranking: &Ranking, count: usize, findings: &mut Findings) -> Result<(), Error> {
        for Export { form, folder } in &self.export {
            let folder = if count > 1 { findings.own_folder(folder, &ranking.name()) } else { folder.clone() };
            let Ranking { vectors, ranks, of, .. } = ranking;
            let said = of.map(|(split, embeddings)| {
                move |row: usize| {
                    let utterance = &split.utterances[embeddings.utterances[row]];
                    (utterance.text.as_deref(), utterance.speaker.as_deref())
                }
            });
            let said = said.as_ref().map(|said| said as &dyn Fn(usize) -> (Option<_>, Option<_>));
            let written = match form {
                Form::Ranks => export_ranks(&folder, vectors, ranks, said),
                Form::Trec => export_trec(&folder, vectors, ranks, "cmd"),
                Form::Mteb => {
                    let Ranking { dataset, split, .. } = ranking;
                    export_mteb(&folder, vectors, ranks, dataset, split).map(|is_task| {
                        if !is_task {
                            tracing::warn!("{dataset} {split} is no task of MTEB: its leaderboard takes the test split of SpokenCOCO alone");
                        }
                    })
                }
                Form::Embeddings => vectors.write(&folder),
            };
            written.map_err(Error::output(folder))?;
        }
        if let Some((split, embeddings)) = ranking.of {
            for by in &self.by {
                findings.breakdown(&ranking.name(), &Breakdown::new(*by, split, embeddings, ranking.ranks));
            }
        }
        Ok(())
    }
}

impl Findings {
    /// A folder in `folder` for the ranking `name`, which no other ranking has.
    fn own_folder(&mut self, folder: &Path, name: &str) -> PathBuf {
        let plain = name.replace([' ', '/'], "-");
        let numbered = (2..).map(|number| format!("{plain}-{number}"));
        let mut free = [plain.clone()].into_iter().chain(numbered).map(|name| folder.join(name));
        free.find(|folder| self.folders.insert(folder.clone())).unwrap_or_else(|| unreachable!("numbers do not end"))
    }

    fn breakdown(&mut self, name: &str, breakdown: &Breakdown) {
        self.tables.push(format!("{name}\n{}", breakdown.table()));
        self.breakdowns.push(named(name, &[], breakdown));
    }

    /// Adds `ranking` less `theirs`, which rank the same queries and are called `other`.
    pub(super) fn compare(&mut self, ranking: &Ranking, ours: &str, theirs: &Ranks, other: &str) {
        let comparison = Comparison::new(ranking.ranks, theirs, &ranking.vectors.owners);
        let mut table = format!(
            "{}: {ours} less {other}, points and 95 % interval\n{:15} | {:^20} | {:^20} | {:^20}",
            ranking.name(),
            "",
            "R@1",
            "R@5",
            "R@10"
        );
        let sides = [
            ("Speech -> Image", &comparison.speech_to_image),
            ("Image -> Speech", &comparison.image_to_speech),
            ("Mean", &comparison.mean),
        ];
        for (side, Differences { r1, r5, r10 }) in sides {
            table += &format!("\n{side:15}");
            for difference in [r1, r5, r10] {
                let [low, high] = difference.ci95;
                table += &format!(" | {:>+5.1} [{low:+5.1}, {high:+5.1}]", difference.points);
            }
        }
        self.tables.push(table);
        self.comparisons.push(named(&ranking.name(), &[("ours", ours), ("theirs", other)], &comparison));
    }

    /// Everything as tables, each after an empty line.
    pub(super) fn tables(&self) -> String {
        self.tables.iter().flat_map(|table| ["\n", table, "\n"]).collect()
    }

    /// Adds everything to the object `all`.
    pub(super) fn add_to(self, all: &mut Value) {
        for (key, found) in [("breakdowns", self.breakdowns), ("comparisons", self.comparisons)] {
            if !found.is_empty() {
                all[key] = Value::Array(found);
            }
        }
    }
}

/// `found` as an object that says of what.
fn named(name: &str, texts: &[(&str, &str)], found: &impl Serialize) -> Value {
    let mut object = json!({ "of": name });
    texts.iter().for_each(|(key, text)| object[*key] = (*text).into());
    if let Ok(Value::Object(fields)) = serde_json::to_value(found) {
        fields.into_iter().for_each(|(key, value)| object[key] = value);
    }
    object
}

/// How features are come by for a single embedding: nothing is worth keeping in memory.
pub(super) fn embedded_once(config: &Config) -> FeatureConfig {
    let mut features = config.features();
    if features.encoders.speech.cache == Cache::Memory {
        features.encoders.speech.cache = Cache::None;
    }
    features
}

/// Another trained model, which ranks the same queries.
pub(super) struct Opponent {
    pub(super) name: String,
    checkpoint: Checkpoint,
    model: RefCell<CmdModel>,
    /// The configuration of its run.
    own: Config,
}

impl Opponent {
    pub(super) fn load(named: &Path, output: &Path, device: Device) -> Result<Self, Error> {
        let (checkpoint, run) = RunDir::find(named, output)?;
        let Some(run) = run else {
            let why = "lies in no run, whose encoders would be known; name a run".to_owned();
            return Err(CheckpointError::Missing { path: checkpoint.path().to_owned(), why }.into());
        };
        let own = Config::load(&run.config(), &[], Needs::Encoders)?;
        let model = RefCell::new(checkpoint.load_for_inference(device)?);
        Ok(Self {
            name: run.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
            checkpoint,
            model,
            own,
        })
    }

    /// Its ranks of the queries of `set`, which was made with `encoders` by `config`.
    pub(super) fn ranks(
        &self,
        config: &Config,
        (set, encoders): (&mut EvalSet, &Encoders),
        device: Device,
        crew: Crew,
        owners: &[usize],
    ) -> Result<Ranks, Error> {
        let files = |config: &Config| {
            let encoders = &config.encoders;
            let paths = [&encoders.speech.path, &encoders.image.path, &encoders.text.path].map(Clone::clone);
            (paths, encoders.speech.dtype, encoders.image.dtype, encoders.text.dtype)
        };
        let embed = |set: &mut EvalSet, encoders: &Encoders| -> Result<_, Error> {
            let mut model = self.model.borrow_mut();
            self.checkpoint.connect(&mut model, encoders)?;
            let embeddings = set.embed(&model)?;
            let ranks = set.rank_each(&embeddings)?.1;
            Ok((embeddings, ranks))
        };
        let (embeddings, ranks) = if files(&self.own) == files(config) {
            embed(set, encoders)?
        } else {
            let encoders = Encoders::load(&self.own.encoders, device)?;
            let config = Config { encoders: self.own.encoders.clone(), ..config.clone() };
            let split = Arc::new(set.split().clone());
            let mut set = EvalSet::new(&split, &encoders, &embedded_once(&config), crew, None)?;
            embed(&mut set, &encoders)?
        };
        if embeddings.owners == owners {
            Ok(ranks)
        } else {
            Err(Error::Usage(format!("--compare {}: other files of this split could be read for it", self.name)))
        }
    }
}
