//! `recover`: a new catalog for a fleet that has lost its own.

use std::path::Path;

use litefleet::{ControlPlane, Result};

use super::output::Output;

/// Recovers the catalog of the fleet at `root`, and prints what is not as it was.
pub(super) fn run(root: &Path, output: Output) -> Result<()> {
    output.recovered(&ControlPlane::recover(root)?)
}
