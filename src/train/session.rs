//! A training, composed: recipe, data, encoders, processes, and where it writes.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::agree::check_sources;
use super::average::Average;
use super::bank::Bank;
use super::captions::Captions;
use super::sinks::Sink;
use super::{Adam, FusionStart, InitFusion, Metrics, Recipe, TensorBoard, TrainError};
use crate::checkpoint::{BestScore, CheckpointError, Fingerprint, RunDir, Saved, State};
use crate::data::{Dataset, Split};
use crate::distributed::Crew;
use crate::encoders::Encoders;
use crate::features::{FeatureError, Pool};
use crate::model::{CmdModel, catch_libtorch};
use crate::telemetry::free_disk;

/// One training.
///
/// ```no_run
/// use cmd::checkpoint::RunDir;
/// use cmd::config::{Config, Needs};
/// use cmd::data::Dataset;
/// use cmd::distributed::{Crew, World};
/// use cmd::encoders::Encoders;
/// use cmd::signals::Signals;
/// use cmd::train::Session;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::load("configs/demo.toml".as_ref(), &[], Needs::Encoders)?;
/// let dataset = Dataset::load(&config.data)?;
/// let encoders = Encoders::load(&config.encoders, tch::Device::Cpu)?;
/// let (world, signals) = (World::alone(), Signals::listen()?);
/// let crew = Crew { world: &world, signals: &signals };
/// let mut session = Session::new(config.recipe(), &dataset, &encoders, crew)?;
/// session.write_to(RunDir::create("runs".as_ref(), Some("mine"), "demo", &config.to_commented_toml())?);
/// session.train()?;
/// println!("{:?}", session.best());
/// # Ok(())
/// # }
/// ```
pub struct Session<'a> {
    pub(super) recipe: Recipe,
    pub(super) encoders: &'a Encoders,
    pub(super) crew: Crew<'a>,
    pub(super) split: Arc<Split>,
    pub(super) dev_split: Arc<Split>,
    pub(super) model: CmdModel,
    pub(super) adam: Adam,
    pub(super) state: State,
    pub(super) sinks: Vec<Box<dyn Sink + 'a>>,
    run: Option<RunDir>,
    /// The step whose checkpoint is on the disk.
    saved: Option<u64>,
    /// Whether the weights are those of a whole number of updates.
    pub(super) is_whole: bool,
    /// Utterances of the training split that could not be read.
    pub(super) unreadable: HashSet<usize>,
    /// A warning of development images that are training images too.
    pub(super) leaks: Option<String>,
    /// Frozen features that other trainings use too.
    pub(super) pool: Option<Pool>,
    /// Further negatives of the speech.
    pub(super) bank: Option<Bank>,
    /// Averaged weights.
    pub(super) average: Option<Average>,
    /// What is said, where speech is drawn to it.
    pub(super) captions: Option<Captions<'a>>,
}

impl<'a> Session<'a> {
    /// A training at its start, which writes nothing.
    ///
    /// # Errors
    /// When the data set lacks a split, or recipe, data, encoders and processes do not go together.
    pub fn new(recipe: Recipe, dataset: &Dataset, encoders: &'a Encoders, crew: Crew<'a>) -> Result<Self, TrainError> {
        let mut recipe = recipe;
        recipe.features.data.share_cores(crew.world.here());
        let (mut split, dev_split) = (dataset.split("train")?, dataset.split(&recipe.eval.split)?);
        if let count @ 1.. = recipe.train.images {
            split = split.drawn(count as usize, recipe.seed());
        }
        recipe.check(encoders, &split, crew.world.size())?;
        split.check_present(recipe.features.data.max_unreadable)?;
        let workers = recipe.features.data.workers as usize;
        let leaks = crew.world.is_first().then(|| dev_split.leak_warning(dataset, workers)).flatten();
        let (speech, image) = (encoders.speech().spec(), encoders.image().spec());
        let (head, vocabulary) = recipe.head(encoders, &split)?;
        let shape = recipe.model(encoders, head);
        let weight = Some(recipe.loss.text).filter(|weight| *weight > 0.0);
        let captions = weight.map(|weight| Captions::new(encoders, &split, weight)).transpose()?;
        let mut state = State::new(
            recipe.seed(),
            Fingerprint::new(&dataset.name, &dataset.fingerprint),
            Fingerprint::new(&speech.name, encoders.speech().fingerprint()),
            Fingerprint::new(&image.name, encoders.image().fingerprint()),
        );
        if recipe.uses_text() {
            let text = encoders.text("this training").map_err(FeatureError::from)?;
            state.text_encoder = Some(Fingerprint::new(&text.spec().name, text.fingerprint()));
        }
        state.configuration = Some(recipe.identity.fixed.clone()).filter(|hash| !hash.is_empty());
        let made = catch_libtorch(|| {
            let mut model = CmdModel::new(shape, recipe.seed(), encoders.device());
            if recipe.fusion.start == FusionStart::Zero {
                model.start_fusion_at_zero();
            }
            vocabulary.iter().for_each(|vocabulary| model.start_keywords(vocabulary));
            let adam = Adam::new(recipe.adam(), model.parameters().flat());
            let decay = Some(recipe.train.ema).filter(|decay| *decay > 0.0);
            let average = decay.map(|decay| Average::new(&model, decay));
            (model, adam, average)
        });
        let (model, adam, average) = made.map_err(|error| TrainError::Libtorch { step: 0, error })?;
        let mut session = Self {
            recipe,
            encoders,
            crew,
            split: Arc::new(split),
            dev_split: Arc::new(dev_split),
            model,
            adam,
            state,
            sinks: Vec::new(),
            run: None,
            saved: None,
            is_whole: true,
            unreadable: HashSet::new(),
            leaks,
            pool: None,
            bank: None,
            average,
            captions,
        };
        session.connect()?;
        Ok(session)
    }

