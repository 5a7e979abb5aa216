//! JPEG through libjpeg (mozjpeg's decoder, to the bit that of libjpeg-turbo): CLIP saw its pictures through it, and how colours are
//! interpolated between pixels is visible after resizing.

use std::cell::Cell;
use std::io::{self, BufRead, Read};

use image::RgbImage;
use mozjpeg::{ColorSpace, Decompress};

use crate::data::guard::guarded;

/// First bytes of a JPEG file.
pub(super) const MAGIC: [u8; 3] = [0xff, 0xd8, 0xff];

/// Width and height by the header.
pub(super) fn dimensions(file: impl BufRead) -> Result<(u32, u32), String> {
    guarded(|| Ok(size(&Decompress::new_reader(file).map_err(|error| error.to_string())?)))
}

/// Decodes a file of at most `max_pixels` to RGB.
pub(super) fn decode(file: impl BufRead, max_pixels: u64) -> Result<RgbImage, String> {
    let cut = Cell::new(false);
    let decoded = guarded(|| {
        let header = Decompress::new_reader(Watched { file, cut: &cut }).map_err(|error| error.to_string())?;
        let (width, height) = size(&header);
        if u64::from(width) * u64::from(height) > max_pixels {
            return Err(format!("{width} x {height} pixels, more than {max_pixels}"));
        }
        let pixels = pixels(header).map_err(|error| error.to_string())?;
        RgbImage::from_raw(width, height, pixels).ok_or_else(|| "rows are missing".to_owned())
    })?;
    if cut.get() { Err("it is cut off".to_owned()) } else { Ok(decoded) }
}

/// RGB, row by row.
fn pixels<R: BufRead>(header: Decompress<R>) -> io::Result<Vec<u8>> {
    match header.color_space() {
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => {
            let inks = header.to_colorspace(ColorSpace::JCS_CMYK)?.read_scanlines::<[u8; 4]>()?;
            Ok(inks.into_iter().flat_map(from_cmyk).collect())
        }
        _ => header.rgb()?.read_scanlines(),
    }
}

fn size<R>(header: &Decompress<R>) -> (u32, u32) {
    (header.width() as u32, header.height() as u32)
}

/// Inverted CMYK, as JPEG files hold it, to RGB, as Pillow does.
fn from_cmyk([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let black = u32::from(black);
    [cyan, magenta, yellow].map(|ink| {
        let product = (255 - u32::from(ink)) * black + 128;
        (black - (((product >> 8) + product) >> 8)) as u8
    })
}

/// Notes when the decoder asks for bytes after the end: libjpeg would go on with grey.
struct Watched<'a, R> {
    file: R,
    cut: &'a Cell<bool>,
}

impl<R: BufRead> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl<R: BufRead> BufRead for Watched<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.file.fill_buf()?;
        self.cut.set(self.cut.get() || bytes.is_empty());
        Ok(bytes)
    }

    fn consume(&mut self, count: usize) {
        self.file.consume(count);
    }
}
