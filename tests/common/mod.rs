//! A tiny data set on the disk and the program run on it, for the tests of this folder.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder with a data set of the kind manifest, a configuration for it and room for runs.
pub struct Workspace {
    folder: tempfile::TempDir,
}

impl Workspace {
    /// `images` of each split, with three captions each but for every fourth image, which has two.
    pub fn new(images: usize) -> Self {
        let workspace = Self { folder: tempfile::tempdir().expect("a folder") };
        std::fs::create_dir(workspace.path("data")).expect("a folder");
        let mut lines = String::new();
        for split in ["train", "val", "test"] {
            for number in 0..images {
                lines += &format!("{}\n", workspace.sample(split, number));
            }
        }
        std::fs::write(workspace.path("data/manifest.jsonl"), lines).expect("a manifest");
        let config = format!(
            "[data]\npath = 'data/manifest.jsonl'\n[encoders]\nspeech.path = '{}'\nimage.path = '{}'\n[speech]\nheads = 2\n\
             [optim]\nlr = 1e-2\nwarmup_steps = 3\n[train]\nsteps = 12\nbatch_size = 6\ncheckpoint_every = 4\neval_every = 6\n\
             [log]\nevery = 1\n",
            fixture("speech.pt").display(),
            fixture("image.pt").display()
        );
        std::fs::write(workspace.path("tiny.toml"), config).expect("a configuration");
        workspace
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sample(&self, split: &str, number: usize) -> Value {
        let name = format!("{split} {number}");
        let colour = [number * 37 % 256, number * 91 % 256, number * 53 % 256].map(|value| value as u8);
        let image = image::RgbImage::from_fn(40, 36, |x, y| {
            let corner = [split.len() as u8 * 40, split.as_bytes()[0], 0];
            image::Rgb(if x + y == 0 {
                corner
            } else if ((x / 8 + y / 8) as usize).is_multiple_of(2 + number % 3) {
                colour
            } else {
                [20, 200, 90]
            })
        });
        image.save(self.path(&format!("data/{name}.png"))).expect("an image");
        let captions: Vec<Value> = (0..if number.is_multiple_of(4) { 2 } else { 3 })
            .map(|caption| {
                let audio = format!("{name} {caption}.wav");
                let length = 3000 + 700 * caption + 250 * number;
                let wave: Vec<f32> = (0..length)
                    .map(|n| 0.4 * (n as f32 * (0.02 + 0.013 * number as f32)).sin() * (1.0 + caption as f32) / 3.0)
                    .collect();
                write_wav(&self.path(&format!("data/{audio}")), &wave);
                json!({"audio": audio, "text": format!("caption {caption} of {name}"), "speaker": "s"})
            })
            .collect();
        json!({"image": format!("{name}.png"), "split": split, "family": format!("{split} {}", number / 3), "captions": captions})
    }

    /// Runs `cmd` in the folder of this workspace.
    pub fn cmd(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cmd"));
        command.args(arguments).current_dir(self.folder.path()).env("OMP_NUM_THREADS", "1").env_remove("RUST_LOG");
        command
    }

    /// As [`Self::command`], on a machine with a fault of `faults.c`.
    pub fn faulty(&self, arguments: &[&str], (fault, value): (&str, &str)) -> Command {
        let mut command = self.command(arguments);
        command.env("LD_PRELOAD", faults()).env(fault, value);
        command
    }

    /// Starts a long run and waits until its metrics hold `lines`.
    pub fn start(&self, mut command: Command, run: &str, lines: usize) -> Child {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
        let metrics = self.path(&format!("runs/{run}/metrics.jsonl"));
        let begun = Instant::now();
        while std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < lines {
            assert!(child.try_wait().expect("a status").is_none(), "{run} ended too early");
            assert!(begun.elapsed() < Duration::from_secs(120), "{run}: no {lines} lines of metrics came");
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    /// `state.json` of a run's newest checkpoint.
    pub fn state(&self, run: &str) -> Value {
        let text = std::fs::read_to_string(self.path(&format!("runs/{run}/last/state.json"))).expect("a checkpoint");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Changes the configuration.
    pub fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("tiny.toml")).expect("a configuration");
        assert!(text.contains(from), "{text}");
        std::fs::write(self.path("tiny.toml"), text.replace(from, to)).expect("written");
    }

    /// Runs `cmd`, which must succeed, and returns its standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.cmd(arguments);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "cmd {arguments:?}\n{stdout}{stderr}");
        stdout.into_owned()
    }

    /// Runs `cmd`, which must fail with `status` and one line that holds each of `parts`.
    pub fn fails(&self, status: i32, arguments: &[&str], parts: &[&str]) {
        let output = self.cmd(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let errors: Vec<&str> =
            stderr.lines().filter(|line| !line.contains("WARN") && !line.contains("INFO")).collect();
        assert_eq!(output.status.code(), Some(status), "cmd {arguments:?}\n{stderr}");
        assert_eq!(errors.len(), 1, "cmd {arguments:?} says more than one line:\n{stderr}");
        assert!(errors[0].starts_with("error: "), "{stderr}");
        for part in parts {
            assert!(errors[0].contains(part), "cmd {arguments:?} does not say {part:?}:\n{stderr}");
        }
    }

    /// Goes on with a run that stopped, for one step more than it has.
    pub fn goes_on(&self, run: &str) {
        let step = self.state(run)["step"].as_u64().expect("a step") + 1;
        self.ok(&["train", "--resume", &format!("runs/{run}"), "--set", &format!("train.steps={step}")]);
        assert_eq!(self.state(run)["step"], step);
    }

    /// What a run has written under `key`, a figure a line.
    #[track_caller]
    pub fn figures(&self, run: &str, key: &str) -> Vec<f64> {
        let figures: Vec<f64> = self.metrics(run).iter().filter_map(|line| line[key].as_f64()).collect();
        assert!(!figures.is_empty(), "{run} has no {key}");
        figures
    }

    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(&format!("runs/{run}/metrics.jsonl"))).expect("metrics");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

pub fn write_wav(path: &Path, samples: &[f32]) {
    write_wav_as(path, 16_000, 1, samples);
}

/// Writes the same samples into every channel, 16 bits.
pub fn write_wav_as(path: &Path, sample_rate: u32, channels: u16, samples: &[f32]) {
    let spec = hound::WavSpec { channels, sample_rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(path, spec).expect("a WAV file");
    for sample in samples {
        for _ in 0..channels {
            writer.write_sample((sample * 32_767.0) as i16).expect("a sample");
        }
    }
    writer.finalize().expect("a WAV file");
}

/// The command line of a run of the configuration as it stands.
pub fn train<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "--config", "tiny.toml", "--name", name], more].concat()
}

/// Figures of runs whose sums were made in another order.
#[track_caller]
pub fn assert_close(ours: &[f64], theirs: &[f64], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (line, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-3), "{what}, line {line}: {a} and {b}");
    }
}

pub fn free_port() -> u16 {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    taken.local_addr().expect("an address").port()
}

/// The processes that a launcher has started, by rank.
pub fn ranks(launcher: &Child) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", launcher.id())).expect("children");
    children.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

/// Sends `signal` to a process, or to a process group where the number is negative.
pub fn kill(signal: &str, process: i64) {
    let status = Command::new("kill").args(["-s", signal, "--", &process.to_string()]).status();
    assert!(status.expect("kill").success());
}

/// The library of `faults.c`, compiled.
fn faults() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| compiled(Command::new("cc").args(["-shared", "-fPIC", "-O1"]), "faults.c"))
}

/// The library that `compiler` makes of a file of this folder; several test binaries may do so at once.
pub fn compiled(compiler: &mut Command, source: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (own, library) = (folder.join(format!("{}.so", std::process::id())), folder.join(source).with_extension("so"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common").join(source);
    assert!(compiler.arg(source).arg("-o").arg(&own).status().expect("a compiler").success());
    std::fs::rename(own, &library).expect("in its place");
    library
}
