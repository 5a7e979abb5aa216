//! `cmd eval`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tch::Device;

use super::error::Error;
use super::scoring::{Findings, Opponent, Ranking, ScoringArgs, embedded_once};
use super::trained::ModelArgs;
use super::{load_dataset, print};
use crate::checkpoint::{Checkpoint, CheckpointError, RunDir};
use crate::config::{Config, ConfigError, Needs, Override};
use crate::data::{Dataset, Split};
use crate::distributed::{Crew, World};
use crate::encoders::{Encoders, EncodersConfig};
use crate::eval::{
    BETA, Embeddings, EvalSet, Protocol, QueryBank, Ranks, Reranking, Score, SplitResult, Texts, Vectors,
    retrieval_picture, table,
};
use crate::features::FeatureConfig;
use crate::model::CmdModel;
use crate::signals::Signals;

/// Ranks a split with a trained model: recalls in both directions.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The split to rank.
    #[arg(long, default_value = "test")]
    split: String,
    /// Configuration of the data to rank; by default the run's own. Several give one table: zero-shot across data sets. Encoders that
    /// it does not name are the run's.
    #[arg(long, value_name = "CONFIG")]
    data: Vec<PathBuf>,
    /// A row of its own: the first K of each query put in order by the trained fusion encoder on clean patches. Repeatable.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    rerank: Vec<u32>,
    /// Part of the fusion encoder's score in that order, from 0 to 1; by default the best of 0, 0.05, ... 1 on the configuration's eval.split.
    #[arg(long, value_name = "LAMBDA", requires = "rerank", value_parser = share)]
    mix: Option<f64>,
    /// A row of its own: query-bank normalisation (dynamic inverted softmax) with all queries of this split, for instance train.
    #[arg(long, value_name = "SPLIT")]
    querybank: Option<String>,
    /// Rows of their own with the captions' words, read by the frozen text encoder, in the place of speech, and of images: with text, words for images and speech for
    /// words are ranked by the same rule.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "speech")]
    queries: Queries,
    /// A row of its own for transcripts in the place of speech, read by the frozen text encoder: a name, and a file of lines {"audio": "a.wav", "text": "..."}. Repeatable.
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
    reference: Vec<(String, PathBuf)>,
    /// Embeddings of any system in place of a model: a folder with embeddings.safetensors, or with speech.npy, images.npy and owners.npy (the row
    /// of images that each row of speech speaks of). Several give one table.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["checkpoint", "split", "overrides", "data", "rerank", "querybank", "picture", "by", "queries", "reference"])]
    embeddings: Vec<PathBuf>,
    /// How embeddings whose rows are not of length 1 are compared: cosine or dot.
    #[arg(long, value_name = "HOW", requires = "embeddings")]
    score: Option<Score>,
    #[command(flatten)]
    scoring: ScoringArgs,
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
  cmd eval --checkpoint runs/spokencoco --data configs/flickr8k.toml --split test
  cmd eval --split test --rerank 10 --rerank 32 --querybank train
  cmd eval --split test --compare runs/no-cmd --by speaker --by words
  cmd eval --split test --queries text --reference asr=transcripts.jsonl
  cmd eval --split test --export trec=out/trec --export ranks=out/ranks
  cmd eval --embeddings fast-vgs/ --embeddings milan/ --score dot";

/// What the row of captions is called.
const CAPTIONS: &str = "captions";

/// What asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Queries {
    /// Speech alone.
    Speech,
    /// Words too.
    Text,
}

/// NAME=FILE.
fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let named = text.split_once('=').filter(|(name, file)| !name.is_empty() && !file.is_empty());
    let (name, file) = named.ok_or("must be a name and a file, for instance asr=transcripts.jsonl")?;
    if name.contains(char::is_control) {
        return Err("the name of a row must hold no control characters".to_owned());
    }
    Ok((name.to_owned(), PathBuf::from(file)))
}

