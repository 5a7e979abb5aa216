//! Broken files of every kind: flipped, cut and doubled bytes. Whatever comes of them, it is a result or an error, within a budget of
//! memory and of time.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cmd::config::{Config, Needs};
use cmd::data::{Audio, Clip, DataConfig, DataKind, Dataset, Header, Picture};
use cmd::draw::{Draw, Purpose};
use common::fixture;

const MUTATIONS: u64 = 300;
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
    let vast = std::panic::catch_unwind(|| within_budget("a vast block", || Vec::<u8>::with_capacity(MEMORY + 1)));
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
            let (read, checked) = within_budget(&what, || (Picture::read(&path, 32), Picture::check(&path, false)));
            assert!(read.as_ref().map_or(true, |picture| picture.planes.len() == 3 * 32 * 32), "{what}");
            assert!(read.is_err() || checked.is_ok(), "{what}: read, but refused by its header: {checked:?}");
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

/// What the header check calls clean, reading refuses only for what no header can show.
#[test]
fn a_clean_header_is_readable() {
    let _alone = MEASURE.lock();
    const IN_THE_SAMPLES: [&str; 7] = [
        // Also at another rate.
        "NaN or infinite samples",
        "samples can be decoded",
        "frames cannot be decoded",
        "nothing in it can be decoded",
        "checksum",
        "no samples",
        "its sample rate changes",
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let files =
        std::fs::read_dir(fixture("wild")).expect("files").chain(std::fs::read_dir(fixture("")).expect("files"));
    let sounds = files.flatten().map(|entry| entry.path()).filter(|path| {
        path.extension().is_some_and(|end| ["wav", "mp3", "ogg", "flac"].iter().any(|known| end == *known))
    });
    let (mut clean, mut differ) = (0, std::collections::BTreeMap::<String, usize>::new());
    for original in sounds {
        let bytes = std::fs::read(&original).expect("audio");
        let is_wav = original.extension().is_some_and(|end| end == "wav");
        let path = folder.path().join(original.file_name().expect("a name"));
        for number in 0..if is_wav { 1000 } else { 200 } {
            std::fs::write(&path, damaged(&bytes, number)).expect("written");
            let what = format!("{}, damage {number}", original.display());
            let (header, read) =
                within_budget(&what, || (Header::read(&path), Audio::read(&path, 16_000, 400, Clip::Start(20_000))));
            match (header, read) {
                (Ok(_), Ok(_)) => clean += 1,
                (Ok(_), Err(error)) => {
                    let why = error.why();
                    let is_inside = IN_THE_SAMPLES.iter().any(|known| why.contains(known));
                    // Of a WAV file nothing but the values of its samples is beyond the header; decoders of blocks have their own words.
                    let is_adpcm = original.ends_with("06_msadpcm_5s.wav");
                    assert!(is_inside || !is_wav || is_adpcm, "{what}: clean by its header, but: {why}");
                    *differ.entry(why).or_default() += 1;
                }
                (Err(error), Ok(_)) => panic!("{what}: read, but its header is refused: {error}"),
                (Err(_), Err(_)) => {}
            }
        }
    }
    assert!(clean > 1000, "{clean} {differ:?}");
}
