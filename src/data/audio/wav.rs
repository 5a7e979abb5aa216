//! WAV files: the samples that the walk over their chunks found, at any container size.

use std::io::{Cursor, Read, Seek, SeekFrom};

use hound::{SampleFormat, WavReader, WavSpec, WavWriter};

use super::compressed::{self, Length};
use super::riff::{Coding, Wav};
use super::source::cut;
use super::{Extent, Recording, mix_down};

/// Decodes what `extent` asks for of `wav`, the samples of `file`.
pub(super) fn decode(file: &mut (impl Read + Seek), wav: &Wav, extent: Extent) -> Result<Recording, String> {
    let text = |error: std::io::Error| error.to_string();
    let range = extent.range(wav.frames, wav.rate);
    let (start, count) = match wav.coding {
        Coding::Adpcm(_) => (0, wav.bytes),
        _ => (range.start * wav.frame(), (range.end - range.start) * wav.frame()),
    };
    let mut bytes = vec![0; count as usize];
    file.seek(SeekFrom::Start(wav.start + start)).map_err(text)?;
    file.read_exact(&mut bytes).map_err(text)?;
    let samples = match (wav.coding, wav.container) {
        (Coding::Adpcm(adpcm), _) => {
            let file = Cursor::new(adpcm.file(wav.channels, wav.rate, wav.container, bytes));
            let mut samples = compressed::decode(file, Length::Exact, range.end)?.samples;
            cut(&mut samples, range);
            samples
        }
        // Nearly all files: a loop that the compiler makes wide takes a tenth of what one call a sample does.
        (Coding::Pcm, 2) => {
            mix(wav, bytes.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) * (1.0 / 32_768.0)))
        }
        (Coding::Pcm, _) | (Coding::Float, 4) => mix_down(through_hound(wav, &bytes)?, usize::from(wav.channels)),
        (Coding::Float, _) => mix(
            wav,
            bytes.chunks_exact(8).map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32),
        ),
        (Coding::ALaw, _) => mix(wav, bytes.iter().map(|byte| a_law(*byte))),
        (Coding::MuLaw, _) => mix(wav, bytes.iter().map(|byte| mu_law(*byte))),
    };
    Ok(Recording { samples, rate: wav.rate, frames: wav.frames, wrong_header: wav.wrong_header.clone() })
}

fn mix(wav: &Wav, samples: impl Iterator<Item = f32>) -> Vec<f32> {
    mix_down(samples.collect(), usize::from(wav.channels))
}

/// Samples of a form that hound has, behind a header that it writes itself.
fn through_hound(wav: &Wav, bytes: &[u8]) -> Result<Vec<f32>, String> {
    let is_float = wav.coding == Coding::Float;
    let sample_format = if is_float { SampleFormat::Float } else { SampleFormat::Int };
    let bits_per_sample = 8 * wav.container;
    let spec = WavSpec { channels: wav.channels, sample_rate: wav.rate, bits_per_sample, sample_format };
    let mut header = Cursor::new(Vec::new());
    let text = |error: hound::Error| error.to_string();
    WavWriter::new(&mut header, spec).and_then(WavWriter::finalize).map_err(text)?;
    let mut header = header.into_inner();
    let length = u32::try_from(bytes.len()).map_err(|_| "too long".to_owned())?;
    let place = header.len() - 4;
    header[place..].copy_from_slice(&length.to_le_bytes());
    header.extend_from_slice(bytes);
    let mut reader = WavReader::new(&header[..]).map_err(text)?;
    let mut samples = Vec::with_capacity(reader.len() as usize);
    if is_float {
        for sample in reader.samples::<f32>() {
            samples.push(sample.map_err(text)?);
        }
    } else {
        let scale = 1.0 / (1u64 << (bits_per_sample - 1)) as f32;
        for sample in reader.samples::<i32>() {
            samples.push(sample.map_err(text)? as f32 * scale);
        }
    }
    Ok(samples)
}

/// G.711 A-law.
fn a_law(byte: u8) -> f32 {
    let byte = byte ^ 0x55;
    let (exponent, mantissa) = (i32::from(byte >> 4 & 7), i32::from(byte & 15));
    let level = if exponent == 0 { mantissa << 4 | 8 } else { (mantissa << 4 | 0x108) << (exponent - 1) };
    (if byte & 0x80 == 0 { -level } else { level }) as f32 / 32_768.0
}

/// G.711 mu-law.
fn mu_law(byte: u8) -> f32 {
    const BIAS: i32 = 0x84;
    let byte = !byte;
    let (exponent, mantissa) = (i32::from(byte >> 4 & 7), i32::from(byte & 15));
    let level = ((mantissa << 3 | BIAS) << exponent) - BIAS;
    (if byte & 0x80 == 0 { level } else { -level }) as f32 / 32_768.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends of the scale and its middle, from the tables of G.711.
    #[test]
    fn the_laws_of_g_711() {
        let sixteen = |value: f32| (value * 32_768.0) as i32;
        assert_eq!([0x00, 0x80, 0x7f, 0xff].map(|byte| sixteen(mu_law(byte))), [-32_124, 32_124, 0, 0]);
        assert_eq!([0x2a, 0xaa, 0x55, 0xd5].map(|byte| sixteen(a_law(byte))), [-32_256, 32_256, -8, 8]);
    }
}
