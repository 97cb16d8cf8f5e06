//! The functions of open files.

use rusqlite::ffi::sqlite3_io_methods;

use super::{close::close, control, io, shm};

/// The functions of a file over one that has shared memory.
///
/// Version 2 has no memory mapping, so that every read and write passes the VFS.
pub(super) static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xShmMap: Some(shm::map),
    xShmLock: Some(shm::lock),
    xShmBarrier: Some(shm::barrier),
    xShmUnmap: Some(shm::unmap),
    ..METHODS_WITHOUT_SHM
};

/// The functions of a file over one that has no shared memory.
pub(super) static METHODS_1: sqlite3_io_methods = METHODS_WITHOUT_SHM;

const METHODS_WITHOUT_SHM: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(io::read),
    xWrite: Some(io::write),
    xTruncate: Some(io::truncate),
    xSync: Some(io::sync),
    xFileSize: Some(io::file_size),
    xLock: Some(io::lock),
    xUnlock: Some(io::unlock),
    xCheckReservedLock: Some(io::check_reserved_lock),
    xFileControl: Some(control::file_control),
    xSectorSize: Some(io::sector_size),
    xDeviceCharacteristics: Some(io::device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};
