//! `recover`: rebuilds a lost catalog.

use std::path::Path;

use litefleet::{ControlPlane, Result};

use super::output::Output;

/// Recovers the catalog of the fleet at `root` and prints the report.
pub(super) fn run(root: &Path, output: Output) -> Result<()> {
    output.recovered(&ControlPlane::recover(root)?)
}
