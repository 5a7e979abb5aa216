//! How a data set is made from an index.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{Dataset, Image, Utterance};

/// Collects a data set from an index in any order.
#[derive(Debug, Default)]
pub(super) struct Builder {
    images: Vec<Image>,
    utterances: Vec<Utterance>,
    /// By split and name in the index.
    known: HashMap<(Arc<str>, Arc<str>), usize>,
    /// Texts that stand in many places, once each.
    shared: HashMap<Box<str>, Arc<str>>,
    left_out: Vec<String>,
    hasher: blake3::Hasher,
}

impl Builder {
    /// Takes a file of the index into the fingerprint.
    pub(super) fn fingerprint(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// One text for all equal ones: for speakers, splits and families.
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.shared.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.shared.insert(text.into(), new.clone());
        new
    }

    /// The image `name` of `split`, whose file is `root`/`name`; the same one each time, however its name is spelled.
    pub(super) fn image(&mut self, split: &str, name: &str, root: &Path, family: Option<&str>) -> usize {
        let split = self.share(split);
        let name = plain(name);
        let key = (split.clone(), Arc::from(&*name));
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let family = family.map(|family| self.share(family));
        self.images.push(Image { path: root.join(&*name).into(), split, family });
        self.known.insert(key, self.images.len() - 1);
        self.images.len() - 1
    }

    /// An utterance about `image`.
    pub(super) fn utterance(&mut self, image: usize, audio: PathBuf, text: Option<&str>, speaker: Option<&str>) {
        let speaker = speaker.map(|speaker| self.share(speaker));
        self.utterances.push(Utterance { audio: audio.into(), image, text: text.map(Into::into), speaker });
    }

    /// Notes an entry that belongs to no image of a split.
    pub(super) fn leave_out(&mut self, why: String) {
        self.left_out.push(why);
    }

    /// The data set, in the order in which its images came.
    pub(super) fn finish(mut self, index: &Path) -> Dataset {
        self.utterances.sort_by_key(|utterance| utterance.image);
        self.utterances.shrink_to_fit();
        Dataset {
            name: String::new(),
            index: index.to_owned(),
            fingerprint: self.hasher.finalize().to_hex().to_string(),
            images: self.images,
            utterances: self.utterances,
            left_out: self.left_out,
            mixed: Vec::new(),
        }
    }
}

/// `a.png` for `./a.png`, `.//a.png` and `a.png/`.
fn plain(name: &str) -> Cow<'_, str> {
    let is_plain =
        !name.starts_with("./") && !name.contains("//") && !name.contains("/./") && !name.ends_with(['/', '.']);
    if is_plain {
        return name.into();
    }
    let parts = Path::new(name).components().filter(|part| *part != Component::CurDir);
    parts.collect::<PathBuf>().to_string_lossy().into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_one_name() {
        for name in ["a.png", "./a.png", ".//a.png", "a.png/", "././a.png", "a.png/."] {
            assert_eq!(plain(name), "a.png", "{name}");
        }
        assert_eq!(
            (plain("b/../a.png"), plain("/x//a.png"), plain("a..")),
            ("b/../a.png".into(), "/x/a.png".into(), "a..".into())
        );
    }
}
