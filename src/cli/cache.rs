//! `cmd cache`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::device::{Local, device};
use super::error::Error;
use super::launching::LaunchArgs;
use super::{load_dataset, print};
use crate::config::{Config, Needs, Override};
use crate::distributed::{Crew, Rank, World};
use crate::encoders::{Cache, Encoders};
use crate::features::{FeatureSource, OnDisk, Use, cache_folder};
use crate::signals::Signals;

/// Computes the frozen features of a data set that the configuration keeps on disk (encoders.image.cache and encoders.speech.cache =
/// "disk"), for all later runs with the same encoders. What is there is not computed again; it may be stopped and started again, and
/// several may run at once.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cmd cache configs/flickr8k.toml\n  cmd cache my.toml --set encoders.speech.cache=disk --split train --nproc 2"
)]
pub(super) struct Args {
    /// Configuration with the data set and the encoders.
    config: PathBuf,
    /// A split; by default all. Repeatable.
    #[arg(long = "split", value_name = "NAME")]
    splits: Vec<String>,
    /// Reads every file, and computes anew what was made from another content.
    #[arg(long)]
    verify: bool,
    /// Overrides a key of the configuration; relative paths start from the current folder. Repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    launch: LaunchArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let overrides: Vec<Override> = args.overrides.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let config = Config::load(&args.config, &overrides, Needs::Encoders)?;
    if !keeps_on_disk(&config) {
        return Err(Error::Usage(format!(
            "{}: keeps no features on disk; set encoders.image.cache = \"disk\" or encoders.speech.cache = \"disk\"",
            args.config.display()
        )));
    }
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    if args.launch.launches() {
        let patience = Duration::from_secs(config.distributed.timeout_seconds.unsigned_abs());
        return args.launch.launch(&args.device, patience, &signals);
    }
    // What was computed is kept already.
    let _all_along = signals.nothing_to_lose()?;
    let rank = Rank::from_environment()?;
    let device = device(&args.device, Local::of(rank.as_ref()))?;
    let world = World::join(rank, device, &config.distributed)?;
    let crew = Crew { world: &world, signals: &signals };
    let dataset = load_dataset(&config)?;
    let encoders = Encoders::load(&config.encoders, device)?;
    let splits = if args.splits.is_empty() { dataset.splits() } else { args.splits.clone() };
    let mut results = Vec::new();
    for name in splits {
        let split = Arc::new(dataset.split(&name)?);
        // Training cannot keep windows; whole utterances are the same for both.
        let purpose = if name == "train" { Use::Training } else { Use::Evaluation };
        let mut features = config.features();
        features.data.share_cores(world.here());
        let mut source = FeatureSource::new(&encoders, &split, &features, purpose, crew, None)?;
        if args.verify {
            source.verify()?;
        }
        if config.encoders.image.cache == Cache::Disk {
            source.check_image_room()?;
            source.fill_images()?;
        }
        if config.encoders.speech.cache == Cache::Disk {
            source.check_kept()?;
            source.fill_speech()?;
        }
        if world.is_first() {
            results.push((name, source.on_disk()));
        }
    }
    if !world.is_first() {
        return Ok(());
    }
    if args.json {
        return print(&format!("{:#}\n", to_json(&config, &results)));
    }
    print(&table(&results))
}

fn keeps_on_disk(config: &Config) -> bool {
    [config.encoders.image.cache, config.encoders.speech.cache].contains(&Cache::Disk)
}

fn to_json(config: &Config, results: &[(String, [Option<OnDisk>; 2])]) -> serde_json::Value {
    let of = |found: &OnDisk| json!({ "folder": found.folder, "kept": found.kept, "of": found.count });
    let splits: serde_json::Map<String, serde_json::Value> = results
        .iter()
        .map(|(name, [speech, images])| {
            (name.clone(), json!({ "speech": speech.as_ref().map(of), "images": images.as_ref().map(of) }))
        })
        .collect();
    json!({ "folder": cache_folder(&config.data), "splits": splits })
}

fn table(results: &[(String, [Option<OnDisk>; 2])]) -> String {
    let mut lines = Vec::new();
    for (name, found) in results {
        for (found, what) in found.iter().zip(["utterances", "images"]) {
            if let Some(OnDisk { folder, kept, count }) = found {
                lines.push(format!("{name}: {kept} of {count} {what} in {}\n", folder.display()));
            }
        }
    }
    lines.concat()
}
