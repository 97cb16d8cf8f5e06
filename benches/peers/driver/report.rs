//! The measurements of a workload.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::Outcome;

pub(super) fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// The line that a program prints.
#[derive(Default)]
pub(super) struct Report(Vec<(&'static str, String)>);

impl Report {
    pub(super) fn put(&mut self, name: &'static str, value: impl ToString) {
        self.0.push((name, value.to_string()));
    }

    /// Runs and times the workload.
    pub(super) fn measure<T>(&mut self, run: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let (start, processor) = (Instant::now(), processor_time());
        let result = run()?;
        self.put("wall", start.elapsed().as_secs_f64());
        self.put("cpu", processor_time().saturating_sub(processor).as_secs_f64());
        Ok(result)
    }

    /// Reports the checksum of the result, which must be that of all other peers.
    pub(super) fn check(&mut self, checksum: u64) {
        self.put("check", format!("\"{checksum:016x}\""));
    }

    /// Reports the median, the 99th percentile and the sum of durations.
    pub(super) fn distribution(&mut self, mut times: Vec<f64>) {
        self.put("busy", times.iter().sum::<f64>());
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        self.put("p50", at(0.5));
        self.put("p99", at(0.99));
    }

    pub(super) fn print(&self) {
        let fields: Vec<_> = self.0.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        println!("{{{}}}", fields.join(", "));
    }
}
