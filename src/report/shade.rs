//! Attention as a shade over its picture: black where nobody looks, clear where most do.

use image::imageops::FilterType;
use image::{ImageFormat, Rgb, RgbImage, Rgba, RgbaImage, imageops};

use crate::data::Picture;
use crate::eval::Attention;

/// How dark a patch becomes that nobody looks at, of 255.
const SHADE: f32 = 200.0;

/// The shade of the grid, a pixel a patch.
fn of_grid(attention: &Attention) -> RgbaImage {
    let [rows, columns] = attention.grid.map(|side| side as u32);
    let most = attention.weights.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    RgbaImage::from_fn(columns, rows, |x, y| {
        let weight = attention.weights[(y * columns + x) as usize];
        Rgba([0, 0, 0, (SHADE * (1.0 - weight / most)).round() as u8])
    })
}

/// A PNG file to be laid over the picture, a pixel a patch.
pub(super) fn shade(attention: &Attention) -> Option<Vec<u8>> {
    let mut png = std::io::Cursor::new(Vec::new());
    of_grid(attention).write_to(&mut png, ImageFormat::Png).ok()?;
    Some(png.into_inner())
}

/// `picture` under its shade.
#[must_use]
pub fn overlay(picture: &Picture, attention: &Attention) -> RgbImage {
    let shade = imageops::resize(&of_grid(attention), picture.size, picture.size, FilterType::Triangle);
    let mut shown = picture.to_rgb();
    for (pixel, shade) in shown.pixels_mut().zip(shade.pixels()) {
        let light = 255 - u32::from(shade[3]);
        *pixel = Rgb(pixel.0.map(|value| (u32::from(value) * light / 255) as u8));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_attended_patch_stays_clear() {
        let attention = Attention { grid: [2, 3], weights: vec![0.1, 0.1, 0.5, 0.1, 0.1, 0.1] };
        let png = image::load_from_memory(&shade(&attention).expect("a picture")).expect("PNG").into_rgba8();
        assert_eq!((png.dimensions(), png[(2, 0)][3], png[(0, 1)][3]), ((3, 2), 0, 160));
        let picture = Picture { size: 6, planes: vec![200; 3 * 36] };
        let shown = overlay(&picture, &attention);
        assert!(shown[(5, 0)][0] == 200 && shown[(0, 5)][0] < 80, "{:?}", shown[(0, 5)]);
    }
}
