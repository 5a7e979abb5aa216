//! The data kind `flickr8k`: Flickr8k Audio Captions (Harwath and Glass, 2015) as downloaded. `wav2capt.txt` and `wavs/` come with
//! the audio, `Flickr_8k.{train,dev,test}Images.txt` and the captions' text with Flickr8k's text, each in the root or in the
//! folder in which its archive holds it. Where those lists are missing, Karpathy's `dataset_flickr8k.json` has the same splits.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::index_text::{IndexText, read_loose_text, read_text};
use super::json_list::for_each;
use super::spelling::{find, require};
use crate::data::builder::Builder;
use crate::data::{DataError, Dataset};

const SPLITS: [&str; 3] = ["train", "dev", "test"];
const AUDIO_FOLDERS: [&str; 4] = ["", "flickr_audio/", "flickr_audio/flickr_audio/", "audio/"];
const TEXT_FOLDERS: [&str; 5] = ["", "Flickr8k_text/", "Flickr8k/", "text/", "flickr_audio/"];
const KARPATHY_FOLDERS: [&str; 6] =
    ["", "Flickr8k_text/", "caption_datasets/", "karpathy/", "../", "../caption_datasets/"];
const IMAGE_FOLDERS: [&str; 9] = [
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Images",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    "Flickr8k_Dataset/Flickr8k_Dataset",
    "Flicker8k_Dataset/Flicker8k_Dataset",
    "Images/Flicker8k_Dataset",
    "Images/Flickr8k_Dataset",
    "Flickr8k/Images",
];

/// Reads the data set in `root`; images are in `images`, or else in one of the usual folders.
pub(super) fn read(root: &Path, images: Option<&Path>) -> Result<Dataset, DataError> {
    let root = Root(root);
    let index = root.require(&AUDIO_FOLDERS, "wav2capt.txt", "list of spoken captions")?;
    let wavs = root.require(&AUDIO_FOLDERS, "wavs", "folder of audio")?;
    let lists = split_lists(root)?;
    let some_image = lists.names.first().map_or("", |(_, name, _)| name);
    let pictures = match images {
        Some(folder) => folder.to_owned(),
        None => image_folder(root.0, some_image)?,
    };
    let mut builder = Builder::default();
    let mut image_of: HashMap<String, usize> = HashMap::new();
    for text in &lists.files {
        builder.fingerprint(text.bytes());
    }
    for (split, name, (text, line)) in &lists.names {
        let image = builder.image(split, name, &pictures, None);
        if image_of.insert(name.clone(), image).is_some_and(|other| other != image) {
            return Err(lists.files[*text].error(*line, format!("{name} is in two splits; every image belongs to one")));
        }
    }

    let spoken = match root.find(&TEXT_FOLDERS, "Flickr8k.token.txt") {
        Some(path) => tokens(&read_loose_text(&path)?),
        None => match root.find(&TEXT_FOLDERS, "captions.txt") {
            Some(path) => captions(&read_loose_text(&path)?),
            None => lists.spoken,
        },
    };
    let speakers: HashMap<String, String> = match root.find(&AUDIO_FOLDERS, "wav2spk.txt") {
        Some(path) => {
            let text = read_text(&path, "must list speakers")?;
            let pairs = text.lines().filter_map(|(_, line)| line.split_once(char::is_whitespace));
            pairs.map(|(wav, speaker)| (wav.to_owned(), speaker.trim().to_owned())).collect()
        }
        None => HashMap::new(),
    };

    let text = read_text(&index, "must list spoken captions")?;
    builder.fingerprint(text.bytes());
    for (line, entry) in text.lines() {
        let (wav, image, number) = spoken_caption(entry)
            .ok_or_else(|| text.error(line, format!("{entry:?} is not of the form X_0.wav X.jpg #0")))?;
        match image_of.get(image) {
            Some(of) => {
                let said = spoken.get(&(image.to_owned(), number)).map(String::as_str);
                builder.utterance(*of, wavs.join(wav), said, speakers.get(wav).map(String::as_str));
            }
            None => builder.leave_out(format!("{}:{line}: {image} is in no split", index.display())),
        }
    }
    Ok(builder.finish(&index))
}

/// The folder of the data set, in which a file may lie in one of several folders.
#[derive(Clone, Copy)]
struct Root<'a>(&'a Path);

