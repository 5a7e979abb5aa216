//! What is checked of an encoder before it is used: shapes, kinds, gradients, and that two forwards agree.

use tch::{Kind, Tensor};

use super::{ImageSpec, ImageStates, SpeechSpec, SpeechStates};
use crate::data::{Pixels, Waveforms};

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
