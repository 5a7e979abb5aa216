//! The data kind `flickr8k`: Flickr8k Audio Captions (Harwath and Glass, 2015) as downloaded. `wav2capt.txt` and `wavs/` come with
//! the audio, `Flickr_8k.{train,dev,test}Images.txt` and the captions' text with Flickr8k's text, each in the root or in the
//! folder in which its archive holds it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::index_text::{IndexText, read_text};
use super::spelling::{find, require};
use crate::data::builder::Builder;
use crate::data::{DataError, Dataset};

const SPLITS: [&str; 3] = ["train", "dev", "test"];
const AUDIO_FOLDERS: [&str; 4] = ["", "flickr_audio/", "flickr_audio/flickr_audio/", "audio/"];
const TEXT_FOLDERS: [&str; 5] = ["", "Flickr8k_text/", "Flickr8k/", "text/", "flickr_audio/"];
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
    let below = |folders: &[&str], name: &str| -> Vec<String> {
        folders.iter().map(|folder| format!("{folder}{name}")).collect()
    };
    let require_any = |folders: &[&str], name: &str, what: &str| {
        let names = below(folders, name);
        require(root, &names.iter().map(String::as_str).collect::<Vec<_>>(), what)
    };
    let find_any = |folders: &[&str], name: &str| {
        let names = below(folders, name);
        find(root, &names.iter().map(String::as_str).collect::<Vec<_>>())
    };

    let index = require_any(&AUDIO_FOLDERS, "wav2capt.txt", "list of spoken captions")?;
    let wavs = require_any(&AUDIO_FOLDERS, "wavs", "folder of audio")?;
    let mut lists = Vec::new();
    for split in SPLITS {
        let path = require_any(&TEXT_FOLDERS, &format!("Flickr_8k.{split}Images.txt"), "list of a split's images")?;
        lists.push((split, read_text(&path, "must list the images of a split")?));
    }
    let some_image = lists.iter().find_map(|(_, text)| text.lines().next()).map_or("", |(_, name)| name);
    let pictures = match images {
        Some(folder) => folder.to_owned(),
        None => image_folder(root, some_image)?,
    };
    let mut builder = Builder::default();
    let mut image_of: HashMap<String, usize> = HashMap::new();
    for (split, text) in &lists {
        builder.fingerprint(text.bytes());
        for (line, name) in text.lines() {
            let image = builder.image(split, name, &pictures, None);
            if image_of.insert(name.to_owned(), image).is_some_and(|other| other != image) {
                return Err(text.error(line, format!("{name} is in two splits; every image belongs to one")));
            }
        }
    }

    let spoken = match find_any(&TEXT_FOLDERS, "Flickr8k.token.txt") {
        Some(path) => tokens(&read_text(&path, "must list captions")?)?,
        None => match find_any(&TEXT_FOLDERS, "captions.txt") {
            Some(path) => captions(&read_text(&path, "must list captions")?)?,
            None => HashMap::new(),
        },
    };
    let speakers: HashMap<String, String> = match find_any(&AUDIO_FOLDERS, "wav2spk.txt") {
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

/// `X.jpg#k<TAB>caption`, by image and k.
fn tokens(text: &IndexText) -> Result<HashMap<(String, usize), String>, DataError> {
    let caption = |(line, entry): (usize, &str)| {
        let parts = entry.split_once('\t').and_then(|(key, caption)| Some((key.rsplit_once('#')?, caption)));
        let parsed = parts.and_then(|((image, number), caption)| {
            Some(((image.to_owned(), number.trim().parse().ok()?), caption.trim().to_owned()))
        });
        parsed.ok_or_else(|| text.error(line, format!("{entry:?} is not of the form X.jpg#0<TAB>caption")))
    };
    text.lines().map(caption).collect()
}

/// `image,caption`, with a header; the captions of an image in their order.
fn captions(text: &IndexText) -> Result<HashMap<(String, usize), String>, DataError> {
    let mut count: HashMap<String, usize> = HashMap::new();
    let mut found = HashMap::new();
    for (line, entry) in text.lines() {
        let (image, caption) = entry
            .split_once(',')
            .ok_or_else(|| text.error(line, format!("{entry:?} is not of the form image,caption")))?;
        if line == 1 && image.trim() == "image" {
            continue;
        }
        let caption = caption.trim();
        let plain = caption.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let caption = plain.map_or_else(|| caption.to_owned(), |quoted| quoted.replace("\"\"", "\""));
        let number = count.entry(image.to_owned()).or_default();
        found.insert((image.to_owned(), *number), caption);
        *number += 1;
    }
    Ok(found)
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
