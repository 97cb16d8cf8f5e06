//! The VFS named `litefleet`: layers over the default VFS of the process.
//!
//! It enforces the policy of a database (the size limit, blocked reads and writes), encrypts pages, and captures commits for the
//! history. The policy is enforced below SQLite, so no pragma lifts it, and a change of it applies to open connections. An
//! encrypted database is ciphertext in every file that SQLite makes of it. Connections that do not name this VFS never use it.
//!
//! # Layers
//!
//! A call of SQLite passes these layers, from the top:
//!
//! | layer | modules | task |
//! |---|---|---|
//! | shim | [`shim`] | turns C into Rust and panics into I/O errors; all unsafe code of the VFS |
//! | files | [`mod@file`] with [`data_file`], [`wal_file`], [`view_file`] and the files of [`seal`] | one implementation of [`file::VfsFile`] for each kind of file; [`mod@open`] selects it |
//! | limits | [`limits`] | admits transactions, and frames under the size limit |
//! | frame assembler | [`frames`] | joins SQLite's writes to a WAL into events |
//! | seal | [`seal`] | encrypts and decrypts pages |
//! | capture | [`capture`] | stamps commits, and archives a WAL before it is overwritten |
//! | raw file | [`raw_file`] | the file of the default VFS |
//!
//! The files of one connection to one database share a [`connection`], which knows its [`peers`]: the other connections of this
//! process to the same database. The [`registry`] holds all of them.
//!
//! # Opening
//!
//! A database is handed over by [`open()`], [`open_fenced`] or [`hand_over`](hand_over()), not by its file name: the next main
//! database file that is opened on this thread gets the [`PolicySource`] that waits for it. Libraries that open a database by a
//! URI name a [`lease`] in it.
//!
//! The VFS is registered under two names. Through `litefleet`, which hosts' connections use, SQL opens no file by its path except
//! the target of `VACUUM INTO` (see [`fence`]). Through `litefleet-unfenced`, a file that SQL attaches by its path gets the
//! policy of the open database at that path, is refused if it lies in a fleet's directory, and is passed on otherwise. Under both
//! names, a new file of a connection to an encrypted database is encrypted like that database, and no file is created in a
//! fleet's directory.
//!
//! # Locks
//!
//! [`crate::sync`] has the lock order of the process. Within the VFS it is, outermost first: the tables of open databases and
//! views; the state of one WAL, journal or temporary file; the live stamps of a connection; the list of peers; the files to be
//! flushed; the state of a connection and its policy; the encryption of a connection; its wal-index. SQLite holds its own mutexes
//! when it calls the VFS. Its inode mutex is taken by calls to the default VFS, and calls nothing back.
//!
//! # Latch
//!
//! After a failed flush of a WAL or of stamps, and after a panic, a connection is [latched](latch): it reads, but every write and
//! flush fails until it is opened again.

mod capture;
mod close;
mod conn_state;
mod connection;
mod data_file;
mod error;
mod fence;
mod fenced;
mod file;
mod frame_offset;
mod frame_table;
mod frames;
mod grant;
mod hand_over;
mod history_view;
mod known_files;
mod latch;
mod lease;
mod leased;
mod limits;
mod live_wal;
mod open;
mod peers;
mod policy;
mod raw_file;
mod rechecksum;
mod registry;
mod seal;
#[expect(unsafe_code, reason = "SQLite's VFS interface is C; the other modules of the VFS are safe")]
mod shim;
mod stored;
mod view_file;
mod wal_file;

use std::{ffi::c_int, path::Path, sync::Arc};

use rusqlite::{Connection, OpenFlags, ffi::SQLITE_OK};

pub(crate) use error::VfsError;
pub(crate) use fence::Action;
pub(crate) use grant::Grant;
pub(crate) use hand_over::NotOpened;
pub(crate) use lease::{Access, Fencing, Terms};
pub(crate) use policy::{History, HistoryMode, NoPolicy, Policy, PolicySource, Sealing};
pub(crate) use seal::scratch::{Scratch, ScratchFile};
pub(crate) use shim::{drop_modules, reserve_in_vacuum};

use crate::{page::Seal, result_codes};
use shim::{NAME, UNFENCED};

/// Opens a database of the fleet without a fence, for statements of this crate or for a host that asks for it.
pub(crate) fn open(
    path: &Path,
    flags: OpenFlags,
    source: Arc<dyn PolicySource>,
) -> Result<Connection, NotOpened> {
    hand_over(source, || Connection::open_with_flags_and_vfs(path, flags, UNFENCED))
}

/// Opens a database of the fleet for SQL that is fenced. [`raise_fence`] completes the fence.
///
/// `flags` must not have `SQLITE_OPEN_CREATE`. SQLite then creates files for `VACUUM INTO` only, so the flag distinguishes its
/// target from a file that SQL attaches.
pub(crate) fn open_fenced(
    path: &Path,
    flags: OpenFlags,
    source: Arc<dyn PolicySource>,
) -> Result<Connection, NotOpened> {
    debug_assert!(
        !flags.contains(OpenFlags::SQLITE_OPEN_CREATE),
        "SQLITE_OPEN_CREATE marks the target of VACUUM INTO"
    );
    hand_over(source, || Connection::open_with_flags_and_vfs(path, flags, NAME))
}

/// Fences the SQL of a connection that [`open_fenced`] opened, from its next statement on.
pub(crate) fn raise_fence(connection: &Connection) -> rusqlite::Result<()> {
    shim::raise_fence(connection)
}

/// Whether the fence admits an action that a host's own authorizer was asked about.
pub(crate) fn admits(action: Action<'_>) -> bool {
    fence::authorize(action, None)
}

/// Runs `open`, in which the next main database file to be opened through this VFS on this thread gets the policy of `source`.
pub(crate) fn hand_over<T>(
    source: Arc<dyn PolicySource>,
    open: impl FnOnce() -> rusqlite::Result<T>,
) -> Result<T, NotOpened> {
    shim::register().map_err(|error| NotOpened { error, refusal: None })?;
    hand_over::run(source, open)
}

/// Returns why the VFS refused the call of this connection that returned the extended result code `code`.
///
/// A code of [`result_codes`] identifies its refusal for as long as the connection is open, unless another call is refused. For
/// any other code the refusal is known until the next transaction begins.
pub(crate) fn take_refusal(connection: &Connection, code: c_int) -> Option<VfsError> {
    let mut schemas = (0..).map_while(|at| connection.db_name(at).ok());
    let noted = schemas.find_map(|schema| shim::describe(connection, &schema, code)?.refusal);
    noted.or_else(|| if result_codes::is_own(code) { None } else { fence::take_denied(code) })
}

/// The main database of a connection. `None` if it was not handed over.
pub(crate) fn main_database(connection: &Connection) -> Option<Main> {
    let info = shim::describe(connection, "main", SQLITE_OK)?;
    info.is_governed.then_some(Main { seal: info.seal, is_read_only: info.is_read_only })
}

/// The encryption of a connection's main database, or of its historical view. `None` if it is plain.
pub(crate) fn main_seal(connection: &Connection) -> Option<Seal> {
    shim::describe(connection, "main", SQLITE_OK)?.seal
}

/// The instant of the last commit of a connection to its main database, in microseconds of UTC.
pub(crate) fn last_commit_at(connection: &Connection) -> Option<i64> {
    shim::describe(connection, "main", SQLITE_OK)?.stamped_at
}

/// A main database that was handed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Main {
    /// `None` for a plain database.
    pub(crate) seal: Option<Seal>,
    pub(crate) is_read_only: bool,
}
