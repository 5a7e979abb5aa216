//! Features that are kept on disk: equal to those that are not, and whatever happens to the files, right or made anew.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Workspace, assert_close, train};
use serde_json::Value;

const DISK: [&str; 6] =
    ["--set", "encoders.image.cache=disk", "--set", "encoders.speech.cache=disk", "--set", "data.cache_dir=store"];
const IMAGES: [&str; 4] = ["--set", "encoders.image.cache=disk", "--set", "data.cache_dir=store"];

/// The store of a modality.
fn store(workspace: &Workspace, modality: &str) -> PathBuf {
    let folders = fs::read_dir(workspace.path("store")).expect("a store").flatten().map(|entry| entry.path());
    let mut found =
        folders.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(modality)));
    let folder = found.next().expect("a folder");
    assert!(found.next().is_none(), "one encoder has one folder");
    folder
}

/// Everything that a run wrote down but for times.
fn figures(workspace: &Workspace, run: &str) -> Vec<Value> {
    let mut lines = workspace.metrics(run);
    for line in &mut lines {
        let line = line.as_object_mut().expect("an object");
        ["time", "samples_per_second", "data_wait"].iter().for_each(|key| drop(line.remove(*key)));
    }
    lines
}

fn flip(file: &Path, place: usize) {
    let mut bytes = fs::read(file).expect("a file");
    bytes[place] ^= 1;
    fs::write(file, bytes).expect("written");
}

/// What `cmd cache` says of the splits.
fn cache(workspace: &Workspace, more: &[&str]) -> Value {
    let text = workspace.ok(&[&["cache", "tiny.toml", "--json"], &DISK[..], more].concat());
    serde_json::from_str(&text).expect("JSON")
}

fn assert_whole(found: &Value) {
    for (name, split) in found["splits"].as_object().expect("splits") {
        for what in ["speech", "images"] {
            assert!(split[what]["of"].as_u64() > Some(0), "{found}");
            assert_eq!(split[what]["kept"], split[what]["of"], "{name}");
        }
    }
}

#[test]
fn a_run_is_the_same_whatever_is_kept_of_its_images() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("none", &[]));
    workspace.ok(&train("memory", &["--set", "encoders.image.cache=memory"]));
    workspace.ok(&train("first", &IMAGES));
    let rows = fs::metadata(store(&workspace, "image").join("rows.bin")).expect("rows").len();
    workspace.ok(&train("again", &IMAGES));
    assert_eq!(fs::metadata(store(&workspace, "image").join("rows.bin")).expect("rows").len(), rows);
    for run in ["memory", "first", "again"] {
        assert_eq!(figures(&workspace, run), figures(&workspace, "none"), "{run}");
    }
    let eval = |set: &[&str]| workspace.ok(&[&["eval", "--checkpoint", "runs/none", "--json"], set].concat());
    assert_eq!(eval(&IMAGES), eval(&[]));
}

#[test]
fn speech_on_disk_is_speech_in_memory() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("none", &[]));
    workspace.ok(&train("memory", &["--set", "encoders.speech.cache=memory"]));
    let disk = ["--set", "encoders.speech.cache=disk", "--set", "data.cache_dir=store"];
    workspace.ok(&train("disk", &disk));
    workspace.ok(&train("again", &disk));
    workspace.ok(&train("two", &[&disk[..], &["--nproc", "2"]].concat()));
    for run in ["disk", "again"] {
        assert_eq!(figures(&workspace, run), figures(&workspace, "memory"), "{run}");
    }
    for run in ["memory", "two"] {
        assert_close(&workspace.figures(run, "loss"), &workspace.figures("none", "loss"), run);
    }
    let long = [&disk[..], &["--set", "audio.max_seconds=0.2"]].concat();
    workspace.fails(2, &train("long", &long), &["is longer than audio.max_seconds = 0.2", "cannot be kept"]);
}

/// What is done to a store's folder.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn damage_of_any_kind_is_made_good() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("none", &["--set", "encoders.speech.cache=memory"]));
    assert_whole(&cache(&workspace, &[]));
    let damage: [Damage; 8] = [
        ("a row", &|folder| flip(&folder.join("rows.bin"), 100)),
        ("many rows", &|folder| {
            let length = fs::metadata(folder.join("rows.bin")).expect("rows").len() as usize;
            (0..length).step_by(997).for_each(|place| flip(&folder.join("rows.bin"), place));
        }),
        ("an entry", &|folder| flip(&folder.join("rows.idx"), 128 + 60)),
        ("rows cut", &|folder| cut(&folder.join("rows.bin"))),
        ("an index cut within an entry", &|folder| cut(&folder.join("rows.idx"))),
        ("no header", &|folder| fs::remove_file(folder.join("store.json")).expect("removed")),
        ("a header of something else", &|folder| fs::write(folder.join("store.json"), "{}").expect("written")),
        ("no rows", &|folder| fs::remove_file(folder.join("rows.bin")).expect("removed")),
    ];
    for (number, (what, spoil)) in damage.iter().enumerate() {
        spoil(&store(&workspace, "image"));
        spoil(&store(&workspace, "speech"));
        let run = format!("run-{number}");
        workspace.ok(&train(&run, &DISK));
        assert_eq!(figures(&workspace, &run), figures(&workspace, "none"), "{what}");
        assert_whole(&cache(&workspace, &[]));
    }
}

fn cut(file: &Path) {
    let bytes = fs::read(file).expect("a file");
    fs::write(file, &bytes[..bytes.len() / 2 - 7]).expect("written");
}

