//! Log lines and spans of work through `tracing`; `RUST_LOG` overrides -q and -v, `NO_COLOR` turns colours off.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write, stderr};

use tracing_chrome::{ChromeLayerBuilder, FlushGuard};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::{FmtSpan, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::progress::BARS;

/// A profile that is being written; it ends where this is dropped.
pub struct Profile(#[expect(dead_code, reason = "it is there to be dropped")] FlushGuard);

/// Sends log lines of `level` ("warn", "info", "debug", ...) and above to standard error, at "trace" also how long each piece of work took. With
/// `profile`, every piece of work goes into that file, in Chrome's trace format.
pub fn start_logging(level: &str, profile: Option<File>) -> Option<Profile> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = fmt::layer()
        .with_target(false)
        .with_timer(Clock)
        .with_ansi(colours)
        .with_writer(AboveBars)
        .with_span_events(if level == "trace" { FmtSpan::CLOSE } else { FmtSpan::NONE })
        .with_filter(filter);
    let (trace, profile) =
        profile.map(|file| ChromeLayerBuilder::new().writer(BufWriter::new(file)).include_args(false).build()).unzip();
    let own = filter_fn(|what| what.is_span() && what.target().starts_with(env!("CARGO_CRATE_NAME")));
    let subscriber = tracing_subscriber::registry().with(lines).with(trace.map(|trace| trace.with_filter(own)));
    // A second call, as in tests, keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(subscriber);
    profile.map(Profile)
}

struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", jiff::Zoned::now().strftime("%H:%M:%S"))
    }
}

/// Writes lines without tearing progress bars.
struct AboveBars;

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        BARS.suspend(|| stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        stderr().flush()
    }
}
