//! `cmd doctor`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use serde_json::json;
use tch::{Cuda, Device};

use super::error::Error;
use super::print;
use crate::VERSION;
use crate::config::{Config, Needs, Override};
use crate::data::Dataset;
use crate::distributed::nccl_versions;
use crate::encoders::{Cache, EncoderError, Encoders};
use crate::features::cache_folder;
use crate::model::libtorch_version;
use crate::telemetry::{existing, free_disk, free_memory, processor_features, whole_memory};

/// Says what this machine and a configuration have: what works, what does not, and the command that mends it. Exit status 1 where
/// something does not.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cmd doctor\n  cmd doctor configs/flickr8k.toml\n  cmd doctor configs/flickr8k.toml --json"
)]
pub(super) struct Args {
    /// A configuration, whose data and encoders are looked at too.
    config: Option<PathBuf>,
    /// Overrides a key of the configuration; relative paths start from the current folder. Repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", requires = "config")]
    overrides: Vec<String>,
    /// Folder in which runs are kept.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output: PathBuf,
    /// Prints what was found as JSON.
    #[arg(long)]
    json: bool,
}

/// Files of each kind whose presence is looked at.
const LOOKED_AT: usize = 500;

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// It works.
    Fine,
    /// It works, but not as well as it could.
    Odd,
    /// It does not work.
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn fine(what: &'static str, found: String) -> Self {
        Self { what, verdict: Verdict::Fine, found, mend: None }
    }

    fn odd(what: &'static str, found: String, mend: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Odd, found, mend: Some(mend.into()) }
    }

    fn broken(what: &'static str, found: String, mend: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Broken, found, mend: Some(mend.into()) }
    }
}

pub(super) fn run(args: &Args) -> Result<u8, Error> {
    let overrides: Vec<Override> = args.overrides.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let mut findings = vec![program(), processor(), threads()];
    findings.extend(cuda());
    findings.push(memory());
    findings.push(disk("room for runs", &args.output, 2.0));
    if let Some(path) = &args.config {
        findings.extend(configuration(path, &overrides));
    }
    let is_broken = findings.iter().any(|finding| finding.verdict == Verdict::Broken);
    if args.json {
        print(&format!("{:#}\n", json!({ "works": !is_broken, "findings": findings })))?;
    } else {
        print(&table(&findings))?;
    }
    Ok(u8::from(is_broken))
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { what, verdict, found, mend } in findings {
        let sign = match verdict {
            Verdict::Fine => "fine  ",
            Verdict::Odd => "odd   ",
            Verdict::Broken => "BROKEN",
        };
        text += &format!("{sign} {what:width$}  {found}\n");
        if let Some(mend) = mend {
            text += &format!("       {:width$}  -> {mend}\n", "");
        }
    }
    text
}

fn program() -> Finding {
    Finding::fine("program", format!("cmd {VERSION}, libtorch {}", libtorch_version()))
}

fn processor() -> Finding {
    let features = processor_features();
    let has = |name: &str| features.iter().any(|feature| feature == name);
    let bf16 = ["amx_bf16", "avx512_bf16", "bf16"].into_iter().find(|name| has(name));
    let wide = ["avx512f", "avx2", "sve", "asimd"].into_iter().find(|name| has(name)).unwrap_or("none that is known");
    match bf16 {
        Some(bf16) => Finding::fine("processor", format!("vectors {wide}, bfloat16 {bf16}")),
        None => Finding::odd(
            "processor",
            format!(
                "vectors {wide}, no bfloat16: encoders in bf16 run many times slower than in f32 on this processor"
            ),
            "on the CPU, export encoders with --dtype f32 or set encoders.speech.dtype = \"f32\" and encoders.image.dtype = \"f32\"",
        ),
    }
}

fn threads() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = tch::get_num_threads();
    let found = format!("{threads} threads of libtorch on {cores} cores that this process may use");
    if threads as usize > cores {
        return Finding::odd("threads", found, format!("OMP_NUM_THREADS={cores} (unset, or that)"));
    }
    Finding::fine("threads", found)
}

/// Devices, their driver and NCCL.
fn cuda() -> Vec<Finding> {
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    let driver = driver.as_deref().and_then(|text| text.lines().next()).map(str::trim);
    let is_there = driver.is_some() || Path::new("/dev/nvidiactl").exists();
    let count = Cuda::device_count();
    if count == 0 {
        return vec![if is_there {
            let found = format!("there is a device, but libtorch sees none; driver: {}", driver.unwrap_or("none"));
            let mend = "if nvidia-smi lists it and CUDA_VISIBLE_DEVICES is unset, libtorch is the one for the CPU: rm -rf .venv && scripts/setup";
            Finding::broken("CUDA", found, mend)
        } else {
            Finding::fine("CUDA", "no device: everything runs on the CPU".to_owned())
        }];
    }
    let mut findings = vec![match devices() {
        Some(devices) => Finding::fine("CUDA", format!("{count} devices; {devices}")),
        None => Finding::fine("CUDA", format!("{count} devices; driver: {}", driver.unwrap_or("unknown"))),
    }];
    findings.push(match nccl_versions() {
        Some([built, found]) if built == found => Finding::fine("NCCL", found),
        Some([built, found]) => Finding::odd(
            "NCCL",
            format!("built with the header of {built}, runs with {found}"),
            "touch build.rs && cargo build --release, with the environment that runs it",
        ),
        None => Finding::odd(
            "NCCL",
            "the program was built without its headers, so several processes need distributed.backend = \"gloo\"".to_owned(),
            ".venv/bin/pip install nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85 && touch build.rs && cargo build --release",
        ),
    });
    findings
}