/// A number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let (overrides, device) = (args.model.overrides()?, args.model.device()?);
    args.scoring.check()?;
    if !args.embeddings.is_empty() {
        return args.rank_vectors(device);
    }
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let _all_along = signals.nothing_to_lose()?;
    let (checkpoint, run) = args.model.find(None)?;
    let mut model =
        if args.rerank.is_empty() { checkpoint.load_for_inference(device)? } else { checkpoint.load(device)? };
    if !args.rerank.is_empty() && model.fusion().is_none() {
        let why = "was trained without CMD, so it has no fusion encoder to put anything in order with".to_owned();
        return Err(CheckpointError::Mismatch { path: checkpoint.path().to_owned(), why }.into());
    }
    let state = checkpoint.state()?;
    let configs = match (args.data.as_slice(), &run) {
        ([], Some(run)) => vec![run.config()],
        ([], None) => {
            let why = "this checkpoint lies in no run, so name the data with --data CONFIG".to_owned();
            return Err(CheckpointError::Missing { path: checkpoint.path().to_owned(), why }.into());
        }
        (data, _) => data.to_vec(),
    };

    let (world, picture) = (World::alone(), args.picture.as_deref().map(PictureFile::create).transpose()?);
    let crew = Crew { world: &world, signals: &signals };
    let mut drawn = Ok(());
    let mut results = Vec::new();
    let mut loaded: Option<(EncodersConfig, Encoders)> = None;
    let mut findings = Findings::default();
    let opponent = args.scoring.compare.as_deref().map(|named| Opponent::load(named, &args.model.output, device));
    let opponent = opponent.transpose()?;
    let own = run.as_ref().map(|run| Config::load(&run.config(), &[], Needs::Encoders)).transpose()?;
    for (number, path) in configs.iter().enumerate() {
        let config = load_config(path, &overrides, own.as_ref())?;
        let mut dataset = Dataset::load(&config.data)?;
        let is_own = state.as_ref().is_some_and(|state| state.data.fingerprint == dataset.fingerprint);
        // Of what was mixed in, only a bank of training queries has use.
        if args.querybank.as_deref() == Some("train") {
            dataset = load_dataset(&config)?;
        }
        let split = Arc::new(dataset.split(&args.split)?);
        args.check_splits(&dataset, &split, &config.eval.split)?;
        if is_own || !config.train.mix.is_empty() {
            let leaks = split.leak_warning(&dataset, config.data.workers as usize);
            leaks.into_iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        let (_, encoders) = match loaded.take() {
            Some((known, encoders)) if known == config.encoders => loaded.insert((known, encoders)),
            _ => loaded.insert((config.encoders.clone(), Encoders::load(&config.encoders, device)?)),
        };
        checkpoint.connect(&mut model, encoders)?;
        let words = args.words(&split, encoders)?;
        let features = embedded_once(&config);
        let mut set = EvalSet::new(&split, encoders, &features, crew, None)?;
        let embeddings = set.embed(&model)?;
        let (result, ranks) = set.rank_each(&embeddings)?;
        if let Some(file) = picture.as_ref().filter(|_| number == 0) {
            drawn = retrieval_picture(&split, &embeddings, &result, config.data.max_megapixels)
                .map_err(Error::from)
                .and_then(|svg| file.write(&svg));
        }
        let ranking = Ranking {
            dataset: result.dataset.clone(),
            split: result.split.clone(),
            vectors: Vectors::of(&split, &embeddings),
            ranks: &ranks,
            of: Some((&split, &embeddings)),
        };
        args.scoring.apply(&ranking, configs.len(), &mut findings)?;
        if let Some(opponent) = &opponent {
            let theirs = opponent.ranks(&config, (&mut set, encoders), device, crew, &embeddings.owners)?;
            findings.compare(&ranking, &name_of(&checkpoint, run.as_ref()), &theirs, &opponent.name);
        }
        let beyond = Beyond { args, model: &model, dataset: &dataset, encoders, features: &features, crew };
        let rows = beyond.rows(&config.eval.split, &set, &embeddings, &result, &ranks)?;
        let words = args.rank_words(words, &set, &embeddings, &result, encoders)?;
        results.push(result);
        results.extend(rows);
        results.extend(words);
    }

    if args.json {
        let mut all = json!({ "checkpoint": checkpoint.path(), "results": results });
        findings.add_to(&mut all);
        print(&format!("{all:#}\n"))?;
    } else {
        print(&format!("{}\n{}", table(&results), findings.tables()))?;
    }
    // After the table: a picture that cannot be drawn costs no result.
    drawn
}

