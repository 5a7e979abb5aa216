//! JPEG through libjpeg (mozjpeg's decoder, to the bit that of libjpeg-turbo): CLIP saw its pictures through it, and how colours are
//! interpolated between pixels is visible after resizing.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Read, Seek};
use std::os::raw::c_int;

use image::RgbImage;
use mozjpeg::{ColorSpace, Compress, Decompress};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr, jpeg_std_error};

use crate::data::guard::guarded;

/// Warnings after which a file is given up.
const MOST_WARNINGS: i64 = 1000;
/// Of what is encoded, from 0 to 100.
const QUALITY: f32 = 82.0;
/// Scans of the file that is refused; of all who write progressive ones none makes half as many.
const MOST_SCANS: usize = 100;
/// First bytes of a JPEG file.
pub(super) const MAGIC: [u8; 3] = [0xff, 0xd8, 0xff];

/// Width and height by the header, up to the first scan.
pub(super) fn dimensions(file: impl BufRead + Seek) -> Result<(u32, u32), String> {
    let mut file = file;
    let frame = frame(&mut file).map_err(|error| error.to_string())?;
    // libjpeg notices only when it begins to decode.
    if frame.is_some_and(|marker| marker >= 0xc9) {
        return Err("arithmetic coding, which is not read".to_owned());
    }
    file.rewind().map_err(|error| error.to_string())?;
    guarded(|| Ok(size(&Decompress::new_reader(file).map_err(|error| error.to_string())?)))
}

/// The marker of the frame, which tells its coding, before the first scan.
fn frame(file: &mut (impl BufRead + Seek)) -> io::Result<Option<u8>> {
    let mut head = [0; 2];
    file.read_exact(&mut head)?;
    loop {
        if file.read_exact(&mut head).is_err() || head[0] != 0xff {
            return Ok(None);
        }
        match head[1] {
            // Fill.
            0xff => {
                file.seek_relative(-1)?;
            }
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => return Ok(Some(head[1])),
            0xda | 0xd9 => return Ok(None),
            _ => {
                let mut length = [0; 2];
                if file.read_exact(&mut length).is_err() {
                    return Ok(None);
                }
                file.seek_relative(i64::from(u16::from_be_bytes(length)) - 2)?;
            }
        }
    }
}

/// Refuses a file of so many scans that it was made to take long: each goes over the whole picture. It has to be rewound behind this.
pub(super) fn check_scans(file: &mut (impl BufRead + Seek)) -> Result<(), String> {
    // What is cut off or odd is for the decoder to say.
    if scans(file).is_ok_and(|scans| scans > MOST_SCANS) {
        return Err(format!("more than {MOST_SCANS} scans"));
    }
    Ok(())
}

/// Scans up to the end of the picture, behind which other things may stand; not many more than [`MOST_SCANS`] are counted.
fn scans(file: &mut (impl BufRead + Seek)) -> io::Result<usize> {
    let mut scans = 0;
    // The start of the picture, which has no length.
    file.seek_relative(2)?;
    while let Some(marker) = next_marker(file)?.filter(|marker| *marker != 0xd9) {
        scans += usize::from(marker == 0xda);
        if scans > MOST_SCANS {
            break;
        }
        let mut length = [0; 2];
        file.read_exact(&mut length)?;
        file.seek_relative((i64::from(u16::from_be_bytes(length)) - 2).max(0))?;
    }
    Ok(scans)
}

/// The next marker, behind what is coded.
fn next_marker(file: &mut impl BufRead) -> io::Result<Option<u8>> {
    let mut after_mark = false;
    loop {
        let bytes = file.fill_buf()?;
        let count = bytes.len();
        if count == 0 {
            return Ok(None);
        }
        for (place, byte) in bytes.iter().copied().enumerate() {
            // A zero or a restart belongs to what is coded, a further mark is fill, and 1 (TEM) stands alone.
            if after_mark && !matches!(byte, 0 | 1 | 0xd0..=0xd7 | 0xff) {
                file.consume(place + 1);
                return Ok(Some(byte));
            }
            after_mark = byte == 0xff;
        }
        file.consume(count);
    }
}

/// Decodes a file to RGB; with what libjpeg had to repair, if anything.
pub(super) fn decode(file: impl BufRead) -> Result<(RgbImage, Option<String>), String> {
    let cut = Cell::new(false);
    WARNING.take();
    let decoded = guarded(|| {
        let builder = Decompress::with_err(telling_errors());
        let header = builder.from_reader(Watched { file, cut: &cut }).map_err(|error| error.to_string())?;
        let (width, height) = size(&header);
        let pixels = pixels(header).map_err(|error| error.to_string())?;
        RgbImage::from_raw(width, height, pixels).ok_or_else(|| "rows are missing".to_owned())
    })?;
    if cut.get() { Err("it is cut off".to_owned()) } else { Ok((decoded, WARNING.take())) }
}

/// Encodes a picture to look at.
pub(super) fn encode(picture: &RgbImage) -> Result<Vec<u8>, String> {
    guarded(|| {
        let mut encoder = Compress::new(ColorSpace::JCS_RGB);
        encoder.set_size(picture.width() as usize, picture.height() as usize);
        encoder.set_quality(QUALITY);
        let encoded = encoder.start_compress(Vec::new()).and_then(|mut started| {
            started.write_scanlines(picture.as_raw())?;
            started.finish()
        });
        encoded.map_err(|error| error.to_string())
    })
}

thread_local! {
    /// The first warning of the file that this thread decodes.
    static WARNING: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// libjpeg's errors as unwinding, and its warnings kept: damaged data that it goes on from.
fn telling_errors() -> jpeg_error_mgr {
    // SAFETY: a struct of numbers and pointers, which jpeg_std_error fills in.
    let mut errors = unsafe { std::mem::zeroed() };
    // SAFETY: as its declaration asks.
    unsafe { jpeg_std_error(&mut errors) };
    errors.error_exit = Some(leave);
    errors.emit_message = Some(note);
    errors
}

extern "C-unwind" fn leave(cinfo: &mut jpeg_common_struct) {
    std::panic::resume_unwind(Box::new(message(cinfo)));
}

extern "C-unwind" fn note(cinfo: &mut jpeg_common_struct, level: c_int) {
    // Warnings are -1, what else it traces is above.
    if level < 0 {
        // A crafted file repeats its scans, each with a warning.
        // SAFETY: libjpeg hands over its own structure with the error manager in it.
        let count = unsafe {
            (*cinfo.err).num_warnings += 1;
            (*cinfo.err).num_warnings
        };
        if count > MOST_WARNINGS {
            leave(cinfo);
        }
        WARNING.with_borrow_mut(|warning| {
            warning.get_or_insert_with(|| message(cinfo));
        });
    }
}

/// libjpeg's own words.
fn message(cinfo: &mut jpeg_common_struct) -> String {
    let mut text = [0u8; 80];
    // SAFETY: libjpeg hands over its own structure with the error manager in it, whose function fills the 80 bytes.
    unsafe {
        if let Some(format) = (*cinfo.err).format_message {
            // Declared for a buffer that is only read.
            let format: unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut u8) = std::mem::transmute(format);
            format(cinfo, text.as_mut_ptr());
        }
    }
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end]).into_owned()
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