impl Root<'_> {
    fn find(self, folders: &[&str], name: &str) -> Option<PathBuf> {
        let names: Vec<String> = folders.iter().map(|folder| format!("{folder}{name}")).collect();
        find(self.0, &names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn require(self, folders: &[&str], name: &str, what: &str) -> Result<PathBuf, DataError> {
        let names: Vec<String> = folders.iter().map(|folder| format!("{folder}{name}")).collect();
        require(self.0, &names.iter().map(String::as_str).collect::<Vec<_>>(), what)
    }
}

/// Which images are in which split, and what is said of them where the same file tells.
#[derive(Default)]
struct Lists {
    files: Vec<IndexText>,
    /// Split and name of each image, and where that stands: file and line.
    names: Vec<(&'static str, String, (usize, usize))>,
    spoken: HashMap<(String, usize), String>,
}

/// An image of Karpathy's `dataset_flickr8k.json`.
#[derive(Deserialize)]
struct KarpathyImage<'a> {
    #[serde(borrow)]
    filename: Cow<'a, str>,
    #[serde(borrow)]
    split: Cow<'a, str>,
    #[serde(borrow, default)]
    sentences: Vec<Sentence<'a>>,
}

#[derive(Deserialize)]
struct Sentence<'a> {
    #[serde(borrow)]
    raw: Option<Cow<'a, str>>,
}

/// The splits of `Flickr_8k.{train,dev,test}Images.txt`, or else those of `dataset_flickr8k.json`, which are the same.
fn split_lists(root: Root) -> Result<Lists, DataError> {
    let mut lists = Lists::default();
    let list = |split: &str| format!("Flickr_8k.{split}Images.txt");
    let is_any_there = SPLITS.iter().any(|split| root.find(&TEXT_FOLDERS, &list(split)).is_some());
    let karpathy = root.find(&KARPATHY_FOLDERS, "dataset_flickr8k.json");
    if let (false, Some(path)) = (is_any_there, karpathy) {
        return karpathy_lists(&path);
    }
    for (number, split) in SPLITS.into_iter().enumerate() {
        let what = "list of a split's images (dataset_flickr8k.json would do as well)";
        let text = read_text(&root.require(&TEXT_FOLDERS, &list(split), what)?, "must list the images of a split")?;
        lists.names.extend(text.lines().map(|(line, name)| (split, name.to_owned(), (number, line))));
        lists.files.push(text);
    }
    Ok(lists)
}

fn karpathy_lists(path: &Path) -> Result<Lists, DataError> {
    let text = read_text(path, "must be the Karpathy split of Flickr8k")?;
    let mut lists = Lists::default();
    let form = "{\"images\": [{\"filename\": ..., \"split\": ..., \"sentences\": [{\"raw\": ...}]}]}";
    for_each(&text, "images", form, |image: KarpathyImage| {
        let split = match &*image.split {
            "val" => "dev",
            other => SPLITS
                .into_iter()
                .find(|split| *split == other)
                .ok_or_else(|| format!("{}: split {other:?} is none of train, val, test", image.filename))?,
        };
        for (number, sentence) in image.sentences.iter().enumerate() {
            if let Some(raw) = &sentence.raw {
                lists.spoken.insert((image.filename.to_string(), number), raw.trim().to_owned());
            }
        }
        lists.names.push((split, image.filename.into_owned(), (0, 1)));
        Ok(())
    })?;
    lists.files.push(text);
    Ok(lists)
}

/// The usual folder that holds `image`, or the first that there is.
fn image_folder(root: &Path, image: &str) -> Result<PathBuf, DataError> {
    let mut folders = IMAGE_FOLDERS.iter().filter_map(|name| find(root, &[name]));
    match folders.find(|folder| folder.join(image).is_file()) {
        Some(folder) => Ok(folder),
        None => require(root, &IMAGE_FOLDERS, "folder of images (name it with data.images)"),
    }
}

/// `X_k.wav X.jpg #k`.
fn spoken_caption(entry: &str) -> Option<(&str, &str, usize)> {
    let (wav, rest) = entry.split_once(char::is_whitespace)?;
    let (image, number) = rest.trim().rsplit_once(char::is_whitespace)?;
    Some((wav, image.trim(), number.strip_prefix('#')?.parse().ok()?))
}

/// Texts of captions by image and number.
type Spoken = HashMap<(String, usize), String>;

