//! `db maintain`: maintenance of one database or of all.

use litefleet::{
    ControlPlane, DatabaseState, Error, ErrorKind, ListDatabases, MaintainOptions, MaintenanceReport, Result,
};

use super::{
    output::{self, Output},
    progress::Bar,
};

/// Maintains a database and prints the report.
pub(super) fn one(plane: &ControlPlane, name: &str, output: Output) -> Result<()> {
    let mut bar = Bar::new("Maintaining")?;
    let report =
        plane.maintain_database(name, MaintainOptions::default().progress(|progress| bar.show(progress)));
    bar.clear();
    let report = report?;
    if output.json {
        output::json_line(&output::maintenance_value(name, Ok(&report)))
    } else {
        print_table(&[(name, &report)])
    }
}

/// Maintains all databases and prints the reports. A failure of one does not stop the others.
pub(super) fn all(plane: &ControlPlane, output: Output) -> Result<()> {
    let databases = plane.list_databases(ListDatabases::default())?;
    let ready = databases.iter().filter(|database| database.state == DatabaseState::Ready);
    let mut bar = Bar::new("Maintaining")?;
    let mut results = Vec::new();
    for database in ready {
        let name = database.name.as_str();
        let result = plane
            .maintain_database(database, MaintainOptions::default().progress(|progress| bar.show(progress)));
        let kind = result.as_ref().err().map(Error::kind);
        // A database that was destroyed in the meantime is skipped.
        if kind != Some(ErrorKind::Destroyed) {
            results.push((name, result));
        }
        if kind == Some(ErrorKind::Cancelled) {
            break;
        }
    }
    bar.clear();
    let failed = results.iter().filter_map(|(name, result)| Some((*name, result.as_ref().err()?)));
    if output.json {
        let values = results.iter().map(|(name, result)| output::maintenance_value(name, result.as_ref()));
        output::json_line(&values.collect::<Vec<_>>())?;
    } else {
        let reports = results.iter().filter_map(|(name, result)| Some((*name, result.as_ref().ok()?)));
        print_table(&reports.collect::<Vec<_>>())?;
    }
    let messages: Vec<_> = failed.clone().map(|(name, error)| format!("{name}: {error}")).collect();
    match failed.map(|(_, error)| error.kind()).next() {
        Some(kind) => Err(Error::new(kind, messages.join("; "))),
        None => Ok(()),
    }
}

fn print_table(reports: &[(&str, &MaintenanceReport)]) -> Result<()> {
    let columns =
        ["NAME", "SNAPSHOTS", "REMOVED", "BYTES FREED", "COMPRESSED", "BYTES SAVED", "RESTORABLE FROM"];
    let mut table = output::table(&columns);
    for (name, report) in reports {
        let note = if report.deferred { " (partly in use; the rest is deferred)" } else { "" };
        let from = report.windows.first().map_or_else(|| "-".to_owned(), |window| window.from.to_string());
        table.add_row([
            (*name).to_owned(),
            report.snapshots.to_string(),
            report.generations.to_string(),
            report.bytes_freed.to_string(),
            report.compressed.to_string(),
            report.bytes_saved.to_string(),
            format!("{from}{note}"),
        ]);
    }
    output::print(&table.to_string())
}
