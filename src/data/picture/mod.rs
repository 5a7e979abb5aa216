//! Image files as CLIP takes them: RGB, the shortest side resized with antialiased bicubic on bytes, the centre cropped
//! (Hugging Face's form of CLIP's preprocessing; scaling and normalisation are in the frozen encoder).

mod bicubic;
mod jpeg;

use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::path::Path;

use image::{DynamicImage, ImageReader, Limits, Rgb, RgbImage, Rgba, RgbaImage, imageops};

use super::DataError;
use super::budget::{Budget, SAMPLES};
use super::guard::{guarded, open_regular};
use bicubic::Crop;

/// Long side of the narrowest picture, by its short side.
const MAX_RATIO: u32 = 100_000;

/// How pictures are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureForm {
    /// S of the picture that comes out.
    pub size: u32,
    /// Larger images are refused.
    pub max_pixels: u64,
}

impl PictureForm {
    /// Pictures of `size` x `size`, from images of at most `max_megapixels` million pixels.
    #[must_use]
    pub fn new(size: u32, max_megapixels: i64) -> Self {
        Self { size, max_pixels: max_megapixels.max(1) as u64 * 1_000_000 }
    }

    /// Reads a JPEG, PNG or WebP file, resized and cropped.
    ///
    /// # Errors
    /// When the file cannot be read or decoded, or is larger than that.
    pub fn read(&self, path: &Path) -> Result<Picture, DataError> {
        let bad = |why: String| DataError::Sample { path: path.to_owned(), why };
        let (rgb, _, _taken) = self.decode(path).map_err(bad)?;
        let square = resize_and_crop(rgb, self.size).map_err(bad)?;
        let area = (self.size * self.size) as usize;
        let mut planes = vec![0; 3 * area];
        for (channel, plane) in planes.chunks_exact_mut(area).enumerate() {
            for (byte, pixel) in plane.iter_mut().zip(square.pixels()) {
                *byte = pixel[channel];
            }
        }
        Ok(Picture { size: self.size, planes })
    }

    /// Whether a file can be read, by its header or, with `decoded`, by its pixels; then also what its decoder had to repair, if anything.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(&self, path: &Path, decoded: bool) -> Result<Option<String>, DataError> {
        let checked = if decoded {
            self.decode(path).map(|(_, repaired, _)| repaired)
        } else {
            open(path).and_then(|mut file| self.check_header(&mut file)).map(|_| None)
        };
        checked.map_err(|why| DataError::Sample { path: path.to_owned(), why })
    }

    /// RGB, with what its decoder had to repair, and the memory that was set aside for it. What the header refuses is refused before anything is decoded.
    fn decode(&self, path: &Path) -> Result<(RgbImage, Option<String>, Budget), String> {
        let mut file = open(path)?;
        let pixels = self.check_header(&mut file)?;
        file.rewind().map_err(|error| error.to_string())?;
        // As it is decoded, as RGB with alpha, and once more while it is converted.
        let taken = SAMPLES.take(16 * pixels);
        if is_jpeg(&mut file)? {
            jpeg::check_scans(&mut file).map_err(|why| unreadable(&why))?;
            file.rewind().map_err(|error| error.to_string())?;
            let (rgb, repaired) = jpeg::decode(file).map_err(|why| unreadable(&why))?;
            return Ok((rgb, repaired, taken));
        }
        let reader = self.reader(file)?;
        let decoded = guarded(|| reader.decode().map_err(|error| error.to_string())).map_err(|why| unreadable(&why))?;
        Ok((to_rgb(decoded), None, taken))
    }

    /// Pixels by the header.
    fn check_header(&self, file: &mut BufReader<File>) -> Result<u64, String> {
        let dimensions = if is_jpeg(file)? {
            jpeg::dimensions(file)
        } else {
            let reader = self.reader(file)?;
            guarded(|| reader.into_dimensions().map_err(|error| error.to_string()))
        };
        let (width, height) = dimensions.map_err(|why| unreadable(&why))?;
        let pixels = u64::from(width) * u64::from(height);
        match pixels {
            0 => Err("no pixels".to_owned()),
            _ if width.max(height) / width.min(height) > MAX_RATIO => {
                Err(format!("{width} x {height} pixels, which is no picture"))
            }
            _ if pixels > self.max_pixels => Err(format!(
                "{width} x {height} pixels, more than data.max_megapixels = {}",
                self.max_pixels / 1_000_000
            )),
            _ => Ok(pixels),
        }
    }

    fn reader<R: BufRead + Seek>(&self, file: R) -> Result<ImageReader<R>, String> {
        let mut reader = ImageReader::new(file).with_guessed_format().map_err(|error| error.to_string())?;
        let mut limits = Limits::default();
        // Pixels are bounded by the header, 8 bytes each at most; the rest is for what a decoder takes beside them.
        limits.max_alloc = Some(8 * self.max_pixels + (1 << 30));
        reader.limits(limits);
        Ok(reader)
    }
}

/// An RGB image, S x S.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// S.
    pub size: u32,
    /// Bytes, channel by channel: [3, S, S].
    pub planes: Vec<u8>,
}

