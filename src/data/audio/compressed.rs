//! FLAC, OGG Vorbis and ADPCM through symphonia.

use std::io::Cursor;

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;

use super::{Header, MAX_FRAMES, Recording, mix_down};

/// What a packet that cannot be decoded means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// The file is broken.
    Refuse,
    /// It is left out, as long as others can be decoded: what the container says of the length cannot be held against it.
    PassOver,
}

/// The start of a FLAC stream, up to the length of its first block.
const FLAC_STARTS: [&[u8; 8]; 2] = [b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"];

/// Reads what the container says.
pub(super) fn header(file: impl MediaSource + 'static) -> Result<Header, String> {
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
fn flac_streams(bytes: &[u8]) -> Vec<&[u8]> {
    let is_start = |place: &usize| {
        bytes[*place] == b'f' && FLAC_STARTS.iter().any(|start| bytes[*place..].starts_with(&start[..]))
    };
    let starts: Vec<usize> = std::iter::once(0).chain((1..bytes.len()).filter(is_start)).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| &bytes[start..end]).collect()
}

/// Reads what the streams of a FLAC file say of themselves.
pub(super) fn flac_header(bytes: &[u8]) -> Result<Header, String> {
    join_headers(flac_streams(bytes).into_iter().map(|stream| header(Cursor::new(stream.to_vec()))))
}

/// Decodes FLAC, at least `most` samples of a channel or all.
pub(super) fn flac(bytes: &[u8], most: u64) -> Result<Recording, String> {
    join(flac_streams(bytes).into_iter().map(|stream| || decode(Cursor::new(stream.to_vec()), Damage::Refuse)), most)
}

/// What streams say of themselves, one behind the other.
pub(super) fn join_headers(parts: impl Iterator<Item = Result<Header, String>>) -> Result<Header, String> {
    let mut whole: Option<Header> = None;
    for part in parts {
        let part = part?;
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

/// What streams hold, one behind the other, until `most` samples of a channel are there.
pub(super) fn join<P: FnOnce() -> Result<Recording, String>>(
    parts: impl Iterator<Item = P>,
    most: u64,
) -> Result<Recording, String> {
    let mut whole: Option<Recording> = None;
    for part in parts {
        match &mut whole {
            None => whole = Some(part()?),
            Some(before) if before.samples.len() as u64 >= most => break,
            Some(before) => {
                let more = part()?;
                if more.rate != before.rate {
                    return Err("its sample rate changes".to_owned());
                }
                before.frames += more.frames;
                before.samples.extend(more.samples);
            }
        }
    }
    whole.ok_or_else(|| "there is no audio in it".to_owned())
}

/// Decodes a file of any kind that symphonia knows.
pub(super) fn decode(file: impl MediaSource + 'static, damage: Damage) -> Result<Recording, String> {
    let text = |error: Error| error.to_string();
    let mut format = open(file)?;
    let (track, parameters) = audio_track(&*format)?;
    let (id, stated) = (track.id, stated(track));
    let options = AudioDecoderOptions::default().verify(true);
    let mut decoder = symphonia::default::get_codecs().make_audio_decoder(parameters, &options).map_err(text)?;

    let mut recording = Recording { samples: Vec::new(), rate: 0, frames: 0, wrong_header: None };
    let mut packets = 0usize;
    loop {
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
            Err(Error::DecodeError(_)) if damage == Damage::PassOver => {}
            Err(error) => return Err(text(error)),
        }
    }
    let decoded = recording.samples.len();
    recording.frames = decoded as u64;
    if damage == Damage::Refuse {
        if let Some(stated) = stated.filter(|stated| *stated > decoded as u64) {
            return Err(format!("only {decoded} of {stated} samples can be decoded"));
        }
        if decoder.finalize().verify_ok == Some(false) {
            return Err("its samples do not have the checksum that it states".to_owned());
        }
    }
    if packets > 0 && decoded == 0 { Err("nothing in it can be decoded".to_owned()) } else { Ok(recording) }
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
    if recording.samples.len() as u64 > MAX_FRAMES {
        return Err(format!("more than {MAX_FRAMES} samples"));
    }
    Ok(())
}
