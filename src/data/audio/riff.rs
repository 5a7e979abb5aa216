//! The one opinion on the header of a WAV file: a walk over its chunks. RIFF, RF64 and BW64; chunks of odd length with or without their
//! byte of padding; files that their writer left unfinished; bytes behind the samples.

use std::io::{ErrorKind, Read, Seek, SeekFrom};

use super::adpcm::Adpcm;

/// How samples are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Whole numbers: unsigned in one byte, signed in more.
    Pcm,
    /// IEEE floating point.
    Float,
    /// G.711 A-law.
    ALaw,
    /// G.711 mu-law.
    MuLaw,
    /// In blocks.
    Adpcm(Adpcm),
}

/// Where the samples of a file lie and what they are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wav {
    pub(super) coding: Coding,
    pub(super) channels: u16,
    /// Samples a second.
    pub(super) rate: u32,
    /// Bytes of one sample of one channel; of ADPCM, of a block.
    pub(super) container: u16,
    /// First byte of the samples.
    pub(super) start: u64,
    /// Bytes of samples: whole frames.
    pub(super) bytes: u64,
    /// Samples of each channel.
    pub(super) frames: u64,
    /// What the header says wrongly, if anything.
    pub(super) wrong_header: Option<String>,
}

/// What stands in a length that its writer never filled in.
const UNFINISHED: [u64; 2] = [0, 0xffff_ffff];
/// Bytes of the longest `fmt ` chunk that is read.
const FORMAT: u64 = 1 << 16;
/// Chunks that are walked over.
const CHUNKS: usize = 100_000;
/// The end of the identifier of an extensible format whose beginning is a plain format's number; the second is ambisonic.
const SUBFORMATS: [[u8; 14]; 2] = [
    [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71],
    [0, 0, 0x21, 7, 0xd3, 0x11, 0x86, 0x44, 0xc8, 0xc1, 0xca, 0, 0, 0],
];

/// Chunks that stand behind samples.
const TAILS: [&[u8; 4]; 16] = [
    b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"cue ", b"smpl", b"inst", b"fact", b"JUNK", b"junk", b"PAD ",
    b"FLLR", b"_PMX", b"afsp", b"RIFF",
];

/// A chunk's name and stated length.
type Chunk = ([u8; 4], u64);

/// Walks over `file`.
///
/// # Errors
/// When it holds no samples, or samples that are not read.
pub(super) fn walk(file: &mut (impl Read + Seek)) -> Result<Wav, String> {
    let text = |error: std::io::Error| error.to_string();
    let end = file.seek(SeekFrom::End(0)).map_err(text)?;
    let mut walk = Walk { file, end };
    let mut magic = [0; 12];
    walk.read(0, &mut magic).map_err(text)?.then_some(()).ok_or("its header is cut")?;
    let riff = u64::from(u32_at(&magic, 4));
    if magic[8..] != *b"WAVE" {
        return Err("a RIFF file, but no WAVE".to_owned());
    }
    let (mut riff_end, mut long, mut format, mut fact) = ((riff, 8 + riff), None, None, None);
    let mut place = 12;
    for _ in 0..CHUNKS {
        let Some((name, stated)) = walk.chunk(place).map_err(text)? else { break };
        let start = place + 8;
        match &name {
            b"ds64" => {
                let mut sizes = [0; 16];
                walk.read(start, &mut sizes).map_err(text)?.then_some(()).ok_or("its ds64 chunk is cut")?;
                let size = u64_at(&sizes, 0);
                riff_end = (size, size.saturating_add(8));
                long = Some(u64_at(&sizes, 8));
            }
            b"fmt " => {
                let mut bytes = vec![0; stated.min(FORMAT) as usize];
                walk.read(start, &mut bytes).map_err(text)?.then_some(()).ok_or("its fmt chunk is cut")?;
                format = Some(bytes);
            }
            b"fact" => {
                let mut count = [0; 4];
                fact = walk.read(start, &mut count).map_err(text)?.then(|| u64::from(u32_at(&count, 0)));
            }
            b"data" => {
                let format = format.ok_or("its samples stand before their format")?;
                let stated = if stated == 0xffff_ffff { long.unwrap_or(stated) } else { stated };
                let mut wav = walk.samples(&format, start, stated, riff_end)?;
                // Blocks are full; how many of the last one's samples count stands here.
                let in_last =
                    |count: &u64| wav.frames.checked_sub(*count).is_some_and(|less| less < wav.frames_of(wav.frame()));
                if let Some(count) = fact.filter(|_| wav.is_in_blocks()).filter(in_last) {
                    wav.frames = count;
                }
                return Ok(wav);
            }
            _ => {}
        }
        place = walk.after(start.saturating_add(stated), stated % 2 == 1).map_err(text)?;
    }
    Err("there are no samples in it".to_owned())
}

struct Walk<'a, R> {
    file: &'a mut R,
    end: u64,
}

