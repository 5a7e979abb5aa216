//! JPEG through libjpeg (mozjpeg's decoder, to the bit that of libjpeg-turbo): CLIP saw its pictures through it, and how colours are
//! interpolated between pixels is visible after resizing.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::RgbImage;
use mozjpeg::{ColorSpace, Decompress};

/// First bytes of a JPEG file.
pub(super) const MAGIC: [u8; 3] = [0xff, 0xd8, 0xff];

/// Width and height by the header.
pub(super) fn dimensions(file: impl BufRead) -> Result<(u32, u32), String> {
    guarded(|| Ok(size(&Decompress::new_reader(file)?)))
}

/// Decodes a file of at most `max_pixels` to RGB.
pub(super) fn decode(file: impl BufRead, max_pixels: u64) -> Result<RgbImage, String> {
    let cut = Cell::new(false);
    let decoded = guarded(|| {
        let header = Decompress::new_reader(Watched { file, cut: &cut })?;
        let (width, height) = size(&header);
        if u64::from(width) * u64::from(height) > max_pixels {
            return Err(io::Error::other(format!("{width} x {height} pixels, more than {max_pixels}")));
        }
        let pixels = match header.color_space() {
            ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => {
                let mut started = header.to_colorspace(ColorSpace::JCS_CMYK)?;
                started.read_scanlines::<[u8; 4]>()?.into_iter().flat_map(from_cmyk).collect()
            }
            _ => header.rgb()?.read_scanlines::<u8>()?,
        };
        RgbImage::from_raw(width, height, pixels).ok_or_else(|| io::Error::other("rows are missing"))
    })?;
    if cut.get() { Err("it is cut off".to_owned()) } else { Ok(decoded) }
}

fn size<R>(header: &Decompress<R>) -> (u32, u32) {
    (header.width() as u32, header.height() as u32)
}

/// libjpeg leaves on errors by unwinding, without a panic's message.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(unwound) => {
            let text = unwound.downcast_ref::<String>().map_or("it is broken", String::as_str);
            Err(text.trim_start_matches("libjpeg fatal error: ").to_owned())
        }
    }
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
