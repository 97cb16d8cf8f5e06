//! The VFS named `litefleet`: the operating system's own VFS, with rules for each database laid over it.
//!
//! It delegates every call to the default VFS, and adds two things for the databases that are handed to it: the
//! size limit, and the blocks on reads and writes. Both are kept below SQLite, so that no pragma lifts them, and
//! both hold for connections that are already open when they change. The rest of the host's SQLite is untouched:
//! connections that do not name this VFS never meet it.
//!
//! A database is handed over by [`open`] or [`hand_over`], not by its file name: the next `xOpen` of a main
//! database on this thread takes the [`Governor`] that waits for it. A file that SQL opens by its path (`ATTACH`,
//! `VACUUM INTO`) is governed as it is elsewhere in the process if it is open there, refused if it lies in a fleet's
//! directory otherwise, and the host's own business if it does not.

#[expect(unsafe_code, reason = "SQLite's VFS interface is C; all of the crate's unsafe code is in this file")]
pub(crate) mod ffi;
mod file;

use std::{fmt, sync::Arc};

use rusqlite::{Connection, OpenFlags};

use crate::{error::Result, size::SizeLimit};

/// The name that the VFS is registered under.
pub(crate) const NAME: &std::ffi::CStr = c"litefleet";

/// What may be done to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// What the database may grow to.
    pub(crate) size_limit: Option<SizeLimit>,
    /// No transaction may read.
    pub(crate) block_reads: bool,
    /// No transaction may write.
    pub(crate) block_writes: bool,
    /// No transaction of this connection may write.
    pub(crate) read_only: bool,
}

/// Who knows the [`Rules`] of one database.
pub(crate) trait Governor: fmt::Debug + Send + Sync {
    /// A number that changes whenever the rules may have changed. Nothing while a change is under way: then the
    /// rules are asked for each time. It is asked at the start of every transaction, and so must cost nothing.
    fn stamp(&self) -> Option<u64>;

    /// The rules as they are now; nothing when the database was destroyed.
    fn rules(&self) -> Result<Option<Rules>>;

    /// Rules that were read already, and a stamp that was taken before that.
    fn first_rules(&self) -> Option<(u64, Rules)>;
}

/// Why the VFS refused a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    ReadsBlocked,
    WritesBlocked,
    ReadOnly,
    OverLimit(SizeLimit),
    Destroyed,
    /// The rules could not be read, for the reason that stands here.
    NoRules(String),
}

impl Refusal {
    /// The result code that SQLite, and so the host, is given.
    pub(crate) fn code(&self) -> std::ffi::c_int {
        match self {
            Self::ReadsBlocked => rusqlite::ffi::SQLITE_AUTH,
            Self::WritesBlocked | Self::ReadOnly => rusqlite::ffi::SQLITE_READONLY,
            Self::OverLimit(_) => rusqlite::ffi::SQLITE_FULL,
            Self::Destroyed => rusqlite::ffi::SQLITE_CANTOPEN,
            Self::NoRules(_) => rusqlite::ffi::SQLITE_IOERR,
        }
    }
}

/// Opens a database of the fleet.
pub(crate) fn open(
    path: &std::path::Path,
    flags: OpenFlags,
    governor: Arc<dyn Governor>,
) -> rusqlite::Result<Connection> {
    hand_over(governor, || Connection::open_with_flags_and_vfs(path, flags, NAME))
}

/// Runs `open`, in which the next database to be opened through this VFS on this thread is `governor`'s.
pub(crate) fn hand_over<T>(
    governor: Arc<dyn Governor>,
    open: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    ffi::register()?;
    let _waiting = file::Waiting::new(governor);
    open()
}

/// Why the VFS refused a call of this connection with `code`, if it did and what followed has not succeeded since.
pub(crate) fn take_refusal(connection: &Connection, code: std::ffi::c_int) -> Option<Refusal> {
    let mut schemas = (0..).map_while(|at| connection.db_name(at).ok());
    schemas.find_map(|schema| ffi::take_refusal(connection, &schema, code).ok().flatten())
}

/// Whether the main database of a connection is one that was handed over.
pub(crate) fn is_governed(connection: &Connection) -> bool {
    ffi::take_refusal(connection, "main", rusqlite::ffi::SQLITE_OK).is_ok()
}
