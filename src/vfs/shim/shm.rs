//! The shared memory of a database file.

use std::ffi::{c_int, c_void};

use rusqlite::ffi::{self, sqlite3_file};

use super::{call::with_file, file::File};
use crate::vfs::raw_file::ShmLock;

pub(super) unsafe extern "C" fn map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    memory: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite passes an open file, and a writable pointer, which the file below sets to null or to a region of `size`
    // bytes that is aligned to a page. SQLite accesses the wal-index word by word. It unmaps regions in `xShmUnmap` only, and
    // `unmap` below makes the connection forget them before that.
    unsafe {
        with_file(file, |layers, real| {
            let code = {
                #[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
                let _turn = crate::sys::sqlite_file::mapping_turn();
                call!(real, xShmMap(region, size, extend, memory))
            };
            if code == ffi::SQLITE_OK
                && let Some(wal_index) = layers.wal_index()
                && let (Ok(region), Ok(size)) = (usize::try_from(region), usize::try_from(size))
            {
                wal_index.map(region, size, *memory);
            }
            code
        })
    }
}

pub(super) unsafe extern "C" fn lock(
    file: *mut sqlite3_file,
    offset: c_int,
    n: c_int,
    flags: c_int,
) -> c_int {
    let lock = ShmLock {
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
        take: flags & ffi::SQLITE_SHM_LOCK != 0,
        shared: flags & ffi::SQLITE_SHM_SHARED != 0,
    };
    // SAFETY: SQLite passes an open file.
    unsafe {
        with_file(file, |layers, real| layers.shm_lock(lock, &mut || call!(real, xShmLock(offset, n, flags))))
    }
}

pub(super) unsafe extern "C" fn barrier(file: *mut sqlite3_file) {
    // SAFETY: SQLite passes an open file, whose `real` is open.
    unsafe {
        let real = (*file.cast::<File>()).real;
        if let Some(barrier) = (*(*real).pMethods).xShmBarrier {
            barrier(real);
        }
    }
}

pub(super) unsafe extern "C" fn unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    unsafe {
        with_file(file, |layers, _| {
            layers.before_shm_unmap(delete != 0);
            ffi::SQLITE_OK
        });
        // The memory is unmapped even if that has panicked, and so the wal-index must not be read any more.
        with_file(file, |layers, real| {
            if let Some(wal_index) = layers.wal_index() {
                wal_index.unmap();
            }
            call!(real, xShmUnmap(delete))
        })
    }
}
