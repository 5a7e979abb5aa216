//! What `cmd data check` finds.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::audio::Header;
use super::{AudioConfig, DataConfig, Dataset, PictureForm, Prefetch, Recording};
use crate::telemetry::Progress;

/// Files that a thread takes at once.
const GROUP: usize = 32;

/// Counts of one split.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SplitCounts {
    /// Images.
    pub images: usize,
    /// Utterances.
    pub utterances: usize,
    /// Hours of speech.
    pub hours: f64,
}

/// A file and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BadFile {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub why: String,
}

/// A data set's counts, and everything about it that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Audit {
    /// Name of the data set.
    pub dataset: String,
    /// Whether every file was decoded, rather than its header read.
    pub decoded: bool,
    /// By the name of the split.
    pub splits: BTreeMap<String, SplitCounts>,
    /// Hours of speech.
    pub hours: f64,
    /// Audio files by their samples a second.
    pub sample_rates: BTreeMap<u32, usize>,
    /// Files that are not there.
    pub missing: Vec<PathBuf>,
    /// Files that cannot be read.
    pub unreadable: Vec<BadFile>,
    /// Audio files that stand in the index more than once, and images that stand in more than one split.
    pub duplicated: Vec<PathBuf>,
    /// Splits that training and evaluation need and that are not there, or have no captions.
    pub missing_splits: Vec<String>,
    /// Images of one split with equal content, in splits that are not trained on: found for a right answer, a copy counts as wrong.
    pub copies: Vec<Vec<PathBuf>>,
    /// Images of other splits whose content a training image has too.
    pub leaked: Vec<PathBuf>,
    /// Captions whose image is in no split.
    pub captions_without_image: Vec<String>,
    /// Images that nobody speaks of.
    pub images_without_captions: Vec<PathBuf>,
    /// Utterances shorter than `audio.min_seconds`.
    pub too_short: Vec<BadFile>,
    /// Utterances longer than `audio.eval_max_seconds`, which evaluation cuts.
    pub too_long: Vec<BadFile>,
    /// Audio whose header states a wrong length, or whose end is missing; what is there is read.
    pub wrong_header: Vec<BadFile>,
    /// Images that their decoder had to repair; found with `decoded` only.
    pub repaired: Vec<BadFile>,
}

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    /// It stops a run.
    Stops,
    /// It is worth knowing.
    Note,
}

/// What was found of one file.
enum Found {
    Missing,
    Unreadable(String),
    Image(Option<String>),
    Audio(Header),
}

impl Audit {
    /// Audits `dataset`: the header of every file, or with `decode` all of it, on all cores.
    #[must_use]
    pub fn new(dataset: &Dataset, (data, audio): (&DataConfig, &AudioConfig), development: &str, decode: bool) -> Self {
        let mut audit = Self { dataset: dataset.name.clone(), decoded: decode, ..Self::default() };
        audit.count(dataset);
        audit.compare(dataset, development, data.workers as usize);

        let images = dataset.images.iter().map(|image| (image.path.clone(), None));
        let utterances = dataset.utterances.iter().map(|utterance| (utterance.audio.clone(), Some(utterance.image)));
        // A file that stands in the index several times is read once.
        let mut known: HashMap<Arc<Path>, bool> = HashMap::new();
        let mut files: Vec<(Arc<Path>, Option<usize>)> = Vec::new();
        for (path, of) in images.chain(utterances) {
            match known.get_mut(&path) {
                None => {
                    known.insert(path.clone(), false);
                    files.push((path, of));
                }
                Some(named) if !*named => {
                    *named = true;
                    audit.duplicated.push(path.to_path_buf());
                }
                Some(_) => {}
            }
        }

        let files: Arc<[(Arc<Path>, Option<usize>)]> = files.into();
        let groups = files.len().div_ceil(GROUP) as u64;
        let group = move |files: &[(Arc<Path>, Option<usize>)], number: u64| {
            let start = number as usize * GROUP;
            start..(start + GROUP).min(files.len())
        };
        let (work, workers) = (files.clone(), data.workers as usize);
        let form = PictureForm::new(1, data.max_megapixels);
        let results = Prefetch::new(0..groups, workers, data.prefetch as usize, move |number| -> Vec<Found> {
            work[group(&work, number)].iter().map(|(path, of)| inspect(path, of.is_some(), form, decode)).collect()
        });
        let mut progress = Progress::new("reading", "files", 0, files.len() as u64);
        for (number, found) in results.enumerate() {
            progress.advance(found.len() as u64, String::new);
            for ((path, of), found) in files[group(&files, number as u64)].iter().zip(found) {
                let split = of.map(|image| &*dataset.images[image].split);
                audit.note(path, split, found, audio);
            }
        }
        audit.sort();
        audit
    }

