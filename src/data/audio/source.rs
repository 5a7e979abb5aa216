//! An open file of a known kind: its structure is walked over once, its samples are decoded once.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use super::clip::Extent;
use super::compressed::{self, Length, Stream};
use super::kind::{Kind, is_wav};
use super::mp3::Frames;
use super::ogg::Streams;
use super::riff::{self, Wav};
use super::{Header, Recording, longest, mp3, unreadable, wav};
use crate::data::budget::{Budget, FILES};
use crate::data::guard::open_regular;

/// Bytes of the largest file that is read.
const MAX_BYTES: u64 = 1 << 30;

/// A file, and the memory that its bytes were set aside.
pub(super) struct Source {
    kind: Opened,
    _taken: Budget,
}

enum Opened {
    Wav(BufReader<File>, Wav),
    /// The file behind its tags, whole, and its frames.
    Mp3(Vec<u8>, Frames),
    Ogg(Streams),
    Flac(Vec<Stream>),
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut file = open_regular(path)?;
        let size = file.metadata().map_err(text)?.len();
        if size > MAX_BYTES {
            return Err(format!("{size} bytes; files of more than {MAX_BYTES} are not read"));
        }
        let mut bytes = Vec::with_capacity(12);
        file.by_ref().take(12).read_to_end(&mut bytes).map_err(text)?;
        if is_wav(&bytes) {
            file.rewind().map_err(text)?;
            let mut file = BufReader::with_capacity(256, file);
            let wav = riff::walk(&mut file).map_err(|why| unreadable(&why))?;
            return Ok(Self { kind: Opened::Wav(file, wav), _taken: FILES.take(0) });
        }
        let taken = FILES.take(size);
        bytes.reserve_exact(size.saturating_sub(bytes.len() as u64) as usize);
        file.read_to_end(&mut bytes).map_err(text)?;
        let kind = Opened::of(bytes).map_err(|why| unreadable(&why))?;
        Ok(Self { kind, _taken: taken })
    }

    pub(super) fn header(&self) -> Result<Header, String> {
        match &self.kind {
            Opened::Wav(_, wav) => {
                Ok(Header { rate: wav.rate, frames: Some(wav.frames), wrong_header: wav.wrong_header.clone() })
            }
            Opened::Mp3(_, frames) => Ok(frames.header()),
            Opened::Ogg(streams) => streams.header(),
            Opened::Flac(streams) => compressed::headers(streams),
        }
    }

    /// Bytes of memory for decoding `extent`, and for resampling what comes of it.
    pub(super) fn memory(&self, header: &Header, extent: Extent) -> u64 {
        let range = extent.range(header.frames.unwrap_or(longest(header.rate)), header.rate);
        // Mixed down, with the room that grows ahead of it, and at another rate.
        let each = 16;
        match &self.kind {
            Opened::Wav(_, wav) if wav.is_in_blocks() => 4 * wav.bytes + each * wav.frames,
            Opened::Wav(_, wav) => (range.end - range.start) * (2 * wav.frame() + 4 * u64::from(wav.channels) + each),
            // Where no length is stated, nothing stops the decoding before the end.
            _ => each * header.frames.map_or(longest(header.rate).min(extent.most(header.rate)), |_| range.end),
        }
    }

    /// What `extent` asks for.
    pub(super) fn decode(&mut self, header: &Header, extent: Extent) -> Result<Recording, String> {
        match &mut self.kind {
            Opened::Wav(file, wav) => wav::decode(file, wav, extent),
            Opened::Mp3(bytes, frames) => mp3::decode(bytes, frames, extent),
            Opened::Ogg(streams) => {
                let recording = compressed::decode_all(&streams.parts, header, extent)?;
                let wrong_header = recording.wrong_header.or_else(|| streams.odd());
                Ok(Recording { wrong_header, ..recording })
            }
            Opened::Flac(streams) => {
                let parts: Vec<(Stream, Length)> =
                    streams.iter().map(|stream| (stream.clone(), Length::Exact)).collect();
                compressed::decode_all(&parts, header, extent)
            }
        }
    }
}

impl Opened {
    fn of(mut bytes: Vec<u8>) -> Result<Self, String> {
        let (kind, place) = Kind::of(&bytes)?;
        bytes.drain(..place);
        Ok(match kind {
            Kind::Mp3 => {
                let frames = Frames::walk(&bytes)?;
                Self::Mp3(bytes, frames)
            }
            Kind::Ogg => Self::Ogg(Streams::walk(bytes)?),
            Kind::Flac => Self::Flac(compressed::flac_streams(bytes)),
        })
    }
}

/// Keeps of `samples`, which begin with the file, those of `range`.
pub(super) fn cut(samples: &mut Vec<f32>, range: std::ops::Range<u64>) {
    samples.truncate(range.end as usize);
    samples.drain(..(range.start as usize).min(samples.len()));
}