/// A run, or else the place of its checkpoint, by name.
fn name_of(checkpoint: &Checkpoint, run: Option<&RunDir>) -> String {
    let path = run.map_or(checkpoint.path(), RunDir::path);
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Args {
    /// Ranks embeddings in files, all by the same rule.
    fn rank_vectors(&self, device: Device) -> Result<(), Error> {
        let name = |folder: &Path| {
            let whole = folder.canonicalize().unwrap_or(folder.to_owned());
            whole.file_name().map_or_else(|| "embeddings".to_owned(), |name| name.to_string_lossy().into_owned())
        };
        let other = self.scoring.compare.as_deref().map(|folder| -> Result<_, Error> {
            let vectors = Vectors::read(folder, self.score)?;
            let ranks = SplitResult::of_vectors("", &vectors, device)?.1;
            Ok((name(folder), vectors, ranks))
        });
        let other = other.transpose()?;
        let (mut results, mut findings) = (Vec::new(), Findings::default());
        for folder in &self.embeddings {
            let vectors = Vectors::read(folder, self.score)?;
            let (result, ranks) = SplitResult::of_vectors(&name(folder), &vectors, device)?;
            let ranking = Ranking { dataset: name(folder), split: "test".to_owned(), vectors, ranks: &ranks, of: None };
            self.scoring.apply(&ranking, self.embeddings.len(), &mut findings)?;
            if let Some((name, vectors, theirs)) = &other {
                ranking.vectors.check_same(vectors).map_err(|why| {
                    Error::Usage(format!("--compare {name}: {why}; both must rank the same queries in the same order"))
                })?;
                findings.compare(&ranking, &ranking.dataset, theirs, name);
            }
            results.push(result);
        }
        if self.json {
            let mut all = json!({ "results": results });
            findings.add_to(&mut all);
            return print(&format!("{all:#}\n"));
        }
        print(&format!("{}\n{}", table(&results), findings.tables()))
    }

    /// What is to stand in the place of speech, by its name, read before hours of work; none where nobody asks for words.
    fn words(&self, split: &Split, encoders: &Encoders) -> Result<Vec<(String, Texts)>, Error> {
        let mut words = Vec::new();
        if self.queries == Queries::Text {
            encoders.text("--queries text")?;
            words.push((CAPTIONS.to_owned(), Texts::captions(split)?));
        }
        for (name, file) in &self.reference {
            encoders.text("--reference")?;
            if words.iter().any(|(known, _)| known == name) {
                return Err(Error::Usage(format!("--reference {name}=: there is a row of that name; choose another")));
            }
            words.push((name.clone(), Texts::transcripts(file, split)?));
        }
        Ok(words)
    }

    /// A row for each of `words`, and for captions one of speech and words.
    fn rank_words(
        &self,
        words: Vec<(String, Texts)>,
        set: &EvalSet,
        embeddings: &Embeddings,
        plain: &SplitResult,
        encoders: &Encoders,
    ) -> Result<Vec<SplitResult>, Error> {
        let mut results = Vec::new();
        for (of, texts) in words {
            let rows = texts.embed(encoders.text("words")?, embeddings)?;
            let is_captions = of == CAPTIONS && self.queries == Queries::Text;
            results.push(Texts::rank(set, embeddings, &rows, Protocol::Text { of })?);
            if is_captions {
                results.push(texts.beside_speech(embeddings, &rows, plain, encoders.device())?);
            }
        }
        Ok(results)
    }

    /// The splits that are needed beside the one that is scored are there, and λ is not chosen on that one: said before hours of work.
    fn check_splits(&self, dataset: &Dataset, scored: &Split, dev: &str) -> Result<(), Error> {
        if !self.rerank.is_empty() && self.mix.is_none() && dataset.split(dev)?.name == scored.name {
            return Err(Error::Usage(format!(
                "--rerank on split {}: the mix would be chosen on the split that is scored; give it with --mix",
                scored.name
            )));
        }
        self.querybank.as_ref().map_or(Ok(()), |name| dataset.split(name).map(|_| ()))?;
        Ok(())
    }
}

/// What is asked for beyond the plain protocol.
struct Beyond<'a> {
    args: &'a Args,
    model: &'a CmdModel,
    dataset: &'a Dataset,
    encoders: &'a Encoders,
    features: &'a FeatureConfig,
    crew: Crew<'a>,
}

