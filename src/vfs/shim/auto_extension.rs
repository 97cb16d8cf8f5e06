//! The automatic extension, which prepares connections that other libraries open under a lease.

use std::{
    ffi::{CString, c_char, c_int, c_void},
    ptr,
};

use rusqlite::{
    Connection, auto_extension,
    ffi::{self, sqlite3, sqlite3_api_routines},
};

use super::{authorizer::raise_fence, call::guard, control::LEASE};
use crate::vfs::lease::{Leased, NotPrepared};

/// Makes SQLite prepare each new connection under a lease. Has no effect if it does so already.
pub(in crate::vfs) fn prepare_leased_connections() -> rusqlite::Result<()> {
    // SAFETY: `prepare` opens no database, closes none, and does not change the list of extensions.
    unsafe { auto_extension::register_auto_extension(prepare) }
}

/// Runs in every new connection of the process, and acts if its main database is leased.
unsafe extern "C" fn prepare(
    db: *mut sqlite3,
    error: *mut *mut c_char,
    _: *const sqlite3_api_routines,
) -> c_int {
    let mut leased: *const Leased = ptr::null();
    let argument: *mut c_void = (&raw mut leased).cast();
    // SAFETY: SQLite passes an open connection, and frees the message. A file of this VFS writes a pointer into itself for this
    // operation; no other VFS knows it. The file stays open as long as the connection, whose handle this function borrows.
    unsafe {
        ffi::sqlite3_file_control(db, c"main".as_ptr(), LEASE, argument);
        let Some(leased) = leased.as_ref() else { return ffi::SQLITE_OK };
        guard(|| {
            let prepared = Connection::from_handle(db).map_err(NotPrepared::from).and_then(|connection| {
                if leased.is_fenced() {
                    raise_fence(&connection)?;
                }
                leased.prepare(&connection)
            });
            let Err(NotPrepared { code, message }) = prepared else { return ffi::SQLITE_OK };
            if let Ok(message) = CString::new(message) {
                *error = ffi::sqlite3_mprintf(c"%s".as_ptr(), message.as_ptr());
            }
            code
        })
    }
}
