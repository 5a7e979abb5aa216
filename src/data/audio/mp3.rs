//! MP3 files, frame by frame: the length is what the frames say, not what a tag or the first frame's bit rate suggest.

use symphonia::core::codecs::audio::well_known::CODEC_ID_MP3;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use super::clip::Extent;
use super::kind::tag_length;
use super::source::cut;
use super::{Header, Recording, compressed};

/// Samples that the decoder itself lags behind.
const DECODER_DELAY: u64 = 528 + 1;
/// Samples of a channel in a frame at most.
const LARGEST_FRAME: usize = 1152;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    /// Bytes of the whole frame.
    length: usize,
    /// Samples of a channel.
    samples: u64,
    rate: u32,
    is_mono: bool,
    is_version_1: bool,
}

/// The frames of a file.
pub(super) struct Frames {
    /// Place and header of each that holds sound.
    frames: Vec<(usize, Frame)>,
    /// Samples that the encoder put before and behind the sound.
    trim: (u64, u64),
    /// What is not as it should be.
    odd: Option<String>,
}

/// Whether frames begin at the start of `bytes`: two that fit together, or one that is all.
pub(super) fn is_mp3(bytes: &[u8]) -> bool {
    frame_header(bytes).is_some_and(|first| match bytes.get(first.length..).and_then(frame_header) {
        Some(second) => second.rate == first.rate,
        None => bytes.len() <= first.length + 4,
    })
}

