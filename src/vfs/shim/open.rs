//! Opening and deleting files.

use std::{
    ffi::{CStr, OsStr, c_char, c_int},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
    sync::Arc,
};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_vfs};

use super::{
    call::guard,
    file::File,
    methods::{METHODS, METHODS_1},
    real::Real,
    registered::{real_vfs, registered},
};
use crate::vfs::{
    hand_over,
    lease::Claim,
    open::{self, Kind, Opened, Request},
};

/// Converts a file name to a path.
///
/// # Safety
///
/// `name` is null or a C string that lives during `'a`.
unsafe fn path<'a>(name: *const c_char) -> Option<&'a Path> {
    // SAFETY: the caller upholds the contract.
    (!name.is_null()).then(|| Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes())))
}

/// Reads the lease in the parameters of a URI.
///
/// # Safety
///
/// `name` is null, or the name of a main database file as SQLite passes it to `xOpen`, with its parameters behind it. It lives
/// during `'a`.
unsafe fn claim<'a>(name: *const c_char) -> Option<Claim<'a>> {
    // SAFETY: the caller upholds the contract. A parameter is part of the name.
    unsafe {
        let number = ffi::sqlite3_uri_parameter(name, c"lease".as_ptr());
        let is = |parameter: &CStr| ffi::sqlite3_uri_boolean(name, parameter.as_ptr(), 0) != 0;
        (!number.is_null()).then(|| Claim {
            number: CStr::from_ptr(number).to_bytes(),
            is_not_locked: is(c"nolock") || is(c"readonly_shm"),
            is_immutable: is(c"immutable"),
        })
    }
}

pub(super) unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a VFS of `register`, a name that is null or lives as long as the file, and `szOsFile` bytes of
    // writable memory. With the flags of a WAL or a journal, the name comes from a pager and leads back to the name of its
    // database. With the flag of a main database file, its parameters are behind it.
    unsafe {
        let real_vfs = real_vfs(vfs);
        let Some(real_open) = (*real_vfs).xOpen else { return ffi::SQLITE_CANTOPEN };
        // SQLite closes a file that has functions, even if it was not opened.
        (*file).pMethods = ptr::null();
        let is_companion = flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL) != 0;
        let request = Request {
            path: path(name),
            database: if is_companion && !name.is_null() {
                ffi::sqlite3_filename_database(name).addr()
            } else {
                0
            },
            flags,
            claim: if flags & ffi::SQLITE_OPEN_MAIN_DB == 0 { None } else { claim(name) },
            is_fenced: registered(vfs).is_fenced,
        };
        let mut kind = Kind::PassedOn;
        let code = guard(|| match open::kind_of(request) {
            Ok(found) => {
                kind = found;
                ffi::SQLITE_OK
            }
            Err(code) => code,
        });
        if code != ffi::SQLITE_OK {
            return code;
        }
        // The default VFS uses the memory of its own file from the first byte on.
        if kind.is_passed_on() {
            return real_open(real_vfs, name, file, flags, out_flags);
        }
        let ours = file.cast::<File>();
        let beneath: *mut sqlite3_file = ours.add(1).cast();
        (*beneath).pMethods = ptr::null();
        let _held = kind.hold();
        let mut code = real_open(real_vfs, name, beneath, kind.flags(flags), out_flags);
        (&raw mut (*ours).layers).write(None);
        (&raw mut (*ours).real).write(beneath);
        (&raw mut (*ours).memory).write(Vec::new());
        (&raw mut (*ours).vfs).write(real_vfs);
        (&raw mut (*ours).name).write(name);
        if code == ffi::SQLITE_OK {
            code = guard(|| {
                // The file below stays open until `close`, before which the layers release their locks.
                let real = Real::new(file);
                let has_shared_memory = real.has_shared_memory();
                let locks = Arc::new(Real::new(file));
                match kind.open(Opened { raw: &real, locks, name: name.addr(), has_shared_memory }) {
                    Ok(layers) => {
                        (*ours).layers = Some(layers);
                        (*file).pMethods =
                            if has_shared_memory { &raw const METHODS } else { &raw const METHODS_1 };
                        ffi::SQLITE_OK
                    }
                    Err(refusal) => {
                        let code = refusal.code();
                        hand_over::note_refusal(refusal);
                        code
                    }
                }
            });
        }
        if code != ffi::SQLITE_OK
            && let Some(close) = (*beneath).pMethods.as_ref().and_then(|methods| methods.xClose)
        {
            close(beneath);
        }
        code
    }
}

pub(super) unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: SQLite passes a VFS of `register` and a C string.
    unsafe {
        let mut done = None;
        let code = guard(|| {
            done = path(name).and_then(open::before_delete);
            ffi::SQLITE_OK
        });
        if let (ffi::SQLITE_OK, None) = (code, done) {
            let real = real_vfs(vfs);
            return (*real).xDelete.map_or(ffi::SQLITE_IOERR_DELETE, |delete| delete(real, name, sync_dir));
        }
        done.unwrap_or(code)
    }
}