#[test]
fn a_changed_file_and_another_encoder_have_other_features() {
    let workspace = Workspace::new(8);
    cache(&workspace, &[]);
    // Another picture under the same name, of another time.
    let (one, other) = (workspace.path("data/train 0.png"), workspace.path("data/train 3.png"));
    fs::copy(&other, &one).expect("copied");
    workspace.ok(&train("changed", &DISK));
    workspace.ok(&train("fresh", &["--set", "encoders.speech.cache=memory"]));
    assert_eq!(figures(&workspace, "changed"), figures(&workspace, "fresh"));

    // Of the same time and size: only its content tells.
    let audio = workspace.path("data/train 1 0.wav");
    let before = fs::metadata(&audio).expect("audio").modified().expect("a time");
    flip(&audio, 2001);
    fs::File::options().append(true).open(&audio).and_then(|file| file.set_modified(before)).expect("the old time");
    workspace.ok(&[&["cache", "tiny.toml", "--verify", "--nproc", "2"], &DISK[..]].concat());
    workspace.ok(&train("verified", &DISK));
    workspace.ok(&train("new", &["--set", "encoders.speech.cache=memory"]));
    assert_eq!(figures(&workspace, "verified"), figures(&workspace, "new"));

    let old = store(&workspace, "image");
    workspace.edit("image.pt", "image_other.pt");
    cache(&workspace, &["--split", "train"]);
    let folders = fs::read_dir(workspace.path("store")).expect("a store").flatten().count();
    assert!(folders == 3 && old.exists(), "{folders} folders");
}

#[test]
fn several_processes_fill_it_and_a_kill_loses_nothing() {
    let workspace = Workspace::new(8);
    workspace.ok(&train("none", &["--set", "encoders.speech.cache=memory"]));
    let slow = [&["cache", "tiny.toml"], &DISK[..], &["--set", "encoders.image.batch_size=1"]].concat();
    for lines in [1, 5, 9] {
        let mut child = workspace.command(&slow).stderr(std::process::Stdio::null()).spawn().expect("the program");
        let index = || {
            let found = fs::read_dir(workspace.path("store")).into_iter().flatten().flatten();
            found
                .filter_map(|entry| fs::metadata(entry.path().join("rows.idx")).ok())
                .map(|file| file.len())
                .sum::<u64>()
        };
        while child.try_wait().expect("a status").is_none() && index() < lines * 128 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
    }
    let mut others: Vec<_> = (0..2)
        .map(|_| workspace.command(&slow).stderr(std::process::Stdio::null()).spawn().expect("the program"))
        .collect();
    workspace.ok(&[&slow[..], &["--nproc", "2"]].concat());
    others.iter_mut().for_each(|child| assert!(child.wait().expect("a status").success()));
    assert_whole(&cache(&workspace, &[]));
    workspace.ok(&train("disk", &DISK));
    assert_eq!(figures(&workspace, "disk"), figures(&workspace, "none"));
}

#[test]
fn a_dry_run_tells_the_room_and_writes_nothing() {
    let workspace = Workspace::new(8);
    let said = workspace.ok(&[&["train", "--config", "tiny.toml", "--dry-run"], &DISK[..]].concat());
    fs::write(workspace.path("file"), "no folder").expect("written");
    let dry = ["train", "--config", "tiny.toml", "--dry-run", "--set", "encoders.image.cache=disk"];
    workspace.fails(
        2,
        &[&dry[..], &["--set", "data.cache_dir=file"]].concat(),
        &["file: no folder that can be written"],
    );
    assert!(said.contains("kept on disk   0.00 GB, ") && said.contains("nothing was written"), "{said}");
    assert!(!workspace.path("store").exists());
}

#[test]
fn what_cannot_be_is_said() {
    let workspace = Workspace::new(8);
    workspace.fails(2, &["cache", "tiny.toml"], &["keeps no features on disk", "encoders.image.cache = \"disk\""]);
    workspace.fails(2, &train("a", &["--set", "encoders.image.cache=tape"]), &["\"none\", \"memory\" or \"disk\""]);
    fs::write(workspace.path("store"), "no folder").expect("written");
    workspace.fails(2, &train("a", &IMAGES), &["store/image-", "data.cache_dir names the folder of kept features"]);
}

#[test]
fn another_kind_of_numbers_has_features_of_its_own() {
    let workspace = Workspace::new(8);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");
    let paths = ["speech", "image"].map(|modality| format!("encoders.{modality}.path={root}/{modality}_encoder.pt"));
    let encoders = ["--set", &paths[0], "--set", &paths[1], "--set", "train.steps=4"];
    workspace.ok(&train("file", &[&IMAGES[..], &encoders].concat()));
    let half = ["--set", "encoders.image.dtype=bf16", "--set", "encoders.speech.dtype=bf16"];
    workspace.ok(&train("half", &[&IMAGES[..], &encoders, &half].concat()));
    workspace.ok(&train("none", &[&encoders[..], &half].concat()));
    assert_eq!(figures(&workspace, "half"), figures(&workspace, "none"));
    let (narrow, wide) = (workspace.figures("half", "loss"), workspace.figures("file", "loss"));
    let apart = narrow.iter().zip(&wide).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
    assert!((1e-6..0.05).contains(&apart), "{apart}");
    let names: Vec<String> = fs::read_dir(workspace.path("store"))
        .expect("a store")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.len() == 2 && names.iter().any(|name| name.ends_with("-bfloat16-1")), "{names:?}");
    // The tiny encoders do not bring their input to the kind of their weights.
    workspace.fails(2, &train("tiny", &half), &["speech.pt", "encoders.speech.dtype: a module has to bring its input"]);
}
