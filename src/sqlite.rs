//! Conversion of SQLite's result codes into errors of this crate, and URIs that open databases on read-only disks.

use std::{
    ffi::c_int,
    fmt::{Display, Write},
    path::{Path, PathBuf},
};

use rusqlite::{Error as SqlError, ErrorCode, ffi};

use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Message, Result},
    result_codes,
};

/// Returns the kind of an error of SQLite. `path` is the database file, if known.
fn kind(error: &SqlError, path: Option<&Path>) -> ErrorKind {
    if is_damage(error) {
        return ErrorKind::Corrupt;
    }
    if let Some((kind, _)) = refusal(error) {
        return kind;
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ErrorKind::DiskFull,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Busy,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if lacks_room(error, path) => {
            ErrorKind::DiskFull
        }
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            ErrorKind::Io
        }
        _ => ErrorKind::Sql,
    }
}

/// Returns the extended result code of an error. `None` if the error does not come from SQLite.
///
/// rusqlite has `Error::sqlite_extended_error_code` only since 0.40.
fn extended_code(error: &SqlError) -> Option<c_int> {
    error.sqlite_error().map(|error| error.extended_code)
}

/// Returns whether a VFS read damaged data. The VFS of the fleet has the details while the file is open; after a failed
/// `ATTACH` the file is closed.
pub(crate) fn is_damage(error: &SqlError) -> bool {
    extended_code(error) == Some(ffi::SQLITE_IOERR_DATA)
}

/// Returns the kind and the sentence of a refusal of the VFS. `None` if the error has another cause.
fn refusal(error: &SqlError) -> Option<(ErrorKind, &'static str)> {
    extended_code(error).and_then(result_codes::describe)
}

impl ErrorKind {
    /// Returns the kind of a refusal by the fleet from the extended result code of SQLite. `None` if the code has another
    /// cause.
    ///
    /// It serves errors of other libraries, which report the extended result code and nothing else that this crate knows.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// use litefleet::{DatabaseChanges, ErrorKind};
    ///
    /// let connection = plane.connect("orders", Default::default())?;
    /// plane.configure_database("orders", DatabaseChanges::default().block_writes(true))?;
    /// let error = connection.execute_batch("CREATE TABLE t(a)").unwrap_err();
    /// let code = error.sqlite_error().unwrap().extended_code;
    /// assert_eq!(ErrorKind::from_sqlite_code(code), Some(ErrorKind::Blocked));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    #[must_use]
    pub fn from_sqlite_code(code: i32) -> Option<Self> {
        result_codes::describe(code).map(|(kind, _)| kind)
    }
}

/// Converts an error of SQLite, including the reason of a refusal by the fleet.
///
/// The reason is part of the error, so the conversion works wherever the error has travelled.
/// [`Error::from_sqlite`] adds the details that only the connection knows.
impl From<SqlError> for Error {
    fn from(error: SqlError) -> Self {
        explained(None, error)
    }
}

/// Returns whether a full disk caused an error. SQLite reports `SQLITE_FULL` only when it writes pages, not when it creates a
/// WAL or its `-shm` file.
fn lacks_room(error: &SqlError, path: Option<&Path>) -> bool {
    let is_full = || path.and_then(Path::parent).is_some_and(Disk::is_full);
    match extended_code(error) {
        // This call rarely has another cause of failure.
        Some(ffi::SQLITE_IOERR_SHMSIZE) => true,
        Some(
            ffi::SQLITE_CANTOPEN
            | ffi::SQLITE_IOERR_SHMOPEN
            | ffi::SQLITE_IOERR_SHMMAP
            | ffi::SQLITE_IOERR_WRITE
            | ffi::SQLITE_IOERR_FSYNC
            | ffi::SQLITE_IOERR_DIR_FSYNC
            | ffi::SQLITE_IOERR_TRUNCATE,
        ) => is_full(),
        _ => false,
    }
}

/// Converts an error of SQLite on the database at `path`.
#[cold]
pub(crate) fn explained(path: Option<&str>, error: SqlError) -> Error {
    let kind = kind(&error, path.map(Path::new));
    Error::with(kind, sentence(kind, &error)).caused_by(error)
}

