//! The data kind `spokencoco`: SpokenCOCO (Hsu et al., 2021) with the Karpathy split. Either the two files of the download,
//! `SpokenCOCO_{train,val}.json`, joined with `dataset_coco.json`, or one file for each split as FaST-VGS and others keep them,
//! unrolled (a caption an entry) or not.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::index_text::read_text;
use super::json_list::for_each;
use super::spelling::{find, require};
use crate::data::builder::Builder;
use crate::data::{DataError, Dataset};

const FOLDERS: [&str; 2] = ["", "SpokenCOCO/"];
const KARPATHY: [&str; 6] = [
    "dataset_coco.json",
    "SpokenCOCO/dataset_coco.json",
    "caption_datasets/dataset_coco.json",
    "karpathy/dataset_coco.json",
    "../dataset_coco.json",
    "../caption_datasets/dataset_coco.json",
];
/// Folders that images such as `val2014/COCO_val2014_000000325114.jpg` may lie in.
const IMAGE_FOLDERS: [&str; 10] =
    ["", "images", "mscoco_img", "coco", "mscoco", "..", "../images", "../mscoco_img", "../coco", "../mscoco"];
/// What the split files of others have in their names.
const SPLIT_FILES: [&str; 2] = ["karpathy", "ksplit"];
const SPLITS: [&str; 3] = ["train", "val", "test"];

/// An image with `captions`, or with the one `caption` of an unrolled list.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    image: Cow<'a, str>,
    #[serde(borrow, default)]
    captions: Vec<Caption<'a>>,
    #[serde(borrow)]
    caption: Option<Caption<'a>>,
}

#[derive(Deserialize)]
struct Caption<'a> {
    #[serde(borrow)]
    wav: Cow<'a, str>,
    #[serde(borrow, default)]
    uttid: Cow<'a, str>,
    text: Option<Cow<'a, str>>,
    speaker: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct KarpathyImage<'a> {
    #[serde(borrow)]
    filename: Cow<'a, str>,
    #[serde(borrow)]
    split: Cow<'a, str>,
    #[serde(default)]
    sentids: Vec<u64>,
}

/// Reads the data set in `root`; images are in `images`, the split in `karpathy`, or else where they usually are.
pub(super) fn read(root: &Path, images: Option<&Path>, karpathy: Option<&Path>) -> Result<Dataset, DataError> {
    let mut reader = Reader { builder: Builder::default(), root, images: images.map(Path::to_owned), karpathy: None };
    let split_files = if karpathy.is_some() { Vec::new() } else { split_files(root) };
    if let Some((_, index)) = split_files.first() {
        for (split, path) in &split_files {
            reader.read_captions(path, Some(split))?;
        }
        return Ok(reader.builder.finish(index));
    }

    let file = |name: &str| {
        let names = FOLDERS.map(|folder| format!("{folder}{name}"));
        require(root, &names.each_ref().map(String::as_str), "list of spoken captions")
    };
    let (train, val) = (file("SpokenCOCO_train.json")?, file("SpokenCOCO_val.json")?);
    reader.read_karpathy(&match karpathy {
        Some(path) => path.to_owned(),
        None => require(root, &KARPATHY, "Karpathy split (name its file with data.karpathy)")?,
    })?;
    // The smaller file first: what is read stays, so the peak is lower when the larger one is read last.
    reader.read_captions(&val, None)?;
    reader.read_captions(&train, None)?;
    Ok(reader.builder.finish(&train))
}

/// Split and file of each split file in `root`; where there are several for a split, the one with the shortest name.
fn split_files(root: &Path) -> Vec<(&'static str, PathBuf)> {
    let folders = FOLDERS.iter().filter_map(|folder| find(root, &[folder.trim_end_matches('/')]));
    let mut files: Vec<PathBuf> = folders
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json") && path.is_file())
        .collect();
    files.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    let is_of = |path: &Path, split: &str| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        let mut words = name.split(['_', '-', '.']);
        name.starts_with("spokencoco")
            && SPLIT_FILES.iter().any(|word| name.contains(word))
            && words.any(|word| word == split || (split == "val" && word == "dev"))
    };
    let first = |split: &'static str| Some((split, files.iter().find(|path| is_of(path, split))?.clone()));
    SPLITS.into_iter().filter_map(first).collect()
}

/// The Karpathy split; its train is train and restval.
#[derive(Default)]
struct Karpathy {
    path: PathBuf,
    /// By file name: split and number of the image, and whether its captions are listed.
    images: HashMap<Box<str>, (&'static str, u32, bool)>,
    /// By number of the caption: number of the image.
    captions: HashMap<u64, u32>,
}

struct Reader<'a> {
    builder: Builder,
    root: &'a Path,
    /// Folder of the images, once it is known.
    images: Option<PathBuf>,
    karpathy: Option<Karpathy>,
}