    fn count(&mut self, dataset: &Dataset) {
        let mut captions = vec![0usize; dataset.images.len()];
        for utterance in &dataset.utterances {
            captions[utterance.image] += 1;
        }
        for (image, captions) in dataset.images.iter().zip(captions) {
            let counts = self.splits.entry(image.split.to_string()).or_default();
            counts.images += 1;
            counts.utterances += captions;
            if captions == 0 {
                self.images_without_captions.push(image.path.to_path_buf());
            }
        }
        self.captions_without_image.clone_from(&dataset.left_out);
    }

    /// Splits that are missing, and images that several names have.
    fn compare(&mut self, dataset: &Dataset, development: &str, workers: usize) {
        for name in ["train", development] {
            if let Err(error) = dataset.split(name) {
                self.missing_splits.push(error.to_string());
            }
        }
        for name in dataset.splits() {
            let Ok(split) = dataset.split(&name) else { continue };
            let path = |image: &usize| split.images[*image].path.to_path_buf();
            if name != "train" {
                self.copies.extend(split.copies(workers).iter().map(|group| group.iter().map(path).collect()));
                self.leaked.extend(split.leaked(dataset, workers).into_iter().map(Path::to_owned));
            }
        }
    }

    fn note(&mut self, path: &Path, split: Option<&str>, found: Found, limits: &AudioConfig) {
        let file = path.to_owned();
        match found {
            Found::Missing => self.missing.push(file),
            Found::Unreadable(why) => self.unreadable.push(BadFile { file, why }),
            Found::Image(repaired) => {
                self.repaired.extend(repaired.map(|why| BadFile { file, why }));
            }
            Found::Audio(header) => {
                let (rate, seconds) = (header.rate, header.seconds());
                let wrong_header = header.wrong_header;
                *self.sample_rates.entry(rate).or_default() += 1;
                if let Some(why) = wrong_header {
                    self.wrong_header.push(BadFile { file: file.clone(), why });
                }
                let Some(seconds) = seconds else { return };
                self.hours += seconds / 3600.0;
                if let Some(counts) = split.and_then(|split| self.splits.get_mut(split)) {
                    counts.hours += seconds / 3600.0;
                }
                let why = format!("{seconds:.3} s");
                if seconds < limits.min_seconds {
                    self.too_short.push(BadFile { file, why });
                } else if seconds > limits.eval_max_seconds {
                    self.too_long.push(BadFile { file, why });
                }
            }
        }
    }

    fn sort(&mut self) {
        for files in [&mut self.missing, &mut self.duplicated, &mut self.leaked, &mut self.images_without_captions] {
            files.sort();
            files.dedup();
        }
        let graded = [&mut self.unreadable, &mut self.too_short, &mut self.too_long, &mut self.wrong_header];
        for files in graded.into_iter().chain([&mut self.repaired]) {
            files.sort();
        }
    }

