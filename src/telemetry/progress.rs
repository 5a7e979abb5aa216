//! Progress, rate and time left of long work: a bar on a terminal, plain log lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// All bars; hidden where standard error is no terminal, or with -q.
pub(super) static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    let visible = stderr().is_terminal() && tracing::enabled!(tracing::Level::INFO);
    MultiProgress::with_draw_target(if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() })
});

/// Time between plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Progress of one piece of work.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    what: String,
    unit: &'static str,
    start: Instant,
    first: u64,
    last_line: Instant,
}

impl Progress {
    /// Starts at `done` of `total`, counted in `unit`.
    #[must_use]
    pub fn new(what: &str, unit: &'static str, done: u64, total: u64) -> Self {
        let bar = BARS.add(ProgressBar::new(total).with_position(done));
        let template = format!("{what} {{bar:30}} {{pos}}/{{len}} {unit} {{per_sec}}, {{eta}} left {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.with_key(
                "per_sec",
                |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                    let _ = write!(out, "{:.1}/s", state.per_sec());
                },
            ));
        }
        let now = Instant::now();
        Self { bar, what: what.to_owned(), unit, start: now, first: done, last_line: now }
    }

    /// Counts `count` more done; `message` stands beside the bar.
    pub fn advance(&mut self, count: u64, message: impl FnOnce() -> String) {
        self.bar.inc(count);
        if !self.bar.is_hidden() {
            self.bar.set_message(message());
        } else if self.last_line.elapsed() >= PLAIN_EVERY {
            self.last_line = Instant::now();
            let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let rate = (done - self.first) as f64 / self.start.elapsed().as_secs_f64();
            let left = Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate.max(1e-9)).min(1e9));
            tracing::info!(
                "{} {done}/{total} {} {rate:.1}/s, {} left {}",
                self.what,
                self.unit,
                HumanDuration(left),
                message()
            );
        }
    }

    /// Seconds since the start.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
