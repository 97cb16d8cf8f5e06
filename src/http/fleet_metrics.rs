//! Metrics of the fleet for Prometheus, from the last pass of its maintainer. A scrape reads no disk.

use std::{fmt, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::text::encode_registry,
    metrics::gauge::Gauge,
    registry::{Registry, Unit},
};

use crate::{FleetFigures, Maintainer, Timestamp};

/// Appends the metrics of a fleet. Before the first pass is complete, only the time since the last maintenance is known.
pub(super) fn write(text: &mut String, maintainer: &Maintainer) -> Result<(), fmt::Error> {
    let now = Timestamp::now();
    let figures = maintainer.figures();
    let mut registry = Registry::with_prefix("litefleet");
    let mut seconds = |name: &str, help: &str, since: Timestamp| {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(seconds_between(since, now));
        registry.register_with_unit(name, help, Unit::Seconds, gauge);
    };
    let help = "Time since the start of the last complete maintenance pass";
    seconds("unmaintained", help, figures.map_or(maintainer.started_at(), |figures| figures.since));
    if let Some(oldest) = figures.and_then(|figures| figures.oldest) {
        let help = "Time since the earliest instant that a database can be restored to";
        seconds("history_age", help, oldest);
    }
    if let Some(FleetFigures { databases, drafts, bytes, archive_bytes, failed, .. }) = figures {
        for (name, help, unit, value) in [
            ("databases", "Number of databases that are ready", None, databases),
            ("drafts", "Number of drafts", None, drafts),
            ("database", "Size of all databases with their logs", Some(Unit::Bytes), bytes),
            ("archive", "Size of all histories", Some(Unit::Bytes), archive_bytes),
            ("maintenance_failed", "Databases whose maintenance failed in the last pass", None, failed),
        ] {
            let gauge = Gauge::<u64, AtomicU64>::default();
            gauge.set(value);
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauge),
                None => registry.register(name, help, gauge),
            }
        }
    }
    encode_registry(text, &registry)
}

#[expect(clippy::cast_precision_loss, reason = "a metric may be off by a microsecond")]
fn seconds_between(since: Timestamp, now: Timestamp) -> f64 {
    now.as_micros().saturating_sub(since.as_micros()) as f64 / 1e6
}