impl<R: Read + Seek> Walk<'_, R> {
    /// Fills `bytes` from `place` on; false where the file ends before.
    fn read(&mut self, place: u64, bytes: &mut [u8]) -> std::io::Result<bool> {
        self.file.seek(SeekFrom::Start(place))?;
        match self.file.read_exact(bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// The chunk at `place`, unless the file ends before.
    fn chunk(&mut self, place: u64) -> std::io::Result<Option<Chunk>> {
        let mut header = [0; 8];
        let is_whole = place < self.end && self.read(place, &mut header)?;
        let [a, b, c, d, ..] = header;
        Ok(is_whole.then(|| ([a, b, c, d], u64::from(u32_at(&header, 4)))))
    }

    /// Whether a chunk stands at `place`: a name in plain letters and a length within the file, or samples.
    fn is_chunk(&mut self, place: u64) -> std::io::Result<bool> {
        let Some((name, length)) = self.chunk(place)? else { return Ok(false) };
        let is_plain = name.iter().all(|byte| matches!(byte, b' '..=b'~'));
        Ok(is_plain && (name == *b"data" || place + 8 + length <= self.end))
    }

    /// Where the chunk behind one that ends at `place` begins. Chunks of odd length are padded, though some writers forget it.
    fn after(&mut self, place: u64, is_odd: bool) -> std::io::Result<u64> {
        let forgotten = is_odd && !self.is_chunk(place + 1)? && self.is_chunk(place)?;
        Ok(place + u64::from(is_odd && !forgotten))
    }

    /// Whether a row of chunks goes from `place` (perhaps behind a byte of padding) to `end`; at most 8 loose bytes may be left.
    fn are_chunks(&mut self, mut place: u64, mut is_odd: bool, end: u64) -> std::io::Result<bool> {
        for _ in 0..CHUNKS {
            if place + u64::from(is_odd) >= end {
                return Ok(true);
            }
            place = self.after(place, is_odd)?;
            if !self.is_chunk(place)? {
                // Loose bytes, too few for a chunk.
                return Ok(end.saturating_sub(place) < 8);
            }
            let Some((_, length)) = self.chunk(place)? else { return Ok(true) };
            (place, is_odd) = (place + 8 + length, length % 2 == 1);
        }
        Ok(false)
    }

    /// The samples that begin at `start`, with `stated` bytes by their own header and the end of the file at `riff_end` by the first one.
    fn samples(&mut self, format: &[u8], start: u64, stated: u64, riff_end: (u64, u64)) -> Result<Wav, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut wav = Wav::of_format(format)?;
        let available = self.end - start.min(self.end);
        let is_right = self.is_right(start, stated, riff_end).map_err(text)?;
        let bytes = if is_right { stated } else { available };
        let frame = wav.frame();
        wav.start = start;
        wav.frames = wav.frames_of(bytes);
        wav.bytes = bytes - if wav.is_in_blocks() { 0 } else { bytes % frame };
        let behind = start + bytes;
        if is_right && self.chunk(behind).map_err(text)?.is_some_and(|(name, _)| name == *b"RIFF") {
            wav.wrong_header = Some("another WAV file follows in it, which is not read".to_owned());
        } else if !is_right && stated != available {
            wav.wrong_header = Some(format!("the header states {stated} bytes of samples, the file holds {available}"));
        } else if !wav.is_in_blocks() && bytes % frame != 0 {
            wav.wrong_header = Some(format!("its {bytes} bytes of samples end within a frame of {frame}"));
        }
        Ok(wav)
    }

    /// Whether what stands at `place` is no sound: a chunk that is known to follow samples, whole or cut, or zeros to the end.
    fn is_tail(&mut self, place: u64, is_odd: bool) -> std::io::Result<bool> {
        for place in [place, place + u64::from(is_odd)] {
            if self.chunk(place)?.is_some_and(|(name, _)| TAILS.contains(&&name)) {
                return Ok(true);
            }
        }
        let mut rest = vec![0; (self.end - place).min(1 << 20) as usize];
        let is_whole = rest.len() as u64 == self.end - place;
        Ok(is_whole && self.read(place, &mut rest)? && rest.iter().all(|byte| *byte == 0))
    }

    /// Whether the stated length of the samples is to be believed: the file holds it, and what follows up to the end, by the first header or
    /// by the file, are chunks.
    fn is_right(&mut self, start: u64, stated: u64, (riff, riff_end): (u64, u64)) -> std::io::Result<bool> {
        let (after, is_odd) = (start.saturating_add(stated), stated % 2 == 1);
        if after > self.end {
            return Ok(false);
        }
        if after == self.end && !UNFINISHED.contains(&stated) {
            return Ok(true);
        }
        let is_finished = !UNFINISHED.contains(&riff) && riff_end <= self.end && riff_end >= after;
        if !UNFINISHED.contains(&stated) && self.is_tail(after, is_odd)? {
            return Ok(true);
        }
        if UNFINISHED.contains(&stated) {
            // Behind no samples stand chunks, or nothing; behind a length that was never filled in stand samples.
            return if after < self.end { self.are_chunks(after, false, self.end) } else { Ok(stated == 0) };
        }
        if is_finished && self.are_chunks(after, is_odd, riff_end)? {
            return Ok(true);
        }
        self.are_chunks(after, is_odd, self.end)
    }
}

