//! `cmd data`.

use std::path::PathBuf;

use serde_json::json;

use super::print;
use crate::config::{Config, Needs, Override};
use crate::data::{Audit, Dataset};
use crate::error::Error;

/// Looks after data sets.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Check(CheckArgs),
}

/// Counts a data set's splits and names missing files; exit status 1 if there are any.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Configuration with the data set.
    config: PathBuf,
    /// Overrides a key of the configuration; relative paths start from the current folder. Repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<u8, Error> {
    let Command::Check(args) = command;
    let overrides: Vec<Override> = args.overrides.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let config = Config::load(&args.config, &overrides, Needs::Data)?;
    let dataset = Dataset::load(&config.data)?;
    let audit = Audit::new(&dataset);
    if args.json {
        print(&format!("{:#}\n", json!(audit)))?;
    } else {
        print(&audit.to_string())?;
    }
    Ok(u8::from(!audit.missing.is_empty()))
}
