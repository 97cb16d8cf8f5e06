//! Figures of the server, as Prometheus reads them.

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::{connections::Counts, fleet, work::Figures};
use crate::Maintainer;

/// What the figures are written in.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long answers take, in seconds: from a read of the catalog to a fork of gigabytes.
const BUCKETS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];

/// What was asked for, without the names in it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    method: &'static str,
    route: String,
}

/// The same with what it was answered.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Load {
    load: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Closed {
    reason: &'static str,
}

/// The figures.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    answered: Family<Answered, Counter<u64, AtomicU64>>,
    seconds: Family<Route, Histogram>,
    running: Family<Load, Gauge<i64, AtomicI64>>,
    waiting: Gauge<i64, AtomicI64>,
    connections: Gauge<i64, AtomicI64>,
    closed: Family<Closed, Counter<u64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("litefleet");
        let answered = Family::default();
        let seconds = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let (running, waiting) = (Family::default(), Gauge::default());
        registry.register("build", "What runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("http_requests", "Requests that were answered", answered.clone());
        let help = "Time to the beginning of an answer";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, seconds.clone());
        let help =
            "Calls of the control plane that run: quick ones, long ones that copy databases, and uploads";
        registry.register("calls_running", help, running.clone());
        let help = "Calls of the control plane that wait for one of the others to end";
        registry.register("calls_waiting", help, waiting.clone());
        let (connections, closed) = (Gauge::default(), Family::default());
        registry.register("connections", "Connections that are open", connections.clone());
        let help =
            "Connections that were closed at the bound: to make room for others, or as soon as they came";
        registry.register("connections_closed_at_bound", help, closed.clone());
        Self { registry, answered, seconds, running, waiting, connections, closed }
    }
}

impl Metrics {
    /// Counts an answer.
    pub(super) fn count(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        self.answered.get_or_create(&Answered { method, route: route.to_owned(), status }).inc();
        self.seconds.get_or_create(&Route { method, route: route.to_owned() }).observe(took.as_secs_f64());
    }

    /// All figures as text.
    pub(super) fn text(
        &self,
        now: Figures,
        connections: &Counts,
        maintainer: Option<&Maintainer>,
    ) -> Result<String, fmt::Error> {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let Figures { quick, long, upkeep, uploads, sessions, waiting } = now;
        let running = [
            ("quick", quick),
            ("long", long),
            ("upkeep", upkeep),
            ("upload", uploads),
            ("upload_in_chunks", sessions),
        ];
        self.connections.set(gauge(connections.open.load(Relaxed)));
        let closed = [("displaced", &connections.displaced), ("refused", &connections.refused)];
        for (reason, count) in closed {
            self.closed.get_or_create(&Closed { reason }).inner().store(count.load(Relaxed), Relaxed);
        }
        for (load, count) in running {
            self.running.get_or_create(&Load { load }).set(gauge(count));
        }
        self.waiting.set(gauge(waiting));
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        if let Some(maintainer) = maintainer {
            fleet::write(&mut text, maintainer)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}
