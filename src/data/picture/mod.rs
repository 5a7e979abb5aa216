//! Image files as CLIP takes them: RGB, the shortest side resized with antialiased bicubic on bytes, the centre cropped
//! (Hugging Face's form of CLIP's preprocessing; scaling and normalisation are in the frozen encoder).

mod bicubic;
mod jpeg;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use image::{DynamicImage, ImageReader, Limits, Rgb, RgbImage, Rgba, RgbaImage, imageops};

use super::DataError;
use super::guard::{guarded, open_regular};
use bicubic::Crop;

/// Pixels of the largest image that is decoded: 512 MiB as RGB.
const MAX_PIXELS: u64 = (512 << 20) / 3;

/// An RGB image, S x S.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// S.
    pub size: u32,
    /// Bytes, channel by channel: [3, S, S].
    pub planes: Vec<u8>,
}

impl Picture {
    /// Reads a JPEG, PNG or WebP file, resized and cropped to `size` x `size`.
    ///
    /// # Errors
    /// When the file cannot be read or decoded, or is of an absurd size.
    pub fn read(path: &Path, size: u32) -> Result<Self, DataError> {
        let bad = |why: String| DataError::Sample { path: path.to_owned(), why };
        let rgb = open(path).and_then(decode).map_err(bad)?;
        let square = resize_and_crop(&rgb, size).map_err(bad)?;
        let mut planes = vec![0; 3 * (size * size) as usize];
        for (channel, plane) in planes.chunks_exact_mut((size * size) as usize).enumerate() {
            for (byte, pixel) in plane.iter_mut().zip(square.pixels()) {
                *byte = pixel[channel];
            }
        }
        Ok(Self { size, planes })
    }

    /// Whether a file can be read, by its header or, with `decoded`, by its pixels.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(path: &Path, decoded: bool) -> Result<(), DataError> {
        let checked = open(path).and_then(|file| if decoded { decode(file).map(|_| ()) } else { check_header(file) });
        checked.map_err(|why| DataError::Sample { path: path.to_owned(), why })
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

fn open(path: &Path) -> Result<BufReader<File>, String> {
    Ok(BufReader::new(open_regular(path)?))
}

fn is_jpeg(file: &mut impl BufRead) -> Result<bool, String> {
    let start = file.fill_buf().map_err(|error| error.to_string())?;
    if start.is_empty() { Err("an empty file".to_owned()) } else { Ok(start.starts_with(&jpeg::MAGIC)) }
}

fn decode(mut file: BufReader<File>) -> Result<RgbImage, String> {
    if is_jpeg(&mut file)? {
        return jpeg::decode(file, MAX_PIXELS).map_err(|why| unreadable(&why));
    }
    let reader = reader(file)?;
    let decoded = guarded(|| reader.decode().map_err(|error| error.to_string())).map_err(|why| unreadable(&why))?;
    let color = decoded.color();
    Ok(if color.bytes_per_pixel() > color.channel_count() {
        over_white(&upper_bytes(&decoded))
    } else if color.has_alpha() {
        over_white(&decoded.into_rgba8())
    } else {
        decoded.into_rgb8()
    })
}

/// 16 bits to 8 as Pillow does it.
fn upper_bytes(wide: &DynamicImage) -> RgbaImage {
    let wide = wide.to_rgba16();
    RgbaImage::from_fn(wide.width(), wide.height(), |x, y| Rgba(wide.get_pixel(x, y).0.map(|value| (value >> 8) as u8)))
}

fn check_header(mut file: BufReader<File>) -> Result<(), String> {
    let size = if is_jpeg(&mut file)? {
        jpeg::dimensions(file).map_err(|why| unreadable(&why))?
    } else {
        reader(file)?.into_dimensions().map_err(|error| unreadable(&error))?
    };
    if size.0 == 0 || size.1 == 0 { Err("no pixels".to_owned()) } else { Ok(()) }
}

fn reader(file: BufReader<File>) -> Result<ImageReader<BufReader<File>>, String> {
    let mut reader = ImageReader::new(file).with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(3 * MAX_PIXELS);
    reader.limits(limits);
    Ok(reader)
}

fn unreadable(why: &impl std::fmt::Display) -> String {
    format!("not a readable image ({why})")
}

fn over_white(rgba: &RgbaImage) -> RgbImage {
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
    let (left, top) = ((new_width - size) / 2, (new_height - size) / 2);
    if (new_width, new_height) == (width, height) {
        return Ok(imageops::crop_imm(rgb, left, top, size, size).to_image());
    }
    let crop = Crop { left, top, width: size, height: size };
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
        let clear = RgbaImage::from_pixel(4, 4, Rgba([9, 9, 9, 0]));
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
