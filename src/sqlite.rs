//! What SQLite's result codes mean as kinds of this crate's errors.

use rusqlite::{Error as SqlError, ErrorCode};

use crate::error::{Error, ErrorKind};

/// The kind of a failure in one of SQLite's calls.
pub(crate) fn kind(error: &SqlError) -> ErrorKind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ErrorKind::DiskFull,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Busy,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ErrorKind::Io
        }
        _ => ErrorKind::Sql,
    }
}

/// An error of SQLite in the middle of `doing`.
#[cold]
pub(crate) fn failed(doing: impl std::fmt::Display, error: SqlError) -> Error {
    Error::new(kind(&error), format!("{doing}: {error}")).caused_by(error)
}
