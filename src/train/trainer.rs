//! The training loop (Section 3.1).

use std::sync::Arc;
use std::time::Instant;

use super::checkpoint::{Best, Checkpoint, Source, State};
use super::metrics::{Metrics, TrainRecord};
use super::{Adam, FeatureSource, RunDir};
use crate::config::{Config, OnError};
use crate::data::{Batch, BatchPlan, Dataset, Split, TrainingBatches};
use crate::encoders::Encoders;
use crate::error::Error;
use crate::eval::{EvalSet, SplitResult};
use crate::model::{CmdModel, Dropout, Losses, PatchNoise};
use crate::signals::Signals;
use crate::telemetry::{Progress, warn_once};
use crate::train::CheckpointError;

/// Files that an error message names.
const NAMED_FILES: usize = 3;

/// Everything that a run works with.
pub struct Trainer<'a> {
    config: Config,
    encoders: &'a Encoders,
    signals: &'a Signals,
    split: Arc<Split>,
    dev: Option<EvalSet<'a>>,
    dev_split: Arc<Split>,
    model: CmdModel,
    adam: Adam,
    state: State,
}

/// What passed since the last line of metrics.
struct Window {
    start: Instant,
    samples: usize,
    waited: f64,
}

impl Window {
    fn new() -> Self {
        Self { start: Instant::now(), samples: 0, waited: 0.0 }
    }
}

impl<'a> Trainer<'a> {
    /// A run at its start.
    ///
    /// # Errors
    /// When the data set lacks a split, or sizes do not go together.
    pub fn new(config: Config, dataset: &Dataset, encoders: &'a Encoders, signals: &'a Signals) -> Result<Self, Error> {
        let (speech, image) = (encoders.speech().spec(), encoders.image().spec());
        let shape = config.model(speech.layers, speech.width, image.width);
        if shape.speech_width % shape.heads != 0 {
            return Err(Error::Usage(format!(
                "speech.heads = {} does not divide the speech encoder's width {}",
                shape.heads, shape.speech_width
            )));
        }
        let source =
            |name: &str, fingerprint: &str| Source { name: name.to_owned(), fingerprint: fingerprint.to_owned() };
        let state = State::new(
            config.seed(),
            source(&dataset.name, &dataset.fingerprint),
            source(&speech.name, encoders.speech().fingerprint()),
            source(&image.name, encoders.image().fingerprint()),
        );
        let model = CmdModel::new(shape, config.seed(), encoders.device());
        let adam = Adam::new(config.adam(), model.parameters().flat());
        Ok(Self {
            split: Arc::new(dataset.split("train")?),
            dev: None,
            dev_split: Arc::new(dataset.split(&config.eval.split)?),
            config,
            encoders,
            signals,
            model,
            adam,
            state,
        })
    }

