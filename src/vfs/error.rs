//! Why the VFS refused a call.

use std::{ffi::c_int, fmt, path::PathBuf};

use rusqlite::ffi;

use super::fenced::Fenced;
use crate::{
    error::{Error, ErrorKind, Message},
    layout::beside,
    page::PageFault,
    result_codes,
    size::SizeLimit,
    sync::Latched,
};

/// Why the VFS refused a call. SQLite, and so the host, sees a result code only; the connection keeps the error until it is
/// asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VfsError {
    ReadsBlocked,
    WritesBlocked,
    ReadOnly,
    OverLimit(SizeLimit),
    Destroyed,
    /// The shared lock of the database file, which the connection released for a moment, could not be taken again.
    LostLock,
    /// The default VFS has no shared memory, which WAL mode needs.
    NoSharedMemory,
    /// The policy of the database could not be read.
    PolicyUnavailable(Message),
    WrongKey,
    /// The file is not encrypted as expected.
    NotSealed(String),
    /// The tag of a page is wrong. `place` is the suffix of the file beside the database file; empty for that file itself.
    Damaged {
        path: PathBuf,
        place: &'static str,
        page: u32,
    },
    /// The database file, or the file beside it with the suffix `place`, contradicts the database.
    Inconsistent {
        path: PathBuf,
        place: &'static str,
        why: &'static str,
    },
    /// A page to be encrypted has another size or another number of reserved bytes than the file.
    Layout,
    /// A read that encryption depends on failed.
    Unreadable(Message),
    /// A call of the default VFS failed with this result code.
    Failed(c_int),
    /// A file of the history is damaged.
    HistoryDamaged(Message),
    /// The history could not be kept. `code` is the result code of the default VFS if a call of it was the cause.
    NotKept {
        kind: ErrorKind,
        code: Option<c_int>,
        why: Message,
    },
    /// An earlier failure has latched the connection: it writes and flushes nothing any more.
    Latched {
        cause: Message,
    },
    /// The fence refused a statement.
    Fenced(Fenced),
    /// The lease in a URI was dropped, or never granted.
    LeaseEnded,
    /// The URI of a lease was changed.
    LeaseAltered,
    /// A leased file is not the main database of its connection.
    LeaseAttached,
}

/// Why a connection is latched after a panic.
const PANICKED: &str = "an earlier call to the database failed with a panic";

impl VfsError {
    /// The error of a connection after a panic.
    pub(super) fn panicked() -> Self {
        Self::Latched { cause: PANICKED.into() }
    }

    /// A call of the default VFS that reads failed with `code`.
    ///
    /// SQLite treats `SQLITE_IOERR_SHORT_READ` as the end of a file, so another code replaces it.
    pub(super) fn unreadable(code: c_int) -> Self {
        match code {
            ffi::SQLITE_IOERR_SHORT_READ => Self::Failed(ffi::SQLITE_IOERR_READ),
            code => Self::Failed(code),
        }
    }

