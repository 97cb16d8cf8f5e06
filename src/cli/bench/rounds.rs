//! The rounds of a measurement, and their end on a signal.

use std::time::Duration;

use litefleet::{Error, ErrorKind, Result};

use super::super::interrupt;

/// How often everything is measured. The measurements of a round alternate, so that a busy moment hits each of them alike.
pub(super) const ROUNDS: u32 = 5;

/// The time of one of `count` measurements of a round.
pub(super) fn slice(duration: Duration, count: usize) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX).saturating_mul(ROUNDS);
    duration / count.max(1)
}

/// Fails with [`ErrorKind::Cancelled`] if a signal has requested that.
pub(super) fn check_cancelled() -> Result<()> {
    if interrupt::is_requested() {
        return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
    }
    Ok(())
}
