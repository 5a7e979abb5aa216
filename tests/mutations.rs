//! Broken files of every kind: flipped, cut and doubled bytes. Whatever comes of them, it is a result or an error, within a budget of
//! memory and of time.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cmd::config::{Config, Needs};
use cmd::data::{Audio, Clip, DataConfig, DataError, DataKind, Dataset, Header, PictureForm};
use cmd::draw::{Draw, Purpose};
use common::fixture;

const MUTATIONS: u64 = 300;
/// Mutations of each file of which header and content are compared.
const DAMAGES: u64 = 1000;
/// Bytes that one damaged file of some kB may take, in all threads.
const MEMORY: usize = 700 << 20;
/// Time that it may take: it hangs otherwise.
const TIME: Duration = Duration::from_secs(30);

/// The system's allocator, which counts.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// One test measures at a time.
static MEASURE: Mutex<()> = Mutex::new(());

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Runs `work` on what `name` says, within the budgets.
fn within_budget<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let begun = Instant::now();
    let result = work();
    let (time, memory) = (begun.elapsed(), PEAK.load(Ordering::Relaxed).saturating_sub(before));
    assert!(memory <= MEMORY, "{name} took {} MB", memory >> 20);
    assert!(time <= TIME, "{name} took {time:?}");
    result
}

#[test]
fn budgets_are_kept_by_measuring() {
    let _alone = MEASURE.lock();
    let vast = std::panic::catch_unwind(|| {
        within_budget("a vast block", || std::hint::black_box(Vec::<u8>::with_capacity(2 * MEMORY)))
    });
    assert!(vast.is_err());
}

/// `bytes` with some damage that is a function of `number`.
fn damaged(bytes: &[u8], number: u64) -> Vec<u8> {
    let mut draw = Draw::new(7, Purpose::Crop, [number, bytes.len() as u64]);
    let mut bytes = bytes.to_vec();
    // Headers are where damage does most.
    let place =
        |draw: &mut Draw, length: usize| draw.below(if number.is_multiple_of(2) { length.min(200) } else { length });
    match draw.below(4) {
        0 => bytes.truncate(place(&mut draw, bytes.len())),
        1 => {
            let start = place(&mut draw, bytes.len());
            let again = bytes[start..(start + 40).min(bytes.len())].to_vec();
            bytes.splice(start..start, again);
        }
        _ => {
            for _ in 0..=draw.below(8) {
                let at = place(&mut draw, bytes.len());
                bytes[at] = draw.below(256) as u8;
            }
        }
    }
    bytes
}

#[test]
fn media() {
    let _alone = MEASURE.lock();
    let folder = tempfile::tempdir().expect("a folder");
    let names = ["420.jpg", "progressive.jpg", "cmyk.jpg", "alpha.png", "grey16.png", "lossy.webp"];
    for name in names {
        let bytes = std::fs::read(fixture(&format!("media_{name}"))).expect("a picture");
        let path = folder.path().join(name);
        for number in 0..MUTATIONS {
            std::fs::write(&path, damaged(&bytes, number)).expect("written");
            let what = format!("{name}, damage {number}");
            let read = within_budget(&what, || PictureForm::new(32, 50).read(&path));
            assert!(read.map_or(true, |picture| picture.planes.len() == 3 * 32 * 32), "{what}");
        }
    }
    for name in ["tone.flac", "tone.ogg", "tone.mp3", "mulaw.wav", "extensible24.wav"] {
        let bytes = std::fs::read(fixture(&format!("media_{name}"))).expect("audio");
        let path = folder.path().join(name);
        for number in 0..MUTATIONS {
            std::fs::write(&path, damaged(&bytes, number)).expect("written");
            let what = format!("{name}, damage {number}");
            let (read, _) = within_budget(&what, || {
                (Audio::read(&path, 16_000, 400, Clip::Start(20_000)), Header::read(&path).is_ok())
            });
            if let Ok(audio) = read {
                assert!(audio.samples.len() >= 400 && audio.samples.iter().all(|sample| sample.is_finite()), "{what}");
            }
        }
    }
}

#[test]
fn indices() {
    let _alone = MEASURE.lock();
    let folder = tempfile::tempdir().expect("a folder");
    let manifest =
        "{\"image\": \"a.jpg\", \"split\": \"train\", \"captions\": [{\"audio\": \"a.wav\", \"text\": \"é\"}]}\n"
            .repeat(3);
    let coco = "{\"data\": [{\"image\": \"a.jpg\", \"captions\": [{\"uttid\": \"m_1_2\", \"wav\": \"a.wav\", \"speaker\": \"m\"}]}]}";
    let karpathy = "{\"images\": [{\"filename\": \"a.jpg\", \"split\": \"test\", \"sentids\": [2]}]}";
    let config = "[data]\nkind = 'flickr8k'\nroot = '.'\n[train]\nsteps = 3\n[optim]\nbetas = [0.9, 0.9]\n";
    let path = |name: &str| folder.path().join(name);
    let load = |kind: DataKind| {
        let data = DataConfig {
            kind,
            path: Some(path("m.jsonl")),
            root: Some(folder.path().to_owned()),
            ..DataConfig::default()
        };
        let loaded = within_budget("an index", || Dataset::load(&data));
        if let Ok(dataset) = loaded {
            assert!(dataset.utterances.iter().all(|utterance| utterance.image < dataset.images.len()));
        }
    };
    for number in 0..MUTATIONS {
        std::fs::write(path("m.jsonl"), damaged(manifest.as_bytes(), number)).expect("written");
        std::fs::write(path("SpokenCOCO_train.json"), damaged(coco.as_bytes(), number)).expect("written");
        std::fs::write(path("SpokenCOCO_val.json"), coco).expect("written");
        std::fs::write(path("dataset_coco.json"), damaged(karpathy.as_bytes(), number + 1)).expect("written");
        std::fs::write(path("c.toml"), damaged(config.as_bytes(), number)).expect("written");
        load(DataKind::Manifest);
        load(DataKind::SpokenCoco);
        if let Ok(config) = Config::load(&path("c.toml"), &[], Needs::Data) {
            let again = Config::from_text(&config.to_commented_toml(), &path("c.toml"), &[], Needs::Data);
            assert_eq!(again.expect("its printed form"), config);
        }
    }
}

