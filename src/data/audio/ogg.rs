//! OGG files, page by page: where streams that were joined begin, what they hold, and whether the end is there.

use std::collections::HashMap;

use super::Header;
use super::compressed::{self, Length, Stream};

/// Flags of a page: the first and the last one of a stream.
const FIRST: u8 = 2;
const LAST: u8 = 4;

/// A page of a file.
struct Page<'a> {
    length: usize,
    flags: u8,
    /// Samples before the end of the last packet that ends here; they are counted from the start of a stream that this may be cut from.
    granule: u64,
    /// Packets that end here.
    packets: u64,
    /// Its stream, and its place in that.
    serial: u32,
    number: u32,
    /// Whether its checksum is right.
    is_whole: bool,
    body: &'a [u8],
}

fn page(bytes: &[u8], place: usize) -> Option<Page<'_>> {
    let rest = bytes.get(place..)?;
    if !rest.starts_with(b"OggS\0") {
        return None;
    }
    let segments = usize::from(*rest.get(26)?);
    let table = rest.get(27..27 + segments)?;
    let length = 27 + segments + table.iter().map(|length| usize::from(*length)).sum::<usize>();
    let packets = table.iter().filter(|length| **length < 255).count() as u64;
    let granule = u64::from_le_bytes(*rest.get(6..)?.first_chunk()?);
    let word = |at: usize| Some(u32::from_le_bytes(*rest.get(at..)?.first_chunk()?));
    let (serial, number, body) = (word(14)?, word(18)?, rest.get(27 + segments..length)?);
    let is_whole = word(22)? == checksum(&rest[..length]);
    Some(Page { length, flags: rest[5], granule, packets, serial, number, is_whole, body })
}

/// CRC-32 of a page, with zeros in its own place.
fn checksum(page: &[u8]) -> u32 {
    let bytes = page.iter().enumerate().map(|(place, byte)| if (22..26).contains(&place) { 0 } else { *byte });
    bytes.fold(0, |sum, byte| sum << 8 ^ CHECKSUMS[usize::from((sum >> 24) as u8 ^ byte)])
}

const CHECKSUMS: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = ((byte as u32) << 24, 0);
        while bit < 8 {
            sum = if sum >> 31 == 1 { sum << 1 ^ 0x04c1_1db7 } else { sum << 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

/// The streams of a file, one behind the other.
pub(super) struct Streams {
    pub(super) parts: Vec<(Stream, Length)>,
    /// Whether the last one has its end.
    has_end: bool,
}

impl Streams {
    /// Walks over `bytes`.
    pub(super) fn walk(bytes: Vec<u8>) -> Result<Self, String> {
        let (mut starts, mut end, mut place, mut was_first, mut has_end) = (Vec::new(), 0, 0, false, false);
        let mut latest: HashMap<u32, (u32, u64)> = HashMap::new();
        while place < bytes.len() {
            let Some(page) = page(&bytes, place) else {
                // Loose or cut bytes: on to the next page.
                let next = bytes[place + 1..].windows(4).position(|window| window == b"OggS");
                let Some(next) = next else {
                    has_end &= !bytes[place..].starts_with(b"OggS");
                    break;
                };
                place += 1 + next;
                continue;
            };
            let is_first = page.flags & FIRST != 0;
            // A stream that was joined may have the serial number of the one before.
            let (before, reached) = latest.get(&page.serial).filter(|_| !is_first).copied().unzip();
            if !page.is_whole || before.is_some_and(|before| page.number != before.wrapping_add(1)) {
                return Err("a page of it is damaged or missing".to_owned());
            }
            // A page may state no place.
            let states_place = page.granule != 0 && page.granule != u64::MAX;
            let reached = reached.unwrap_or(0);
            if states_place && page.granule < reached {
                return Err(format!("its pages end at sample {reached}, then at {}", page.granule));
            }
            latest.insert(page.serial, (page.number, if states_place { page.granule } else { reached }));
            if is_first {
                refuse(page.body)?;
            }
            if is_first && !was_first {
                starts.push(place);
            }
            was_first = is_first;
            has_end = page.flags & LAST != 0;
            place += page.length;
            end = place;
        }
        if starts.is_empty() {
            return Err("no stream begins in it".to_owned());
        }
        let ends = starts.iter().skip(1).copied().chain([end]);
        let ranges = starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect();
        let parts = Stream::of(bytes, ranges).into_iter().map(|stream| {
            // Without its end a stream's stated length is that of its last page, and still has to be there.
            let length = if starts_late(stream.as_ref()) { Length::Unknown } else { Length::WithinPacket };
            (stream, length)
        });
        Ok(Self { parts: parts.collect(), has_end })
    }

    /// What they say of themselves.
    pub(super) fn header(&self) -> Result<Header, String> {
        let whole = compressed::headers(self.parts.iter().map(|(stream, _)| stream))?;
        let is_known = self.parts.iter().all(|(_, length)| *length != Length::Unknown);
        Ok(Header { frames: whole.frames.filter(|_| is_known), wrong_header: self.odd(), ..whole })
    }

    /// What is not as it should be.
    pub(super) fn odd(&self) -> Option<String> {
        (!self.has_end).then(|| "its last page does not end the stream, so it may be cut off".to_owned())
    }
}

/// Whether a Vorbis stream was cut from a longer one: its first samples are later than its first packets reach. How long it is, only
/// decoding tells.
fn starts_late(stream: &[u8]) -> bool {
    let (mut place, mut largest) = (0, None);
    while let Some(page) = page(stream, place) {
        if let (true, Some(sizes)) = (page.body.starts_with(b"\x01vorbis"), page.body.get(28)) {
            largest = Some(1 << (sizes >> 4));
        } else if page.granule != 0 && page.granule != u64::MAX {
            return largest.is_some_and(|largest: u64| page.granule > page.packets * largest / 2 + largest);
        }
        place += page.length;
    }
    false
}

/// An error for a stream whose coding is not read.
fn refuse(body: &[u8]) -> Result<(), String> {
    let name = match body {
        [b'O', b'p', b'u', b's', b'H', b'e', b'a', b'd', ..] => "Opus",
        [b'S', b'p', b'e', b'e', b'x', ..] => "Speex",
        [0x80, b't', b'h', b'e', b'o', b'r', b'a', ..] => "Theora video",
        _ => return Ok(()),
    };
    Err(format!("{name} in an OGG file, which is not read; convert it: ffmpeg -i IN -c:a flac OUT.flac"))
}