/// Takes what `parse` makes of each line; of one of another form, one warning tells, since no result depends on it.
fn texts(
    text: &IndexText,
    form: &str,
    mut parse: impl FnMut(usize, &str) -> Option<Option<((String, usize), String)>>,
) -> Spoken {
    let mut found = Spoken::new();
    let (mut count, mut first) = (0, None);
    for (line, entry) in text.lines() {
        match parse(line, entry) {
            Some(caption) => found.extend(caption),
            None => {
                count += 1;
                first.get_or_insert(line);
            }
        }
    }
    if let Some(line) = first {
        let path = text.path().display();
        tracing::warn!(
            "{path}:{line}: not of the form {form}, as {count} lines in all; they give no text, which changes no result"
        );
    }
    found
}

/// `X.jpg#k<TAB>caption`, by image and k.
fn tokens(text: &IndexText) -> Spoken {
    texts(text, "X.jpg#0<TAB>caption", |_, entry| {
        let (key, caption) = entry.split_once('\t').unwrap_or((entry, ""));
        let (image, number) = key.rsplit_once('#')?;
        let key = (image.to_owned(), number.trim().parse().ok()?);
        Some(Some((key, caption.trim().to_owned())).filter(|(_, caption)| !caption.is_empty()))
    })
}

/// `image,caption`, or `image_name| comment_number| comment`, with a header; without numbers the captions of an image in their order.
fn captions(text: &IndexText) -> Spoken {
    let mut count: HashMap<String, usize> = HashMap::new();
    texts(text, "image,caption or image_name| comment_number| comment", |line, entry| {
        if line == 1 && entry.starts_with("image") {
            return Some(None);
        }
        if let Some((image, rest)) = entry.split_once('|') {
            let (number, caption) = rest.split_once('|')?;
            let caption = caption.trim().to_owned();
            return Some(Some(((image.trim().to_owned(), number.trim().parse().ok()?), caption)));
        }
        let (image, caption) = entry.split_once(',')?;
        let caption = caption.trim();
        let quoted = caption.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let caption = quoted.map_or_else(|| caption.to_owned(), |quoted| quoted.replace("\"\"", "\""));
        let number = count.entry(image.to_owned()).or_default();
        *number += 1;
        Some(Some(((image.to_owned(), *number - 1), caption)).filter(|(_, caption)| !caption.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        std::fs::write(path, text).expect("written");
    }

    fn world(archives: bool) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let (audio, texts, images) =
            if archives { ("flickr_audio/", "Flickr8k_text/", "Flicker8k_Dataset/") } else { ("", "", "images/") };
        let root = folder.path();
        write(root, &format!("{images}a.jpg"), "");
        write(root, &format!("{audio}wavs/a_0.wav"), "");
        write(
            root,
            &format!("{audio}wav2capt.txt"),
            "\u{feff}b_1.wav b.jpg #1\r\na_0.wav\ta.jpg  #0\r\nb_0.wav b.jpg #0\r\n\r\nz_0.wav z.jpg #0\r\n",
        );
        write(root, &format!("{audio}wav2spk.txt"), "a_0.wav 17\nb_1.wav 4\n");
        write(root, &format!("{texts}Flickr_8k.trainImages.txt"), "a.jpg\r\nc.jpg\r\n");
        write(root, &format!("{texts}Flickr_8k.devImages.txt"), "\u{feff}b.jpg\n");
        write(root, &format!("{texts}Flickr_8k.testImages.txt"), "");
        folder
    }

    #[test]
    fn both_layouts_give_the_same() {
        for archives in [true, false] {
            let folder = world(archives);
            let (texts, name) = if archives { ("Flickr8k_text/", "Flickr8k.token.txt") } else { ("", "captions.txt") };
            let said = if archives {
                "a.jpg#0\tA dog .\nb.jpg#0\tOne .\nb.jpg#1\tTwo, \"2\" .\n"
            } else {
                "image,caption\na.jpg,A dog .\nb.jpg,One .\nb.jpg,\"Two, \"\"2\"\" .\"\n"
            };
            write(folder.path(), &format!("{texts}{name}"), said);
            let dataset = read(folder.path(), None).expect("a data set");
            let of = |utterance: &crate::data::Utterance| {
                let name = utterance.audio.file_name().expect("a name").to_string_lossy().into_owned();
                let text = utterance.text.as_deref().unwrap_or("").to_owned();
                (name, utterance.image, text, utterance.speaker.as_deref().unwrap_or("").to_owned())
            };
            let expected =
                [("a_0.wav", 0, "A dog .", "17"), ("b_1.wav", 2, "Two, \"2\" .", "4"), ("b_0.wav", 2, "One .", "")];
            let expected = expected.map(|(a, b, c, d)| (a.to_owned(), b, c.to_owned(), d.to_owned()));
            assert_eq!(dataset.utterances.iter().map(of).collect::<Vec<_>>(), expected);
            assert_eq!(dataset.images.len(), 3);
            assert!(dataset.left_out.len() == 1 && dataset.left_out[0].contains("z.jpg is in no split"));
            assert_eq!(dataset.split("val").expect("dev").utterances.len(), 2);
        }
    }

    #[test]
    fn karpathys_file_gives_the_same_splits() {
        let folder = world(true);
        let lists = read(folder.path(), None).expect("a data set");
        for split in SPLITS {
            std::fs::remove_file(folder.path().join(format!("Flickr8k_text/Flickr_8k.{split}Images.txt")))
                .expect("removed");
        }
        let image = |name: &str, split: &str| serde_json::json!({"filename": name, "split": split, "sentids": [0, 1], "sentences": [{"raw": "A dog .", "tokens": ["a"]}]});
        let images = [image("a.jpg", "train"), image("c.jpg", "train"), image("b.jpg", "val")];
        write(
            folder.path(),
            "dataset_flickr8k.json",
            &serde_json::json!({"dataset": "flickr8k", "images": images}).to_string(),
        );
        let dataset = read(folder.path(), None).expect("a data set");
        assert_eq!(dataset.images, lists.images);
        assert_eq!(dataset.utterances.len(), lists.utterances.len());
        assert_eq!(dataset.utterances[0].text.as_deref(), Some("A dog ."));
    }

    #[test]
    fn odd_texts_change_no_result() {
        let folder = world(true);
        let texts = folder.path().join("Flickr8k_text");
        std::fs::write(texts.join("Flickr8k.token.txt"), b"a.jpg#0\t\nb.jpg#0\tCaf\xe9 .\nnonsense\n")
            .expect("written");
        let text = |dataset: &Dataset, index: usize| dataset.utterances[index].text.as_deref().map(str::to_owned);
        let dataset = read(folder.path(), None).expect("a data set");
        assert_eq!((text(&dataset, 0), text(&dataset, 2)), (None, Some("Caf\u{fffd} .".to_owned())));
        std::fs::remove_file(texts.join("Flickr8k.token.txt")).expect("removed");
        let bars = "image_name| comment_number| comment\na.jpg| 0| A dog .\nb.jpg| 1| Two .\nb.jpg| 4\n";
        write(folder.path(), "Flickr8k_text/captions.txt", bars);
        let dataset = read(folder.path(), None).expect("a data set");
        assert_eq!(
            (text(&dataset, 0), text(&dataset, 1), text(&dataset, 2)),
            (Some("A dog .".to_owned()), Some("Two .".to_owned()), None)
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let folder = world(true);
        let message = || read(folder.path(), None).expect_err("an error").to_string();
        write(folder.path(), "flickr_audio/wav2capt.txt", "a_0.wav a.jpg #0\na_1.wav a.jpg 1\n");
        assert!(message().contains("wav2capt.txt:2: \"a_1.wav a.jpg 1\" is not of the form X_0.wav X.jpg #0"));
        write(folder.path(), "Flickr8k_text/Flickr_8k.testImages.txt", "b.jpg\n");
        assert!(message().contains("testImages.txt:1: b.jpg is in two splits"));
        // An archive unpacked into the folder of another.
        std::fs::remove_dir_all(folder.path().join("Flicker8k_Dataset")).expect("removed");
        assert!(message().contains("has no folder of images (name it with data.images)"));
        write(folder.path(), "Images/Flicker8k_Dataset/a.jpg", "");
        assert_eq!(
            image_folder(folder.path(), "a.jpg").expect("found"),
            folder.path().join("Images/Flicker8k_Dataset")
        );
        std::fs::remove_file(folder.path().join("Flickr8k_text/Flickr_8k.devImages.txt")).expect("removed");
        assert!(message().contains("looked for Flickr_8k.devImages.txt, Flickr8k_text/Flickr_8k.devImages.txt"));
        std::fs::remove_dir_all(folder.path().join("flickr_audio/wavs")).expect("removed");
        assert!(message().contains("has no folder of audio"));
    }
}
