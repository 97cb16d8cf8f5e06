//! `db maintain`: one database, or all of them.

use litefleet::{ControlPlane, DatabaseState, Error, ErrorKind, ListDatabases, MaintenanceReport, Result};

use super::{
    output::{self, Output},
    progress::Bar,
};

/// Maintains a database.
pub(super) fn one(plane: &ControlPlane, name: &str, output: Output) -> Result<()> {
    let mut bar = Bar::new("Maintaining")?;
    let done = plane.maintain_database(name, &mut |progress| bar.show(progress));
    bar.clear();
    let done = done?;
    if output.json { output::json_line(&output::maintained(name, Ok(&done))) } else { show(&[(name, &done)]) }
}

/// Maintains all databases. What fails with one does not keep the others from it.
pub(super) fn all(plane: &ControlPlane, output: Output) -> Result<()> {
    let databases = plane.list_databases(&ListDatabases::default())?;
    let ready = databases.iter().filter(|database| database.state == DatabaseState::Ready);
    let mut bar = Bar::new("Maintaining")?;
    let mut results = Vec::new();
    for database in ready {
        let name = database.name.as_str();
        let done = plane.maintain_database(database, &mut |progress| bar.show(progress));
        let stop = done.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled);
        // One that was destroyed meanwhile needs none.
        let is_gone = done.as_ref().is_err_and(|error| error.kind() == ErrorKind::Destroyed);
        if !is_gone {
            results.push((name, done));
        }
        if stop {
            break;
        }
    }
    bar.clear();
    let failed = results.iter().filter_map(|(name, done)| Some((*name, done.as_ref().err()?)));
    if output.json {
        let values = results.iter().map(|(name, done)| output::maintained(name, done.as_ref()));
        output::json_line(&values.collect::<Vec<_>>())?;
    } else {
        let done = results.iter().filter_map(|(name, done)| Some((*name, done.as_ref().ok()?)));
        show(&done.collect::<Vec<_>>())?;
    }
    let messages: Vec<_> = failed.clone().map(|(name, error)| format!("{name}: {error}")).collect();
    match failed.map(|(_, error)| error.kind()).next() {
        Some(kind) => Err(Error::new(kind, messages.join("; "))),
        None => Ok(()),
    }
}

fn show(all: &[(&str, &MaintenanceReport)]) -> Result<()> {
    let columns =
        ["NAME", "SNAPSHOTS", "REMOVED", "BYTES FREED", "COMPRESSED", "BYTES SAVED", "RESTORABLE FROM"];
    let mut table = output::table(&columns);
    for (name, done) in all {
        let note = if done.deferred { " (in use: the rest next time)" } else { "" };
        let from = done.windows.first().map_or_else(|| "-".to_owned(), |window| window.from.to_string());
        table.add_row([
            (*name).to_owned(),
            done.snapshots.to_string(),
            done.generations.to_string(),
            done.bytes_freed.to_string(),
            done.compressed.to_string(),
            done.bytes_saved.to_string(),
            format!("{from}{note}"),
        ]);
    }
    output::print(&table.to_string())
}
