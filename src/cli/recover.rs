//! `recover`: a new catalog for a fleet that has lost its own.

use std::path::Path;

use litefleet::{ControlPlane, Result};
use serde_json::json;

use super::output::{self, Output};

/// Recovers the catalog of the fleet at `root`, and prints what is not as it was.
pub(super) fn run(root: &Path, output: Output) -> Result<()> {
    let recovered = ControlPlane::recover(root)?;
    if output.json {
        let findings = recovered
            .findings
            .iter()
            .map(|finding| json!({"file": finding.file.to_string_lossy(), "message": finding.message}));
        return output::json_line(&json!({
            "groups": recovered.groups, "databases": recovered.databases,
            "findings": findings.collect::<Vec<_>>(),
        }));
    }
    for finding in &recovered.findings {
        output::print(&output::escaped(&finding.to_string()))?;
    }
    let count = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (groups, databases) = (count(recovered.groups, "group"), count(recovered.databases, "database"));
    output::print(&format!("Recovered {groups} and {databases}."))
}