/// The header of layer 3 at the start of `bytes`.
fn frame_header(bytes: &[u8]) -> Option<Frame> {
    const RATES: [u32; 3] = [44_100, 48_000, 32_000];
    const KILOBITS: [[u32; 15]; 2] = [
        [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    ];
    let [first, second, third, fourth] = *bytes.first_chunk()?;
    let is_frame = first == 0xff && second & 0xe6 == 0xe2;
    // 0: MPEG 2.5, 2: MPEG 2, 3: MPEG 1
    let version = second >> 3 & 3;
    let (kilobits, rate) = (usize::from(third >> 4), usize::from(third >> 2 & 3));
    if !is_frame || version == 1 || kilobits == 0 || kilobits == 15 || rate == 3 {
        return None;
    }
    let is_version_1 = version == 3;
    let rate = RATES[rate] >> [2, 0, 1, 0][usize::from(version)];
    let kilobits = KILOBITS[usize::from(!is_version_1)][kilobits];
    let samples: u32 = if is_version_1 { 1152 } else { 576 };
    let length = samples / 8 * 1000 * kilobits / rate + u32::from(third >> 1 & 1);
    Some(Frame { length: length as usize, samples: samples.into(), rate, is_mono: fourth >> 6 == 3, is_version_1 })
}

impl Frames {
    /// Walks over `bytes`, a file; tags and loose bytes between frames are passed over.
    pub(super) fn walk(bytes: &[u8]) -> Result<Self, String> {
        let mut walk = Self { frames: Vec::new(), trim: (0, 0), odd: None };
        let (mut place, mut stated, mut streams) = (0, None, 0);
        let (mut expected, mut was_tag): (Option<(usize, u32)>, bool) = (None, false);
        while place < bytes.len() {
            let rest = &bytes[place..];
            let Some(frame) = frame_header(rest) else {
                let tag = tag_length(rest);
                was_tag |= tag.is_some();
                place += tag.unwrap_or(1).max(1);
                continue;
            };
            let rate = walk.frames.first().map_or(frame.rate, |(_, first)| first.rate);
            let is_end = rest.len() <= frame.length;
            // Behind another frame one of the same kind is believed; elsewhere what follows has to fit as well.
            let is_expected = expected == Some((place, frame.rate));
            let fits = is_expected || (!walk.frames.is_empty() && is_end && frame.rate == rate) || is_mp3(rest);
            if !fits {
                place += 1;
                continue;
            }
            if frame.rate != rate {
                if is_end || rest.get(frame.length..).and_then(frame_header).is_none() {
                    place += 1;
                    continue;
                }
                return Err("its sample rate changes".to_owned());
            }
            if expected.is_some_and(|(at, _)| at != place) && !was_tag && walk.odd.is_none() {
                walk.odd = Some("there are bytes between its frames that are no sound".to_owned());
            }
            was_tag = false;
            if rest.len() < frame.length {
                walk.odd = Some("it is cut off within a frame".to_owned());
                break;
            }
            match info(&rest[..frame.length], frame) {
                Some(Info { count, delay, padding }) => {
                    streams += 1;
                    (stated, walk.trim) = (count, (delay, padding));
                }
                None => walk.frames.push((place, frame)),
            }
            place += frame.length;
            expected = Some((place, frame.rate));
        }
        // What was joined has no gap of its own to take away.
        if streams > 1 {
            (stated, walk.trim) = (None, (0, 0));
        }
        let count = walk.frames.len() as u64;
        if let Some(stated) = stated.filter(|stated| *stated != count) {
            walk.odd.get_or_insert_with(|| format!("its first frame states {stated} frames, the file holds {count}"));
            // The end that was to be trimmed is not there, or is followed by more.
            walk.trim.1 = 0;
        }
        if walk.frames.is_empty() { Err("no MP3 frames in it".to_owned()) } else { Ok(walk) }
    }

    pub(super) fn header(&self) -> Header {
        Header { rate: self.frames[0].1.rate, frames: Some(self.samples()), wrong_header: self.odd.clone() }
    }

    fn samples(&self) -> u64 {
        let all: u64 = self.frames.iter().map(|(_, frame)| frame.samples).sum();
        all.saturating_sub(self.trim.0 + self.trim.1)
    }
}

/// What a frame without sound says of the others: Xing's, or LAME's.
struct Info {
    count: Option<u64>,
    delay: u64,
    padding: u64,
}

fn info(bytes: &[u8], frame: Frame) -> Option<Info> {
    let side = match (frame.is_version_1, frame.is_mono) {
        (true, false) => 32,
        (true, true) | (false, false) => 17,
        (false, true) => 9,
    };
    let vbri = bytes.get(36..40).is_some_and(|name| name == b"VBRI");
    if vbri {
        let count = bytes.get(50..54).and_then(|count| Some(u64::from(u32::from_be_bytes(count.try_into().ok()?))));
        return Some(Info { count, delay: 0, padding: 0 });
    }
    let tag = bytes.get(4 + side..).filter(|tag| tag.starts_with(b"Xing") || tag.starts_with(b"Info"))?;
    let flags = u32::from_be_bytes(tag.get(4..8)?.try_into().ok()?);
    let mut place = 8;
    let count = (flags & 1 != 0).then(|| tag.get(8..12)).flatten();
    let count = count.and_then(|count| Some(u64::from(u32::from_be_bytes(count.try_into().ok()?))));
    for (flag, length) in [(1, 4), (2, 4), (4, 100), (8, 4)] {
        place += if flags & flag != 0 { length } else { 0 };
    }
    // LAME's part: 21 bytes on, twelve bits each of what the encoder put before and behind.
    let gap = tag.get(place + 21..place + 24).filter(|_| tag[place..].first().is_some_and(u8::is_ascii_alphabetic));
    let (delay, padding) = gap.map_or((0, 0), |gap| {
        let (before, behind) =
            (u64::from(gap[0]) << 4 | u64::from(gap[1] >> 4), u64::from(gap[1] & 15) << 8 | u64::from(gap[2]));
        (before + DECODER_DELAY, behind.saturating_sub(DECODER_DELAY))
    });
    Some(Info { count, delay, padding })
}

/// Decodes what `extent` asks for of `walk`, the frames of `bytes`. The first frames of a stream that was cut lean on bytes that are gone:
/// they are silent.
pub(super) fn decode(bytes: &[u8], walk: &Frames, extent: Extent) -> Result<Recording, String> {
    let Header { rate, wrong_header, .. } = walk.header();
    let (frames, (before, _)) = (walk.samples(), walk.trim);
    let range = extent.range(frames, rate);
    let mut parameters = AudioCodecParameters::new();
    parameters.for_codec(CODEC_ID_MP3).with_sample_rate(rate);
    let fresh = || {
        let options = AudioDecoderOptions::default().gapless(false);
        symphonia::default::get_codecs().make_audio_decoder(&parameters, &options).map_err(|error| error.to_string())
    };
    let (mut decoder, mut is_mono) = (fresh()?, walk.frames[0].1.is_mono);
    let mut recording = Recording { samples: Vec::new(), rate, frames, wrong_header };
    let needed = (before + range.end) as usize;
    let (mut visited, mut lost, mut time) = (0u64, 0u64, 0);
    for (place, frame) in &walk.frames {
        if recording.samples.len() >= needed + LARGEST_FRAME {
            break;
        }
        visited += 1;
        if frame.is_mono != is_mono {
            // Files of one and two channels that were joined.
            (decoder, is_mono) = (fresh()?, frame.is_mono);
        }
        let data = &bytes[*place..place + frame.length];
        let packet = Packet::new(0, Timestamp::from(time), Duration::from(frame.samples), data);
        time += frame.samples as i64;
        match decoder.decode(&packet) {
            Ok(decoded) => compressed::take(&decoded, &mut recording)?,
            // Silence, so that what follows keeps its place.
            Err(Error::DecodeError(_)) => {
                lost += 1;
                recording.samples.resize(recording.samples.len() + frame.samples as usize, 0.0);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    let broken = (lost > 0).then(|| format!("{lost} of {visited} frames cannot be decoded"));
    if recording.samples.is_empty() || lost > visited / 2 {
        return Err(broken.unwrap_or_else(|| "nothing in it can be decoded".to_owned()));
    }
    recording.wrong_header = recording.wrong_header.or(broken);
    cut(&mut recording.samples, before + range.start..before + range.end);
    Ok(recording)
}