impl<'a> Beyond<'a> {
    /// A row each, for the split of `set` whose plain `result` and `ranks` are known; λ is chosen on the split `dev`.
    fn rows(
        &self,
        dev: &str,
        set: &EvalSet,
        embeddings: &Embeddings,
        result: &SplitResult,
        ranks: &Ranks,
    ) -> Result<Vec<SplitResult>, Error> {
        let mut rows = Vec::new();
        if let (Some(fusion), [_, ..]) = (self.model.fusion(), self.args.rerank.as_slice()) {
            let ks: Vec<usize> = self.args.rerank.iter().map(|k| *k as usize).collect();
            let mixes: Vec<f64> = match self.args.mix {
                Some(mix) => vec![mix; ks.len()],
                None => {
                    let (set, embeddings) = self.embed(dev)?;
                    let ranks = set.rank_each(&embeddings)?.1;
                    let each = Reranking::each(&set, &embeddings, &ranks, fusion, &ks)?;
                    each.iter().map(Reranking::best_mix).collect()
                }
            };
            let mix_from = self.args.mix.is_none().then(|| dev.to_owned());
            let each = Reranking::each(set, embeddings, ranks, fusion, &ks)?;
            for ((k, mix), reranking) in ks.into_iter().zip(mixes).zip(each) {
                let milliseconds = 1000.0 * reranking.seconds_per_query();
                let protocol = Protocol::Rerank { k, mix, mix_from: mix_from.clone(), milliseconds };
                rows.push(result.by(protocol, &reranking.ranks(mix), &embeddings.owners)?);
            }
        }
        if let Some(split) = &self.args.querybank {
            let bank = QueryBank::new(&self.embed(split)?.1);
            let [utterances, images] = bank.size();
            let protocol = Protocol::QueryBank { split: split.clone(), utterances, images, beta: BETA };
            rows.push(result.by(protocol, &bank.ranks(embeddings)?, &embeddings.owners)?);
        }
        Ok(rows)
    }

    fn embed(&self, split: &str) -> Result<(EvalSet<'a>, Embeddings), Error> {
        let split = Arc::new(self.dataset.split(split)?);
        let mut set = EvalSet::new(&split, self.encoders, self.features, self.crew, None)?;
        let embeddings = set.embed(self.model)?;
        Ok((set, embeddings))
    }
}

/// A picture that was found to be writable before hours of work.
struct PictureFile<'a>(&'a Path);

impl<'a> PictureFile<'a> {
    fn create(path: &'a Path) -> Result<Self, Error> {
        std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(Error::output(path))?;
        Ok(Self(path))
    }

    fn write(&self, svg: &str) -> Result<(), Error> {
        std::fs::write(self.0, svg).map_err(Error::output(self.0))
    }
}

/// The configuration at `path`; encoders that it does not name are those of the run.
pub(super) fn load_config(path: &Path, overrides: &[Override], own: Option<&Config>) -> Result<Config, ConfigError> {
    let Some(own) = own else { return Config::load(path, overrides, Needs::Encoders) };
    let mut config = Config::load(path, overrides, Needs::Data)?;
    let (named, own) = (&mut config.encoders, &own.encoders);
    named.speech.path = named.speech.path.take().or_else(|| own.speech.path.clone());
    named.image.path = named.image.path.take().or_else(|| own.image.path.clone());
    named.text.path = named.text.path.take().or_else(|| own.text.path.clone());
    Ok(config)
}
