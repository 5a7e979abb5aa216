//! Another sample rate: band-limited, through rubato's FFT resampler. Aliases lie below -80 dB (`tests/audio.rs` measures it).

use rubato::audioadapter_buffers::owned::InterleavedOwned;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

/// Samples in one block at the lower rate, at least: a longer one brings the filter's edge nearer to half that rate.
const BLOCK: usize = 2048;

/// `samples` at the rate `to`.
pub(super) fn resample(samples: Vec<f32>, from: u32, to: u32) -> Result<Vec<f32>, String> {
    if from == to || samples.is_empty() {
        return Ok(samples);
    }
    let cannot = |why: String| format!("cannot be resampled from {from} to {to} Hz: {why}");
    let block = block(from, to);
    let (from, to, count) = (from as usize, to as usize, samples.len());
    let mut resampler =
        Fft::<f32>::new_custom(from, to, block, 1, 1, WindowFunction::BlackmanHarris2, FixedSync::Input)
            .map_err(|error| cannot(error.to_string()))?;
    let input = InterleavedOwned::new_from(samples, 1, count).map_err(|error| cannot(error.to_string()))?;
    let output = resampler.process_all(&input, count, None).map_err(|error| cannot(error.to_string()))?;
    Ok(output.take_data())
}

/// Samples that are resampled at once: a file from one of their multiples on becomes what it becomes as a part of the whole.
pub(super) fn block(from: u32, to: u32) -> usize {
    let (from, to) = (from as usize, to as usize);
    // Blocks are multiples of these lengths. Even multiples, because the filter's delay, half a block, is taken off in whole samples.
    let common = greatest_common_divisor(from, to);
    from / common * BLOCK.div_ceil(from.min(to) / common).next_multiple_of(2)
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
