//! WAV files, also those whose header states a wrong length (Flickr8k Audio Captions holds one).

use std::io::{Cursor, ErrorKind, Read, Seek, SeekFrom};

use hound::{SampleFormat, WavReader};

use super::compressed::{self, Damage};
use super::{Header, Recording, mix_down};

/// Where the samples of a file lie.
struct Samples {
    /// First byte.
    start: u64,
    /// Bytes by the header.
    stated: u64,
    /// Bytes in the file: whole frames.
    real: u64,
    /// Bytes of one sample of all channels.
    frame: u64,
    /// Samples a second.
    rate: u32,
}

/// Decodes a WAV file.
pub(super) fn decode(mut bytes: Vec<u8>) -> Result<Recording, String> {
    let found = find(&mut Cursor::new(&bytes))?;
    let length = u32::try_from(found.real).map_err(|_| "too long".to_owned())?;
    // RF64 differs in lengths only, and the right one is put in here.
    bytes[..4].copy_from_slice(b"RIFF");
    let start = found.start as usize;
    bytes[start - 4..start].copy_from_slice(&length.to_le_bytes());

    let mut recording = match WavReader::new(Cursor::new(&bytes)) {
        Ok(reader) => {
            let data = &bytes[start..start + found.real as usize];
            samples(reader, data).map_err(|error| error.to_string())?
        }
        // A-law, mu-law, 64-bit float.
        Err(hound::Error::Unsupported | hound::Error::FormatError(_)) => {
            compressed::decode(Cursor::new(bytes), Damage::Refuse)?
        }
        Err(error) => return Err(error.to_string()),
    };
    recording.wrong_header = found.wrong_header();
    Ok(recording)
}

/// Reads the header of a WAV file.
pub(super) fn header(mut file: impl Read + Seek) -> Result<Header, String> {
    let found = find(&mut file)?;
    let seconds = (found.real / found.frame) as f64 / f64::from(found.rate.max(1));
    Ok(Header { rate: found.rate, seconds: Some(seconds), wrong_header: found.wrong_header() })
}

impl Samples {
    fn wrong_header(&self) -> Option<String> {
        (self.real != self.stated)
            .then(|| format!("the header states {} bytes of samples, the file holds {}", self.stated, self.real))
    }
}

fn samples(mut reader: WavReader<Cursor<&Vec<u8>>>, data: &[u8]) -> hound::Result<Recording> {
    let spec = reader.spec();
    let interleaved: Vec<f32> = match (spec.sample_format, spec.bits_per_sample) {
        // Nearly all files; hound takes five times as long.
        (SampleFormat::Int, 16) => {
            data.chunks_exact(2).map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0).collect()
        }
        (SampleFormat::Float, _) => reader.samples::<f32>().collect::<hound::Result<_>>()?,
        (SampleFormat::Int, _) => {
            let scale = 1.0 / (1u64 << (spec.bits_per_sample - 1)) as f32;
            reader.samples::<i32>().map(|sample| Ok(sample? as f32 * scale)).collect::<hound::Result<_>>()?
        }
    };
    let samples = mix_down(interleaved, usize::from(spec.channels));
    Ok(Recording { samples, rate: spec.sample_rate, wrong_header: None })
}

/// Finds the samples. What follows a chunk of the stated length must be other chunks, or else the length is wrong.
fn find(file: &mut (impl Read + Seek)) -> Result<Samples, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(text)?;
    let end = file.seek(SeekFrom::End(0)).map_err(text)?;
    let (mut place, mut frame, mut rate) = (12, 1, 0);
    while let Some((name, stated)) = chunk(file, place).map_err(text)? {
        let start = place + 8;
        match &name {
            b"fmt " => {
                let mut format = [0; 16];
                file.read_exact(&mut format).map_err(|_| "its header is cut".to_owned())?;
                rate = u32::from_le_bytes([format[4], format[5], format[6], format[7]]);
                frame = u64::from(u16::from_le_bytes([format[12], format[13]])).max(1);
            }
            b"data" => {
                let available = end - start;
                let possible = stated > 0 && stated <= available && stated % frame == 0;
                let plausible = possible && are_chunks(file, start + stated, end).map_err(text)?;
                let real = if plausible { stated } else { available };
                let real = real - real % frame;
                // RF64 states no length here.
                let stated = if magic == *b"RF64" { real } else { stated };
                return Ok(Samples { start, stated, real, frame, rate });
            }
            _ => {}
        }
        place = start + stated + stated % 2;
    }
    Err("there are no samples in it".to_owned())
}

/// Name and length of the chunk at `place`, unless the file ends before.
fn chunk(file: &mut (impl Read + Seek), place: u64) -> std::io::Result<Option<([u8; 4], u64)>> {
    let mut header = [0; 8];
    file.seek(SeekFrom::Start(place))?;
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
        Ok(()) => {
            let [a, b, c, d, length @ ..] = header;
            Ok(Some(([a, b, c, d], u64::from(u32::from_le_bytes(length)))))
        }
    }
}

/// Whether a row of chunks goes from `place` to `end`; a byte of padding may stand before each, and some at the end.
fn are_chunks(file: &mut (impl Read + Seek), mut place: u64, end: u64) -> std::io::Result<bool> {
    while let Some((name, length)) = chunk(file, place)? {
        let is_chunk = |place: u64, name: [u8; 4], length: u64| {
            name.iter().all(|byte| matches!(byte, b' '..=b'~')) && place + 8 + length <= end
        };
        if is_chunk(place, name, length) {
            place += 8 + length;
            continue;
        }
        match chunk(file, place + 1)? {
            Some((after, length)) if name[0] == 0 && is_chunk(place + 1, after, length) => place += 9 + length,
            None => return Ok(true),
            _ => return Ok(false),
        }
    }
    Ok(true)
}