/// Converts an error of SQLite during the operation `doing`.
#[cold]
pub(crate) fn failed(doing: impl Display, error: SqlError) -> Error {
    let kind = kind(&error, None);
    Error::with(kind, sentence(kind, &error).map(|text| format!("{doing}: {text}"))).caused_by(error)
}

/// Converts an error of SQLite during the operation `doing` on the database at `path`.
#[cold]
pub(crate) fn failed_at(path: Option<&str>, doing: impl Display, error: SqlError) -> Error {
    let explained = explained(path, error);
    let message = explained.message().map(|text| format!("{doing}: {text}"));
    Error::with(explained.kind(), message).caused_by(explained)
}

/// Converts an error of SQLite that failed to open the database at `path`.
#[cold]
pub(crate) fn failed_to_open(path: &Path, error: SqlError) -> Error {
    let kind = kind(&error, Some(path));
    // The path that SQLite appends is this one.
    let text = sentence(kind, &error).to_string().replace(&format!(": {}", path.to_string_lossy()), "");
    Error::naming(kind, path, |file| format!("opening {file}: {text}")).caused_by(error)
}

fn sentence(kind: ErrorKind, error: &SqlError) -> Message {
    if is_damage(error) {
        return format!(
            "the data is damaged or was tampered with: its authentication tag is invalid ({error})"
        )
        .into();
    }
    if let Some((_, sentence)) = refusal(error) {
        return sentence.into();
    }
    let message = message(error);
    match (kind, error.sqlite_error_code()) {
        (ErrorKind::DiskFull, Some(code)) if code != ErrorCode::DiskFull => {
            message.map(|text| format!("the disk is full: {text}"))
        }
        _ => message,
    }
}

/// Returns SQLite's message. If SQLite cannot open a file, the message ends with a colon and the path.
fn message(error: &SqlError) -> Message {
    let text = error.to_string();
    match text.split_once(": ") {
        Some((_, path)) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
            Message::naming(Path::new(path), |file| text.replacen(path, &file.to_string(), 1))
        }
        _ => text.into(),
    }
}

/// Returns the URI that opens the file at `path` with a parameter, such as `immutable=1`.
pub(crate) fn uri(path: &Path, parameter: impl Display) -> Result<String> {
    let text = path.to_str().ok_or_else(|| {
        Error::naming(ErrorKind::Invalid, path, |file| format!("{file}: the path of this file must be UTF-8"))
    })?;
    let mut uri = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => uri.push(byte.into()),
            byte => {
                let _never_fails = write!(uri, "%{byte:02X}");
            }
        }
    }
    Ok(format!("file:{uri}?{parameter}"))
}

/// The parameter of a URI that opens a database as immutable, without locks.
pub(crate) const IMMUTABLE: &str = "immutable=1";

/// Returns the URI that opens a database read-only.
///
/// SQLite reads a database in WAL mode through its `-wal` and `-shm` files. If neither exists and the directory is not
/// writable, SQLite opens the database only as immutable; every commit is then in the database file. Fails with
/// [`ErrorKind::ReadOnly`] if SQLite would not read every commit, because the directory is not writable and a WAL without a
/// `-shm` file or a rollback journal contains transactions.
pub(crate) fn uri_to_read(path: &Path) -> Result<String> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let is_there = |path: &Path| Disk::len(path).map(|len| len.is_some_and(|len| len > 0));
    let can_be_written = path.parent().is_some_and(|dir| Disk::not_writable(dir).is_none());
    let (log, index, journal) = (beside("-wal"), beside("-shm"), beside("-journal"));
    // A writer keeps both files open. Its WAL may be empty after a checkpoint.
    if can_be_written || Disk::exists(&log)? && is_there(&index)? {
        return uri(path, "mode=ro");
    }
    for left in [&log, &journal] {
        if is_there(left)? {
            return Err(Error::naming(ErrorKind::ReadOnly, left, |left| {
                format!(
                    "{left} contains transactions that cannot be read in a read-only directory; copy the directory of the \
                     database to a writable disk"
                )
            }));
        }
    }
    uri(path, IMMUTABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_keeps_every_path_one_name() {
        let uri = uri(Path::new("/a b/ü?x=1#%"), "immutable=1").unwrap();
        assert_eq!(uri, "file:/a%20b/%C3%BC%3Fx%3D1%23%25?immutable=1");
    }
}
