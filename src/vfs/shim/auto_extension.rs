//! The automatic extension, which prepares connections that other libraries open under a lease.

use std::{
    ffi::{CString, c_char, c_int},
    sync::Arc,
};

use rusqlite::{
    Connection, auto_extension,
    ffi::{self, sqlite3, sqlite3_api_routines},
};

use super::{
    authorizer::raise_fence,
    call::guard,
    control::{LEASE, Lease},
};
use crate::{
    error::{Error, ErrorKind, Result},
    vfs::leased::LeasedFile,
};

/// Makes SQLite prepare each new connection under a lease. Has no effect if it does so already.
pub(in crate::vfs) fn prepare_leased_connections() -> rusqlite::Result<()> {
    // SAFETY: `prepare` opens no database, closes none, and does not change the list of extensions.
    unsafe { auto_extension::register_auto_extension(prepare) }
}

/// Runs in every new connection of the process, and acts if its main database is leased.
unsafe extern "C" fn prepare(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    _: *const sqlite3_api_routines,
) -> c_int {
    // SAFETY: SQLite passes an open connection. A file of this VFS writes a `Lease` for this operation, and no other VFS knows it.
    // SQLite frees the message.
    unsafe {
        let mut leased: Lease = None;
        ffi::sqlite3_file_control(db, c"main".as_ptr(), LEASE, (&raw mut leased).cast());
        let Some(leased) = leased else { return ffi::SQLITE_OK };
        guard(|| {
            let Err(error) = prepare_leased(db, &leased) else { return ffi::SQLITE_OK };
            if let Ok(text) = CString::new(error.to_string()) {
                *message = ffi::sqlite3_mprintf(c"%s".as_ptr(), text.as_ptr());
            }
            code_of(&error)
        })
    }
}

/// Prepares a connection whose main database is `leased`.
///
/// # Safety
///
/// `db` is an open connection.
unsafe fn prepare_leased(db: *mut sqlite3, leased: &Arc<dyn LeasedFile>) -> Result<()> {
    // SAFETY: the caller upholds the contract. Dropping the value does not close the connection.
    let connection = unsafe { Connection::from_handle(db) }?;
    if leased.is_fenced() {
        raise_fence(&connection)?;
    }
    leased.prepare(&connection)
}

/// The result code of a failed preparation.
fn code_of(error: &Error) -> c_int {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rusqlite::Error>());
    match cause.and_then(rusqlite::Error::sqlite_error) {
        Some(error) => error.extended_code,
        None if error.kind() == ErrorKind::Busy => ffi::SQLITE_BUSY,
        None => ffi::SQLITE_ERROR,
    }
}