impl Reader<'_> {
    fn read_karpathy(&mut self, path: &Path) -> Result<(), DataError> {
        let text = read_text(path, "must be the Karpathy split of COCO")?;
        self.builder.fingerprint(text.bytes());
        let mut karpathy = Karpathy { path: path.to_owned(), ..Karpathy::default() };
        let form = "{\"images\": [{\"filename\": ..., \"split\": ..., \"sentids\": [...]}]}";
        for_each(&text, "images", form, |image: KarpathyImage| {
            let split = match &*image.split {
                "restval" => "train",
                other => SPLITS.into_iter().find(|split| *split == other).ok_or_else(|| {
                    format!("{}: split {other:?} is none of train, restval, val, test", image.filename)
                })?,
            };
            let number = karpathy.images.len() as u32;
            karpathy.captions.extend(image.sentids.iter().map(|caption| (*caption, number)));
            karpathy.images.insert((*image.filename).into(), (split, number, !image.sentids.is_empty()));
            Ok(())
        })?;
        self.karpathy = Some(karpathy);
        Ok(())
    }

    /// Reads a list of spoken captions; they are all of `split`, or else of the Karpathy split's.
    fn read_captions(&mut self, path: &Path, split: Option<&'static str>) -> Result<(), DataError> {
        let text = read_text(path, "must list spoken captions as JSON")?;
        self.builder.fingerprint(text.bytes());
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        let form = "{\"data\": [{\"image\": ..., \"captions\": [{\"uttid\": ..., \"text\": ..., \"speaker\": ..., \"wav\": ...}]}]}";
        for_each(&text, "data", form, |entry: Entry| {
            let listed = self.karpathy.as_ref().and_then(|karpathy| karpathy.images.get(file_name(&entry.image)));
            let Some(split) = split.or(listed.map(|(split, ..)| *split)) else {
                let karpathy = self.karpathy.as_ref().map_or(Path::new(""), |karpathy| &karpathy.path);
                let why = format!("{}: {} is in no split of {}", path.display(), entry.image, karpathy.display());
                self.builder.leave_out(why);
                return Ok(());
            };
            let pictures = self.images.get_or_insert_with(|| usual_images(self.root, &entry.image));
            let image = self.builder.image(split, &entry.image, pictures, None);
            for caption in entry.captions.iter().chain(&entry.caption) {
                if belongs(caption, self.karpathy.as_ref(), listed) {
                    let (text, speaker) = (caption.text.as_deref(), caption.speaker.as_deref());
                    self.builder.utterance(image, folder.join(&*caption.wav), text, speaker);
                } else {
                    let (path, id) = (path.display(), &caption.uttid);
                    self.builder
                        .leave_out(format!("{path}: {id} is no caption of {} in the Karpathy split", entry.image));
                }
            }
            Ok(())
        })
    }
}

/// Whether the number that ends a caption's identifier is one of its image's. Without a number, or a list, nothing speaks against it.
fn belongs(caption: &Caption, karpathy: Option<&Karpathy>, listed: Option<&(&str, u32, bool)>) -> bool {
    let number = caption.uttid.rsplit('_').next().and_then(|number| number.parse::<u64>().ok());
    match (number, karpathy, listed) {
        (Some(number), Some(karpathy), Some((_, image, true))) => karpathy.captions.get(&number) == Some(image),
        _ => true,
    }
}

/// The folder below which the images are: the first in which `image` is there.
fn usual_images(root: &Path, image: &str) -> PathBuf {
    let mut folders = IMAGE_FOLDERS.iter().filter_map(|folder| find(root, &[folder]));
    folders.find(|folder| folder.join(image).is_file()).unwrap_or_else(|| root.to_owned())
}

