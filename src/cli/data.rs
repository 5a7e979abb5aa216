//! `cmd data`.

use std::io::BufWriter;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::print;
use crate::config::{Config, Needs, Override};
use crate::data::{Audit, Dataset, write_manifest};
use crate::signals::Signals;

/// Looks after data sets.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Check(CheckArgs),
    Manifest(ManifestArgs),
}

/// Counts a data set's splits, reads the header of every file and names what stops a run (missing and unreadable files and
/// splits) and what is worth knowing (copies of an image in one split, which make recalls too low, training images in other splits, too
/// short or long, wrong headers, ...); exit status 1 for the first.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cmd data check configs/flickr8k.toml\n  cmd data check configs/flickr8k.toml --decode --json"
)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Decodes every file on all cores instead of reading its header.
    #[arg(long)]
    decode: bool,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Writes a data set of any kind as a manifest, for data.kind = "manifest".
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cmd data manifest configs/flickr8k.toml > flickr8k.jsonl\n  cmd data manifest configs/flickr8k.toml --out data/flickr8k/manifest.jsonl"
)]
pub(super) struct ManifestArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The manifest; by default standard output. Paths below its folder are written relative to it, others absolute.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct DataArgs {
    /// Configuration with the data set.
    config: PathBuf,
    /// Overrides a key of the configuration; relative paths start from the current folder. Repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
}

impl DataArgs {
    fn load(&self) -> Result<(Config, Dataset), Error> {
        let overrides: Vec<Override> = self.overrides.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let config = Config::load(&self.config, &overrides, Needs::Data)?;
        let dataset = Dataset::load(&config.data)?;
        Ok((config, dataset))
    }
}

pub(super) fn run(command: &Command) -> Result<u8, Error> {
    match command {
        Command::Check(args) => check(args),
        Command::Manifest(args) => manifest(args),
    }
}

fn check(args: &CheckArgs) -> Result<u8, Error> {
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let _all_along = signals.nothing_to_lose()?;
    let (config, dataset) = args.data.load()?;
    let audit = Audit::new(&dataset, (&config.data, &config.audio), &config.eval.split, args.decode);
    if args.json {
        print(&format!("{:#}\n", audit.to_json()))?;
    } else {
        print(&audit.to_string())?;
    }
    Ok(u8::from(!audit.is_clean()))
}

fn manifest(args: &ManifestArgs) -> Result<u8, Error> {
    let (_, dataset) = args.data.load()?;
    let Some(path) = &args.out else {
        let mut text = Vec::new();
        write_manifest(&dataset, Path::new(""), &mut text).map_err(Error::output("standard output"))?;
        return print(&String::from_utf8_lossy(&text)).map(|()| 0);
    };
    let beside = path.with_extension("part");
    let written = std::path::absolute(path).and_then(|full| {
        let file = std::fs::File::create(&beside)?;
        write_manifest(&dataset, full.parent().unwrap_or(Path::new("/")), BufWriter::new(file))?;
        std::fs::rename(&beside, path)
    });
    written.map_err(Error::output(path))?;
    tracing::info!("{}: {} images, {} utterances", path.display(), dataset.images.len(), dataset.utterances.len());
    Ok(0)
}
