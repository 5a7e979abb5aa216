//! One run of a sweep.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Outcome, Scores, SweepError};
use crate::checkpoint::{RunDir, RunLock};
use crate::data::{DataError, Dataset, Split};
use crate::distributed::Crew;
use crate::encoders::{Encoders, TextEncoder};
use crate::eval::EvalSet;
use crate::features::{FeatureConfig, FeatureError, FeatureSource, Pool, Use};
use crate::train::{Recipe, Session};

const OUTCOME: &str = "outcome.json";

/// A training that a sweep asks for.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its setting's place among the settings.
    pub setting: usize,
    /// Its seed.
    pub seed: i64,
    /// Its folder, which is another one for every recipe.
    pub folder: PathBuf,
    /// What is trained.
    pub recipe: Recipe,
    /// Its configuration, to be kept in the folder.
    pub config: String,
}

/// Where jobs with the same data and encoders are done: frozen features are computed once.
pub struct Workplace<'a> {
    dataset: &'a Dataset,
    encoders: &'a Encoders,
    crew: Crew<'a>,
    pool: Pool,
    /// The splits that are scored, ready to be embedded.
    scored: Vec<(String, EvalSet<'a>)>,
}

impl Job {
    /// What it came to, if it is trained; of some splits perhaps not yet.
    ///
    /// # Errors
    /// When that is damaged.
    pub fn outcome(&self) -> Result<Option<Outcome>, SweepError> {
        Outcome::read(&self.folder.join(OUTCOME))
    }

    /// Checks that there is a text encoder where the run needs one, and that `outcome`, if there is one, is of this data and these encoders.
    ///
    /// # Errors
    /// When there is none or it cannot be used, or the outcome is of others.
    pub fn check(&self, outcome: Option<&Outcome>, dataset: &Dataset, encoders: &Encoders) -> Result<(), SweepError> {
        if self.recipe.uses_text() {
            let what = "speech.head = \"cascaded\" or loss.text in the sweep";
            encoders.text(what).map_err(FeatureError::from)?;
        }
        match outcome {
            Some(outcome) if outcome.sources != self.sources(dataset, encoders) => {
                let why = "this run was made from other data or encoders than its configuration names now";
                Err(SweepError::Outcome { path: self.folder.clone(), why: why.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// BLAKE3 of the data and of the encoders that it uses.
    fn sources(&self, dataset: &Dataset, encoders: &Encoders) -> Vec<String> {
        let text =
            self.recipe.uses_text().then(|| encoders.text("this run").ok().map(TextEncoder::fingerprint)).flatten();
        let always = [&*dataset.fingerprint, encoders.speech().fingerprint(), encoders.image().fingerprint()];
        always.into_iter().chain(text).map(str::to_owned).collect()
    }
}

impl<'a> Workplace<'a> {
    /// Computes the features of the whole training split, as far as they are kept, so that they do not depend on which job comes first.
    ///
    /// # Errors
    /// When the data set lacks a split, a file cannot be read, or an encoder fails.
    pub fn new(
        dataset: &'a Dataset,
        encoders: &'a Encoders,
        crew: Crew<'a>,
        features: &FeatureConfig,
        splits: &[String],
    ) -> Result<Self, SweepError> {
        let splits: Vec<(String, Arc<Split>)> = splits
            .iter()
            .map(|name| Ok((name.clone(), Arc::new(dataset.split(name)?))))
            .collect::<Result<_, DataError>>()?;
        let pool = Pool::default();
        let training = Arc::new(dataset.split("train")?);
        FeatureSource::new(encoders, &training, features, Use::Training, crew, Some(&pool))?.fill()?;
        let scored = splits
            .into_iter()
            .map(|(name, split)| Ok((name, EvalSet::new(&split, encoders, features, crew, Some(&pool))?)))
            .collect::<Result<_, SweepError>>()?;
        Ok(Self { dataset, encoders, crew, pool, scored })
    }

    /// Trains, or goes on, and scores the best checkpoint.
    ///
    /// # Errors
    /// When something fails or a signal comes; the run goes on from there the next time.
    pub fn run(&mut self, job: &Job) -> Result<Outcome, SweepError> {
        let run = open(&job.folder, &job.config)?;
        let _lock = RunLock::take(run.path())?;
        let known = job.outcome()?;
        let mut outcome = match known {
            Some(outcome) => outcome,
            None => Outcome {
                step: self.train(job, &run)?,
                sources: job.sources(self.dataset, self.encoders),
                splits: BTreeMap::new(),
            },
        };
        let best = run.best()?;
        let mut model = best.load_for_inference(self.encoders.device())?;
        best.connect(&mut model, self.encoders)?;
        for (name, set) in &mut self.scored {
            if outcome.splits.contains_key(name) {
                continue;
            }
            let embeddings = set.embed(&model)?;
            let (result, ranks) = set.rank_each(&embeddings)?;
            outcome.splits.insert(name.clone(), Scores::new(&result, ranks, embeddings.owners));
        }
        outcome.write(&job.folder.join(OUTCOME))?;
        Ok(outcome)
    }

    /// The step of the best checkpoint of a whole training.
    fn train(&self, job: &Job, run: &RunDir) -> Result<u64, SweepError> {
        let mut session = Session::new(job.recipe.clone(), self.dataset, self.encoders, self.crew)?;
        session.share(&self.pool);
        if run.has_checkpoints() {
            session.restore(run)?;
        } else {
            session.initialise()?;
        }
        session.write_to(run.clone());
        session.train()?;
        Ok(session.best().map_or(0, |best| best.step))
    }
}

/// The folder of a run, made if it is not there.
fn open(folder: &Path, config: &str) -> Result<RunDir, SweepError> {
    if folder.exists() {
        return Ok(RunDir::adopt(folder, config)?);
    }
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(RunDir::create(folder.parent().unwrap_or(Path::new(".")), name.as_deref(), "run", config)?)
}
