//! Extended SQLite result codes by which the VFS reports why it refused a call.
//!
//! SQLite passes the result code of a VFS through to the caller of the statement, with the extended bits that it does not know.
//! The reason of a refusal is therefore part of every SQLite error that it causes: it survives further statements on the
//! connection, a conversion into another error type, and libraries that do not know this crate. A caller that looks at the
//! primary code alone, in the lowest 8 bits, sees an ordinary SQLite error.

use std::ffi::c_int;

use rusqlite::ffi;

use crate::error::ErrorKind;

/// The upper 16 bits of every code of this crate, `LF` in ASCII. SQLite's own extended codes use the lower 16 bits only.
const MARK: c_int = 0x4c46 << 16;

const MARK_MASK: c_int = 0x7fff << 16;

/// The code of a reason under a primary code.
const fn code(reason: c_int, primary: c_int) -> c_int {
    MARK | reason << 8 | primary
}

pub(crate) const READS_BLOCKED: c_int = code(1, ffi::SQLITE_AUTH);
pub(crate) const WRITES_BLOCKED: c_int = code(2, ffi::SQLITE_READONLY);
pub(crate) const READ_ONLY: c_int = code(3, ffi::SQLITE_READONLY);
pub(crate) const OVER_LIMIT: c_int = code(4, ffi::SQLITE_FULL);
pub(crate) const DESTROYED: c_int = code(5, ffi::SQLITE_CANTOPEN);
pub(crate) const NO_SHARED_MEMORY: c_int = code(6, ffi::SQLITE_CANTOPEN);
pub(crate) const WRONG_KEY: c_int = code(7, ffi::SQLITE_NOTADB);
pub(crate) const NOT_SEALED: c_int = code(8, ffi::SQLITE_NOTADB);
pub(crate) const LAYOUT: c_int = code(9, ffi::SQLITE_IOERR);
pub(crate) const POLICY_UNAVAILABLE: c_int = code(10, ffi::SQLITE_IOERR);
pub(crate) const UNREADABLE: c_int = code(11, ffi::SQLITE_IOERR);
pub(crate) const HISTORY_FAILED: c_int = code(12, ffi::SQLITE_IOERR);
pub(crate) const HISTORY_DAMAGED: c_int = code(13, ffi::SQLITE_IOERR);
pub(crate) const HISTORY_DISK_FULL: c_int = code(14, ffi::SQLITE_FULL);
pub(crate) const LATCHED: c_int = code(15, ffi::SQLITE_IOERR);
pub(crate) const LEASE_ENDED: c_int = code(16, ffi::SQLITE_CANTOPEN);
pub(crate) const LEASE_ALTERED: c_int = code(17, ffi::SQLITE_CANTOPEN);
pub(crate) const LEASE_ATTACHED: c_int = code(18, ffi::SQLITE_AUTH);

/// Returns whether a result code is one of this crate.
pub(crate) const fn is_own(code: c_int) -> bool {
    code & MARK_MASK == MARK
}

/// Returns the kind and the sentence of a refusal. `None` if the result code is not one of this crate.
///
/// The sentence contains no detail, such as the size limit or a file: only the connection knows those.
pub(crate) const fn describe(code: c_int) -> Option<(ErrorKind, &'static str)> {
    Some(match code {
        READS_BLOCKED => (
            ErrorKind::Blocked,
            "Operation was blocked: SQL read operations are forbidden (reads are blocked)",
        ),
        WRITES_BLOCKED => (
            ErrorKind::Blocked,
            "Operation was blocked: SQL write operations are forbidden (writes are blocked)",
        ),
        READ_ONLY => {
            (ErrorKind::Sql, "attempt to write a readonly database: this connection was opened read-only")
        }
        OVER_LIMIT => (ErrorKind::TooLarge, "database or disk is full: the size limit is reached"),
        DESTROYED => (ErrorKind::Destroyed, "the database was destroyed"),
        NO_SHARED_MEMORY => (ErrorKind::Unsupported, "the default VFS of this process has no shared memory"),
        WRONG_KEY => (ErrorKind::WrongKey, "this is not the key that the database is encrypted under"),
        NOT_SEALED => (ErrorKind::Corrupt, "the file is not encrypted as the catalog says"),
        LAYOUT => (
            ErrorKind::Unsupported,
            "a page with another size or number of reserved bytes cannot be encrypted",
        ),
        POLICY_UNAVAILABLE => (ErrorKind::Io, "the configuration of the database cannot be read"),
        UNREADABLE => (ErrorKind::Io, "a file of the database cannot be read"),
        HISTORY_FAILED => (ErrorKind::Io, "the history of the database cannot be written"),
        HISTORY_DAMAGED => (ErrorKind::Corrupt, "the history of the database is damaged"),
        HISTORY_DISK_FULL => {
            (ErrorKind::DiskFull, "the history of the database cannot be written: the disk is full")
        }
        LATCHED => (
            ErrorKind::Io,
            "an earlier flush or call to the database failed; close every connection to the database and open it again",
        ),
        LEASE_ENDED => (
            ErrorKind::NotFound,
            "the lease in the URI has ended; request another one with ControlPlane::lease",
        ),
        LEASE_ALTERED => (ErrorKind::Invalid, "the URI is not the one that Lease::uri returns"),
        LEASE_ATTACHED => (
            ErrorKind::Invalid,
            "a lease opens the main database of a connection, once an automatic extension has prepared it: attach a database of \
             the fleet with ControlPlane::attach, and let no other automatic extension run SQL before it or remove it",
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_keep_their_primary_code() {
        let codes: Vec<_> = (1..=18)
            .flat_map(|reason| (0..=0xff).map(move |primary| code(reason, primary)))
            .filter(|code| describe(*code).is_some())
            .collect();
        assert_eq!(codes.len(), 18);
        assert!(codes.iter().all(|code| is_own(*code) && *code > 0));
        assert_eq!((WRITES_BLOCKED & 0xff, OVER_LIMIT & 0xff), (ffi::SQLITE_READONLY, ffi::SQLITE_FULL));
        for other in [ffi::SQLITE_READONLY, ffi::SQLITE_IOERR_DATA, ffi::SQLITE_OK, -1] {
            assert!(!is_own(other) && describe(other).is_none(), "{other}");
        }
    }
}