    /// Capturing the history failed with `error`.
    pub(super) fn not_kept(error: &Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rusqlite::Error>());
        let code = cause.and_then(rusqlite::Error::sqlite_error).map(|error| error.extended_code);
        Self::NotKept { kind: error.kind(), code, why: error.message() }
    }

    /// The message for a person.
    pub(crate) fn message(&self) -> Message {
        match self {
            Self::Damaged { path, place, page } => Message::naming(&beside(path, place), |file| {
                format!("page {page} in {file} is damaged or was tampered with: its tag does not fit")
            }),
            Self::Inconsistent { path, place, why } => Message::naming(&beside(path, place), |file| {
                format!("{file} is damaged or was tampered with: {why}")
            }),
            Self::PolicyUnavailable(why) => {
                why.clone().map(|why| format!("the database's configuration could not be read: {why}"))
            }
            Self::Unreadable(why) => {
                why.clone().map(|why| format!("what encryption needs could not be read: {why}"))
            }
            Self::HistoryDamaged(why) => why.clone(),
            Self::NotKept { why, .. } => {
                why.clone().map(|why| format!("the history of the database could not be kept: {why}"))
            }
            Self::Latched { cause } => cause
                .clone()
                .map(|cause| format!("{cause}; close every connection to the database and open it again")),
            other => other.to_string().into(),
        }
    }

    /// The primary result code that SQLite, and so the host, sees.
    pub(crate) fn code(&self) -> c_int {
        self.result() & 0xff
    }

    /// The extended result code, which identifies the reason.
    pub(super) fn result(&self) -> c_int {
        match self {
            Self::Fenced(_) => ffi::SQLITE_AUTH,
            Self::ReadsBlocked => result_codes::READS_BLOCKED,
            Self::WritesBlocked => result_codes::WRITES_BLOCKED,
            Self::ReadOnly => result_codes::READ_ONLY,
            Self::OverLimit(_) => result_codes::OVER_LIMIT,
            Self::Destroyed => result_codes::DESTROYED,
            Self::NoSharedMemory => result_codes::NO_SHARED_MEMORY,
            Self::WrongKey => result_codes::WRONG_KEY,
            Self::NotSealed(_) => result_codes::NOT_SEALED,
            Self::Failed(code) | Self::NotKept { code: Some(code), .. } => *code,
            Self::NotKept { kind: ErrorKind::DiskFull, .. } => result_codes::HISTORY_DISK_FULL,
            Self::NotKept { kind: ErrorKind::Corrupt, .. } => result_codes::HISTORY_DAMAGED,
            Self::NotKept { .. } => result_codes::HISTORY_FAILED,
            Self::Latched { .. } => result_codes::LATCHED,
            Self::LostLock => ffi::SQLITE_IOERR_RDLOCK,
            Self::Damaged { .. } | Self::Inconsistent { .. } | Self::HistoryDamaged(_) => {
                ffi::SQLITE_IOERR_DATA
            }
            Self::PolicyUnavailable(_) => result_codes::POLICY_UNAVAILABLE,
            Self::Layout => result_codes::LAYOUT,
            Self::Unreadable(_) => result_codes::UNREADABLE,
            Self::LeaseEnded => result_codes::LEASE_ENDED,
            Self::LeaseAltered => result_codes::LEASE_ALTERED,
            Self::LeaseAttached => result_codes::LEASE_ATTACHED,
        }
    }
}

impl fmt::Display for VfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadsBlocked => {
                f.write_str("Operation was blocked: SQL read operations are forbidden (reads are blocked)")
            }
            Self::WritesBlocked => {
                f.write_str("Operation was blocked: SQL write operations are forbidden (writes are blocked)")
            }
            Self::ReadOnly => f.write_str("this connection was opened read-only"),
            Self::OverLimit(limit) => {
                write!(f, "database or disk is full: the size limit is {limit} bytes")
            }
            Self::Destroyed => f.write_str("the database was destroyed"),
            Self::LostLock => f.write_str(
                "another process holds an exclusive lock on the database file; close the connection and open it again",
            ),
            Self::NoSharedMemory => f.write_str(
                "the default VFS of this process has no shared memory, which a database in WAL mode needs; make a VFS with shared \
                 memory the default before the first database is opened",
            ),
            Self::Failed(code) => write!(f, "a file of the database could not be read (SQLite's result code {code})"),
            Self::WrongKey => f.write_str("this is not the key that the database is encrypted under"),
            Self::NotSealed(why) => {
                write!(f, "the file is not encrypted as it should be: {why}; put back the one that was here")
            }
            Self::Damaged { .. }
            | Self::Inconsistent { .. }
            | Self::PolicyUnavailable(_)
            | Self::Unreadable(_)
            | Self::HistoryDamaged(_)
            | Self::NotKept { .. }
            | Self::Latched { .. } => self.message().fmt(f),
            Self::Layout => f.write_str(
                "a page with another size or number of reserved bytes cannot be encrypted here; create the database through the \
                 control plane",
            ),
            Self::Fenced(fenced) => fenced.fmt(f),
            Self::LeaseEnded => f.write_str("the lease in the URI has ended; request another one with ControlPlane::lease"),
            Self::LeaseAltered => f.write_str(
                "the URI is not that of its lease: use the URI that Lease::uri returns, with a file, VFS and locks unchanged",
            ),
            Self::LeaseAttached => f.write_str(
                "a lease opens the main database of a connection, once an automatic extension has prepared it: attach a database of \
                 the fleet with ControlPlane::attach, and let no other automatic extension run SQL before it or remove it",
            ),
        }
    }
}

impl From<PageFault> for VfsError {
    fn from(fault: PageFault) -> Self {
        match fault {
            PageFault::NoNonce => Self::Unreadable("the system returned no random bytes".into()),
            PageFault::Layout | PageFault::Unauthentic => Self::Layout,
        }
    }
}

impl From<Latched> for VfsError {
    fn from(_: Latched) -> Self {
        Self::panicked()
    }
}
