//! `cmd serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Error;
use super::print;
use super::trained::TrainedArgs;
use crate::search::Index;
use crate::serve::{About, Limits, Server, Shelf};
use crate::signals::Signals;

/// Serves a page to speak to, and an API: speech finds the pictures of an index, pictures find what is said of them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Folder of an index, made by cmd search index.
    #[arg(value_name = "IDX")]
    index: PathBuf,
    /// Address to listen at. Others than those of this machine alone need --token.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Port to listen at; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Clients must send this; better given as CMD_TOKEN, which others on this machine do not see.
    #[arg(long, env = "CMD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Megabytes of the largest sound or picture that is taken.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_megabytes: u32,
    /// Seconds of the longest utterance that is taken.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1800))]
    max_seconds: u32,
    /// Requests that wait for the model; more are told to come back.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65536))]
    queue: u32,
    /// Requests of one forward.
    #[arg(long, default_value = "16")]
    batch: NonZeroUsize,
    /// Connections at once; more wait to be taken.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    connections: u32,
    #[command(flatten)]
    trained: TrainedArgs,
}

const EXAMPLES: &str = "Examples:
  cmd search index --split test --out test.idx && cmd serve test.idx
  cmd serve photos.idx --port 9000
  CMD_TOKEN=secret cmd serve photos.idx --address 0.0.0.0
  curl --data-binary @question.wav 'http://localhost:8080/api/search?k=3'

SIGTERM and SIGINT let what has begun finish; the exit status is then 0.";

/// Time in which a body has to come, and a file has to be decoded.
const BODY_TIME: Duration = Duration::from_secs(30);
const DECODE_TIME: Duration = Duration::from_secs(30);

pub(super) fn run(args: &Args) -> Result<(), Error> {
    bound_primitives();
    let signals = Signals::listen().map_err(Error::output("signal handlers"))?;
    let address = SocketAddr::new(args.address, args.port);
    let token = args.token.as_deref();
    if !address.ip().is_loopback() && token.is_none() {
        return Err(Error::Usage(format!(
            "--address {} can be reached by others, so a token is needed: set CMD_TOKEN or --token",
            address.ip()
        )));
    }
    if token.is_some_and(|token| {
        token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    }) {
        return Err(Error::Usage(
            "a token consists of letters, digits and -._~, so that it can stand in an address".to_owned(),
        ));
    }
    // Until it listens, there is nothing to finish.
    let loading = signals.nothing_to_lose()?;
    let index = Index::open(&args.index)?;
    let trained = args.trained.load(Some(index.checkpoint()))?;
    trained.check_index(&index, &args.index)?;
    // Now, and not at the first query.
    trained.encoders.names_text().then(|| trained.encoders.text("words")).transpose()?;
    let embedder = trained.embedder();
    let shelf = Shelf {
        about: About {
            checkpoint: trained.name(),
            index: name_of(&args.index),
            attention: trained.model.fusion().is_some(),
            keywords: trained.model.speech().cascade().is_some(),
            text: trained.encoders.names_text(),
        },
        index,
        audio: embedder.audio_form(),
        pictures: embedder.picture_form(),
        max_megapixels: trained.config.data.max_megapixels,
    };
    let limits = Limits {
        bytes: u64::from(args.max_megabytes) * 1_000_000,
        seconds: f64::from(args.max_seconds),
        queue: args.queue as usize,
        batch: args.batch,
        connections: args.connections as usize,
        body_time: BODY_TIME,
        decode_time: DECODE_TIME,
    };
    drop(loading);
    let (server, desk) = Server::start(address, token, limits, shelf, &signals)?;
    print(&format!("http://{}/\n", server.address))?;
    desk.work(embedder, trained.model.fusion());
    server.end();
    Ok(())
}

/// oneDNN keeps what it made ready for each length of an utterance; kept for all that ever came, they would be memory that only grows.
fn bound_primitives() {
    const KEPT: &str = "ONEDNN_PRIMITIVE_CACHE_CAPACITY";
    if std::env::var_os(KEPT).is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var(KEPT, "64") };
    }
}

/// The last part of a folder's path.
fn name_of(folder: &Path) -> String {
    let whole = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    whole.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
