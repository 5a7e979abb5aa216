//! Kinds of audio file, by their content: a tag or silence in front says nothing about what follows.

use super::mp3::is_mp3;

/// Whether a WAV file begins with `start`.
pub(super) fn is_wav(start: &[u8]) -> bool {
    [b"RIFF", b"RF64", b"BW64"].iter().any(|magic| start.starts_with(&magic[..]))
}

/// A kind of file that is read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ogg,
    Flac,
    Mp3,
}

/// Bytes of the start of a file in which its kind has to show, behind tags.
const START: usize = 1 << 16;

impl Kind {
    /// The kind of a file that begins with `start` (as much of it as there is, or [`START`] bytes behind its tags), and where that begins.
    pub(super) fn of(start: &[u8]) -> Result<(Self, usize), String> {
        if start.is_empty() {
            return Err("an empty file".to_owned());
        }
        let mut place = 0;
        loop {
            let rest = &start[place.min(start.len())..];
            match rest {
                _ if is_wav(rest) => return Err("a WAV file behind a tag or zeros".to_owned()),
                [b'f', b'L', b'a', b'C', ..] => return Ok((Self::Flac, place)),
                [b'O', b'g', b'g', b'S', ..] => return Ok((Self::Ogg, place)),
                [b'R', b'I', b'F', b'X', ..] => return Err(refused("a big-endian WAV file (RIFX)")),
                [b'r', b'i', b'f', b'f', 0x2e, 0x91, 0xcf, 0x11, ..] => return Err(refused("a Wave64 file")),
                [b'F', b'O', b'R', b'M', ..] => return Err(refused("an AIFF file")),
                [b'.', b's', b'n', b'd', ..] => return Err(refused("a Sun audio file")),
                [_, _, _, _, b'f', b't', b'y', b'p', ..] => return Err(refused("an MP4 file")),
                [0x1a, 0x45, 0xdf, 0xa3, ..] => return Err(refused("a WebM or Matroska file")),
                [b'#', b'!', b'A', b'M', b'R', ..] => return Err(refused("an AMR file")),
                [b'N', b'I', b'S', b'T', b'_', b'1', b'A', ..] => return Err(refused("a NIST SPHERE file")),
                [0xff, 0xf1 | 0xf9, ..] => return Err(refused("an AAC file (ADTS)")),
                [0xff, 0xfc..=0xfd, ..] if !is_mp3(rest) => return Err(refused("an MP2 file")),
                [b'c', b'a', b'f', b'f', ..] => return Err(refused("a CAF file")),
                _ if is_mp3(rest) => return Ok((Self::Mp3, place)),
                _ => {}
            }
            match tag_length(rest) {
                Some(length) => place += length,
                None if rest.first() == Some(&0) => {
                    place += rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len());
                }
                // Loose bytes before the first frame, as of a stream that was cut.
                None => {
                    let frames =
                        (1..rest.len().min(START)).find(|place| rest[*place] == 0xff && is_mp3(&rest[*place..]));
                    let found = frames.filter(|_| rest.first() == Some(&0xff) || place > 0);
                    return found
                        .map(|more| (Self::Mp3, place + more))
                        .ok_or_else(|| "neither WAV nor FLAC, OGG or MP3".to_owned());
                }
            }
            if place >= start.len() {
                return Err("neither WAV nor FLAC, OGG or MP3".to_owned());
            }
        }
    }
}

fn refused(what: &str) -> String {
    format!("{what}, which is not read; convert it: ffmpeg -i IN -c:a pcm_s16le OUT.wav")
}

/// Bytes of the tag at the start of `bytes`: ID3 in front or behind, or APE.
pub(super) fn tag_length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] if [a, b, c, d].iter().all(|byte| **byte < 0x80) => {
            let length = [a, b, c, d].iter().fold(0usize, |length, byte| length << 7 | usize::from(**byte));
            Some(10 + length + if flags & 0x10 == 0 { 0 } else { 10 })
        }
        [b'T', b'A', b'G', ..] => Some(128),
        [b'A', b'P', b'E', b'T', b'A', b'G', b'E', b'X', _, _, _, _, a, b, c, d, _, _, _, _, _, _, _, flags, ..] => {
            // The items stand behind a header, and before a footer.
            let items = if flags & 0x20 == 0 { 0 } else { u32::from_le_bytes([*a, *b, *c, *d]) as usize };
            Some(32 + items)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_says_nothing_about_what_follows() {
        let tag = [&b"ID3\x04\0\0\0\0\x01\x02"[..], &[7; 130]].concat();
        let kind = |bytes: &[u8]| Kind::of(bytes);
        assert_eq!(kind(&[&tag[..], b"fLaC"].concat()), Ok((Kind::Flac, 140)));
        assert_eq!(kind(&[&tag[..], &tag, b"OggS"].concat()), Ok((Kind::Ogg, 280)));
        assert!(kind(&tag).is_err() && kind(b"hello").is_err() && kind(b"").is_err());
        assert!(kind(b"\0\0\0\x18ftypM4A ").expect_err("not read").contains("ffmpeg"));
    }
}
