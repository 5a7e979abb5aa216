//! Which part of a file is used, and how much of it has to be decoded for that.

use std::ops::Range;

use super::resample::block;

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
    /// What a clip needs at this rate; nothing is decoded beyond these seconds.
    Clip(Clip, u32, f64),
}

impl Extent {
    /// Samples of a channel at `rate` behind which decoding ends, whatever the file says of its length.
    pub(super) fn most(self, rate: u32) -> u64 {
        match self {
            Self::Clip(_, _, seconds) if seconds.is_finite() => (seconds * f64::from(rate)) as u64 + 1,
            _ => u64::MAX,
        }
    }

    /// Samples of a file with `frames` at `rate`. At another rate than the clip's they begin with a block of the resampler.
    pub(super) fn range(self, frames: u64, rate: u32) -> Range<u64> {
        let Self::Clip(clip, of, _) = self else { return 0..frames };
        let start = clip.start(at_rate(frames, rate, of));
        let end = start.saturating_add(clip.samples() as u64);
        if of == rate {
            return start..frames.min(end);
        }
        let (margin, block) = ((MARGIN * f64::from(rate)) as u64, block(rate, of) as u64);
        let first = at_rate(start, of, rate).saturating_sub(margin) / block * block;
        first..frames.min(at_rate(end, of, rate).saturating_add(margin))
    }
}

/// `samples` at the rate `from` as samples at the rate `to`, a begun one counted.
pub(super) fn at_rate(samples: u64, from: u32, to: u32) -> u64 {
    let samples = (u128::from(samples) * u128::from(to)).div_ceil(u128::from(from));
    u64::try_from(samples).unwrap_or(u64::MAX)
}
