//! Errors about a history: damaged and missing files, and instants that cannot be restored.

use std::{fmt, path::Path};

use crate::{
    error::{Error, ErrorKind},
    point::PruneReason,
    time::Timestamp,
    units::Micros,
};

/// The message for an archive that belongs to another database.
pub(super) const FOREIGN: &str =
    "the files in it are the history of another database; put the directory of this database there";

/// The contents of a file are damaged.
#[cold]
pub(super) fn damaged(path: &Path, fault: impl fmt::Display) -> Error {
    Error::naming(ErrorKind::Corrupt, path, |file| format!("{file} is damaged: {fault}"))
}

/// A file that a restore needs does not exist.
#[cold]
pub(super) fn missing(path: &Path) -> Error {
    Error::naming(ErrorKind::Corrupt, path, |file| {
        format!("{file} is missing, and this instant cannot be restored without it; put it back")
    })
}

/// The newest stamps in an archive carry the id of another database.
#[cold]
pub(super) fn foreign(archive: &Path) -> Error {
    Error::naming(ErrorKind::Corrupt, archive, |dir| format!("{dir}: {FOREIGN}"))
}

#[cold]
pub(super) fn newer_version(path: &Path, version: u64) -> Error {
    Error::naming(ErrorKind::Unsupported, path, |file| {
        format!(
            "{file} has format version {version}, which this version of litefleet does not support; use a newer one"
        )
    })
}

#[cold]
pub(super) fn keeps_changing(data: &Path) -> Error {
    Error::naming(ErrorKind::Busy, data, |data| format!("the history of {data} keeps changing; retry"))
}

/// Formats an instant for an error message.
pub(super) fn shown(at: Micros) -> String {
    at.timestamp().map_or_else(|_| at.get().to_string(), |at| at.to_string())
}

/// The instant is before the restorable range. `pruned_by` is the reason for which the range begins there.
#[cold]
pub(super) fn outside(at: Timestamp, earliest: Micros, pruned_by: Option<PruneReason>) -> Error {
    let why = match pruned_by {
        Some(PruneReason::Limit) => {
            "older instants were removed to keep the history within its history limit, and "
        }
        Some(PruneReason::Window) | None => "",
    };
    let earliest = shown(earliest);
    let message =
        format!("cannot restore to {at}: {why}the earliest instant that can be restored is {earliest}");
    Error::new(ErrorKind::OutsideWindow, message)
}

/// The database has no history.
#[cold]
pub(super) fn not_kept(at: Timestamp) -> Error {
    let message = format!(
        "cannot restore to {at}: the database has no history; with a history window other than off, it begins with the \
         next commit"
    );
    Error::new(ErrorKind::OutsideWindow, message)
}

/// Commits whose time is unknown, around an instant.
pub(super) struct Uncertainty<'a> {
    /// The last known instant before the commits.
    pub(super) from: Micros,
    /// The first known instant after the commits.
    pub(super) to: Micros,
    /// The stamps, if they are damaged.
    pub(super) damaged: Option<&'a Path>,
}

#[cold]
pub(super) fn uncertain(at: Timestamp, uncertainty: &Uncertainty<'_>) -> Error {
    let Uncertainty { from, to, damaged } = *uncertainty;
    let message = |why: &str| {
        format!(
            "cannot restore to {at}: commits were made between {} and {} at unknown instants, because {why}; choose one of \
             these two instants",
            shown(from),
            shown(to)
        )
    };
    if let Some(stamps) = damaged {
        return Error::naming(ErrorKind::Corrupt, stamps, |file| message(&format!("{file} is damaged")));
    }
    let why = "their stamps were lost with the power, or the history of the database was off";
    Error::new(ErrorKind::OutsideWindow, message(why))
}

/// A foreign writer changed the database at an unknown instant.
#[cold]
pub(super) fn changed(at: Timestamp, from: Micros, to: Option<Micros>) -> Error {
    let until = to.map_or_else(|| "now".to_owned(), shown);
    let message = format!(
        "cannot restore to {at}: after {} and before {until} the database was changed by another program, or while its \
         history was off; choose an instant outside of that interval",
        shown(from)
    );
    Error::new(ErrorKind::OutsideWindow, message)
}

/// The WAL of a generation was not archived.
#[cold]
pub(super) fn not_archived(segment: &Path) -> Error {
    Error::naming(ErrorKind::OutsideWindow, segment, |segment| {
        format!(
            "this instant cannot be restored: {segment} does not exist, because another program overwrote the log or the \
             history of the database was off; put it back if it was removed, or choose an earlier or a later instant"
        )
    })
}

/// The database has neither a history nor the mark of an unchanged database.
#[cold]
pub(super) fn lost(at: Timestamp, archive: &Path) -> Error {
    Error::naming(ErrorKind::OutsideWindow, archive, |archive| {
        format!(
            "cannot restore to {at}: the history of the database is gone; put {archive} back, or write to the database to \
             begin a new history"
        )
    })
}
