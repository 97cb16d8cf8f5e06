//! What is said of an instant that is not answered.

use std::path::Path;

use crate::{
    error::{Error, ErrorKind},
    time::Timestamp,
};

#[cold]
pub(super) fn keeps_changing(data: &Path) -> Error {
    Error::naming(ErrorKind::Busy, data, |data| {
        format!("the history of {data} moves on too fast to be read; try again")
    })
}

pub(super) fn shown(micros: i64) -> String {
    Timestamp::from_micros(micros).map_or_else(|_| micros.to_string(), |at| at.to_string())
}

#[cold]
pub(super) fn outside(at: Timestamp, earliest: i64) -> Error {
    let message =
        format!("cannot restore to {at}: the earliest instant that can be restored is {}", shown(earliest));
    Error::new(ErrorKind::OutsideWindow, message)
}

/// Nothing is known of the past.
#[cold]
pub(super) fn not_kept(at: Timestamp) -> Error {
    let message = format!(
        "cannot restore to {at}: nothing of the database's past is kept; with a history window other than off, it is \
         from its next commit on"
    );
    Error::new(ErrorKind::OutsideWindow, message)
}

/// Commits lie at an instant that nobody knows, perhaps before the one that was asked for and perhaps behind it.
#[cold]
pub(super) fn uncertain(at: Timestamp, from: i64, to: i64, damaged: bool, path: &Path) -> Error {
    let sentence = |why: &str| {
        format!(
            "cannot restore to {at}: commits were made between {} and {} at instants that are not known, because {why}; \
             ask for one of these two",
            shown(from),
            shown(to)
        )
    };
    if damaged {
        return Error::naming(ErrorKind::Corrupt, path, |file| sentence(&format!("{file} is damaged")));
    }
    let why = "their stamps were lost with the power, or the history of the database was off";
    Error::new(ErrorKind::OutsideWindow, sentence(why))
}

/// Another program changed the database, and nobody knows when.
#[cold]
pub(super) fn changed(at: Timestamp, from: i64, to: Option<i64>) -> Error {
    let until = to.map_or_else(|| "now".to_owned(), shown);
    let message = format!(
        "cannot restore to {at}: after {} and before {until} the database was changed by another program, or while \
         its history was off; ask for an instant outside of that",
        shown(from)
    );
    Error::new(ErrorKind::OutsideWindow, message)
}

/// The log of a generation was not kept.
#[cold]
pub(super) fn written_away(archived: &Path) -> Error {
    Error::naming(ErrorKind::OutsideWindow, archived, |log| {
        format!(
            "this instant cannot be restored: the log that led there was written over by another program, or while the \
             history of the database was off, and so {log} is not there; put it back if it was \
             removed, or ask for an earlier instant or a later one"
        )
    })
}

/// Neither a history nor what stands for none is there.
#[cold]
pub(super) fn lost(at: Timestamp, archive: &Path) -> Error {
    Error::naming(ErrorKind::OutsideWindow, archive, |archive| {
        format!(
            "cannot restore to {at}: the history of the database is gone; put {archive} back, or write to the database \
             to begin a new one"
        )
    })
}
