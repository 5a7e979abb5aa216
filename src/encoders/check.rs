//! What is checked of an encoder before it is used: shapes, kinds, gradients, and that two forwards agree.

use tch::{Kind, Tensor};

use super::{ImageSpec, ImageStates, SpeechSpec, SpeechStates, TextSpec, TorchScript};
use crate::data::{Pixels, Waveforms};
use crate::model::Vocabulary;

/// Two utterances of different length, the shorter zero-padded.
pub(super) fn waveforms(spec: &SpeechSpec) -> Waveforms {
    let lengths = [spec.min_samples + 3 * spec.hop, spec.min_samples + 11 * spec.hop + 1];
    let wave = |length: i64| -> Vec<f32> {
        (0..lengths[1])
            .map(|n| if n < length { 0.3 * (0.05 * n as f32 + 0.0007 * (n * n % 997) as f32).sin() } else { 0.0 })
            .collect()
    };
    let samples = [wave(lengths[0]), wave(lengths[1])].concat();
    Waveforms { samples: Tensor::from_slice(&samples).view([2, -1]), lengths: Tensor::from_slice(&lengths) }
}

/// Two images.
pub(super) fn pixels(spec: &ImageSpec) -> Pixels {
    let count = 2 * 3 * spec.size * spec.size;
    let bytes: Vec<u8> = (0..count).map(|n| (n * 7919 % 251) as u8).collect();
    Pixels(Tensor::from_slice(&bytes).view([2, 3, spec.size, spec.size]))
}

/// What breaks the contract in the hidden states of [`waveforms`].
pub(super) fn speech_states(spec: &SpeechSpec, states: &SpeechStates) -> Result<(), String> {
    let SpeechStates { hidden, frames } = states;
    floats("hidden", hidden)?;
    shape("hidden", hidden, &[Some(spec.layers), Some(2), None, Some(spec.width)], "[layers, B, T, width]")?;
    shape("frames", frames, &[Some(2)], "[B]")?;
    if frames.kind() != Kind::Int64 {
        return Err(format!("frames is {:?} where Int64 is needed", frames.kind()));
    }
    let (most, valid) = (hidden.size()[2], [0, 1].map(|row| frames.int64_value(&[row])));
    if valid.iter().all(|count| (1..=most).contains(count)) {
        Ok(())
    } else {
        Err(format!("frames counts {valid:?} valid frames where hidden has {most}"))
    }
}

/// What breaks the contract in the features of [`pixels`].
pub(super) fn image_states(spec: &ImageSpec, states: &ImageStates) -> Result<(), String> {
    floats("cls", &states.cls)?;
    floats("patches", &states.patches)?;
    shape("cls", &states.cls, &[Some(2), Some(spec.width)], "[B, width]")?;
    shape(
        "patches",
        &states.patches,
        &[Some(2), Some(spec.patches()), Some(spec.width)],
        "[B, grid rows x columns, width]",
    )
}

/// What breaks the contract in a text encoder, or the kind of its embeddings.
pub(super) fn text(spec: &TextSpec, words: &Vocabulary, encoder: &TorchScript<TextSpec>) -> Result<Kind, String> {
    let Vocabulary { ids, vectors } = words;
    let count = ids.len() as i64;
    shape("the second of vocabulary", vectors, &[Some(count), Some(spec.token_width)], "[V, token_width]")?;
    floats("the second of vocabulary", vectors)?;
    if count < 2 || ids.iter().any(|id| !(0..spec.vocabulary).contains(id) || [spec.start, spec.end].contains(id)) {
        return Err(
            "vocabulary must give two or more ids below that of its spec(), and neither start nor end".to_owned()
        );
    }
    // Two words, and one of them.
    let (first, second) = (ids[0], ids[count as usize - 1]);
    let rows = [spec.start, first, second, spec.end, spec.start, first, spec.end, 0];
    let rows = Tensor::from_slice(&rows).view([2, 4]);
    let embedded = encoder.tokens(&rows)?;
    shape("the embedding", &embedded, &[Some(2), Some(spec.width)], "[B, width]")?;
    floats("the embedding", &embedded)?;
    repeats("embeddings", &embedded, &encoder.tokens(&rows)?)?;
    let near = |what: &str, one: &Tensor, other: &Tensor| {
        let [one, other] = [one, other].map(|embedding| embedding.detach().to_kind(Kind::Float));
        let scale = one.abs().max().double_value(&[]);
        let most = if embedded.kind() == Kind::Float { 1e-3 } else { 5e-2 };
        if one.size() == other.size() && (&one - &other).abs().max().double_value(&[]) <= most * scale {
            Ok(())
        } else {
            Err(what.to_owned())
        }
    };
    let alone = encoder.tokens(&rows.narrow(0, 1, 1).narrow(1, 0, 3))?;
    near("zeros behind a text change its embedding", &embedded.narrow(0, 1, 1), &alone)?;
    let places = Tensor::from_slice(&[0, count - 1]).to_device(vectors.device());
    let keywords = vectors.index_select(0, &places).unsqueeze(0).set_requires_grad(true);
    let read = encoder.keywords(&keywords);
    near(
        "keywords makes something else of a vocabulary's vectors than forward of their tokens",
        &embedded.narrow(0, 0, 1),
        &read,
    )?;
    if !read.requires_grad() {
        return Err("keywords gives no gradient for its input".to_owned());
    }
    let gradient = Tensor::run_backward(&[read.square().sum(Kind::Float)], &[&keywords], false, false);
    let is_one = gradient[0].defined() && gradient[0].isfinite().all().int64_value(&[]) != 0;
    if is_one {
        Ok(embedded.kind())
    } else {
        Err("the gradient of keywords for its input is none, or not finite".to_owned())
    }
}

/// What breaks the contract when the same input goes in twice.
pub(super) fn repeats(name: &str, first: &Tensor, second: &Tensor) -> Result<(), String> {
    if first.size() == second.size() {
        let (first, second) = (first.to_kind(Kind::Float), second.to_kind(Kind::Float));
        let scale = first.abs().max().double_value(&[]);
        if (first - second).abs().max().double_value(&[]) <= 1e-4 * scale {
            return Ok(());
        }
    }
    Err(format!("two forwards of the same input give different {name}; is dropout still on (save it in eval mode)?"))
}

fn floats(name: &str, tensor: &Tensor) -> Result<(), String> {
    if !matches!(tensor.kind(), Kind::Float | Kind::Half | Kind::BFloat16) {
        return Err(format!("{name} is {:?} where a floating-point tensor is needed", tensor.kind()));
    }
    if tensor.requires_grad() {
        return Err(format!("{name} requires a gradient; call requires_grad_(False) on the module before it is saved"));
    }
    if tensor.to_kind(Kind::Float).isfinite().all().int64_value(&[]) == 0 {
        return Err(format!("{name} holds NaN or infinite values"));
    }
    Ok(())
}

fn shape(name: &str, tensor: &Tensor, expected: &[Option<i64>], form: &str) -> Result<(), String> {
    let size = tensor.size();
    if size.len() != expected.len() {
        return Err(format!("{name} has {} dimensions where {form} is needed", size.len()));
    }
    if size.iter().zip(expected).any(|(size, expected)| expected.is_some_and(|expected| expected != *size)) {
        let expected: Vec<String> = expected.iter().map(|n| n.map_or("T".to_owned(), |n| n.to_string())).collect();
        return Err(format!("{name} has shape {size:?} where its spec() promises {form} = [{}]", expected.join(", ")));
    }
    Ok(())
}