/// Files of these kinds among the fixtures.
fn files(kinds: &[&str]) -> Vec<PathBuf> {
    let found =
        std::fs::read_dir(fixture("wild")).expect("files").chain(std::fs::read_dir(fixture("")).expect("files"));
    let mut files: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| kinds.iter().any(|kind| end == *kind)));
    files.sort();
    files
}

/// Reads `DAMAGES` mutations of each of `files` by header and whole. What a header shows clean is readable, or why not is one of `inside`,
/// words for what no header shows; what is readable has a clean header.
fn headers_agree<H, R>(
    files: &[PathBuf],
    inside: &[&str],
    header: impl Fn(&Path) -> Result<H, DataError>,
    read: impl Fn(&Path) -> Result<R, DataError>,
) {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut clean, mut seen) = (0, vec![0; inside.len()]);
    for original in files {
        let bytes = std::fs::read(original).expect("a file");
        let path = folder.path().join(original.file_name().expect("a name"));
        for number in 0..DAMAGES {
            std::fs::write(&path, damaged(&bytes, number)).expect("written");
            let what = format!("{}, damage {number}", original.display());
            match within_budget(&what, || (header(&path), read(&path))) {
                (Ok(_), Ok(_)) => clean += 1,
                (Ok(_), Err(error)) => {
                    let why = error.why();
                    let known = inside.iter().position(|known| why.contains(known));
                    seen[known.unwrap_or_else(|| panic!("{what}: clean by its header, but: {why}"))] += 1;
                }
                (Err(error), Ok(_)) => panic!("{what}: read, but its header is refused: {error}"),
                (Err(_), Err(_)) => {}
            }
        }
    }
    assert!(clean > files.len(), "{clean} of {} files", files.len());
    for (word, count) in inside.iter().zip(seen) {
        assert!(count > 0, "{word:?}: no damage leads to it");
    }
}

fn sounds_agree(kinds: &[&str], inside: &[&str]) {
    let _alone = MEASURE.lock();
    let read = |path: &Path| Audio::read(path, 16_000, 400, Clip::Start(usize::MAX));
    headers_agree(&files(kinds), inside, Header::read, read);
}

#[test]
fn a_clean_wav_header_is_readable() {
    sounds_agree(&["wav"], &["NaN or infinite samples", "which are no sound", "block predictor exceeds range"]);
}

#[test]
fn a_clean_header_of_compressed_sound_is_readable() {
    sounds_agree(&["mp3", "ogg", "flac"], &["samples can be decoded", "checksum"]);
}

#[test]
fn a_clean_picture_header_is_readable() {
    let _alone = MEASURE.lock();
    const INSIDE: [&str; 17] = [
        // JPEG: whatever stands between the scans, or is cut.
        "it is cut off",
        "Huffman table",
        "Quantization table",
        "progressive parameters",
        "Bogus marker length",
        "Unsupported marker type",
        "component ID",
        "Bogus DHT index",
        "SOF type",
        "Sampling factors",
        // PNG.
        "Unknown filter method",
        "unexpected end of file",
        "Corrupt deflate stream",
        "CRC error",
        "Missing palette",
        // WebP.
        "failed to fill whole buffer",
        "Corrupt bitstream",
    ];
    let form = PictureForm::new(32, 50);
    headers_agree(&files(&["jpg", "png", "webp"]), &INSIDE, |path| form.check(path, false), |path| form.read(path));
}

/// What is decoded and resampled is bounded by what is used, not by the file.
#[test]
fn a_window_of_a_long_file_takes_little() {
    let _alone = MEASURE.lock();
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, channels: u16, rate: u32, bits: u16, seconds: u32| {
        let path = folder.path().join(name);
        let format = hound::SampleFormat::Int;
        let spec = hound::WavSpec { channels, sample_rate: rate, bits_per_sample: bits, sample_format: format };
        let mut writer = hound::WavWriter::create(&path, spec).expect("a writer");
        for sample in 0..u32::from(channels) * rate * seconds {
            writer.write_sample((sample % 100) as i32).expect("written");
        }
        writer.finalize().expect("finished");
        path
    };
    for (name, path) in [
        ("29 minutes", write("long.wav", 1, 44_100, 16, 29 * 60)),
        ("32 channels", write("wide.wav", 32, 16_000, 8, 120)),
    ] {
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let clip = Clip::Window { samples: 160_000, place: 0.7 };
        let audio = Audio::read(&path, 16_000, 400, clip).expect("audio");
        let peak = (PEAK.load(Ordering::Relaxed) - before) >> 20;
        assert_eq!(audio.samples.len(), 160_000);
        assert!(peak < 64, "{name}: {peak} MB");
    }
}
