//! What the processes of a run tell each other: at the start that they do the same, before each step what came to one of them.

use super::average::Average;
use super::{Adam, TrainError};
use crate::checkpoint::{CheckpointError, Fingerprint, State};
use crate::data::Replaced;
use crate::distributed::{Crew, World};
use crate::model::CmdModel;
use crate::signals::Interrupted;
use crate::telemetry::warn_once;

/// Brings all processes to rank 0's state, weights and moments, after a check that they have the same configuration (`shared`), data and
/// encoders. Only rank 0 needs to see the run's folder.
pub(super) fn agree_on_start(
    world: &World,
    shared: &str,
    state: &mut State,
    (model, average): (&CmdModel, Option<&Average>),
    adam: &mut Adam,
) -> Result<(), TrainError> {
    if world.size() == 1 {
        return Ok(());
    }
    world.agree("configuration", shared)?;
    let own = state.clone();
    let text = serde_json::to_string(&own).map_err(std::io::Error::from);
    let text = world.first_text(&text.map_err(CheckpointError::write("state"))?)?;
    *state = serde_json::from_str(&text).map_err(|error| {
        TrainError::Recipe(format!(
            "rank 0 sent a state that this version cannot read ({error}); start the same program everywhere"
        ))
    })?;
    for (what, own, first) in [
        ("data", &own.data, &state.data),
        ("speech encoder", &own.speech_encoder, &state.speech_encoder),
        ("image encoder", &own.image_encoder, &state.image_encoder),
    ] {
        world.agree_first(what, own.fingerprint == first.fingerprint)?;
    }
    if let (Some(own), Some(first)) = (&own.text_encoder, &state.text_encoder) {
        world.agree_first("text encoder", own.fingerprint == first.fingerprint)?;
    }
    world.broadcast(&mut model.parameters().flat().shallow_clone())?;
    for (_, buffer) in model.buffers() {
        world.broadcast(&mut buffer.shallow_clone())?;
    }
    average.map_or(Ok(()), |average| world.broadcast(&mut average.flat()))?;
    let moments = adam.moments_mut();
    moments.step = world.first_numbers(&[moments.step])?[0];
    world.broadcast(&mut moments.exp_avg)?;
    world.broadcast(&mut moments.exp_avg_sq)?;
    Ok(())
}

/// Checks that a checkpoint's `state` is of the data and encoders of the state `own`.
pub(super) fn check_sources(path: &std::path::Path, state: &State, own: &State) -> Result<(), CheckpointError> {
    let mut pairs: Vec<(&str, &Fingerprint, &Fingerprint)> = vec![
        ("data.path", &state.data, &own.data),
        ("encoders.speech.path", &state.speech_encoder, &own.speech_encoder),
        ("encoders.image.path", &state.image_encoder, &own.image_encoder),
    ];
    pairs.extend(state.text_encoder.iter().zip(&own.text_encoder).map(|(then, now)| ("encoders.text.path", then, now)));
    for (key, then, now) in pairs {
        if then.fingerprint != now.fingerprint {
            let why =
                format!("{key} has changed since this checkpoint: then {}, now {}", then.describe(), now.describe());
            return Err(CheckpointError::Mismatch { path: path.to_owned(), why });
        }
    }
    Ok(())
}

/// What all processes know before a step.
pub(super) struct News {
    /// Image ids of the global batch.
    pub(super) image_ids: Vec<i64>,
    /// Which rows of it say the same, where captions take part.
    pub(super) text_ids: Vec<i64>,
    /// Times that a sample of the global batch could not be read and was replaced.
    pub(super) skipped: u64,
    /// The utterances that could not be read, as indices into the split.
    pub(super) unreadable: Vec<usize>,
    /// The signal to stop that came to one of the processes.
    pub(super) stop: Option<Interrupted>,
    /// Whether one of them was asked for a checkpoint.
    pub(super) save: bool,
}

impl News {
    /// The signal that ends the run.
    pub(super) fn stopped(&self) -> TrainError {
        match self.stop {
            Some(signal) => TrainError::Distributed(signal.into()),
            None => unreachable!("only a signal leaves a process without a batch"),
        }
    }
}

/// Tells all processes this one's image and text ids (as many everywhere), what was skipped, and the signals that came.
pub(super) fn exchange(crew: Crew, ids: [&[i64]; 2], skipped: &[Replaced]) -> Result<News, TrainError> {
    let mut own = ids.concat();
    own.extend([skipped.len() as i64, crew.own_signal(), i64::from(crew.signals.take_save())]);
    let all = crew.world.gather_numbers(&own)?;
    let (mut image_ids, mut text_ids, mut skips, mut stop, mut save) = (Vec::new(), Vec::new(), 0, 0, 0);
    for rank in all.chunks_exact(own.len()) {
        let (images, rest) = rank.split_at(ids[0].len());
        let (texts, rest) = rest.split_at(ids[1].len());
        image_ids.extend_from_slice(images);
        text_ids.extend_from_slice(texts);
        skips += rest[0] as u64;
        stop = stop.max(rest[1]);
        save = save.max(rest[2]);
    }
    let mut unreadable = Vec::new();
    if skips > 0 {
        let own: Vec<(usize, String)> =
            skipped.iter().map(|sample| (sample.utterance, sample.why.to_string())).collect();
        for (utterance, why) in crew.world.gather_notes(&own)? {
            unreadable.push(utterance);
            warn_once(format!("skipped: {why}"));
        }
    }
    let stop = (stop != 0).then_some(Interrupted { signal: stop as i32 });
    Ok(News { image_ids, text_ids, skipped: skips, unreadable, stop, save: save != 0 })
}
