//! Which part of a file is used, and how much of it has to be decoded for that.

use std::ops::Range;

/// Seconds that are decoded beyond what is used, where the rate changes: the filter reaches that far.
const MARGIN: f64 = 3.0;

/// Part of an utterance that is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// At most this many samples from the start.
    Start(usize),
    /// A window of at most `samples`; `place` in [0, 1) says where among the possible starts.
    Window {
        /// Length of the window.
        samples: usize,
        /// Where it starts.
        place: f32,
    },
}

impl Clip {
    /// The window's first sample in a file of `whole` samples.
    pub(super) fn start(self, whole: u64) -> u64 {
        match self {
            Self::Window { samples, place } if whole > samples as u64 => {
                (f64::from(place) * (whole - samples as u64 + 1) as f64) as u64
            }
            _ => 0,
        }
    }

    pub(super) fn samples(self) -> usize {
        match self {
            Self::Start(samples) | Self::Window { samples, .. } => samples,
        }
    }
}

/// Part of a file that is decoded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    All,
    /// What a clip needs at this rate.
    Clip(Clip, u32),
}

impl Extent {
    /// Samples of a file with `frames` at `rate`.
    pub(super) fn range(self, frames: u64, rate: u32) -> Range<u64> {
        match self {
            Self::Clip(clip, of) if of == rate => {
                let start = clip.start(frames);
                start..frames.min(start.saturating_add(clip.samples() as u64))
            }
            Self::Clip(Clip::Start(samples), of) => {
                let seconds = samples as f64 / f64::from(of) + MARGIN;
                0..frames.min((seconds * f64::from(rate)) as u64)
            }
            Self::All | Self::Clip(..) => 0..frames,
        }
    }
}
