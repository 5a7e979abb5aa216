//! The data kind `manifest`: JSON Lines, one image a line,
//! `{"image": "a.jpg", "split": "train", "captions": [{"audio": "a_0.wav", "text": "...", "speaker": "..."}]}`,
//! with an optional `"family"`. Paths are relative to the data set's root.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::{DataError, Dataset, Image, Utterance};

#[derive(Deserialize)]
struct Line {
    image: String,
    split: String,
    family: Option<String>,
    #[serde(default)]
    captions: Vec<Caption>,
}

#[derive(Deserialize)]
struct Caption {
    audio: String,
    text: Option<String>,
    speaker: Option<String>,
}

/// Reads the manifest `index`, whose paths start from `root`. An image that stands in several lines of a split is one image.
pub(super) fn read(index: &Path, root: &Path, name: String) -> Result<Dataset, DataError> {
    let bytes = std::fs::read(index).map_err(|error| DataError::Unreadable {
        path: index.to_owned(),
        why: format!("{error}: data.path must name a manifest (JSON Lines)"),
    })?;
    let at = |line, why| DataError::Index { path: index.to_owned(), line, why };
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        at(line, "not UTF-8 text; a manifest is JSON Lines".to_owned())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);

    let mut dataset = Dataset {
        name,
        index: index.to_owned(),
        fingerprint: blake3::hash(&bytes).to_hex().to_string(),
        images: Vec::new(),
        utterances: Vec::new(),
    };
    let mut known: HashMap<(String, String), usize> = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(line).map_err(|error| {
            at(
                number + 1,
                format!("{error}; a line is {{\"image\": ..., \"split\": ..., \"captions\": [{{\"audio\": ...}}]}}"),
            )
        })?;
        let image = *known.entry((line.split.clone(), line.image.clone())).or_insert_with(|| {
            dataset.images.push(Image { path: root.join(&line.image), split: line.split, family: line.family });
            dataset.images.len() - 1
        });
        dataset.utterances.extend(line.captions.into_iter().map(|caption| Utterance {
            audio: root.join(caption.audio),
            image,
            text: caption.text,
            speaker: caption.speaker,
        }));
    }
    Ok(dataset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &[u8]) -> Result<Dataset, DataError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("manifest.jsonl");
        std::fs::write(&path, text).expect("written");
        read(&path, Path::new("/root"), "name".to_owned())
    }

    #[test]
    fn reads_images_captions_and_splits() {
        let text = "\u{feff}{\"image\":\"a b.png\",\"split\":\"train\",\"captions\":[{\"audio\":\"a.wav\",\"text\":\"hé\"},{\"audio\":\"b.wav\"}]}\r\n\r\n\
                    {\"image\":\"a b.png\",\"split\":\"train\",\"captions\":[{\"audio\":\"c.wav\"}]}\n\
                    {\"image\":\"c.png\",\"split\":\"val\",\"captions\":[{\"audio\":\"d.wav\"}]}\n\
                    {\"image\":\"d.png\",\"split\":\"test\"}\n";
        let dataset = manifest(text.as_bytes()).expect("a data set");
        assert_eq!((dataset.images.len(), dataset.utterances.len()), (3, 4));
        assert_eq!(dataset.images[0].path, Path::new("/root/a b.png"));
        assert_eq!(dataset.utterances[0].text.as_deref(), Some("hé"));
        assert_eq!(dataset.split("train").expect("train").utterances.len(), 3);
        let val = dataset.split("dev").expect("val under its other name");
        assert_eq!((val.name.as_str(), val.utterances[0].image), ("val", 0));
        assert!(dataset.split("test").expect_err("no captions").to_string().contains("no captions"));
        assert!(
            dataset.split("tset").expect_err("none").to_string().contains("no split tset; it has test, train, val")
        );
    }

    #[test]
    fn bad_lines_are_named() {
        let good = "{\"image\":\"a\",\"split\":\"b\"}\n";
        let message = |text: &[u8]| manifest(text).expect_err("an error").to_string();
        assert!(
            message(format!("{good}{{\"image\":3}}\n").as_bytes())
                .contains("manifest.jsonl:2: invalid type: integer `3`")
        );
        assert!(message(format!("{good}{}", "[".repeat(10_000)).as_bytes()).contains("manifest.jsonl:2: "));
        assert!(message(b"{}\n").contains("missing field `image`"));
        assert!(message(b"\n\xff\xfe\n").contains("manifest.jsonl:2: not UTF-8"));
    }
}
