//! Antialiased bicubic resizing on bytes, to the bit as Pillow did it up to version 11 (`Image.resize` with `BICUBIC`,
//! `Resample.c`): CLIP was trained on it. Later versions begin with the columns of tall images, which moves some bytes by 1.
//! Only the pixels of the crop are computed.

use image::{Rgb, RgbImage};

/// Fractional bits of the fixed-point weights.
const PRECISION: u32 = 32 - 8 - 2;
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
    let rows = RgbImage::from_fn(crop.width, (last - first) as u32, |x, y| {
        let Tap { start, weights } = &across[x as usize];
        weigh(weights, |n| *image.get_pixel((start + n) as u32, first as u32 + y))
    });
    RgbImage::from_fn(crop.width, crop.height, |x, y| {
        let Tap { start, weights } = &down[y as usize];
        weigh(weights, |n| *rows.get_pixel(x, (start - first + n) as u32))
    })
}

fn weigh(weights: &[i32], pixel: impl Fn(usize) -> Rgb<u8>) -> Rgb<u8> {
    let mut sums = [1i32 << (PRECISION - 1); 3];
    for (n, weight) in weights.iter().enumerate() {
        for (sum, value) in sums.iter_mut().zip(pixel(n).0) {
            *sum += weight * i32::from(value);
        }
    }
    Rgb(sums.map(|sum| (sum >> PRECISION).clamp(0, 255) as u8))
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
