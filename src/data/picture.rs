//! Image files as CLIP takes them: RGB, the shortest side resized with antialiased bicubic on bytes, the centre cropped
//! (Hugging Face's form of CLIP's preprocessing; scaling and normalisation are in the frozen encoder).

use std::io::{BufRead, BufReader};
use std::path::Path;

use image::{DynamicImage, ImageReader, Limits, Rgb, RgbImage};

use super::DataError;
use super::bicubic::{self, Crop};

/// Memory that decoding one image may take.
const MAX_DECODED_BYTES: u64 = 1 << 30;

/// An RGB image, S x S.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// S.
    pub size: u32,
    /// Bytes, channel by channel: [3, S, S].
    pub planes: Vec<u8>,
}

impl Picture {
    /// Reads a JPEG or PNG file, resized and cropped to `size` x `size`.
    ///
    /// # Errors
    /// When the file cannot be read or decoded, or is of an absurd size.
    pub fn read(path: &Path, size: u32) -> Result<Self, DataError> {
        let bad = |why: String| DataError::Sample { path: path.to_owned(), why };
        let file = std::fs::File::open(path).map_err(|error| bad(error.to_string()))?;
        let rgb = decode(BufReader::new(file)).map_err(bad)?;
        let square = resize_and_crop(&rgb, size).map_err(bad)?;
        let mut planes = vec![0; 3 * (size * size) as usize];
        for (channel, plane) in planes.chunks_exact_mut((size * size) as usize).enumerate() {
            for (byte, pixel) in plane.iter_mut().zip(square.pixels()) {
                *byte = pixel[channel];
            }
        }
        Ok(Self { size, planes })
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        let area = (self.size * self.size) as usize;
        let rgb = RgbImage::from_fn(self.size, self.size, |x, y| {
            let place = (y * self.size + x) as usize;
            Rgb([0, 1, 2].map(|channel| self.planes[channel * area + place]))
        });
        let mut png = std::io::Cursor::new(Vec::new());
        rgb.write_to(&mut png, image::ImageFormat::Png).map_err(|error| error.to_string())?;
        Ok(png.into_inner())
    }
}

fn decode(file: impl BufRead + std::io::Seek) -> Result<RgbImage, String> {
    let mut reader = ImageReader::new(file).with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let decoded = reader.decode().map_err(|error| format!("not a readable image ({error})"))?;
    if !decoded.color().has_alpha() {
        return Ok(decoded.into_rgb8());
    }
    Ok(over_white(&decoded))
}

fn over_white(image: &DynamicImage) -> RgbImage {
    let rgba = image.to_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        *to = Rgb([r, g, b].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8));
    }
    rgb
}

/// The shortest side becomes `size`, the other one its share, truncated; then the centre.
fn resize_and_crop(rgb: &RgbImage, size: u32) -> Result<RgbImage, String> {
    let (width, height) = rgb.dimensions();
    let short = width.min(height);
    if short == 0 {
        return Err("no pixels".to_owned());
    }
    let share = |side: u32| (u64::from(size) * u64::from(side) / u64::from(short)) as u32;
    let (new_width, new_height) = (share(width), share(height));
    let crop = Crop { left: (new_width - size) / 2, top: (new_height - size) / 2, width: size, height: size };
    Ok(bicubic::resize(rgb, (new_width, new_height), crop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(image: &DynamicImage, name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        image.save(&path).expect("saved");
        (folder, path)
    }

    #[test]
    fn an_image_of_the_right_size_is_left_alone() {
        let image = RgbImage::from_fn(8, 8, |x, y| Rgb([x as u8, y as u8, 7]));
        let (_folder, path) = written(&image.into(), "ü b.png");
        let picture = Picture::read(&path, 8).expect("a picture");
        assert_eq!(picture.planes[..9], [0, 1, 2, 3, 4, 5, 6, 7, 0]);
        assert_eq!(picture.planes[64..73], [0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(picture.planes[128], 7);
    }

    #[test]
    fn the_centre_is_cropped() {
        let image = RgbImage::from_fn(17, 8, |x, _| Rgb([x as u8, 0, 0]));
        let (_folder, path) = written(&image.into(), "wide.png");
        let picture = Picture::read(&path, 8).expect("a picture");
        assert_eq!(picture.planes[..8], [4, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn a_long_and_narrow_image_is_no_burden() {
        let image = RgbImage::from_pixel(20_000, 2, Rgb([3, 4, 5]));
        let (_folder, path) = written(&image.into(), "thin.png");
        assert_eq!(Picture::read(&path, 224).expect("a picture").planes[..3], [3, 3, 3]);
    }

    #[test]
    fn alpha_lies_over_white_and_grey_becomes_rgb() {
        let clear = image::RgbaImage::from_pixel(4, 4, image::Rgba([9, 9, 9, 0]));
        let (_folder, path) = written(&clear.into(), "clear.png");
        assert_eq!(Picture::read(&path, 4).expect("a picture").planes, [255; 48]);
        let grey = image::GrayImage::from_pixel(4, 4, image::Luma([40]));
        let (_folder, path) = written(&grey.into(), "grey.png");
        assert_eq!(Picture::read(&path, 4).expect("a picture").planes, [40; 48]);
    }

    #[test]
    fn bad_files_say_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text.jpg");
        std::fs::write(&path, "no image at all").expect("written");
        assert!(Picture::read(&path, 8).expect_err("an error").to_string().contains("text.jpg: not a readable image"));
    }
}
