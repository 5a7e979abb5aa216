//! FLAC, OGG Vorbis and MP3, and the kinds of WAV that are rare, through symphonia.

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;

use super::{Header, Recording, mix_down};

/// Samples of the longest stream that is decoded: a small file can hold hours of silence.
const MAX_SAMPLES: usize = 1 << 28;

/// What a packet that cannot be decoded means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// The file is broken.
    Refuse,
    /// It is left out, as long as others can be decoded.
    PassOver,
}

/// Reads what the container says.
pub(super) fn header(file: impl MediaSource + 'static) -> Result<Header, String> {
    let format = open(file)?;
    let (track, parameters) = audio_track(&*format)?;
    let rate = parameters.sample_rate.ok_or("its sample rate is not stated")?;
    let seconds = track.num_frames.map(|frames| frames as f64 / f64::from(rate.max(1)));
    Ok(Header { rate, seconds, wrong_header: None })
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

/// Decodes a file of any kind that symphonia knows.
pub(super) fn decode(file: impl MediaSource + 'static, damage: Damage) -> Result<Recording, String> {
    let text = |error: Error| error.to_string();
    let mut format = open(file)?;
    let (track, parameters) = audio_track(&*format)?;
    let (id, stated) = (track.id, track.num_frames);
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(text)?;

    let mut recording = Recording { samples: Vec::new(), rate: 0, wrong_header: None };
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
    match stated {
        Some(stated) if damage == Damage::Refuse && (decoded as u64) < stated => {
            Err(format!("only {decoded} of {stated} samples can be decoded"))
        }
        _ if packets > 0 && decoded == 0 => Err("nothing in it can be decoded".to_owned()),
        _ => Ok(recording),
    }
}

fn take(decoded: &GenericAudioBufferRef, recording: &mut Recording) -> Result<(), String> {
    let spec = decoded.spec();
    if recording.rate != 0 && recording.rate != spec.rate() {
        return Err("its sample rate changes".to_owned());
    }
    recording.rate = spec.rate();
    let mut interleaved: Vec<f32> = Vec::new();
    decoded.copy_to_vec_interleaved(&mut interleaved);
    recording.samples.extend(mix_down(interleaved, spec.channels().count()));
    if recording.samples.len() > MAX_SAMPLES {
        return Err(format!("more than {MAX_SAMPLES} samples"));
    }
    Ok(())
}
