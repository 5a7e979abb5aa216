//! Antialiased bicubic resizing on bytes, to the bit as Pillow did it up to version 11 (`Image.resize` with `BICUBIC`,
//! `Resample.c`): CLIP was trained on it. Later versions begin with the columns of tall images, which moves some bytes by 1.
//! Only the pixels of the crop are computed.

use image::RgbImage;

/// Fractional bits of the fixed-point weights.
const PRECISION: u32 = 32 - 8 - 2;
/// One half, so that shifting rounds.
const HALF: i32 = 1 << (PRECISION - 1);
/// Reach of the bicubic filter, in pixels of the coarser image.
const SUPPORT: f64 = 2.0;

/// A rectangle of the resized image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crop {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// The weights with which input pixels `start..start + weights.len()` make one output pixel.
struct Tap {
    start: usize,
    weights: Vec<i32>,
}

/// `image` resized to `width` x `height`, and `crop` of that.
pub(super) fn resize(image: &RgbImage, (width, height): (u32, u32), crop: Crop) -> RgbImage {
    let across = taps(image.width(), width, crop.left, crop.width);
    let down = taps(image.height(), height, crop.top, crop.height);
    // First across, on the rows that are needed, then down, with bytes in between.
    let first = down.first().map_or(0, |tap| tap.start);
    let last = down.last().map_or(0, |tap| tap.start + tap.weights.len());
    let input_row = 3 * image.width() as usize;
    let output_row = 3 * crop.width as usize;
    let mut rows = Vec::with_capacity((last - first) * output_row);
    for row in image.as_raw()[first * input_row..last * input_row].chunks_exact(input_row) {
        for Tap { start, weights } in &across {
            let mut sums = [HALF; 3];
            for (weight, pixel) in weights.iter().zip(row[3 * start..].chunks_exact(3)) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(*value);
                }
            }
            rows.extend(sums.map(to_byte));
        }
    }
    let mut sums = vec![HALF; output_row];
    let mut output = Vec::with_capacity(crop.height as usize * output_row);
    for Tap { start, weights } in &down {
        sums.fill(HALF);
        for (weight, row) in weights.iter().zip(rows[(start - first) * output_row..].chunks_exact(output_row)) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(*value);
            }
        }
        output.extend(sums.iter().map(|sum| to_byte(*sum)));
    }
    #[expect(clippy::expect_used, reason = "the bytes were counted above")]
    RgbImage::from_raw(crop.width, crop.height, output).expect("as many bytes as pixels")
}

/// A weighted sum, which began at [`HALF`], as a byte.
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Taps of the output pixels `first..first + count` of an axis.
fn taps(input: u32, output: u32, first: u32, count: u32) -> Vec<Tap> {
    let scale = f64::from(input) / f64::from(output);
    let stretch = scale.max(1.0);
    (first..first + count)
        .map(|place| {
            let centre = (f64::from(place) + 0.5) * scale;
            let start = (centre - SUPPORT * stretch + 0.5).max(0.0) as usize;
            let end = (centre + SUPPORT * stretch + 0.5).min(f64::from(input)) as usize;
            let weights: Vec<f64> = (start..end).map(|n| filter((n as f64 - centre + 0.5) / stretch)).collect();
            let total: f64 = weights.iter().sum();
            let fixed = |weight: &f64| (weight / total * f64::from(1 << PRECISION)).round() as i32;
            Tap { start, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

/// Keys' cubic with a = -0.5.
fn filter(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