    /// Whether nothing was found that stops a run: it trains and evaluates as it is.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings().iter().all(|(grade, _, lines)| *grade == Grade::Note || lines.is_empty())
    }

    /// Each kind of finding that there is, with its lines, and whether it stops a run.
    #[must_use]
    pub fn told(&self) -> Vec<(&'static str, Vec<String>, bool)> {
        let found = self.findings().into_iter().filter(|(_, _, lines)| !lines.is_empty());
        found.map(|(grade, what, lines)| (what, lines, grade == Grade::Stops)).collect()
    }

    /// How it was found.
    #[must_use]
    pub fn how(&self) -> &'static str {
        if self.decoded { "every file decoded" } else { "every header read; --decode reads all of every file" }
    }

    /// Each kind of finding with its lines.
    fn findings(&self) -> [(Grade, &'static str, Vec<String>); 12] {
        let paths = |files: &[PathBuf]| files.iter().map(|file| file.display().to_string()).collect();
        let reasons =
            |files: &[BadFile]| files.iter().map(|file| format!("{}: {}", file.file.display(), file.why)).collect();
        let equal =
            |files: &Vec<PathBuf>| files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" = ");
        [
            (Grade::Stops, "missing split", self.missing_splits.clone()),
            (Grade::Stops, "missing", paths(&self.missing)),
            (Grade::Stops, "unreadable", reasons(&self.unreadable)),
            (Grade::Note, "copies in one split", self.copies.iter().map(equal).collect()),
            (Grade::Note, "trained on", paths(&self.leaked)),
            (Grade::Note, "duplicated", paths(&self.duplicated)),
            (Grade::Note, "caption without image", self.captions_without_image.clone()),
            (Grade::Note, "image without captions", paths(&self.images_without_captions)),
            (Grade::Note, "too short", reasons(&self.too_short)),
            (Grade::Note, "too long", reasons(&self.too_long)),
            (Grade::Note, "wrong header", reasons(&self.wrong_header)),
            (Grade::Note, "repaired", reasons(&self.repaired)),
        ]
    }

    /// The audit as JSON: its fields, and `clean`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut value = serde_json::json!(self);
        value["clean"] = self.is_clean().into();
        value
    }
}

fn inspect(path: &Path, is_audio: bool, form: PictureForm, decode: bool) -> Found {
    if !path.exists() {
        return Found::Missing;
    }
    let found = match (is_audio, decode) {
        (false, _) => form.check(path, decode).map(Found::Image),
        (true, false) => Header::read(path).map(Found::Audio),
        (true, true) => Recording::read(path).map(|recording| {
            let frames = Some(recording.frames);
            Found::Audio(Header { rate: recording.rate, frames, wrong_header: recording.wrong_header })
        }),
    };
    found.unwrap_or_else(|error| Found::Unreadable(error.why()))
}

impl fmt::Display for Audit {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        for (split, counts) in &self.splits {
            let SplitCounts { images, utterances, hours } = counts;
            writeln!(out, "{} {split}: {images} images, {utterances} utterances, {hours:.1} h", self.dataset)?;
        }
        for (rate, files) in &self.sample_rates {
            writeln!(out, "{rate} Hz: {files} audio files")?;
        }
        let findings = self.findings();
        for (_, what, lines) in &findings {
            for line in lines {
                writeln!(out, "{what}: {line}")?;
            }
        }
        let counts = |wanted: Grade| {
            let found = findings.iter().filter(|(grade, _, lines)| *grade == wanted && !lines.is_empty());
            found.map(|(_, what, lines)| format!("{} {what}", lines.len())).collect::<Vec<_>>().join(", ")
        };
        let (stops, notes) = (counts(Grade::Stops), counts(Grade::Note));
        if !notes.is_empty() {
            writeln!(out, "worth knowing: {notes}")?;
        }
        let how = self.how();
        match (stops.is_empty(), notes.is_empty()) {
            (true, true) => writeln!(out, "nothing is wrong ({how})"),
            (true, false) => writeln!(out, "nothing stops a run ({how})"),
            (false, _) => writeln!(out, "stops a run: {stops} ({how})"),
        }
    }
}
