//! The data kind `manifest`: JSON Lines, one image a line,
//! `{"image": "a.jpg", "split": "train", "captions": [{"audio": "a_0.wav", "text": "...", "speaker": "..."}]}`,
//! with an optional `"family"`. Paths are relative to the data set's root.

use std::borrow::Cow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::index_text::read_text;
use crate::data::builder::Builder;
use crate::data::{DataError, Dataset};

#[derive(Deserialize, Serialize)]
struct Line<'a> {
    #[serde(borrow)]
    image: Cow<'a, str>,
    #[serde(borrow)]
    split: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    family: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    captions: Vec<Caption<'a>>,
}

#[derive(Deserialize, Serialize)]
struct Caption<'a> {
    #[serde(borrow)]
    audio: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    speaker: Option<Cow<'a, str>>,
}

/// Reads the manifest `index`, whose paths start from `root`. An image that stands in several lines of a split is one image.
pub(super) fn read(index: &Path, root: &Path) -> Result<Dataset, DataError> {
    let text = read_text(index, "data.path must name a manifest (JSON Lines)")?;
    let mut builder = Builder::default();
    builder.fingerprint(text.bytes());
    for (number, line) in text.lines() {
        let line: Line = serde_json::from_str(line).map_err(|error| {
            let form = "a line is {\"image\": ..., \"split\": ..., \"captions\": [{\"audio\": ...}]}";
            text.error(number, format!("{error}; {form}"))
        })?;
        let image = builder.image(&line.split, &line.image, root, line.family.as_deref());
        for caption in &line.captions {
            builder.utterance(image, root.join(&*caption.audio), caption.text.as_deref(), caption.speaker.as_deref());
        }
    }
    Ok(builder.finish(index))
}

/// Writes `dataset` as a manifest whose paths start from `root` where they lie below it, and are absolute elsewhere.
///
/// # Errors
/// When it cannot be written.
pub fn write_manifest(dataset: &Dataset, root: &Path, mut out: impl std::io::Write) -> std::io::Result<()> {
    let relative = |path: &'_ Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let mut utterances = dataset.utterances.iter().peekable();
    for (index, image) in dataset.images.iter().enumerate() {
        let mut captions = Vec::new();
        while let Some(utterance) = utterances.next_if(|utterance| utterance.image == index) {
            captions.push(Caption {
                audio: relative(&utterance.audio).into(),
                text: utterance.text.as_deref().map(Cow::Borrowed),
                speaker: utterance.speaker.as_deref().map(Cow::Borrowed),
            });
        }
        let line = Line {
            image: relative(&image.path).into(),
            split: Cow::Borrowed(&image.split),
            family: image.family.as_deref().map(Cow::Borrowed),
            captions,
        };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &[u8]) -> Result<Dataset, DataError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("manifest.jsonl");
        std::fs::write(&path, text).expect("written");
        read(&path, Path::new("/root"))
    }

    #[test]
    fn reads_images_captions_and_splits() {
        let text = "\u{feff}{\"image\":\"a b.png\",\"split\":\"train\",\"captions\":[{\"audio\":\"a.wav\",\"text\":\"hé\"},{\"audio\":\"b.wav\"}]}\r\n\r\n\
                    {\"image\":\"a b.png\",\"split\":\"train\",\"captions\":[{\"audio\":\"c.wav\"}]}\n\
                    {\"image\":\"c.png\",\"split\":\"val\",\"captions\":[{\"audio\":\"d.wav\"}]}\n\
                    {\"image\":\"d.png\",\"split\":\"test\"}\n";
        let dataset = manifest(text.as_bytes()).expect("a data set");
        assert_eq!((dataset.images.len(), dataset.utterances.len()), (3, 4));
        assert_eq!(&*dataset.images[0].path, Path::new("/root/a b.png"));
        assert_eq!(dataset.utterances[0].text.as_deref(), Some("hé"));
        assert_eq!(dataset.split("train").expect("train").utterances.len(), 3);
        let mut again = Vec::new();
        write_manifest(&dataset, Path::new("/root"), &mut again).expect("written");
        let same = manifest(&again).expect("the written form");
        assert_eq!((same.images, same.utterances), (dataset.images.clone(), dataset.utterances.clone()));
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
