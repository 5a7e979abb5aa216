//! The loop: batch -> frozen features -> gradient -> Adam, evaluations, checkpoints.

use std::ops::Range;

use super::agree::agree_on_start;
use super::bank::Bank;
use super::feed::{EncodedAhead, Feed};
use super::figures::Figures;
use super::ready::{Ready, Window};
use super::section::{ImageBank, OnNan};
use super::sinks::TrainRecord;
use super::step::{Gradient, gradient};
use super::{Session, TrainError, finite};
use crate::checkpoint::BestScore;
use crate::data::{BatchPlan, TrainingBatches};
use crate::eval::{EvalSet, RetrievalSheet};
use crate::features::{FeatureSource, Use};
use crate::model::catch_libtorch;
use crate::telemetry::{Progress, warn_once};

impl<'a> Session<'a> {
    /// Trains to the last step. Whatever ends it before, the updates that were made are saved first.
    ///
    /// # Errors
    /// When something fails, a signal comes, or a loss is not finite (before the update).
    pub fn train(&mut self) -> Result<(), TrainError> {
        let Err(error) = self.catching(Self::try_train) else { return Ok(()) };
        if self.is_whole && self.state.step > 0 && !matches!(error, TrainError::Checkpoint(_)) {
            // A stop that leaves nothing behind is not the stop that was asked for.
            self.catching(|session| Ok(session.save()?)).inspect_err(|_| tracing::error!("{error}"))?;
        }
        Err(error)
    }