fn file_name(image: &str) -> &str {
    image.rsplit('/').next().unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caption(id: u32, image: u32) -> serde_json::Value {
        let uttid = format!("speaker-{id}_{image}_{id}");
        serde_json::json!({"uttid": uttid, "text": format!("T\u{e9} {id}"), "speaker": "speaker", "wav": format!("wavs/{uttid}.wav")})
    }

    fn write(root: &Path, name: &str, value: &serde_json::Value) {
        fs::write(root.join(name), value.to_string()).expect("written");
    }

    fn download(root: &Path) {
        let image = |folder: &str, number: u32, captions: &[u32]| {
            let captions: Vec<_> = captions.iter().map(|id| caption(*id, number)).collect();
            serde_json::json!({"image": format!("{folder}/COCO_{folder}_{number}.jpg"), "captions": captions})
        };
        write(root, "SpokenCOCO_train.json", &serde_json::json!({"data": [image("train2014", 1, &[10, 11])]}));
        let val = [
            image("val2014", 2, &[20]),
            image("val2014", 3, &[30, 31, 99]),
            image("val2014", 4, &[40]),
            image("val2014", 5, &[50]),
        ];
        write(root, "SpokenCOCO_val.json", &serde_json::json!({"data": val}));
        let karpathy = |folder: &str, number: u32, split: &str, sentids: &[u32]| serde_json::json!({"filepath": folder, "filename": format!("COCO_{folder}_{number}.jpg"), "split": split, "sentids": sentids});
        let images = [
            karpathy("train2014", 1, "train", &[10, 11]),
            karpathy("val2014", 2, "restval", &[20]),
            karpathy("val2014", 3, "test", &[30, 31]),
            karpathy("val2014", 4, "val", &[]),
        ];
        write(root, "dataset_coco.json", &serde_json::json!({"dataset": "coco", "images": images}));
    }

    #[test]
    fn the_download_is_joined_with_the_karpathy_split() {
        let folder = tempfile::tempdir().expect("a folder");
        download(folder.path());
        let images = folder.path().join("images");
        fs::create_dir_all(images.join("val2014")).expect("folders");
        fs::write(images.join("val2014/COCO_val2014_2.jpg"), "").expect("written");
        let dataset = read(folder.path(), None, None).expect("a data set");
        let counts = |split: &str| {
            let split = dataset.split(split).expect("a split");
            (split.images.len(), split.utterances.len())
        };
        assert_eq!((counts("train"), counts("val"), counts("test")), ((2, 3), (1, 1), (1, 2)));
        assert_eq!(dataset.left_out.len(), 2, "{:?}", dataset.left_out);
        assert!(dataset.left_out[0].contains("speaker-99_3_99 is no caption of val2014/COCO_val2014_3.jpg"));
        assert!(dataset.left_out[1].contains("val2014/COCO_val2014_5.jpg is in no split"));
        assert_eq!(*dataset.images[0].path, images.join("val2014/COCO_val2014_2.jpg"));
        assert_eq!(*dataset.utterances[0].audio, folder.path().join("wavs/speaker-20_2_20.wav"));
        assert_eq!(dataset.utterances[0].text.as_deref(), Some("T\u{e9} 20"));
    }

    #[test]
    fn split_files_give_the_same_rolled_or_not() {
        let (rolled, unrolled) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        for (split, image) in [("train", 1), ("val", 2), ("test", 3)] {
            let (name, first, second) =
                (format!("x/{image}.jpg"), caption(10 * image, image), caption(10 * image + 1, image));
            let list = serde_json::json!({"data": [{"image": name, "captions": [first, second]}]});
            write(rolled.path(), &format!("SpokenCOCO_{split}_karpathy.json"), &list);
            let list =
                serde_json::json!({"data": [{"image": name, "caption": first}, {"image": name, "caption": second}]});
            write(unrolled.path(), &format!("SpokenCOCO_ksplit_{split}_unrolled.json"), &list);
        }
        let form = |root: &Path| {
            let dataset = read(root, None, None).expect("a data set");
            let utterances =
                dataset.utterances.iter().map(|u| (u.image, u.audio.strip_prefix(root).expect("below").to_owned()));
            (dataset.splits(), utterances.collect::<Vec<_>>())
        };
        assert_eq!(form(rolled.path()), form(unrolled.path()));
        assert_eq!(form(rolled.path()).1.len(), 6);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let message = || read(folder.path(), None, None).expect_err("an error").to_string();
        assert!(message().contains("has no list of spoken captions; looked for SpokenCOCO_train.json"));
        download(folder.path());
        fs::write(folder.path().join("SpokenCOCO_val.json"), "{\"data\":\n[{\"image\": 3}]}").expect("written");
        assert!(message().contains("SpokenCOCO_val.json:2: invalid type: integer `3`"), "{}", message());
        fs::write(folder.path().join("SpokenCOCO_val.json"), format!("{{\"data\": {}", "[".repeat(10_000)))
            .expect("written");
        assert!(message().contains("SpokenCOCO_val.json:1: "), "{}", message());
        fs::write(folder.path().join("SpokenCOCO_val.json"), "{\"images\": []}").expect("written");
        assert!(message().contains("no list \"data\""), "{}", message());
        fs::remove_file(folder.path().join("dataset_coco.json")).expect("removed");
        assert!(message().contains("name its file with data.karpathy"));
    }
}
