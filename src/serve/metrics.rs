//! Figures of the server in Prometheus' form.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: String,
}

/// The figures.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    seconds: Family<Route, Histogram, fn() -> Histogram>,
    queue: Gauge,
    batch: Histogram,
    forward: Histogram,
    memory: Gauge<u64, AtomicU64>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let (requests, queue, memory) = (Family::default(), Gauge::default(), Gauge::default());
        let (batch, forward) = (Histogram::new(exponential_buckets(1.0, 2.0, 8)), times());
        let seconds = Family::new_with_constructor(times as fn() -> Histogram);
        let mut registry = Registry::with_prefix("cmd");
        registry.register("requests", "Requests answered, by route and status", requests.clone());
        let unit = Unit::Seconds;
        registry.register_with_unit("request", "Time to answer a request", unit, seconds.clone());
        registry.register("queue", "Requests that wait for the model", queue.clone());
        registry.register("batch", "Requests of one forward", batch.clone());
        registry.register_with_unit("forward", "Time of a forward", Unit::Seconds, forward.clone());
        registry.register_with_unit("resident_memory", "Memory of the process", Unit::Bytes, memory.clone());
        Self { registry, requests, seconds, queue, batch, forward, memory }
    }

    /// A request was answered.
    pub(super) fn answered(&self, route: &str, status: u16, begun: Instant) {
        let route = route.to_owned();
        self.requests.get_or_create(&Request { route: route.clone(), status }).inc();
        self.seconds.get_or_create(&Route { route }).observe(begun.elapsed().as_secs_f64());
    }

    /// One more waits for the model.
    pub(super) fn came(&self) {
        self.queue.inc();
    }

    /// So many do not wait any more.
    pub(super) fn left(&self, count: usize) {
        self.queue.dec_by(count as i64);
    }

    /// A forward of so many requests ended.
    pub(super) fn forward(&self, count: usize, begun: Instant) {
        self.batch.observe(count as f64);
        self.forward.observe(begun.elapsed().as_secs_f64());
    }

    pub(super) fn text(&self) -> String {
        self.memory.set(resident());
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Of times from a millisecond to half a minute.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

/// Bytes of this process in memory, where the system tells.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
