//! The command line. `cmd-train` and `cmd-eval` are the same program.

mod cache;
mod card;
mod data;
mod device;
mod doctor;
mod embed;
pub mod error;
mod eval;
mod explain;
mod launching;
mod origin;
mod report;
mod scoring;
mod search;
mod serve;
mod sweep;
mod train;
mod trained;

use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::VERSION;
use crate::config::{Config, Needs};
use crate::data::{Dataset, has_stuck_reader};
use crate::distributed::Rank;
use crate::model::LibtorchError;
use crate::telemetry::{keep_memory, start_logging};
use crate::train::MixedData;
use error::Error;

/// Speech-image retrieval with cross-modal denoising: trains and evaluates.
#[derive(Debug, Parser)]
#[command(name = "cmd", version = VERSION, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say only what went wrong.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

const EXAMPLES: &str = "Examples:
  cmd train --config configs/demo.toml
  cmd train --resume latest
  cmd eval --split test
  cmd data check configs/demo.toml

`cmd-train ARGS` is `cmd train ARGS`, `cmd-eval ARGS` is `cmd eval ARGS`.
Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 loss not finite, 130 interrupted, 143 terminated, 129 hung up.";

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Args),
    Eval(eval::Args),
    Embed(embed::Args),
    Search(search::Args),
    Explain(explain::Args),
    Serve(serve::Args),
    Cache(cache::Args),
    Sweep(sweep::Args),
    #[command(subcommand)]
    Data(data::Command),
    Doctor(doctor::Args),
    Card(card::Args),
    Report(report::Args),
    /// Prints completions for a shell, to be sourced by it.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Writes a page of the manual for each command.
    #[command(hide = true)]
    Man {
        /// Folder for the pages.
        folder: PathBuf,
    },
}

/// Runs the program; `command` is the subcommand that its name implies.
#[must_use]
pub fn main(command: Option<&str>) -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(command) = command {
        arguments.insert(1.min(arguments.len()), command.into());
    }
    // One line is printed below instead of the default message.
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(|| run(arguments)));
    let (status, message) = match result {
        Ok(Ok(status)) => (status, None),
        Ok(Err(error)) => (error.exit_status(), Some(error.to_string())),
        Err(panic) => (1, Some(format!("failed unexpectedly: {}", LibtorchError::from_panic(&*panic)))),
    };
    if let Some(message) = message {
        let _ = writeln!(std::io::stderr(), "error: {}", message.replace('\n', " "));
    }
    if has_stuck_reader() {
        // What the reader holds must not be taken down under it.
        signal_hook::low_level::exit(i32::from(status));
    }
    ExitCode::from(status)
}

fn run(arguments: Vec<OsString>) -> Result<u8, Error> {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return Err(Error::Usage(usage_line(&error))),
        Err(help) => {
            print(&format!("{}\n", help.render().to_string().trim_end()))?;
            return Ok(0);
        }
    };
    let is_other = matches!(&cli.command, Command::Train(_) | Command::Cache(_))
        && Rank::from_environment().is_ok_and(|rank| rank.is_some_and(|rank| rank.rank > 0));
    let level = match (cli.quiet || is_other, cli.verbose) {
        (true, _) => "error",
        (_, 0) => "info",
        (_, 1) => "debug",
        _ => "trace",
    };
    let profile = match &cli.command {
        Command::Train(args) if !is_other => args.profile_file()?,
        _ => None,
    };
    keep_memory();
    let profile = start_logging(level, profile);
    match cli.command {
        Command::Train(args) => train::run(&args, profile).map(|()| 0),
        Command::Eval(args) => eval::run(&args).map(|()| 0),
        Command::Embed(args) => embed::run(&args).map(|()| 0),
        Command::Search(args) => search::run(&args).map(|()| 0),
        Command::Explain(args) => explain::run(&args).map(|()| 0),
        Command::Serve(args) => serve::run(&args).map(|()| 0),
        Command::Cache(args) => cache::run(&args).map(|()| 0),
        Command::Sweep(args) => sweep::run(&args).map(|()| 0),
        Command::Data(command) => data::run(&command),
        Command::Card(args) => card::run(&args).map(|()| 0),
        Command::Report(args) => report::run(&args).map(|()| 0),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "cmd", &mut script);
            print(&String::from_utf8_lossy(&script)).map(|()| 0)
        }
        Command::Man { folder } => {
            clap_mangen::generate_to(Cli::command(), &folder).map_err(Error::output(&folder))?;
            Ok(0)
        }
    }
}

/// The data set of a configuration, with those that are trained on beside it.
fn load_dataset(config: &Config) -> Result<Dataset, Error> {
    let mut dataset = Dataset::load(&config.data)?;
    for MixedData { config, weight } in &config.train.mix {
        let other = Config::load(config, &[], Needs::Data)?;
        dataset.mix(&Dataset::load(&other.data)?, *weight)?;
    }
    Ok(dataset)
}

/// Writes a result to standard output; a reader that has gone away is no error.
fn print(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::output("standard output")(error)),
        _ => Ok(()),
    }
}

/// clap's message and tip in one line.
fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let said: Vec<&str> = said.map(|line| line.trim_start_matches("error: ")).collect();
    format!("{}; see --help", said.join(" "))
}
