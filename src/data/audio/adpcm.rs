//! ADPCM in WAV files: blocks of four-bit steps, each behind the samples that it begins with.

/// Whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adpcm {
    /// Microsoft's, format 2.
    Microsoft,
    /// IMA's as WAV files hold it, format 0x11.
    Ima,
}

/// Microsoft's pairs of predictor coefficients: their number, and the seven that every file has.
const COEFFICIENTS: [i16; 15] = [7, 256, 0, 512, -256, 0, 0, 192, 64, 240, 0, 460, -208, 392, -232];

impl Adpcm {
    /// Samples of a channel in the first `bytes` of a block.
    pub(super) fn samples(self, bytes: u16, channels: u16) -> u64 {
        let (preamble, at_once) = match self {
            Self::Microsoft => (7, 2),
            Self::Ima => (4, 1),
        };
        let steps = bytes.checked_sub(preamble * channels).map(|bytes| u64::from(bytes) * 2 / u64::from(channels));
        steps.map_or(0, |steps| steps + at_once)
    }

    /// Whether a `fmt ` chunk, whose `channels`, `block` and `bits` these are, is one that is read.
    pub(super) fn check(self, format: &[u8], channels: u16, block: u16, bits: u16) -> Result<(), String> {
        if channels > 2 || bits != 4 {
            return Err(format!("ADPCM of {bits} bits in {channels} channels, which is not read"));
        }
        let stated = format.get(18..20).map_or(0, |bytes| u64::from(u16::from_le_bytes([bytes[0], bytes[1]])));
        if stated == 0 || stated != self.samples(block, channels) {
            return Err(format!("ADPCM in blocks of {block} bytes for {stated} samples, which is not read"));
        }
        let is_usual = format.get(20..50).is_none_or(|bytes| bytes == coefficients());
        if self == Self::Microsoft && !is_usual {
            return Err("ADPCM with coefficients of its own, which is not read".to_owned());
        }
        Ok(())
    }

    /// The smallest file with `blocks`, the last one filled up.
    pub(super) fn file(self, channels: u16, rate: u32, block: u16, mut blocks: Vec<u8>) -> Vec<u8> {
        blocks.resize(blocks.len().next_multiple_of(usize::from(block)), 0);
        let samples = self.samples(block, channels);
        let rest = if self == Self::Microsoft { coefficients() } else { Vec::new() };
        let format = [
            &if self == Self::Microsoft { 2u16 } else { 0x11 }.to_le_bytes()[..],
            &channels.to_le_bytes(),
            &rate.to_le_bytes(),
            &((u64::from(rate) * u64::from(block) / samples) as u32).to_le_bytes(),
            &block.to_le_bytes(),
            &4u16.to_le_bytes(),
            &(2 + rest.len() as u16).to_le_bytes(),
            &(samples as u16).to_le_bytes(),
            &rest,
        ]
        .concat();
        let length = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
        let body = [b"WAVEfmt ", &length(&format)[..], &format, b"data", &length(&blocks), &blocks].concat();
        [b"RIFF", &length(&body)[..], &body].concat()
    }
}

fn coefficients() -> Vec<u8> {
    COEFFICIENTS.iter().flat_map(|number| number.to_le_bytes()).collect()
}
