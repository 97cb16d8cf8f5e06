//! Calls of SQLite to open files.

use std::{
    ffi::c_int,
    panic::{AssertUnwindSafe, catch_unwind},
};

use rusqlite::ffi::{self, sqlite3_file};

use super::{file::File, real::Real};
use crate::vfs::file::VfsFile;

/// Runs code for C. Returns `SQLITE_IOERR` if it panics.
pub(super) fn guard(run: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(ffi::SQLITE_IOERR)
}

/// Runs a call of SQLite to an open file. If it panics, [`VfsFile::panicked`] runs, and the result is `SQLITE_IOERR`.
///
/// # Safety
///
/// `file` is a pointer that SQLite passes to a function of [`methods`](super::methods), and stays open while `call` runs.
pub(super) unsafe fn with_file(
    file: *mut sqlite3_file,
    call: impl FnOnce(&dyn VfsFile, &Real) -> c_int,
) -> c_int {
    // SAFETY: SQLite calls these functions with files that `open::open` has opened, whose memory starts with an initialized
    // `File` until `close::close`. SQLite does not close a file during another call to it, and nothing changes `layers` in
    // between.
    let (layers, real) = unsafe { (&(*file.cast::<File>()).layers, Real::new(file)) };
    let Some(layers) = layers.as_deref() else { return ffi::SQLITE_IOERR };
    catch_unwind(AssertUnwindSafe(|| call(layers, &real))).unwrap_or_else(|_| {
        layers.panicked();
        ffi::SQLITE_IOERR
    })
}

/// Runs a call that reads or writes an open file, after the file has prepared for it.
///
/// # Safety
///
/// As for [`with_file`].
pub(super) unsafe fn with_content(
    file: *mut sqlite3_file,
    call: impl FnOnce(&dyn VfsFile, &Real) -> c_int,
) -> c_int {
    // SAFETY: the caller upholds the contract.
    unsafe {
        with_file(file, |layers, real| match layers.prepare(real) {
            ffi::SQLITE_OK => call(layers, real),
            refused => refused,
        })
    }
}