/// What nvidia-smi says of the devices.
fn devices() -> Option<String> {
    let query = ["--query-gpu=name,memory.total,compute_cap,driver_version", "--format=csv,noheader"];
    let output = Command::new("nvidia-smi").args(query).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

fn memory() -> Finding {
    match (free_memory(), whole_memory()) {
        (Some(free), Some(whole)) => {
            let found = format!("{:.1} of {:.1} GB are free", free as f64 / 1e9, whole as f64 / 1e9);
            if free < 1_000_000_000 {
                return Finding::odd("memory", found, "end other programs; the demo takes some 2.5 GB");
            }
            Finding::fine("memory", found)
        }
        _ => Finding::odd("memory", "the system does not tell".to_owned(), "look at it yourself"),
    }
}

/// Room below `folder`, of which `least` GB should be there.
fn disk(what: &'static str, folder: &Path, least: f64) -> Finding {
    let found = existing(folder);
    let is_writable = rustix::fs::access(found, rustix::fs::Access::WRITE_OK).is_ok();
    let shown = std::path::absolute(folder).unwrap_or(folder.to_owned());
    if !is_writable {
        let found = format!("{} cannot be written", found.display());
        return Finding::broken(what, found, "name another folder, or change its owner");
    }
    let Some(free) = free_disk(folder).map(|free| free as f64 / 1e9) else {
        return Finding::odd(what, format!("{}: the system does not tell", shown.display()), "look at it yourself");
    };
    let found = format!("{}: {free:.1} GB are free", shown.display());
    if free < least {
        Finding::odd(what, found, "make room, or name another folder")
    } else {
        Finding::fine(what, found)
    }
}

fn configuration(path: &Path, overrides: &[Override]) -> Vec<Finding> {
    let config = match Config::load(path, overrides, Needs::Encoders) {
        Ok(config) => config,
        Err(error) => {
            return vec![Finding::broken(
                "configuration",
                error.to_string(),
                "cmd train --config FILE --print-config shows every key",
            )];
        }
    };
    let mut findings = vec![Finding::fine("configuration", path.display().to_string())];
    findings.push(match Dataset::load(&config.data) {
        Err(error) => Finding::broken("data", error.to_string(), "docs/data.md shows what is read from where"),
        Ok(dataset) => {
            let names = dataset.splits().join(", ");
            let (images, utterances) = (dataset.images.len(), dataset.utterances.len());
            let found = format!("{}: {images} images, {utterances} utterances; splits {names}", dataset.name);
            // A look at some: `cmd data check` looks at all.
            let images = dataset.images.iter().take(LOOKED_AT).map(|image| &image.path);
            let sounds = dataset.utterances.iter().take(LOOKED_AT).map(|utterance| &utterance.audio);
            match images.chain(sounds).find(|file| !file.exists()) {
                Some(file) => {
                    let found = format!("{found}; {} is not there", file.display());
                    Finding::broken(
                        "data",
                        found,
                        format!("cmd data check {} names all that are missing", path.display()),
                    )
                }
                None => Finding::fine("data", found),
            }
        }
    });
    findings.push(match Encoders::load(&config.encoders, Device::Cpu) {
        Ok(encoders) => {
            let (speech, image) = (encoders.speech().spec(), encoders.image().spec());
            let sizes = format!(
                "{} states of {} and {} patches of {}",
                speech.layers,
                speech.width,
                image.patches(),
                image.width
            );
            let text = encoders.names_text().then(|| encoders.text("words")).transpose();
            match text {
                Ok(text) => {
                    let text = text.map_or(String::new(), |text| format!("; {} for words", text.spec().name));
                    Finding::fine("encoders", format!("{} and {}: {sizes}{text}", speech.name, image.name))
                }
                Err(error) => {
                    unusable(&error, "scripts/setup --exporters, then scripts/export_clip.py --text (docs/words.md)")
                }
            }
        }
        Err(error) => unusable(
            &error,
            "scripts/setup --exporters, then scripts/export_hubert.py and scripts/export_clip.py (README)",
        ),
    });
    if [config.encoders.speech.cache, config.encoders.image.cache].contains(&Cache::Disk) {
        findings.push(disk("room for features", &cache_folder(&config.data), 5.0));
    }
    findings
}

/// An encoder that cannot be used; one that is missing or broken is made anew by `made_by`.
fn unusable(error: &EncoderError, made_by: &str) -> Finding {
    let remedy = match error {
        EncoderError::Swapped { .. } => "name each file under its own key in the configuration",
        EncoderError::Widths { .. } => "export both from the same CLIP (docs/words.md)",
        _ => made_by,
    };
    Finding::broken("encoders", error.to_string(), remedy)
}
