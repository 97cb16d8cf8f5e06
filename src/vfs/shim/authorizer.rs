//! Calls to a connection of SQLite: its fence and its modules.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    panic::catch_unwind,
    ptr,
};

use rusqlite::{Connection, config::DbConfig, ffi};

use crate::vfs::fence::{self, Action};

/// `SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE`, which older headers do not name.
const ENABLE_ATTACH_CREATE: c_int = 1020;

/// Fences the SQL of a connection from its next statement on: makes SQLite ask [`authorize`] about every statement, and disables
/// the loading of extensions and everything that defensive mode covers.
pub(in crate::vfs) fn raise_fence(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false)?;
    // SAFETY: `connection` is borrowed, so its handle stays open. The configurations take an integer and a pointer that may be
    // null. An SQLite without extensions returns an error, and loads none. An SQLite that cannot keep `ATTACH` from creating files
    // returns an error; connections to it are opened without the right to create files, and leases are refused. `authorize` gets
    // the address of the connection, which it only compares.
    let code = unsafe {
        let db = connection.handle();
        let none: *mut c_int = ptr::null_mut();
        ffi::sqlite3_db_config(db, ffi::SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0 as c_int, none);
        ffi::sqlite3_db_config(db, ENABLE_ATTACH_CREATE, 0 as c_int, none);
        ffi::sqlite3_set_authorizer(db, Some(authorize), db.cast())
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Removes the modules of virtual tables from a connection. SQLite then treats a virtual table as one of an unknown module.
pub(crate) fn drop_modules(connection: &Connection) {
    // SAFETY: `connection` is borrowed, so its handle stays open. A null list of modules to keep is empty.
    unsafe { ffi::sqlite3_drop_modules(connection.handle(), ptr::null_mut()) };
}

/// SQLite's authorizer. Names are bytes: the schema of a foreign file may contain any.
unsafe extern "C" fn authorize(
    connection: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    _: *const c_char,
    _: *const c_char,
) -> c_int {
    // SAFETY: SQLite passes null or a C string, which outlives the call.
    let text = |text: *const c_char| unsafe { (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes()) };
    let action = match action {
        ffi::SQLITE_ATTACH => Action::Attach(text(first)),
        ffi::SQLITE_PRAGMA => Action::Pragma { name: text(first).unwrap_or_default(), value: text(second) },
        ffi::SQLITE_FUNCTION => Action::Function(text(second).unwrap_or_default()),
        _ => return ffi::SQLITE_OK,
    };
    let is_admitted = catch_unwind(|| fence::authorize(action, Some(connection.addr()))).unwrap_or(false);
    if is_admitted { ffi::SQLITE_OK } else { ffi::SQLITE_DENY }
}