impl Wav {
    /// What a `fmt ` chunk says; of bytes that carry nothing for its coding, there may be more or fewer.
    fn of_format(format: &[u8]) -> Result<Self, String> {
        if format.len() < 14 {
            return Err("its fmt chunk is too short".to_owned());
        }
        let is_plain = u16_at(format, 0) == 1;
        let (mut tag, channels, rate) = (u16_at(format, 0), u16_at(format, 2), u32_at(format, 4));
        let align = u16_at(format, 12);
        let bits = if format.len() >= 16 { u16_at(format, 14) } else { 8 * (align / channels.max(1)) };
        if tag == 0xfffe {
            let tail = format.get(26..40).ok_or("its extensible fmt chunk is too short")?;
            if !SUBFORMATS.iter().any(|known| known == tail) {
                return Err("its extensible format is of an unknown kind".to_owned());
            }
            tag = u16_at(format, 24);
        }
        let coding = match tag {
            1 => Coding::Pcm,
            3 => Coding::Float,
            6 => Coding::ALaw,
            7 => Coding::MuLaw,
            2 => Coding::Adpcm(Adpcm::Microsoft),
            0x11 => Coding::Adpcm(Adpcm::Ima),
            other => return Err(not_read(other)),
        };
        if channels == 0 || channels > 64 {
            return Err(format!("{channels} channels"));
        }
        if let Coding::Adpcm(adpcm) = coding {
            adpcm.check(format, channels, align, bits)?;
            return Ok(Self {
                coding,
                channels,
                rate,
                container: align,
                start: 0,
                bytes: 0,
                frames: 0,
                wrong_header: None,
            });
        }
        // The container says how samples are read; they sit at its top, however many of its bits are valid.
        let by_bits = bits.div_ceil(8);
        let by_align = align / channels;
        // In the plain form it holds the bits and no more, but for 24 bits in four bytes.
        let is_wide = !is_plain || (by_bits, by_align) == (3, 4);
        let is_sound = is_wide && align.is_multiple_of(channels) && (by_bits..=8).contains(&by_align) && by_align > 0;
        let container = if is_sound { by_align } else { by_bits };
        let is_known = match coding {
            Coding::Pcm => (1..=4).contains(&container),
            Coding::Float => matches!(container, 4 | 8),
            Coding::ALaw | Coding::MuLaw | Coding::Adpcm(_) => container == 1,
        };
        if !is_known {
            return Err(format!("samples of {bits} bits in {container} bytes, which are not read"));
        }
        let wrong_header = (is_plain && u32::from(align) != u32::from(channels) * u32::from(bits.div_ceil(8)))
            .then(|| format!("the header states frames of {align} bytes for {channels} x {bits} bits"));
        Ok(Self { coding, channels, rate, container, start: 0, bytes: 0, frames: 0, wrong_header })
    }

    /// Bytes of a sample of all channels; of ADPCM, of a block.
    pub(super) fn frame(&self) -> u64 {
        let channels = if self.is_in_blocks() { 1 } else { u64::from(self.channels) };
        u64::from(self.container) * channels
    }

    pub(super) fn is_in_blocks(&self) -> bool {
        matches!(self.coding, Coding::Adpcm(_))
    }

    fn frames_of(&self, bytes: u64) -> u64 {
        let whole = bytes / self.frame();
        match self.coding {
            Coding::Adpcm(adpcm) => {
                // The last block may be cut.
                let rest = adpcm.samples((bytes % self.frame()) as u16, self.channels);
                adpcm.samples(self.container, self.channels) * whole + rest
            }
            _ => whole,
        }
    }
}

/// A coding that is not read, with a command that makes one that is.
fn not_read(tag: u16) -> String {
    let name = match tag {
        0x31 => "GSM 6.10",
        0x40 | 0x45 | 0x64 => "G.726",
        0x50 => "MPEG layer 1 or 2",
        0x55 => "MP3",
        0x160..=0x163 => "Windows Media",
        0x2000 => "AC-3",
        0xff => "AAC",
        _ => "a coding that is not read",
    };
    format!("{name} (format {tag:#06x}) in a WAV file; convert it: ffmpeg -i IN -c:a pcm_s16le OUT.wav")
}

fn u16_at(bytes: &[u8], place: usize) -> u16 {
    u16::from_le_bytes([bytes[place], bytes[place + 1]])
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    u32::from(u16_at(bytes, place)) | u32::from(u16_at(bytes, place + 2)) << 16
}

fn u64_at(bytes: &[u8], place: usize) -> u64 {
    u64::from(u32_at(bytes, place)) | u64::from(u32_at(bytes, place + 4)) << 32
}