    /// The result of `work`; what libtorch cannot do in it is an error of the update that is to come.
    pub(super) fn catching<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let result = catch_libtorch(|| work(self));
        result.unwrap_or_else(|error| Err(TrainError::Libtorch { step: self.state.step + 1, error }))
    }

    /// Agrees with the other processes on where to start, and checks the headers of the development split before any time is spent.
    pub(super) fn prepare(&mut self) -> Result<(), TrainError> {
        let shared = &self.recipe.identity.shared;
        let model = (&self.model, self.average.as_ref());
        agree_on_start(self.crew.world, shared, &mut self.state, model, &mut self.adam)?;
        self.connect()?;
        if !self.is_finished() {
            self.leaks.iter().for_each(|warning| tracing::warn!("{warning}"));
            let config = &self.recipe.features;
            FeatureSource::new(self.encoders, &self.dev_split, config, Use::Evaluation, self.crew, None)?
                .check_headers()?;
        }
        Ok(())
    }

    fn try_train(&mut self) -> Result<(), TrainError> {
        self.prepare()?;
        self.rewind_sinks()?;
        self.settle();
        if self.is_finished() {
            return Ok(());
        }
        let mut dev = None;
        if !self.state.evaluated {
            self.evaluate(&mut dev)?;
        }
        self.check_memory();
        let mut source = FeatureSource::new(
            self.encoders,
            &self.split,
            &self.recipe.features,
            Use::Training,
            self.crew,
            self.pool.as_ref(),
        )?;
        source.fill()?;
        self.unreadable.extend(source.unusable().keys());
        self.check_unreadable()?;

        self.fill_bank(&source)?;

        let steps = self.recipe.train.steps as u64;
        let mut feed = self.feed(&source, self.state.step..steps);
        let mut progress = Progress::new("training", "steps", self.state.step, steps);
        let mut window = Window::new();
        let mut next = None;
        while self.state.step < steps {
            let step = self.state.step;
            let ready = match next.take() {
                Some(ready) => ready,
                None => self.ready(step, &mut feed, &source, &mut window),
            }?;
            let gradient = self.gradient(&ready)?;
            let is_due = |every: i64| (step + 1).is_multiple_of(every as u64);
            let is_last = step + 1 == steps;
            let evaluates = is_due(self.recipe.train.eval_every) || is_last;
            if self.encoders.device().is_cuda() && !evaluates {
                // The device is at this step's gradient meanwhile. An error belongs to the step after this one.
                next = Some(self.catching(|session| session.ready(step + 1, &mut feed, &source, &mut window)));
            }
            let figures = self.update(&ready, &gradient)?;
            window.samples += self.recipe.train.batch_size as usize;
            self.state.evaluated = !evaluates;
            progress.advance(1, || window.shown(figures.as_ref()));
            if let Some(figures) = figures.filter(|_| is_due(self.recipe.log.every) || is_last) {
                self.log(figures, &window)?;
                window = Window::new();
            }
            let saves = evaluates || ready.news.save || is_due(self.recipe.train.checkpoint_every);
            drop((ready, gradient));
            if saves {
                self.save()?;
            }
            if evaluates {
                self.evaluate(&mut dev)?;
                window = Window::new();
            }
        }
        Ok(())
    }

    /// Encodes the images of the bank, if there is to be one.
    fn fill_bank(&mut self, source: &FeatureSource) -> Result<(), TrainError> {
        let (count, seed) = (self.recipe.loss.image_bank, self.recipe.seed());
        if count != ImageBank::Some(0) {
            let sizes = (self.split.images.len(), self.model.config().width);
            self.bank = Some(Bank::new(source, sizes, (count, seed), (self.encoders.device(), self.crew.world))?);
        }
        Ok(())
    }

    /// An error when more of the training utterances are unreadable than may be; a single one never is too many.
    pub(super) fn check_unreadable(&self) -> Result<(), TrainError> {
        let (count, of) = (self.unreadable.len(), self.split.utterances.len());
        let most = self.recipe.features.data.max_unreadable;
        if count > 1 && count as f64 > most * of as f64 {
            Err(TrainError::Unreadable { count, of, most })
        } else {
            Ok(())
        }
    }

    /// The batches of `steps`. On the CPU several processes make the features of the next one meanwhile; CUDA needs no thread for that.
    pub(super) fn feed(&self, source: &FeatureSource, steps: Range<u64>) -> Feed {
        let batches = self.batches(source, steps.clone());
        let waits_for_others = self.crew.world.size() > 1 && !self.encoders.device().is_cuda();
        if self.recipe.train.encode_ahead && waits_for_others {
            Feed::Ahead(EncodedAhead::new(steps, batches, source.forwards()))
        } else {
            Feed::Read(batches)
        }
    }

    fn batches(&self, source: &FeatureSource, steps: Range<u64>) -> TrainingBatches {
        let data = &self.recipe.features.data;
        let plan = BatchPlan {
            split: self.split.clone(),
            seed: self.recipe.seed(),
            batch_size: self.recipe.train.batch_size as usize,
            rows: self.rows(),
            on_error: source.on_error(),
            audio: source.audio_form(),
            picture: source.picture_form(),
            kept: source.kept(),
            speech_rows: self.recipe.features.encoders.speech.batch_size as usize,
            device: self.encoders.device(),
            unusable: source.unusable().clone(),
        };
        plan.read(steps, data.ahead())
    }

    /// Rows of the global batch that are this process's.
    pub(super) fn rows(&self) -> Range<u64> {
        let share = self.recipe.train.batch_size as u64 / self.crew.world.size() as u64;
        let first = share * self.crew.world.rank() as u64;
        first..first + share
    }

    /// One update, or none if its gradient is not finite and that batch is passed over.
    pub(super) fn update(&mut self, ready: &Ready, gradient: &Gradient) -> Result<Option<Figures>, TrainError> {
        let step = self.state.step;
        let lr = self.recipe.schedule().at(step as i64);
        let _span = tracing::debug_span!("update").entered();
        self.crew.world.settle()?;
        let failed = |error| TrainError::Libtorch { step: step + 1, error };
        let figures = Figures::read(gradient, &self.model, lr).map_err(failed)?;
        let broken = finite::check(figures.loss, figures.grad_norm);
        if let Some(what) = broken {
            self.pass_over(what, ready, gradient)?;
        } else {
            let (clip, norm) = (self.recipe.train.grad_clip, figures.grad_norm);
            let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
            self.is_whole = false;
            let (mut values, mut flat) =
                (self.model.parameters().flat().shallow_clone(), gradient.flat.shallow_clone());
            self.adam.update(&mut values, &mut flat, scale, lr).map_err(failed)?;
            self.model.clamp_temperature();
            self.average.iter().for_each(|average| average.update(&self.model));
            let statistics = self.model.speech().cascade().zip(gradient.statistics.as_ref());
            statistics.iter().for_each(|(cascade, batch)| cascade.take_in(batch));
            self.is_whole = true;
        }
        let next = (step + 1) * self.recipe.train.batch_size as u64;
        let count = self.split.in_epoch() as u64;
        self.state.step = step + 1;
        self.state.skipped += ready.news.skipped;
        self.state.without_cmd += u64::from(self.recipe.denoises() && gradient.losses.cmd.is_none());
        (self.state.epoch, self.state.position) = (next / count, next % count);
        Ok(broken.is_none().then_some(figures))
    }

    /// The gradient of the global batch of which `ready` holds this process's rows.
    pub(super) fn gradient(&self, ready: &Ready) -> Result<Gradient, TrainError> {
        self.taught(ready, self.recipe.distill(self.state.step, self.split.in_epoch()))
    }

    /// As [`Self::gradient`], with the averaged weights' part in what is right.
    pub(super) fn taught(&self, ready: &Ready, weight: f64) -> Result<Gradient, TrainError> {
        let options = self.recipe.loss_options(self.state.step);
        let teacher = self.average.as_ref().filter(|_| weight > 0.0).map(|average| (average.model(), weight));
        Ok(gradient(&self.model, teacher, &ready.encoded, &ready.step, options, self.crew.world)?)
    }

    /// Counts a batch whose gradient is not finite, or ends the run.
    fn pass_over(&mut self, what: &'static str, ready: &Ready, gradient: &Gradient) -> Result<(), TrainError> {
        let step = self.state.step + 1;
        let names: Vec<String> =
            ready.utterances.iter().map(|index| self.split.utterances[*index].audio.display().to_string()).collect();
        let rows = finite::blame(&ready.encoded, gradient, &names, self.crew.world)?;
        let (on_nan, most) = (self.recipe.train.on_nan, self.recipe.train.max_nan_batches);
        if on_nan == OnNan::Stop {
            let or = "train.on_nan = \"skip\" passes such batches over".to_owned();
            return Err(TrainError::NotFinite { step, what, rows, or });
        }
        if self.state.nan_batches >= most as u64 {
            let or = format!("train.max_nan_batches = {most} can be raised: as many have been passed over");
            return Err(TrainError::NotFinite { step, what, rows, or });
        }
        self.state.nan_batches += 1;
        let count = self.state.nan_batches;
        tracing::warn!(
            "step {step}: {what} is not finite ({rows}); no update, batch {count} of at most {most} passed over"
        );
        Ok(())
    }

    fn log(&mut self, figures: Figures, window: &Window) -> Result<(), TrainError> {
        let seconds = window.start.elapsed().as_secs_f64();
        let Figures {
            loss,
            loss_sic,
            loss_cmd,
            loss_text,
            attention_entropy,
            temperature,
            cmd_temperature,
            grad_norm,
            lr,
        } = figures;
        let record = TrainRecord {
            loss,
            loss_sic,
            loss_cmd,
            loss_text,
            lr,
            temperature,
            cmd_temperature,
            grad_norm,
            attention_entropy,
            samples_per_second: window.samples as f64 / seconds,
            data_wait: window.waited / seconds,
            skipped: self.state.skipped,
            nan_batches: self.state.nan_batches,
            without_cmd: self.state.without_cmd,
        };
        for sink in &mut self.sinks {
            sink.train(self.state.step, &record)?;
        }
        Ok(())
    }

    /// Evaluates, keeps the best, and writes that down. The weights are on the disk before.
    fn evaluate(&mut self, dev: &mut Option<EvalSet<'a>>) -> Result<(), TrainError> {
        let _span = tracing::debug_span!("evaluate").entered();
        let set = match dev {
            Some(set) => set,
            None => dev.insert(EvalSet::new(
                &self.dev_split,
                self.encoders,
                &self.recipe.features,
                self.crew,
                self.pool.as_ref(),
            )?),
        };
        let embeddings = set.embed(self.model())?;
        let result = set.rank(&embeddings)?;
        let (step, mean_r1) = (self.state.step, result.recalls.mean.r1);
        for sink in &mut self.sinks {
            sink.eval(step, &result)?;
        }
        if self.sinks.iter().any(|sink| sink.wants_sheet()) {
            match RetrievalSheet::new(set.split(), &embeddings, self.recipe.features.data.max_megapixels) {
                Ok(sheet) => self.sinks.iter_mut().try_for_each(|sink| sink.sheet(step, &sheet))?,
                // A picture is worth no run.
                Err(error) => warn_once(format!("no picture of what was found: {error}")),
            }
        }
        let better = self.state.best.is_none_or(|best| mean_r1 > best.mean_r1);
        if better {
            self.state.best = Some(BestScore { step, mean_r1 });
        }
        self.state.evaluated = true;
        self.state.last_evaluation = Some(step);
        tracing::info!(
            "step {step}: {} R@1 speech->image {:.1}, image->speech {:.1}, mean {mean_r1:.1}{}",
            result.split,
            result.recalls.speech_to_image.r1,
            result.recalls.image_to_speech.r1,
            if better { " (best so far)" } else { "" }
        );
        Ok(self.save_evaluation()?)
    }
}