    /// Goes on from a checkpoint of the same data and encoders.
    ///
    /// # Errors
    /// When the checkpoint is of other data, encoders or sizes, or is damaged.
    pub fn restore(&mut self, checkpoint: &Checkpoint, state: State) -> Result<(), CheckpointError> {
        let pairs = [
            ("data.path", &state.data, &self.state.data),
            ("encoders.speech.path", &state.speech_encoder, &self.state.speech_encoder),
            ("encoders.image.path", &state.image_encoder, &self.state.image_encoder),
        ];
        for (key, then, now) in pairs {
            if then.fingerprint != now.fingerprint {
                let why = format!(
                    "{key} has changed since this checkpoint: then {}, now {}",
                    then.describe(),
                    now.describe()
                );
                return Err(CheckpointError::Mismatch { path: checkpoint.path().to_owned(), why });
            }
        }
        self.adam = checkpoint.load_for_training(&mut self.model, self.config.adam())?;
        self.state = state;
        Ok(())
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &CmdModel {
        &self.model
    }

    /// The best evaluation so far.
    #[must_use]
    pub fn best(&self) -> Option<Best> {
        self.state.best
    }

    /// Trains to the last step, writing figures and checkpoints into `run`.
    ///
    /// # Errors
    /// When something fails, a signal comes (after a checkpoint), or a loss is not finite (before the update).
    pub fn train(&mut self, run: &RunDir) -> Result<(), Error> {
        let source = FeatureSource::new(self.encoders, &self.split, &self.config, self.signals)?;
        let mut metrics = Metrics::open(&run.metrics(), self.state.step, self.state.evaluated)?;
        self.finish_step(run, &mut metrics)?;

        let steps = self.config.train.steps as u64;
        let mut batches = self.batches(&source, self.state.step..steps);
        let mut progress = Progress::new("training", "steps", self.state.step, steps);
        let mut window = Window::new();
        while self.state.step < steps {
            if let Err(signal) = self.signals.check() {
                self.save(run)?;
                return Err(signal.into());
            }
            let waiting = Instant::now();
            let Some(batch) = batches.next().transpose()? else { break };
            window.waited += waiting.elapsed().as_secs_f64();
            window.samples += batch.utterances.len();
            for file in &batch.skipped {
                self.state.skipped += 1;
                warn_once(format!("skipped: {}", file.why));
            }

            let (losses, grad_norm, lr) = self.step(batch, &source)?;
            if self.is_due(self.config.log.every) || self.state.step == steps {
                metrics.train(self.state.step, &self.record(&losses, grad_norm, lr, &window))?;
                window = Window::new();
            }
            progress.advance(1, || format!("loss {:.3}", losses.total.double_value(&[])));
            if self.is_due(self.config.train.eval_every) || self.state.step == steps {
                self.state.evaluated = false;
                self.finish_step(run, &mut metrics)?;
                window = Window::new();
            } else if self.is_due(self.config.train.checkpoint_every) {
                self.save(run)?;
            }
        }
        Ok(())
    }

    fn record(&self, losses: &Losses, grad_norm: f64, lr: f64, window: &Window) -> TrainRecord {
        let seconds = window.start.elapsed().as_secs_f64();
        TrainRecord {
            loss: losses.total.double_value(&[]),
            loss_sic: losses.sic.double_value(&[]),
            loss_cmd: losses.cmd.as_ref().map(|cmd| cmd.loss.double_value(&[])),
            lr,
            temperature: 1.0 / self.model.inverse_tau().double_value(&[]),
            grad_norm,
            attention_entropy: losses.cmd.as_ref().map(|cmd| cmd.attention_entropy().double_value(&[])),
            samples_per_second: window.samples as f64 / seconds,
            data_wait: window.waited / seconds,
            skipped: self.state.skipped,
        }
    }

    fn batches(&self, source: &FeatureSource, steps: std::ops::Range<u64>) -> TrainingBatches {
        let plan = BatchPlan {
            split: self.split.clone(),
            seed: self.config.seed(),
            batch_size: self.config.train.batch_size as usize,
            on_error: self.config.data.on_error.unwrap_or(OnError::Skip),
            audio: source.audio_form(&self.config),
            image_size: source.image_size(),
            unusable: source.unusable().clone(),
        };
        plan.read(steps, self.config.data.workers as usize, self.config.data.prefetch as usize)
    }

    fn is_due(&self, every: i64) -> bool {
        self.state.step.is_multiple_of(every as u64)
    }

    /// One update: features -> L -> gradient -> Adam. Returns the losses, the gradient's norm and the learning rate.
    fn step(&mut self, batch: Batch, source: &FeatureSource) -> Result<(Losses, f64, f64), Error> {
        let (step, seed, options) = (self.state.step, self.config.seed(), self.config.loss_options());
        let utterances = batch.utterances.clone();
        let features = source.features(batch)?;
        let noise = if self.model.config().fusion.is_some() {
            let patches = features.patches.size()[1] as usize;
            let (ratio, position) = (self.config.noise.ratio, self.config.noise.donor_position);
            let noise = PatchNoise::draw(&features.image_ids, patches, ratio, position, seed, step)?;
            Some(noise.to_device(self.encoders.device()))
        } else {
            None
        };
        let rate = self.config.speech.dropout;
        let dropout = (rate > 0.0).then_some(Dropout { rate, seed, step, first_row: 0 });

        self.model.parameters_mut().zero_grad();
        let losses = self.model.losses(&features, noise.as_ref(), options, dropout);
        losses.total.backward();
        let gradient = self.model.parameters().gradient();
        let norm = gradient.norm().double_value(&[]);
        if !norm.is_finite() || !losses.total.double_value(&[]).is_finite() {
            let what = if norm.is_finite() { "the loss" } else { "the gradient" };
            return Err(self.not_finite(what, &utterances));
        }
        let clip = self.config.train.grad_clip;
        let gradient = if clip > 0.0 && norm > clip { gradient * (clip / norm) } else { gradient };
        let lr = self.config.schedule().at(step as i64);
        self.adam.update(&mut self.model.parameters().flat().shallow_clone(), &gradient, lr);
        self.model.clamp_temperature();

        let next = (step + 1) * self.config.train.batch_size as u64;
        let count = self.split.utterances.len() as u64;
        self.state.step = step + 1;
        (self.state.epoch, self.state.position) = (next / count, next % count);
        Ok((losses, norm, lr))
    }

    /// Evaluates if this step asks for it and has not been evaluated, keeps the best, and saves. A signal during the evaluation
    /// leaves a checkpoint that still has it before it.
    fn finish_step(&mut self, run: &RunDir, metrics: &mut Metrics) -> Result<(), Error> {
        if self.state.evaluated {
            return Ok(());
        }
        let result = match self.evaluate() {
            Err(Error::Interrupted(signal)) => {
                self.save(run)?;
                return Err(signal.into());
            }
            result => result?,
        };
        let (step, mean_r1) = (self.state.step, result.recalls.mean.r1);
        metrics.eval(step, &result)?;
        let better = self.state.best.is_none_or(|best| mean_r1 > best.mean_r1);
        if better {
            self.state.best = Some(Best { step, mean_r1 });
        }
        self.state.evaluated = true;
        tracing::info!(
            "step {step}: {} R@1 speech->image {:.1}, image->speech {:.1}, mean {mean_r1:.1}{}",
            result.split,
            result.recalls.speech_to_image.r1,
            result.recalls.image_to_speech.r1,
            if better { " (best so far)" } else { "" }
        );
        self.save(run)
    }

    fn evaluate(&mut self) -> Result<SplitResult, Error> {
        let dev = match &mut self.dev {
            Some(dev) => dev,
            None => self.dev.insert(EvalSet::new(&self.dev_split, self.encoders, &self.config, self.signals)?),
        };
        let embeddings = dev.embed(&self.model, self.signals)?;
        Ok(SplitResult::new(dev.split(), &embeddings)?)
    }

    fn save(&self, run: &RunDir) -> Result<(), Error> {
        run.save(&self.model, &self.adam, &self.state, self.config.train.keep as usize)
    }

    fn not_finite(&self, what: &'static str, utterances: &[usize]) -> Error {
        let names: Vec<String> = utterances
            .iter()
            .take(NAMED_FILES)
            .map(|index| self.split.utterances[*index].audio.display().to_string())
            .collect();
        let more = utterances.len().saturating_sub(NAMED_FILES);
        let files = if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) };
        Error::NotFinite { step: self.state.step + 1, what, files }
    }
}

impl Source {
    fn describe(&self) -> String {
        format!("{} ({})", self.name, &self.fingerprint[..self.fingerprint.len().min(12)])
    }
}
