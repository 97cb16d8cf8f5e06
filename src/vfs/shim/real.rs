//! The file of the default VFS, as the layers use it.

use std::ffi::c_int;

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods};

use super::file::File;
use crate::{
    sys::read_buf::ReadBuf,
    vfs::raw_file::{FileLocks, RawFile},
};

/// The file of the default VFS below an open file of this VFS.
#[derive(Debug)]
pub(super) struct Real {
    ours: *mut File,
}

// SAFETY: `Real` holds an address. Its methods are called on the thread that uses SQLite's connection, or, for the locks of a
// database file, on that of a peer. `FileLocks` requires that all calls to `lock` and `unlock` of a file hold the list of its
// peers locked, and `DataFile` and `Peers` do, so that no two of them run at once. The functions of the default VFS may be called
// from any thread, and `File::real` of a database file never changes.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

impl Real {
    /// The file of the default VFS below `file`.
    ///
    /// # Safety
    ///
    /// The memory of `file` starts with a [`File`] whose `real`, `memory`, `vfs` and `name` are initialized, and the file of the
    /// default VFS is open, as long as the value is used.
    pub(super) unsafe fn new(file: *mut sqlite3_file) -> Self {
        Self { ours: file.cast() }
    }

    /// The current file of the default VFS, and its functions.
    pub(super) fn parts(&self) -> (*mut sqlite3_file, *const sqlite3_io_methods) {
        // SAFETY: the contract of `new` says that `ours` is initialized and `real` is open. No reference to `real` is kept, so
        // that `reopen` can replace it.
        unsafe {
            let file = (*self.ours).real;
            (file, (*file).pMethods)
        }
    }

    /// Whether the file has shared memory. Without it SQLite does not use WAL mode.
    pub(super) fn has_shared_memory(&self) -> bool {
        let (_, methods) = self.parts();
        // SAFETY: an open file has functions, which live as long as its VFS. A structure of version 1 ends before those for
        // shared memory, which are read from version 2 on only.
        unsafe {
            (*methods).iVersion >= 2
                && (*methods).xShmMap.is_some()
                && (*methods).xShmLock.is_some()
                && (*methods).xShmUnmap.is_some()
        }
    }
}

/// Calls a function of the file below a [`Real`]. Returns `SQLITE_IOERR` if the file has no such function.
macro_rules! call {
    ($real:expr, $method:ident ( $($argument:expr),* )) => {{
        let (file, methods) = $real.parts();
        match (*methods).$method {
            Some(method) => method(file, $($argument),*),
            None => ffi::SQLITE_IOERR,
        }
    }};
}

/// The length of a buffer and an offset as C has them. `None` if they are too large for C.
fn c_range(len: usize, at: u64) -> Option<(c_int, sqlite3_int64)> {
    Some((len.try_into().ok()?, at.try_into().ok()?))
}

impl RawFile for Real {
    fn read(&self, into: &mut [u8], at: u64) -> c_int {
        let Some((len, at)) = c_range(into.len(), at) else { return ffi::SQLITE_IOERR };
        // SAFETY: the file is open by the contract of `new`, and `into` has `len` writable bytes.
        unsafe { call!(self, xRead(into.as_mut_ptr().cast(), len, at)) }
    }

    fn read_buf(&self, into: &mut ReadBuf<'_>, at: u64) -> c_int {
        let Some((len, at)) = c_range(into.len(), at) else { return ffi::SQLITE_IOERR };
        // SAFETY: the file is open by the contract of `new`, and `into` has `len` writable bytes. With these results, `xRead` has
        // written all of them: SQLite requires zeros after the end of the file.
        unsafe {
            let code = call!(self, xRead(into.as_mut_ptr().cast(), len, at));
            if let ffi::SQLITE_OK | ffi::SQLITE_IOERR_SHORT_READ = code {
                into.assume_init(into.len());
            }
            code
        }
    }

    fn write(&self, bytes: &[u8], at: u64) -> c_int {
        let Some((len, at)) = c_range(bytes.len(), at) else { return ffi::SQLITE_IOERR };
        // SAFETY: the file is open by the contract of `new`. `xWrite` reads `len` bytes and keeps no pointer to them.
        unsafe { call!(self, xWrite(bytes.as_ptr().cast(), len, at)) }
    }

    fn len(&self) -> Result<u64, c_int> {
        let mut size = 0;
        // SAFETY: the file is open by the contract of `new`, and `size` outlives the call.
        let code = unsafe { call!(self, xFileSize(&raw mut size)) };
        if code == ffi::SQLITE_OK { u64::try_from(size).map_err(|_| ffi::SQLITE_IOERR) } else { Err(code) }
    }

    fn truncate(&self, len: u64) -> c_int {
        let Ok(len) = sqlite3_int64::try_from(len) else { return ffi::SQLITE_IOERR };
        // SAFETY: the file is open by the contract of `new`.
        unsafe { call!(self, xTruncate(len)) }
    }

    fn sync(&self, flags: c_int) -> c_int {
        // SAFETY: the file is open by the contract of `new`.
        unsafe { call!(self, xSync(flags)) }
    }

    fn reopen(&self) -> c_int {
        const FLAGS: c_int = ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;
        let (before, methods) = self.parts();
        // SAFETY: `ours` is initialized by the contract of `new`. Only a WAL is reopened, during a call of SQLite to it, and its
        // calls run on one thread at a time, so nothing else uses `real` or `memory`. `vfs` is the default VFS, and `name` lives
        // as long as SQLite's pager. The new memory has the size that the VFS asks for, is aligned to 8 bytes, and does not move
        // with the vector. The old file is closed once, after `real` has left it; its memory is released after that.
        unsafe {
            let (vfs, name) = ((*self.ours).vfs, (*self.ours).name);
            let (Some(open), Ok(len)) = ((*vfs).xOpen, usize::try_from((*vfs).szOsFile)) else {
                return ffi::SQLITE_CANTOPEN;
            };
            let mut memory = vec![0_u64; len.div_ceil(size_of::<u64>())];
            let file: *mut sqlite3_file = memory.as_mut_ptr().cast();
            let mut out_flags = 0;
            let code = open(vfs, name, file, FLAGS, &raw mut out_flags);
            if code != ffi::SQLITE_OK {
                if let Some(close) = (*file).pMethods.as_ref().and_then(|methods| methods.xClose) {
                    close(file);
                }
                return code;
            }
            (*self.ours).real = file;
            // The content of the old file is in the archive, so nothing depends on the result.
            let _closed = (*methods).xClose.map(|close| close(before));
            (*self.ours).memory = memory;
        }
        ffi::SQLITE_OK
    }
}

impl FileLocks for Real {
    fn lock(&self, level: c_int) -> c_int {
        // SAFETY: the file is open by the contract of `new`.
        unsafe { call!(self, xLock(level)) }
    }

    fn unlock(&self, level: c_int) -> c_int {
        // SAFETY: the file is open by the contract of `new`.
        unsafe { call!(self, xUnlock(level)) }
    }

    fn shm_lock(&self, lock: u32, flags: c_int) -> c_int {
        let Ok(lock) = c_int::try_from(lock) else { return ffi::SQLITE_IOERR };
        // SAFETY: the file is open by the contract of `new`. Its functions have this one: the shared memory of the file is
        // mapped.
        unsafe { call!(self, xShmLock(lock, 1, flags)) }
    }
}
