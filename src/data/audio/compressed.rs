//! FLAC, OGG Vorbis and ADPCM through symphonia.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;

use super::clip::Extent;
use super::source::cut;
use super::{Header, Recording, longest, mix_down};

/// What the length that a container states is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// It is that of what there is.
    Exact,
    /// It ends within the last packet (Vorbis).
    WithinPacket,
    /// Nothing. First packets that cannot be decoded without what was cut off are left out.
    Unknown,
}

/// Samples of a channel in the longest packet of Vorbis.
const PACKET: u64 = 8192;

/// A stream within the bytes of a file.
#[derive(Clone)]
pub(super) struct Stream {
    file: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Stream {
    /// The parts of `file` that are streams.
    pub(super) fn of(file: Vec<u8>, ranges: Vec<Range<usize>>) -> Vec<Self> {
        let file = Arc::new(file);
        ranges.into_iter().map(|range| Self { file: file.clone(), range }).collect()
    }
}

impl AsRef<[u8]> for Stream {
    fn as_ref(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

/// The start of a FLAC stream, up to the length of its first block.
const FLAC_STARTS: [&[u8; 8]; 2] = [b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"];

/// Reads what the container says.
fn header(file: impl MediaSource + 'static) -> Result<Header, String> {
    let format = open(file)?;
    let (track, parameters) = audio_track(&*format)?;
    let rate = parameters.sample_rate.ok_or("its sample rate is not stated")?;
    Ok(Header { rate, frames: stated(track), wrong_header: None })
}

/// Samples of a channel by the container. The place of the first is an absolute one: a stream can be cut from a longer one.
fn stated(track: &Track) -> Option<u64> {
    let length = track.num_frames.map(|end| end.saturating_sub(u64::try_from(track.start_ts.get()).unwrap_or(0)));
    // A last page may state no place, or the first one of all.
    length.filter(|length| (1..1 << 40).contains(length))
}

fn open(file: impl MediaSource + 'static) -> Result<Box<dyn FormatReader>, String> {
    let stream = MediaSourceStream::new(Box::new(file), Default::default());
    let (options, metadata) = (FormatOptions::default(), MetadataOptions::default());
    let format = symphonia::default::get_probe().probe(&Hint::new(), stream, options, metadata);
    format.map_err(|error| error.to_string())
}

fn audio_track(format: &dyn FormatReader) -> Result<(&Track, &AudioCodecParameters), String> {
    let track = format.default_track(TrackType::Audio);
    let found = track.and_then(|track| Some((track, track.codec_params.as_ref()?.audio()?)));
    found.ok_or_else(|| "there is no audio in it".to_owned())
}

/// The streams of a FLAC file, one behind the other: files are joined by hand.
pub(super) fn flac_streams(mut bytes: Vec<u8>) -> Vec<Stream> {
    // An ID3 tag of the first version stands behind everything else.
    if let Some(end) = bytes.len().checked_sub(128).filter(|end| bytes[*end..].starts_with(b"TAG")) {
        bytes.truncate(end);
    }
    let is_start = |place: &usize| {
        bytes[*place] == b'f' && FLAC_STARTS.iter().any(|start| bytes[*place..].starts_with(&start[..]))
    };
    let starts: Vec<usize> = std::iter::once(0).chain((1..bytes.len()).filter(is_start)).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let ranges = starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect();
    Stream::of(bytes, ranges)
}

/// What streams say of themselves, one behind the other.
pub(super) fn headers<'a>(streams: impl IntoIterator<Item = &'a Stream>) -> Result<Header, String> {
    let mut whole: Option<Header> = None;
    for stream in streams {
        let part = header(Cursor::new(stream.clone()))?;
        whole = Some(match whole {
            None => part,
            Some(before) if before.rate != part.rate => return Err("its sample rate changes".to_owned()),
            Some(before) => {
                Header { frames: before.frames.zip(part.frames).map(|(before, more)| before + more), ..part }
            }
        });
    }
    whole.ok_or_else(|| "there is no audio in it".to_owned())
}

/// Decodes what `extent` asks for of streams, one behind the other, that say `header` of themselves.
pub(super) fn decode_all(streams: &[(Stream, Length)], header: &Header, extent: Extent) -> Result<Recording, String> {
    // Where all is used, all is decoded, so that what is stated is compared with what is there.
    let used = header.frames.map(|frames| (extent.range(frames, header.rate).end, frames));
    let most = extent.most(header.rate);
    let stop = used.filter(|(used, frames)| used < frames).map_or(u64::MAX, |(used, _)| used).min(most);
    let mut whole = Recording { samples: Vec::new(), rate: header.rate, frames: 0, wrong_header: None };
    for (stream, length) in streams {
        let more = stop.saturating_sub(whole.samples.len() as u64);
        if more == 0 {
            break;
        }
        let part = decode(Cursor::new(stream.clone()), *length, more)?;
        if part.rate != whole.rate {
            return Err("its sample rate changes".to_owned());
        }
        whole.wrong_header = whole.wrong_header.or(part.wrong_header);
        if whole.samples.is_empty() {
            whole.samples = part.samples;
        } else {
            whole.samples.extend(part.samples);
        }
    }
    let decoded = whole.samples.len() as u64;
    whole.frames = header.frames.filter(|_| (stop..most).contains(&decoded)).unwrap_or(decoded);
    cut(&mut whole.samples, extent.range(whole.frames, whole.rate));
    Ok(whole)
}

/// Decodes a file of any kind that symphonia knows, at least `most` samples of a channel or all.
pub(super) fn decode(file: impl MediaSource + 'static, length: Length, most: u64) -> Result<Recording, String> {
    let text = |error: Error| error.to_string();
    let mut format = open(file)?;
    let (track, parameters) = audio_track(&*format)?;
    let (id, stated) = (track.id, stated(track));
    let options = AudioDecoderOptions::default().verify(true);
    let mut decoder = symphonia::default::get_codecs().make_audio_decoder(parameters, &options).map_err(text)?;

    let mut recording = Recording { samples: Vec::new(), rate: 0, frames: 0, wrong_header: None };
    let mut packets = 0usize;
    loop {
        if recording.samples.len() as u64 >= most {
            recording.frames = recording.samples.len() as u64;
            return Ok(recording);
        }
        let packet = match format.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            // Cut off within a packet.
            Err(Error::IoError(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof && packets > 0 => break,
            Err(Error::ResetRequired) => return Err("several streams in a row".to_owned()),
            Err(error) => return Err(text(error)),
        };
        if packet.track_id != id {
            continue;
        }
        packets += 1;
        match decoder.decode(&packet) {
            Ok(decoded) => take(&decoded, &mut recording)?,
            Err(Error::DecodeError(_)) if length == Length::Unknown && recording.samples.is_empty() => {}
            Err(error) => return Err(text(error)),
        }
    }
    let decoded = recording.samples.len() as u64;
    if let Some(stated) = stated.filter(|_| length != Length::Unknown) {
        if stated > decoded {
            return Err(format!("only {decoded} of {stated} samples can be decoded"));
        }
        if length == Length::WithinPacket && decoded - stated < PACKET {
            recording.samples.truncate(stated as usize);
        } else if stated < decoded {
            recording.wrong_header = Some(format!("the header states {stated} samples, the file holds {decoded}"));
        }
    }
    if decoded == 0 {
        return Err("nothing in it can be decoded".to_owned());
    }
    if length != Length::Unknown && decoder.finalize().verify_ok == Some(false) {
        return Err("its samples do not have the checksum that it states".to_owned());
    }
    recording.frames = recording.samples.len() as u64;
    Ok(recording)
}

/// Adds decoded samples to a recording, mixed down.
pub(super) fn take(decoded: &GenericAudioBufferRef, recording: &mut Recording) -> Result<(), String> {
    let spec = decoded.spec();
    if recording.rate != 0 && recording.rate != spec.rate() {
        return Err("its sample rate changes".to_owned());
    }
    recording.rate = spec.rate();
    let mut interleaved: Vec<f32> = Vec::new();
    decoded.copy_to_vec_interleaved(&mut interleaved);
    recording.samples.extend(mix_down(interleaved, spec.channels().count()));
    let most = longest(recording.rate);
    if recording.samples.len() as u64 > most {
        return Err(format!("more than {most} samples; no utterance is longer, cut it"));
    }
    Ok(())
}