    /// Goes on from the newest whole checkpoint of `run`, which must be of the same data, encoders and fixed settings. Where several
    /// processes train, this is rank 0's to do; the others follow.
    ///
    /// # Errors
    /// When there is none, or it is of other data, encoders, settings or sizes.
    pub fn restore(&mut self, run: &RunDir) -> Result<(), TrainError> {
        let (checkpoint, state) = run.newest()?;
        let path = checkpoint.path();
        check_sources(path, &state, &self.state)?;
        if state.configuration.is_some()
            && self.state.configuration.is_some()
            && state.configuration != self.state.configuration
        {
            let why = format!(
                "this checkpoint was trained with other values of keys that cannot change within a run; {} is not what it was",
                run.config().display()
            );
            return Err(CheckpointError::Mismatch { path: path.to_owned(), why }.into());
        }
        let steps = self.recipe.train.steps as u64;
        if state.step > steps {
            return Err(TrainError::Recipe(format!(
                "train.steps = {steps}, but {} stands after step {}; raise it",
                run.path().display(),
                state.step
            )));
        }
        let mut state = state;
        if let Some(best) = state.best.filter(|best| !run.has(best.step)) {
            tracing::warn!(
                "{}: the best checkpoint, of step {}, is gone; the next evaluation counts",
                run.path().display(),
                best.step
            );
            state.best = None;
        }
        // The last step is evaluated, whether one was due or not; version 0.1 did not say where the last one was made.
        let is_due =
            state.last_evaluation.map_or(state.step % self.recipe.train.eval_every as u64 != 0, |at| at != state.step);
        state.evaluated &= !(state.step == steps && is_due);
        let average = self.average.as_ref().map(Average::model);
        self.adam = Adam::restore(self.recipe.adam(), checkpoint.load_for_training(&self.model, average)?);
        self.saved = Some(state.step);
        self.state = State { configuration: self.state.configuration.take().or(state.configuration.clone()), ..state };
        Ok(())
    }

    /// Starts from the weights that `train.init_from` names, if it names some; for a training that goes on from no checkpoint of its own.
    /// Where several processes train, rank 0 does it.
    ///
    /// # Errors
    /// When there are none, or they are of other encoders or another form.
    pub fn initialise(&mut self) -> Result<(), TrainError> {
        let Some(path) = self.recipe.train.init_from.clone().filter(|_| self.crew.world.is_first()) else {
            return Ok(());
        };
        let (checkpoint, _) = RunDir::find(&path, Path::new(""))?;
        let takes_fusion = self.recipe.train.init_fusion == InitFusion::Taken && self.recipe.denoises();
        let device = self.encoders.device();
        let mut given = if takes_fusion { checkpoint.load(device)? } else { checkpoint.load_for_inference(device)? };
        checkpoint.connect(&mut given, self.encoders)?;
        let fusion = self.model.take(&given, takes_fusion).map_err(|why| {
            let why = format!(
                "{why}; set the keys of these as they were, or for the fusion encoder train.init_fusion = \"anew\""
            );
            CheckpointError::Mismatch { path: path.clone(), why }
        })?;
        self.connect()?;
        self.average.iter().for_each(|average| average.start(&self.model));
        let fusion = match (fusion, self.model.fusion()) {
            (_, None) => "",
            (true, _) => " and its fusion encoder",
            (false, _) => "; the fusion encoder starts anew",
        };
        let step = checkpoint.state()?.map_or(String::new(), |state| format!(", step {}", state.step));
        tracing::info!("starting from the weights of {}{step}{fusion}", path.display());
        Ok(())
    }

