//! Reads, writes and locks.

use std::{
    ffi::{c_int, c_void},
    slice,
};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64};

use super::call::{with_content, with_file};
use crate::{sys::read_buf::ReadBuf, vfs::raw_file::FileLocks};

/// The offset and length of a read or write. `None` if they are negative, which SQLite never passes.
fn range(len: c_int, offset: sqlite3_int64) -> Option<(usize, u64)> {
    Some((len.try_into().ok()?, offset.try_into().ok()?))
}

pub(super) unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    len: c_int,
    offset: sqlite3_int64,
) -> c_int {
    let Some((len, at)) = range(len, offset) else { return ffi::SQLITE_IOERR };
    // SAFETY: SQLite passes an open file, and a buffer of `len` bytes that nothing else uses during the call.
    unsafe { with_content(file, |layers, real| layers.read(&mut ReadBuf::new(buffer.cast(), len), at, real)) }
}

pub(super) unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    buffer: *const c_void,
    len: c_int,
    offset: sqlite3_int64,
) -> c_int {
    let Some((len, at)) = range(len, offset) else { return ffi::SQLITE_IOERR };
    // SAFETY: SQLite passes an open file, and `len` initialized bytes that nothing changes during the call.
    unsafe {
        with_content(file, |layers, real| layers.write(slice::from_raw_parts(buffer.cast(), len), at, real))
    }
}

pub(super) unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    let Ok(len) = u64::try_from(size) else { return ffi::SQLITE_IOERR };
    // SAFETY: SQLite passes an open file.
    unsafe { with_content(file, |layers, real| layers.truncate(len, real)) }
}

pub(super) unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    unsafe { with_content(file, |layers, real| layers.sync(flags, real)) }
}

pub(super) unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes an open file, and a writable size.
    unsafe {
        with_content(file, |layers, real| match layers.len(real) {
            Ok(len) => {
                *size = len.try_into().unwrap_or(sqlite3_int64::MAX);
                ffi::SQLITE_OK
            }
            Err(code) => code,
        })
    }
}

pub(super) unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    unsafe { with_file(file, |layers, real| layers.lock(level, &mut || real.lock(level))) }
}

pub(super) unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    unsafe { with_file(file, |layers, real| layers.unlock(level, &mut || real.unlock(level))) }
}

pub(super) unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, held: *mut c_int) -> c_int {
    // SAFETY: SQLite passes an open file, and a writable answer.
    unsafe { with_file(file, |_, real| call!(real, xCheckReservedLock(held))) }
}

pub(super) unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite passes an open file.
    unsafe { with_file(file, |_, real| call!(real, xSectorSize())) }
}

pub(super) unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite passes an open file.
    unsafe {
        with_file(file, |layers, real| layers.device_characteristics(call!(real, xDeviceCharacteristics())))
    }
}
