//! `bench`: the speed of the ciphers on this processor, and of commits on this disk.

mod ciphers;
mod commits;
mod report;
mod rounds;
mod temporary_dir;

use std::{path::Path, time::Duration};

use litefleet::{Cipher, Result};

use super::{interrupt, output::Output};
use report::Report;
use temporary_dir::TemporaryDir;

/// The share of the time that the ciphers get.
const CIPHERS_SHARE: f64 = 0.4;

/// Runs the measurements for about `duration` and prints them. `root` need not exist.
pub(super) fn run(root: &Path, duration: Duration, output: Output) -> Result<()> {
    interrupt::cancel_on_signals()?;
    let ciphers = ciphers::measure(duration.mul_f64(CIPHERS_SHARE))?;
    let fastest = report::fastest(&ciphers, |_| true).unwrap_or(Cipher::Aes256Gcm);
    let dir = TemporaryDir::create_near(root)?;
    let commits = commits::measure(dir.path(), fastest, duration.mul_f64(1.0 - CIPHERS_SHARE));
    // The databases are closed by now.
    let removed = dir.remove();
    let report = Report { ciphers, commits: commits? };
    removed?;
    report.print(output)
}
