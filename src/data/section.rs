//! `[data]` and `[audio]`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Ahead;
use crate::{Range, between, section};

/// Form of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// JSON Lines, one image a line.
    Manifest,
    /// Flickr8k Audio Captions as downloaded.
    Flickr8k,
    /// SpokenCOCO with the Karpathy split.
    SpokenCoco,
}

/// What a file that cannot be read means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// It is left out, counted and named.
    Skip,
    /// It ends the command.
    Fail,
}

section! {
    /// `[data]`: which data, and how it is read.
    pub struct DataConfig {
        /// Form of the data set: "flickr8k", "spokencoco" (both as downloaded) or "manifest" (JSON Lines, one image a line).
        Fixed, Range::Any => kind: DataKind = DataKind::Manifest;
        /// Name of the data set in results; by default its kind, or the name of the manifest's folder.
        Free, Range::Unset("\"demo\"") => name: Option<String> = None;
        /// The manifest; required for that kind. Paths in this file are relative to this file.
        Here, Range::Path("\"manifest.jsonl\"") => path: Option<PathBuf> = None;
        /// Folder of the data set, required but for a manifest; there it is where paths start from, by default the manifest's own.
        Here, Range::Path("\".\"") => root: Option<PathBuf> = None;
        /// Folder of the images, if they are not in data.root under a usual name.
        Here, Range::Path("\"coco\"") => images: Option<PathBuf> = None;
        /// The Karpathy split of COCO (dataset_coco.json), if it is not in data.root.
        Here, Range::Path("\"dataset_coco.json\"") => karpathy: Option<PathBuf> = None;
        /// A file that cannot be read: "skip" (count and name it, go on) or "fail". By default training skips, evaluation fails.
        Inexact, Range::Unset("\"skip\"") => on_error: Option<OnError> = None;
        /// Share of the distinct training utterances that may be unreadable before the run stops; a single one never does.
        Free, Range::Share => max_unreadable: f64 = 0.01;
        /// Larger images, in millions of pixels, are refused.
        Inexact, between(1, 1000) => max_megapixels: i64 = 50;
        /// Threads that read and decode; 0: this process's share of the cores.
        Here, between(0, 1024) => workers: i64 = 0;
        /// Batches that are read ahead.
        Here, between(1, 1024) => prefetch: i64 = 8;
        /// Memory of what is read ahead, in MB: reading waits when it is full.
        Here, between(1, 1 << 20) => prefetch_megabytes: i64 = 2048;
        /// How far the threads that read give way to the encoders, where both want one core: from 0, not at all, to 19 (Linux).
        Here, between(0, 19) => nice: i64 = 10;
        /// Folder of the features that are kept on disk; by default cmd-features beside the data set, or in the user's cache folder where that
        /// cannot be written.
        Here, Range::Path("\"cmd-features\"") => cache_dir: Option<PathBuf> = None;
    }
}

impl DataConfig {
    /// How far threads read ahead.
    #[must_use]
    pub fn ahead(&self) -> Ahead {
        Ahead {
            threads: self.workers as usize,
            groups: self.prefetch as usize,
            bytes: self.prefetch_megabytes as usize * 1_000_000,
            nice: self.nice as i32,
        }
    }

    /// Makes of `workers` = 0 the share of one of `processes` on this machine.
    pub fn share_cores(&mut self, processes: usize) {
        if self.workers == 0 {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            self.workers = (cores / processes.max(1)).max(1) as i64;
        }
    }

    /// The folder that paths start from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        let manifest = self.path.as_deref().and_then(Path::parent);
        self.root.as_deref().or(manifest).unwrap_or(Path::new("."))
    }
}

section! {
    /// `[audio]`: lengths of audio.
    pub struct AudioConfig {
        /// Training uses a random window of at most this length (SpeechCLIP: 102,400 samples).
        Inexact, Range::AboveZero => max_seconds: f64 = 6.4;
        /// Evaluation uses whole utterances; longer ones are cut to this with a warning, to bound memory.
        Inexact, Range::AboveZero => eval_max_seconds: f64 = 60.0;
        /// Shorter utterances are named by `cmd data check`; training and evaluation use them all the same.
        Free, Range::NotNegative => min_seconds: f64 = 0.1;
    }
}