    /// Has the text encoder read the keywords that a cascaded head may have now.
    pub(super) fn connect(&mut self) -> Result<(), TrainError> {
        self.encoders.connect(&mut self.model).map_err(FeatureError::from)?;
        self.average.iter_mut().for_each(|average| average.share(&self.model));
        Ok(())
    }

    /// Checkpoints, `metrics.jsonl` and `tensorboard/` go into `run` from now on.
    pub fn write_to(&mut self, run: RunDir) {
        self.check_disk(run.path());
        self.sinks.push(Box::new(Metrics::new(&run.metrics())));
        if self.recipe.log.tensorboard {
            self.sinks.push(Box::new(TensorBoard::new(&run.tensorboard(), &run.metrics(), &self.recipe)));
        }
        self.run = Some(run);
    }

    /// Frozen features are taken from `pool` and kept there.
    pub fn share(&mut self, pool: &Pool) {
        self.pool = Some(pool.clone());
    }

    /// Figures go to `sink` as well.
    pub fn add_sink(&mut self, sink: impl Sink + 'a) {
        self.sinks.push(Box::new(sink));
    }

    /// The model that is evaluated and kept: the trained weights, or their average.
    #[must_use]
    pub fn model(&self) -> &CmdModel {
        self.average.as_ref().map_or(&self.model, Average::model)
    }

    /// Where the training stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The best evaluation so far.
    #[must_use]
    pub fn best(&self) -> Option<BestScore> {
        self.state.best
    }

    /// Whether all updates and the last evaluation have been made.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state.step >= self.recipe.train.steps as u64 && self.state.evaluated
    }

    /// Bytes of all checkpoints that stand at once: the newest, the best, and one that is being written. Each holds parameters, two moments
    /// and, where those are an average, what it is of, in f32.
    pub(super) fn kept_bytes(&self) -> u64 {
        let values = 3 + u64::from(self.average.is_some());
        (self.recipe.train.keep as u64 + 2) * values * 4 * self.model.parameters().count() as u64
    }

    /// Warns where checkpoints below `folder` take more than is free.
    pub(super) fn check_disk(&self, folder: &Path) {
        let (needed, keep) = (self.kept_bytes(), self.recipe.train.keep);
        if let Some(free) = free_disk(folder).filter(|free| *free < needed && self.crew.world.is_first()) {
            tracing::warn!(
                "{}: {:.1} GB are free, and train.keep = {keep} checkpoints, the best and a new one take {:.1} GB",
                folder.display(),
                free as f64 / 1e9,
                needed as f64 / 1e9
            );
        }
    }

    /// Saves what the training stands at, if that is not on the disk yet.
    pub(super) fn save(&mut self) -> Result<(), CheckpointError> {
        if self.saved == Some(self.state.step) {
            return Ok(());
        }
        if let Some(run) = &self.run {
            let _span = tracing::debug_span!("save").entered();
            let trained = self.average.is_some().then(|| self.model.parameters().flat());
            let saved = Saved { model: self.model(), trained, moments: self.adam.moments() };
            run.save(saved, &self.state, self.recipe.train.keep as usize)?;
            self.saved = Some(self.state.step);
        }
        Ok(())
    }

    /// Writes down that the weights on the disk have been evaluated.
    pub(super) fn save_evaluation(&mut self) -> Result<(), CheckpointError> {
        match &self.run {
            Some(run) if self.saved == Some(self.state.step) => {
                let amended = run.amend(&self.state, self.recipe.train.keep as usize);
                amended.or_else(|error| {
                    tracing::warn!("{error}; saved anew");
                    self.saved = None;
                    self.save()
                })
            }
            _ => self.save(),
        }
    }

    /// Mends what a kill after the last save left of links and of checkpoints that were to go.
    pub(super) fn settle(&self) {
        if let (Some(run), true) = (&self.run, self.saved.is_some()) {
            run.settle(&self.state, self.recipe.train.keep as usize);
        }
    }

    /// Makes all figures those of a run that stands where this one does.
    pub(super) fn rewind_sinks(&mut self) -> Result<(), TrainError> {
        for sink in &mut self.sinks {
            sink.rewind(self.state.step, self.state.evaluated)?;
        }
        Ok(())
    }
}
