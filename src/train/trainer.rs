//! The training loop (Section 3.1).

use std::sync::Arc;
use std::time::Instant;

use tch::{Kind, Tensor};

use super::checkpoint::{Best, Checkpoint, Source, State};
use super::metrics::{Metrics, TrainRecord};
use super::{Adam, FeatureSource, RunDir};
use crate::config::{Config, OnError};
use crate::data::{Batch, BatchPlan, Dataset, Skipped, Split, TrainingBatches};
use crate::distributed::World;
use crate::encoders::Encoders;
use crate::error::Error;
use crate::eval::{EvalSet, SplitResult};
use crate::model::{CmdModel, Dropout, Embedded, Losses, PatchNoise};
use crate::signals::{Interrupted, Signals};
use crate::telemetry::{Progress, warn_once};
use crate::train::CheckpointError;

/// Files that an error message names.
const NAMED_FILES: usize = 3;

/// Everything that a run works with.
pub struct Trainer<'a> {
    config: Config,
    encoders: &'a Encoders,
    signals: &'a Signals,
    world: &'a World,
    split: Arc<Split>,
    dev: Option<EvalSet<'a>>,
    dev_split: Arc<Split>,
    model: CmdModel,
    adam: Adam,
    state: State,
}

/// What an update left behind.
struct Step {
    losses: Losses,
    grad_norm: f64,
    lr: f64,
    /// The signal that came to one of the processes.
    stop: Option<Interrupted>,
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
    pub fn new(
        config: Config,
        dataset: &Dataset,
        encoders: &'a Encoders,
        world: &'a World,
        signals: &'a Signals,
    ) -> Result<Self, Error> {
        let (batch, size) = (config.train.batch_size, world.size() as i64);
        if batch % size != 0 {
            let (below, above) = (batch / size * size, (batch / size + 1) * size);
            let nearest = if below > 0 && batch - below <= above - batch { below } else { above };
            return Err(Error::Usage(format!(
                "train.batch_size = {batch} is the global batch and cannot be shared out over {size} processes; the nearest that can is \
                 {nearest}"
            )));
        }
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
            world,
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
    pub fn train(&mut self, run: Option<&RunDir>) -> Result<(), Error> {
        self.agree()?;
        let source = FeatureSource::new(self.encoders, &self.split, &self.config, self.signals)?;
        let metrics = run.map(|run| Metrics::open(&run.metrics(), self.state.step, self.state.evaluated));
        let mut metrics = metrics.transpose()?;
        self.finish_step(run, &mut metrics)?;

        let steps = self.config.train.steps as u64;
        let mut batches = self.batches(&source, self.state.step..steps);
        let mut progress = Progress::new("training", "steps", self.state.step, steps);
        let mut window = Window::new();
        while self.state.step < steps {
            let waiting = Instant::now();
            let Some(batch) = batches.next().transpose()? else { break };
            window.waited += waiting.elapsed().as_secs_f64();
            window.samples += self.config.train.batch_size as usize;
            let Step { losses, grad_norm, lr, stop } = self.step(batch, &source)?;
            if let (Some(metrics), true) =
                (&mut metrics, self.is_due(self.config.log.every) || self.state.step == steps)
            {
                metrics.train(self.state.step, &self.record(&losses, grad_norm, lr, &window))?;
                window = Window::new();
            }
            progress.advance(1, || format!("loss {:.3}", losses.total.double_value(&[])));
            let evaluates = self.is_due(self.config.train.eval_every) || self.state.step == steps;
            self.state.evaluated = !evaluates;
            if let Some(signal) = stop {
                self.save(run)?;
                return Err(signal.into());
            }
            if evaluates {
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
            rows: self.rows(),
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

    /// Rows of the global batch that are this process's.
    fn rows(&self) -> std::ops::Range<u64> {
        let share = self.config.train.batch_size as u64 / self.world.size() as u64;
        let first = share * self.world.rank() as u64;
        first..first + share
    }

    /// All processes start from the same place; rank 0's values count.
    fn agree(&mut self) -> Result<(), Error> {
        let configuration = self.config.to_commented_toml();
        self.world.agree("configuration", &configuration)?;
        for (what, source) in [
            ("data", &self.state.data),
            ("speech encoder", &self.state.speech_encoder),
            ("image encoder", &self.state.image_encoder),
        ] {
            self.world.agree(what, &source.fingerprint)?;
        }
        self.world.agree("step to go on from", &self.state.step.to_string())?;
        Ok(self.world.broadcast(&mut self.model.parameters().flat().shallow_clone())?)
    }

    /// Numbers of this process that all need: image ids, samples that were replaced, and the signal that came, if one did.
    fn exchange(&mut self, image_ids: &[i64], skipped: &[Skipped]) -> Result<(Vec<i64>, Option<Interrupted>), Error> {
        let signal = self.signals.check().err().map_or(0, |interrupted| interrupted.signal);
        let mut own = image_ids.to_vec();
        own.extend([skipped.len() as i64, i64::from(signal)]);
        let all: Vec<i64> = Vec::try_from(&self.world.gather(&Tensor::from_slice(&own))?).unwrap_or_default();
        let (mut ids, mut stop, before) = (Vec::new(), 0, self.state.skipped);
        for rank in all.chunks_exact(own.len()) {
            ids.extend_from_slice(&rank[..image_ids.len()]);
            self.state.skipped += rank[image_ids.len()] as u64;
            stop = stop.max(rank[image_ids.len() + 1]);
        }
        if self.state.skipped > before {
            let why: Vec<&str> = skipped.iter().map(|file| file.why.as_str()).collect();
            for line in self.world.gather_texts(&why.join("\n"))?.iter().flat_map(|text| text.lines()) {
                warn_once(format!("skipped: {line}"));
            }
        }
        Ok((ids, (stop != 0).then_some(Interrupted { signal: stop as i32 })))
    }

    /// One update: features -> S_cls -> L -> gradient -> Adam.
    ///
    /// Every process embeds its own rows and computes L of the whole batch from the embeddings of all; the gradient of L with respect
    /// to its own rows goes on into its speech head, and the sum over processes is the gradient of one process with the whole batch.
    fn step(&mut self, batch: Batch, source: &FeatureSource) -> Result<Step, Error> {
        let (step, seed, options) = (self.state.step, self.config.seed(), self.config.loss_options());
        let utterances = batch.utterances.clone();
        let skipped = batch.skipped.clone();
        let features = source.features(batch)?;
        let (image_ids, stop) = self.exchange(&features.image_ids, &skipped)?;
        let rate = self.config.speech.dropout;
        let first_row = self.rows().start;
        let dropout = (rate > 0.0).then_some(Dropout { rate, seed, step, first_row });
        let (noise, patches) = if self.model.config().fusion.is_some() {
            let count = features.patches.size()[1] as usize;
            let (ratio, position) = (self.config.noise.ratio, self.config.noise.donor_position);
            let noise = PatchNoise::draw(&image_ids, count, ratio, position, seed, step)?;
            (Some(noise.to_device(self.encoders.device())), self.world.gather(&features.patches)?)
        } else {
            (None, features.patches)
        };

        self.model.parameters_mut().zero_grad();
        let own_cls = self.model.speech().forward(&features.hidden, &features.frames, dropout);
        let speech_cls = self.world.gather(&own_cls)?.set_requires_grad(true);
        let image_cls = self.world.gather(&features.image_cls)?;
        let embedded = Embedded { speech_cls: speech_cls.shallow_clone(), image_cls, patches, image_ids };
        let losses = self.model.losses_of(&embedded, noise.as_ref(), options);
        losses.total.backward();
        let own_gradient = speech_cls.grad().narrow(0, first_row as i64, own_cls.size()[0]);
        (&own_cls * own_gradient).sum(Kind::Float).backward();
        let mut gradient = self.model.parameters().gradient();
        if !self.world.is_first() {
            // All processes have the same gradients here; they count once.
            let speech = self.model.speech_count();
            let _ = gradient.narrow(0, speech, gradient.size()[0] - speech).zero_();
        }
        gradient = self.world.sum(&gradient)?;
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
        Ok(Step { losses, grad_norm: norm, lr, stop })
    }

    /// Evaluates if this step asks for it and has not been evaluated, keeps the best, and saves. A signal during the evaluation
    /// leaves a checkpoint that still has it before it.
    fn finish_step(&mut self, run: Option<&RunDir>, metrics: &mut Option<Metrics>) -> Result<(), Error> {
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
        if let Some(metrics) = metrics {
            metrics.eval(step, &result)?;
        }
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
            None => {
                self.dev.insert(EvalSet::new(&self.dev_split, self.encoders, &self.config, self.world, self.signals)?)
            }
        };
        let embeddings = dev.embed(&self.model, self.world, self.signals)?;
        Ok(SplitResult::new(dev.split(), &embeddings)?)
    }

    fn save(&self, run: Option<&RunDir>) -> Result<(), Error> {
        run.map_or(Ok(()), |run| run.save(&self.model, &self.adam, &self.state, self.config.train.keep as usize))
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
