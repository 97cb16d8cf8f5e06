//! The registration of the VFS, and its functions that are passed on.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
    sync::OnceLock,
};

use rusqlite::ffi::{self, sqlite3_int64, sqlite3_vfs};

use super::{
    file::File,
    open,
    registered::{Registered, real_vfs},
};
use crate::cipher;

/// The name of the VFS for connections whose SQL is fenced.
pub(in crate::vfs) const NAME: &CStr = c"litefleet";

/// The name of the VFS for other connections.
pub(in crate::vfs) const UNFENCED: &CStr = c"litefleet-unfenced";

/// Registers the VFS over the default VFS, at the first call.
pub(in crate::vfs) fn register() -> rusqlite::Result<()> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    let code = *REGISTERED.get_or_init(|| {
        // SAFETY: a null name asks for the default VFS, which stays registered.
        let real = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        if real.is_null() {
            return ffi::SQLITE_ERROR;
        }
        // SAFETY: the handler increments an atomic counter and does nothing else, which a child process may do after a fork.
        if unsafe { libc::pthread_atfork(None, None, Some(cipher::forked)) } != 0 {
            return ffi::SQLITE_NOMEM;
        }
        // SAFETY: `real` points to a registered VFS, which is a plain structure. Functions that take the VFS itself expect the
        // address of the real one, and are replaced below. The others, which set system calls, do not use it.
        let mut vfs = unsafe { *real };
        vfs.szOsFile += c_int::try_from(size_of::<File>()).unwrap_or(0);
        vfs.pNext = ptr::null_mut();
        vfs.iVersion = vfs.iVersion.min(2);
        vfs.xOpen = Some(open::open);
        vfs.xDelete = Some(open::delete);
        vfs.xAccess = Some(access);
        vfs.xFullPathname = Some(full_pathname);
        vfs.xDlOpen = Some(dl_open);
        vfs.xDlError = Some(dl_error);
        vfs.xDlSym = Some(dl_sym);
        vfs.xDlClose = Some(dl_close);
        vfs.xRandomness = Some(randomness);
        vfs.xSleep = Some(sleep);
        vfs.xCurrentTime = Some(current_time);
        vfs.xGetLastError = Some(get_last_error);
        vfs.xCurrentTimeInt64 = vfs.xCurrentTimeInt64.map(|_| current_time_int64 as _);
        for (name, is_fenced) in [(NAME, true), (UNFENCED, false)] {
            vfs.zName = name.as_ptr();
            vfs.pAppData = Box::into_raw(Box::new(Registered { real, is_fenced })).cast();
            // SAFETY: the structure is leaked, so it outlives every connection. From here on SQLite alone changes it.
            let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) };
            if code != ffi::SQLITE_OK {
                return code;
            }
        }
        ffi::SQLITE_OK
    });
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Defines functions that pass a call on to the default VFS. `else` is the result if that VFS lacks the function.
macro_rules! pass_on {
    ($(fn $name:ident = $method:ident($($argument:ident: $type:ty),*) -> $answer:ty, else $none:expr;)*) => {$(
        unsafe extern "C" fn $name(vfs: *mut sqlite3_vfs, $($argument: $type),*) -> $answer {
            // SAFETY: SQLite passes a VFS of `register`, and the arguments of this function.
            unsafe {
                let real = real_vfs(vfs);
                match (*real).$method {
                    Some(method) => method(real, $($argument),*),
                    None => $none,
                }
            }
        }
    )*};
}

/// A function of a loaded library.
type Symbol = Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char)>;

pass_on! {
    fn access = xAccess(name: *const c_char, flags: c_int, out: *mut c_int) -> c_int, else ffi::SQLITE_IOERR_ACCESS;
    fn full_pathname = xFullPathname(name: *const c_char, len: c_int, out: *mut c_char) -> c_int,
        else ffi::SQLITE_CANTOPEN;
    fn dl_open = xDlOpen(name: *const c_char) -> *mut c_void, else ptr::null_mut();
    fn dl_error = xDlError(len: c_int, message: *mut c_char) -> (), else ();
    fn dl_sym = xDlSym(library: *mut c_void, symbol: *const c_char) -> Symbol, else None;
    fn dl_close = xDlClose(library: *mut c_void) -> (), else ();
    fn randomness = xRandomness(len: c_int, out: *mut c_char) -> c_int, else 0;
    fn sleep = xSleep(micros: c_int) -> c_int, else 0;
    fn current_time = xCurrentTime(out: *mut f64) -> c_int, else ffi::SQLITE_ERROR;
    fn get_last_error = xGetLastError(len: c_int, message: *mut c_char) -> c_int, else 0;
    fn current_time_int64 = xCurrentTimeInt64(out: *mut sqlite3_int64) -> c_int, else ffi::SQLITE_ERROR;
}
