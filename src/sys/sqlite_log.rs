//! SQLite's error log.

use std::ffi::{CString, c_int};

use rusqlite::ffi;

/// Writes to the host's error log, if it has one (`SQLITE_CONFIG_LOG`).
pub(crate) fn log(code: c_int, message: &str) {
    if let Ok(message) = CString::new(message) {
        // SAFETY: the format takes one string, which is passed and lives until the call returns.
        unsafe { ffi::sqlite3_log(code, c"%s".as_ptr(), message.as_ptr()) };
    }
}
