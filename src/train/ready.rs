//! From a batch to its frozen features, on their way to the device.

use std::time::Instant;

use super::agree::{News, exchange};
use super::captions::Captions;
use super::feed::{Fed, Feed};
use super::figures::Figures;
use super::step::Step;
use super::{Session, TrainError};
use crate::data::Batch;
use crate::features::{FeatureSource, send, to_device};
use crate::model::{Dropout, DropoutMask, Encoded, PatchNoise};
use crate::telemetry::warn_once;

/// A batch whose features are on their way.
pub(super) struct Ready {
    pub(super) utterances: Vec<usize>,
    pub(super) encoded: Encoded,
    pub(super) step: Step,
    pub(super) news: News,
}

/// What passed since the last figures.
pub(super) struct Window {
    pub(super) start: Instant,
    pub(super) samples: usize,
    pub(super) waited: f64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), samples: 0, waited: 0.0 }
    }

    /// What stands beside the progress of training.
    pub(super) fn shown(&self, figures: Option<&Figures>) -> String {
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        let (rate, waiting) = (self.samples as f64 / seconds, 100.0 * self.waited / seconds);
        let losses = figures.map_or("passed over".to_owned(), Figures::to_string);
        format!("{rate:.0} samples/s, {losses}, waiting {waiting:.0} %")
    }
}

impl Session<'_> {
    /// The batch of `step`, read and exchanged with the other processes, its features asked for.
    pub(super) fn ready(
        &mut self,
        step: u64,
        feed: &mut Feed,
        source: &FeatureSource,
        window: &mut Window,
    ) -> Result<Ready, TrainError> {
        let fed = feed.next_unless(|| self.crew.is_stopped())?;
        let news = self.exchange(fed.as_ref().map(|fed| &fed.batch))?;
        // A process without a batch gave up waiting because of the signal that all know of now.
        let (Some(fed), None) = (fed, news.stop) else { return Err(news.stopped()) };
        window.waited += fed.waited;
        self.encode(step, fed, news, source)
    }

    /// Asks for the features of the batch of `step`, and sends along what its losses need.
    fn encode(&mut self, step: u64, fed: Fed, news: News, source: &FeatureSource) -> Result<Ready, TrainError> {
        let drawn = self.noise(step, &news.image_ids);
        let numbers = [&news.image_ids[..], &news.text_ids, drawn.as_deref().unwrap_or_default()];
        let Fed { batch, encoded, .. } = fed;
        let (mut encoded, mut sent) = match encoded {
            Some(encoded) => (encoded, send(&numbers, self.encoders.device())),
            None => source.forwards().encode(&batch, &numbers)?,
        };
        encoded.text = self.captions.as_ref().map(|captions| captions.embed(&batch.utterances)).transpose()?;
        let noise = sent.pop().filter(|_| drawn.is_some()).map(PatchNoise::new);
        let text = sent.pop().zip(self.captions.as_ref()).map(|(ids, captions)| (ids, captions.weight()));
        let image_ids = sent.pop().unwrap_or_else(|| unreachable!("three were sent"));
        let rows = self.rows();
        let (rate, seed) = (self.recipe.speech.dropout, self.recipe.seed());
        let dropout = (rate > 0.0).then_some(Dropout { rate, seed, step, first_row: rows.start }).map(|dropout| {
            let longest = encoded.speech.iter().map(|chunk| chunk.hidden.size()[2]).max().unwrap_or(0);
            let stays = self.model.speech().draw_dropout(dropout, rows.end - rows.start, longest);
            DropoutMask::new(to_device(&stays, self.encoders.device()), dropout)
        });
        let further = self.bank.as_ref().map(|bank| bank.of_step(step, &news.image_ids));
        let step = Step { image_ids, first_row: rows.start as i64, noise, dropout, further, text };
        Ok(Ready { utterances: batch.utterances, encoded, step, news })
    }

    fn exchange(&mut self, batch: Option<&Batch>) -> Result<News, TrainError> {
        let nothing = vec![0; self.rows().count()];
        let (ids, skipped) = batch.map_or((&nothing[..], &[][..]), |batch| (&batch.image_ids, &batch.skipped));
        let of_texts = |captions: &Captions| batch.map_or(nothing.clone(), |batch| captions.ids(&batch.utterances));
        let texts = self.captions.as_ref().map(of_texts).unwrap_or_default();
        let news = exchange(self.crew, [ids, &texts], skipped)?;
        self.unreadable.extend(&news.unreadable);
        self.check_unreadable()?;
        Ok(news)
    }

    /// The noise of a global batch. Without donors, in a batch that happens to hold a single image, the step goes without L_cmd.
    fn noise(&self, step: u64, image_ids: &[i64]) -> Option<Vec<i64>> {
        self.model.config().fusion?;
        let (count, noise) = (self.encoders.image().spec().patches() as usize, &self.recipe.noise);
        let drawn = PatchNoise::draw(image_ids, count, noise.ratio, noise.donor_position, self.recipe.seed(), step);
        if drawn.is_none() {
            let what = "a batch holds a single image, so its step goes without L_cmd; metrics.jsonl counts them";
            warn_once(what.to_owned());
        }
        drawn
    }
}
