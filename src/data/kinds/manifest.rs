//! The data kind `manifest`: JSON Lines, one image a line,
//! `{"image": "a.jpg", "split": "train", "captions": [{"audio": "a_0.wav", "text": "...", "speaker": "..."}]}`,
//! with an optional `"family"`. Paths are relative to the data set's root.

use std::borrow::Cow;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::index_text::read_text;
use crate::data::builder::Builder;
use crate::data::{DataError, Dataset};

#[derive(Deserialize, Serialize)]
struct Line<'a> {
    #[serde(borrow)]
    image: Cow<'a, str>,
    #[serde(borrow)]
    split: Cow<'a, str>,
    #[serde(default, deserialize_with = "loose_text", skip_serializing_if = "Option::is_none")]
    family: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "null_is_empty")]
    captions: Vec<Caption<'a>>,
}

#[derive(Deserialize, Serialize)]
struct Caption<'a> {
    #[serde(borrow)]
    audio: Cow<'a, str>,
    #[serde(default, deserialize_with = "loose_text", skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "loose_text", skip_serializing_if = "Option::is_none")]
    speaker: Option<Cow<'a, str>>,
}

fn null_is_empty<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Caption<'a>>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A text, a number as text, or nothing: what Python's tools write of a table with gaps.
fn loose_text<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::String(text) => Some(text.into()),
        Value::Number(number) => Some(number.to_string().into()),
        other => return Err(serde::de::Error::custom(format!("{other} is neither a text nor a number"))),
    })
}

/// The same line with `null` for the NaN and Infinity that Python writes and JSON does not have.
fn without_nan(line: &str) -> Cow<'_, str> {
    if !line.contains("NaN") && !line.contains("Infinity") {
        return line.into();
    }
    let (mut plain, mut rest, mut in_text) = (String::with_capacity(line.len()), line, false);
    while let Some(next) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !in_text && rest.starts_with(word));
        let length = match (word, next) {
            (Some(word), _) => {
                plain.push_str("null");
                word.len()
            }
            (None, '\\') if in_text => {
                let escaped = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                plain.push_str(&rest[..escaped]);
                escaped
            }
            (None, next) => {
                in_text ^= next == '"';
                plain.push(next);
                next.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    plain.into()
}

/// Reads the manifest `index`, whose paths start from `root`. An image that stands in several lines of a split is one image.
pub(super) fn read(index: &Path, root: &Path) -> Result<Dataset, DataError> {
    let text = read_text(index, "data.path must name a manifest (JSON Lines)")?;
    let mut builder = Builder::default();
    builder.fingerprint(text.bytes());
    for (number, line) in text.lines() {
        let line = without_nan(line);
        let mut json = serde_json::Deserializer::from_str(&line);
        let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let field = error.path().to_string();
            (if field == "." { String::new() } else { format!("{field}: ") }, error.into_inner())
        });
        let parsed = parsed.and_then(|line: Line| json.end().map(|()| line).map_err(|error| (String::new(), error)));
        let line: Line = parsed.map_err(|(field, error)| {
            let form = "a line is {\"image\": ..., \"split\": ..., \"captions\": [{\"audio\": ...}]}";
            let of = image_of(&line).map_or_else(String::new, |image| format!("image {image:?}: "));
            text.error(number, format!("{of}{field}{error}; {form}"))
        })?;
        let image = builder.image(&line.split, &line.image, root, line.family.as_deref());
        for caption in &line.captions {
            builder.utterance(image, root.join(&*caption.audio), caption.text.as_deref(), caption.speaker.as_deref());
        }
    }
    Ok(builder.finish(index))
}

/// The image that a line which is not as it should be is about.
fn image_of(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    Some(value.get("image")?.as_str()?.to_owned())
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
    fn texts_are_texts() {
        let line = |text: &str| {
            manifest(
                format!(
                    "{{\"image\":\"a.png\",\"split\":\"train\",\"captions\":[{{\"audio\":\"a.wav\",\"text\":{text}}}]}}"
                )
                .as_bytes(),
            )
        };
        let text = |value: &str| line(value).expect("a data set").utterances[0].text.clone();
        assert_eq!((text("null"), text("7").as_deref()), (None, Some("7")));
        let why = line("[\"two\", \"words\"]").expect_err("refused").to_string();
        assert!(why.contains("captions[0].text") && why.contains("neither a text nor a number"), "{why}");
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
    fn what_python_writes_of_gaps_is_read() {
        let line = r#"{"image": "NaN \"NaN.png", "split": "train", "captions": [{"audio": "a.wav", "text": NaN, "speaker": 17},
            {"audio": "b.wav", "text": null, "speaker": 0.5}, {"audio": "c.wav", "text": -Infinity, "speaker": "s"}]}"#;
        let dataset = manifest(line.replace('\n', " ").as_bytes()).expect("a data set");
        assert_eq!(&*dataset.images[0].path, Path::new("/root/NaN \"NaN.png"));
        let of = |index: usize| {
            let utterance = &dataset.utterances[index];
            (utterance.text.as_deref(), utterance.speaker.as_deref())
        };
        assert_eq!([of(0), of(1), of(2)], [(None, Some("17")), (None, Some("0.5")), (None, Some("s"))]);
    }

    #[test]
    fn an_error_names_line_image_and_field() {
        let message = |text: &str| manifest(text.as_bytes()).expect_err("an error").to_string();
        let wrong = message(r#"{"image": "a.png", "split": "train", "captions": [{"audio": "a.wav"}, {"audio": 3}]}"#);
        assert!(
            wrong.contains(r#"manifest.jsonl:1: image "a.png": captions[1].audio: invalid type: integer `3`"#),
            "{wrong}"
        );
        let surrogate = message(r#"{"image": "a.png", "split": "train", "captions": [{"audio": "\ud800.wav"}]}"#);
        assert!(surrogate.contains("manifest.jsonl:1: ") && surrogate.contains("captions[0].audio"), "{surrogate}");
    }

    #[test]
    fn bad_lines_are_named() {
        let good = "{\"image\":\"a\",\"split\":\"b\"}\n";
        let message = |text: &[u8]| manifest(text).expect_err("an error").to_string();
        assert!(
            message(format!("{good}{{\"image\":3}}\n").as_bytes())
                .contains("manifest.jsonl:2: image: invalid type: integer `3`")
        );
        assert!(message(format!("{good}{}", "[".repeat(10_000)).as_bytes()).contains("manifest.jsonl:2: "));
        assert!(message(b"{}\n").contains("missing field `image`"));
        assert!(message(b"\n\xff\xfe\n").contains("manifest.jsonl:2: not UTF-8"));
    }
}
