//! Metrics of the server, in the text format of OpenMetrics, which Prometheus scrapes.

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

use super::{connections::ConnectionCounts, executor::CallCounts, fleet_metrics};
use crate::Maintainer;

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Buckets of response times in seconds, from a read of the catalog to a fork of gigabytes.
const BUCKETS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];

/// The labels of a route, which contains no names of databases.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
}

/// The labels of a response.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResponseLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LoadLabel {
    load: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    responses: Family<ResponseLabels, Counter<u64, AtomicU64>>,
    seconds: Family<RouteLabels, Histogram>,
    running: Family<LoadLabel, Gauge<i64, AtomicI64>>,
    waiting: Gauge<i64, AtomicI64>,
    connections: Gauge<i64, AtomicI64>,
    closed: Family<ReasonLabel, Counter<u64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("litefleet");
        let responses = Family::default();
        let seconds = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let (running, waiting) = (Family::default(), Gauge::default());
        registry.register(
            "build",
            "Version of the server",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register("http_requests", "Requests answered", responses.clone());
        let help = "Time to the first byte of the response";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, seconds.clone());
        let help = "Running calls of the control plane: of the catalog (quick), copies (long), maintenance and uploads";
        registry.register("calls_running", help, running.clone());
        let help = "Queued calls of the control plane";
        registry.register("calls_waiting", help, waiting.clone());
        let (connections, closed) = (Gauge::default(), Family::default());
        registry.register("connections", "Open connections", connections.clone());
        let help = "Connections closed at the limit: displaced by others, or refused on arrival";
        registry.register("connections_closed_at_bound", help, closed.clone());
        Self { registry, responses, seconds, running, waiting, connections, closed }
    }
}

impl Metrics {
    /// Counts a response.
    pub(super) fn count(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        self.responses.get_or_create(&ResponseLabels { method, route: route.to_owned(), status }).inc();
        self.seconds
            .get_or_create(&RouteLabels { method, route: route.to_owned() })
            .observe(took.as_secs_f64());
    }

    /// Encodes all metrics.
    pub(super) fn encode(
        &self,
        calls: CallCounts,
        connections: &ConnectionCounts,
        maintainer: Option<&Maintainer>,
    ) -> Result<String, fmt::Error> {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let CallCounts { catalog, copy, maintenance, uploads, chunked_uploads, queued } = calls;
        let running = [
            ("quick", catalog),
            ("long", copy),
            ("upkeep", maintenance),
            ("upload", uploads),
            ("upload_in_chunks", chunked_uploads),
        ];
        self.connections.set(gauge(connections.open.load(Relaxed)));
        let closed = [("displaced", &connections.displaced), ("refused", &connections.refused)];
        for (reason, count) in closed {
            self.closed.get_or_create(&ReasonLabel { reason }).inner().store(count.load(Relaxed), Relaxed);
        }
        for (load, count) in running {
            self.running.get_or_create(&LoadLabel { load }).set(gauge(count));
        }
        self.waiting.set(gauge(queued));
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        if let Some(maintainer) = maintainer {
            fleet_metrics::write(&mut text, maintainer)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}