impl Picture {
    /// The picture, pixel by pixel.
    #[must_use]
    pub fn to_rgb(&self) -> RgbImage {
        let area = (self.size * self.size) as usize;
        RgbImage::from_fn(self.size, self.size, |x, y| {
            let place = (y * self.size + x) as usize;
            Rgb([0, 1, 2].map(|channel| self.planes[channel * area + place]))
        })
    }

    /// The picture as a PNG file.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        let mut png = std::io::Cursor::new(Vec::new());
        self.to_rgb().write_to(&mut png, image::ImageFormat::Png).map_err(|error| error.to_string())?;
        Ok(png.into_inner())
    }

    /// The picture as a JPEG file, for pages that hold many.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn to_jpeg(&self) -> Result<Vec<u8>, String> {
        jpeg::encode(&self.to_rgb())
    }
}

fn open(path: &Path) -> Result<BufReader<File>, String> {
    Ok(BufReader::new(open_regular(path)?))
}

fn is_jpeg(file: &mut impl BufRead) -> Result<bool, String> {
    let start = file.fill_buf().map_err(|error| error.to_string())?;
    if start.is_empty() { Err("an empty file".to_owned()) } else { Ok(start.starts_with(&jpeg::MAGIC)) }
}

fn to_rgb(decoded: DynamicImage) -> RgbImage {
    let color = decoded.color();
    if color.bytes_per_pixel() > color.channel_count() {
        over_white(&upper_bytes(decoded))
    } else if color.has_alpha() {
        over_white(&decoded.into_rgba8())
    } else {
        decoded.into_rgb8()
    }
}

/// 16 bits to 8 by the upper byte, as Pillow opens colour pictures of 16 bits. Grey ones it clips at 255, so that CLIP's loader sees white.
fn upper_bytes(wide: DynamicImage) -> RgbaImage {
    let wide = wide.into_rgba16();
    RgbaImage::from_fn(wide.width(), wide.height(), |x, y| Rgba(wide.get_pixel(x, y).0.map(|value| (value >> 8) as u8)))
}

fn unreadable(why: &impl std::fmt::Display) -> String {
    format!("not a readable image ({why})")
}

/// Alpha over white. CLIP's loader drops alpha instead, and shows what stands under transparent pixels, often black or rubbish that no
/// viewer ever shows; this is what people see.
fn over_white(rgba: &RgbaImage) -> RgbImage {
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        *to = Rgb([r, g, b].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8));
    }
    rgb
}

/// The shortest side becomes `size`, the other one its share, truncated; then the centre.
fn resize_and_crop(rgb: RgbImage, size: u32) -> Result<RgbImage, String> {
    let (width, height) = rgb.dimensions();
    let short = width.min(height);
    if short == 0 {
        return Err("no pixels".to_owned());
    }
    let share = |side: u32| (u64::from(size) * u64::from(side) / u64::from(short)) as u32;
    let (new_width, new_height) = (share(width), share(height));
    let (left, top) = ((new_width - size) / 2, (new_height - size) / 2);
    if (new_width, new_height) == (width, height) {
        return Ok(if width == height { rgb } else { imageops::crop_imm(&rgb, left, top, size, size).to_image() });
    }
    let crop = Crop { left, top, width: size, height: size };
    Ok(bicubic::resize(&rgb, (new_width, new_height), crop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path, size: u32) -> Result<Picture, DataError> {
        PictureForm::new(size, 50).read(path)
    }

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
        let picture = read(&path, 8).expect("a picture");
        assert_eq!(picture.planes[..9], [0, 1, 2, 3, 4, 5, 6, 7, 0]);
        assert_eq!(picture.planes[64..73], [0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(picture.planes[128], 7);
    }

    #[test]
    fn the_centre_is_cropped() {
        let image = RgbImage::from_fn(17, 8, |x, _| Rgb([x as u8, 0, 0]));
        let (_folder, path) = written(&image.into(), "wide.png");
        let picture = read(&path, 8).expect("a picture");
        assert_eq!(picture.planes[..8], [4, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn a_long_and_narrow_image_is_no_burden() {
        let image = RgbImage::from_pixel(20_000, 2, Rgb([3, 4, 5]));
        let (_folder, path) = written(&image.into(), "thin.png");
        assert_eq!(read(&path, 224).expect("a picture").planes[..3], [3, 3, 3]);
    }

    #[test]
    fn alpha_lies_over_white_and_grey_becomes_rgb() {
        let clear = RgbaImage::from_pixel(4, 4, Rgba([9, 9, 9, 0]));
        let (_folder, path) = written(&clear.into(), "clear.png");
        assert_eq!(read(&path, 4).expect("a picture").planes, [255; 48]);
        let grey = image::GrayImage::from_pixel(4, 4, image::Luma([40]));
        let (_folder, path) = written(&grey.into(), "grey.png");
        assert_eq!(read(&path, 4).expect("a picture").planes, [40; 48]);
    }

    #[test]
    fn bad_files_say_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text.jpg");
        std::fs::write(&path, "no image at all").expect("written");
        assert!(read(&path, 8).expect_err("an error").to_string().contains("text.jpg: not a readable image"));
    }
}
