//! File controls.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    sync::Arc,
};

use rusqlite::{
    Connection,
    ffi::{self, sqlite3_file, sqlite3_int64},
};

use super::call::with_file;
use crate::vfs::{
    file::{FileInfo, VfsFile},
    leased::LeasedFile,
    raw_file::RawFile,
};

/// The file control of [`describe`]. SQLite passes unknown operations on to the VFS, and reserves numbers below 100.
const DESCRIBE: c_int = 0x4c46_0001;

/// The file control that returns the lease of a file: its argument is a [`Lease`].
pub(super) const LEASE: c_int = 0x4c46_0002;

/// The argument of [`LEASE`].
pub(super) type Lease = Option<Arc<dyn LeasedFile>>;

/// The argument of [`DESCRIBE`].
struct Description {
    code: c_int,
    info: Option<FileInfo>,
}

/// Describes the file of a schema of a connection. `code` is the result code of the call whose refusal is wanted. `None` if the
/// file is not opened through this VFS.
pub(in crate::vfs) fn describe(connection: &Connection, schema: &str, code: c_int) -> Option<FileInfo> {
    let schema = CString::new(schema).ok()?;
    let mut description = Description { code, info: None };
    // SAFETY: `connection` is borrowed, so its handle stays open. `file_control` takes a `Description` for this operation, which
    // no other VFS knows.
    unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            schema.as_ptr(),
            DESCRIBE,
            (&raw mut description).cast(),
        );
    }
    description.info
}

/// Makes `VACUUM INTO` reserve `bytes` at the end of each page that it writes. Returns how many it will reserve, which are never
/// fewer than the main database has.
pub(crate) fn reserve_in_vacuum(connection: &Connection, bytes: u8) -> c_int {
    // A negative number changes nothing, and is replaced by the number in force.
    let (mut wanted, mut in_force) = (c_int::from(bytes), -1);
    for argument in [&raw mut wanted, &raw mut in_force] {
        let op = ffi::SQLITE_FCNTL_RESERVE_BYTES;
        // SAFETY: `connection` is borrowed, so its handle stays open. The operation reads and writes one `int`, which outlives
        // the call.
        unsafe { ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), op, argument.cast()) };
    }
    in_force
}

pub(super) unsafe extern "C" fn file_control(
    file: *mut sqlite3_file,
    op: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: SQLite passes an open file, and for each operation the argument that it documents. For `DESCRIBE`, `describe`
    // passes a `Description`; for `LEASE`, the automatic extension passes a `Lease`. Nothing else uses the argument
    // during the call.
    unsafe {
        with_file(file, |layers, real| {
            match op {
                DESCRIBE => {
                    let description = &mut *argument.cast::<Description>();
                    description.info = layers.describe(description.code);
                    if description.info.is_some() {
                        return ffi::SQLITE_OK;
                    }
                }
                LEASE => {
                    *argument.cast::<Lease>() = layers.lease();
                    return ffi::SQLITE_OK;
                }
                // The argument points to the address of SQLite's connection.
                ffi::SQLITE_FCNTL_PDB => layers.set_connection(*argument.cast::<usize>(), real),
                ffi::SQLITE_FCNTL_PRAGMA if refuse_pragma(layers, real, argument.cast()) => {
                    return ffi::SQLITE_ERROR;
                }
                // Nothing is mapped. The file below must not be extended for a mapping.
                ffi::SQLITE_FCNTL_MMAP_SIZE => {
                    *argument.cast::<sqlite3_int64>() = 0;
                    return ffi::SQLITE_OK;
                }
                op if layers.swallows(op) => return ffi::SQLITE_OK,
                _ => {}
            }
            let code = call!(real, xFileControl(op, argument));
            if op == ffi::SQLITE_FCNTL_VFSNAME && code == ffi::SQLITE_OK {
                prefix_name(argument.cast());
            }
            code
        })
    }
}

/// Puts the name of this VFS before that of the default VFS.
///
/// # Safety
///
/// `name` points to null or to a string that `sqlite3_malloc` has allocated.
unsafe fn prefix_name(name: *mut *mut c_char) {
    // SAFETY: the caller upholds the contract. `sqlite3_mprintf` copies the string before it is freed.
    unsafe {
        let beneath = *name;
        if !beneath.is_null() {
            *name = ffi::sqlite3_mprintf(c"litefleet/%s".as_ptr(), beneath);
            ffi::sqlite3_free(beneath.cast());
        }
    }
}

/// Sets the error message of a pragma that is refused, and returns whether it is.
///
/// # Safety
///
/// `argument` is that of `SQLITE_FCNTL_PRAGMA`: the message, the name and the value.
unsafe fn refuse_pragma(layers: &dyn VfsFile, raw: &dyn RawFile, argument: *mut *mut c_char) -> bool {
    // SAFETY: the caller passes three pointers. The name and the value are null or C strings. SQLite frees the message.
    unsafe {
        let text = |at: usize| {
            let text: *mut c_char = *argument.add(at);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
        };
        let refused = text(1).and_then(|name| layers.refused_pragma(&name, text(2).as_deref(), raw));
        let Some(message) = refused.and_then(|refused| CString::new(refused).ok()) else { return false };
        *argument = ffi::sqlite3_mprintf(c"%s".as_ptr(), message.as_ptr());
        true
    }
}
