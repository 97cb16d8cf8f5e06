//! Database files that are opened through SQLite's VFS for Unix, without a connection.
//!
//! POSIX drops all locks of a process on a file when the process closes any descriptor of that file. SQLite's VFS therefore has
//! one record of each file that a process has open, which all connections share, and closes a descriptor after the last lock of
//! the process on the file. A file that is opened here takes part in this. It adds no more descriptors than are read at the same
//! time, because the VFS reuses those that it has not closed yet.

use std::{
    ffi::{CString, c_char, c_int, c_void},
    io,
    marker::PhantomData,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods};

use crate::sync::{Guard, Mutex, Rank};

/// The VFS that keeps the record. It exists in every build of SQLite for Unix, whichever VFS is the default.
const VFS: &std::ffi::CStr = c"unix";

/// The size of a region of the wal-index in bytes, which is part of SQLite's format.
const REGION_LEN: usize = 32 << 10;

/// How often a read is repeated after the file was truncated.
const ATTEMPTS: u32 = 100;

static MAPPING: Mutex<()> = Mutex::new(Rank::WalIndexFile, ());

/// Excludes other threads from opening a wal-index.
///
/// A connection that opens a wal-index while a [`SqliteFile`] is the first to have it open read-only could not write to it.
pub(crate) fn mapping_turn() -> Guard<'static, ()> {
    MAPPING.lock_or_recover()
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// For reading.
    Read,
    /// For reading. If its wal-index is opened, this neither creates nor changes it.
    ReadOnlyWalIndex,
    /// For reading and writing.
    Write,
}

/// What [`SqliteFile::map_wal_index`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// A connection of this or another process uses the wal-index, and it is mapped.
    InUse,
    /// No connection uses the wal-index.
    Unused,
    /// The file does not exist, or is not initialized.
    Missing,
}

/// An open database file.
#[derive(Debug)]
pub struct SqliteFile {
    /// The structure of the VFS, in `_memory`.
    file: NonNull<sqlite3_file>,
    _memory: Vec<u64>,
    name: *const c_char,
    /// The first region of the wal-index.
    region: Option<NonNull<AtomicU32>>,
    /// It stays on its thread: the VFS allows one call to a file at a time.
    _not_send: PhantomData<*const ()>,
}

/// Calls a function of the file. Returns `SQLITE_IOERR` if the VFS has no such function.
macro_rules! call {
    ($self:expr, $method:ident ( $($argument:expr),* )) => {
        match $self.methods().$method {
            Some(method) => method($self.file.as_ptr(), $($argument),*),
            None => ffi::SQLITE_IOERR,
        }
    };
}

impl SqliteFile {
    /// Opens a file. `path` is absolute and has no symbolic links.
    pub(crate) fn open(path: &Path, access: Access) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = ffi::SQLITE_OPEN_MAIN_DB
            | if access == Access::Write { ffi::SQLITE_OPEN_READWRITE } else { ffi::SQLITE_OPEN_READONLY };
        let parameters: &mut [*const c_char] = &mut [c"readonly_shm".as_ptr(), c"1".as_ptr()];
        let count = c_int::from(access == Access::ReadOnlyWalIndex);
        // SAFETY: all names are C strings, and `parameters` has at least `count` pairs. The VFS lives as long as the process. The
        // memory has the size that the VFS asks for, is aligned to 8 bytes, and does not move with the vector. The name lives
        // until `drop`. SQLite's rule for `xOpen` is that a file without functions is not open, and must not be closed.
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(VFS.as_ptr());
            let Some((open, len)) =
                vfs.as_ref().and_then(|vfs| Some((vfs.xOpen?, usize::try_from(vfs.szOsFile).ok()?)))
            else {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "SQLite was built without its VFS for Unix",
                ));
            };
            let name = ffi::sqlite3_create_filename(
                path.as_ptr(),
                c"".as_ptr(),
                c"".as_ptr(),
                count,
                parameters.as_mut_ptr(),
            );
            let mut memory = vec![0_u64; len.div_ceil(size_of::<u64>())];
            let Some(file) = NonNull::new(memory.as_mut_ptr().cast()).filter(|_| !name.is_null()) else {
                return Err(io::ErrorKind::OutOfMemory.into());
            };
            let opened = open(vfs, name, file.as_ptr(), flags, ptr::null_mut());
            let error = io::Error::last_os_error();
            let file = Self { file, _memory: memory, name, region: None, _not_send: PhantomData };
            match opened {
                ffi::SQLITE_OK => Ok(file),
                ffi::SQLITE_CANTOPEN if error.raw_os_error() != Some(0) => Err(error),
                code => Err(failed(code)),
            }
        }
    }

    /// The functions of the file.
    fn methods(&self) -> &sqlite3_io_methods {
        // SAFETY: the file is open, so that it has functions, which live as long as the process.
        unsafe { &*self.file.as_ref().pMethods }
    }

    fn len(&self) -> io::Result<u64> {
        let mut len = 0;
        // SAFETY: the file is open, and `len` outlives the call.
        match unsafe { call!(self, xFileSize(&raw mut len)) } {
            ffi::SQLITE_OK => Ok(u64::try_from(len).unwrap_or(0)),
            code => Err(failed(code)),
        }
    }

    /// Reads bytes at an offset. Returns how many, which is 0 at the end of the file.
    pub(crate) fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        for _ in 0..ATTEMPTS {
            // The VFS fills the rest of the buffer with zeros after the end of the file, so that its length must be known.
            let left = self.len()?.saturating_sub(offset).min(into.len() as u64);
            let (Ok(len), Ok(at)) = (c_int::try_from(left.min(1 << 30)), offset.try_into()) else {
                return Ok(0);
            };
            if len == 0 {
                return Ok(0);
            }
            // SAFETY: the file is open, and `into` has at least `len` writable bytes.
            match unsafe { call!(self, xRead(into.as_mut_ptr().cast(), len, at)) } {
                ffi::SQLITE_OK => return Ok(usize::try_from(len).unwrap_or(0)),
                // It was truncated after its length was read.
                ffi::SQLITE_IOERR_SHORT_READ => {}
                code => return Err(failed(code)),
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Whether the file is no longer at its path.
    pub(crate) fn has_moved(&self) -> io::Result<bool> {
        let mut moved: c_int = 0;
        let moved_at: *mut c_void = (&raw mut moved).cast();
        // SAFETY: the file is open, and the operation stores an integer, which outlives the call.
        match unsafe { call!(self, xFileControl(ffi::SQLITE_FCNTL_HAS_MOVED, moved_at)) } {
            ffi::SQLITE_OK => Ok(moved != 0),
            code => Err(failed(code)),
        }
    }

    /// Whether a connection of this or another process holds the lock to write to the file.
    pub(crate) fn is_write_locked(&self) -> io::Result<bool> {
        match self.lock(ffi::SQLITE_LOCK_SHARED) {
            ffi::SQLITE_OK => {
                self.unlock();
                Ok(false)
            }
            ffi::SQLITE_BUSY => Ok(true),
            code => Err(failed(code)),
        }
    }

    /// Takes the exclusive lock of the file until it is dropped, if it is free.
    pub(crate) fn lock_exclusively(&self) {
        if self.lock(ffi::SQLITE_LOCK_SHARED) == ffi::SQLITE_OK {
            let _busy_or_unsupported = self.lock(ffi::SQLITE_LOCK_EXCLUSIVE);
        }
    }

    fn lock(&self, level: c_int) -> c_int {
        // SAFETY: the file is open.
        unsafe { call!(self, xLock(level)) }
    }

    fn unlock(&self) {
        // SAFETY: the file is open.
        let _released = unsafe { call!(self, xUnlock(ffi::SQLITE_LOCK_NONE)) };
    }

    /// Maps the first region of the wal-index, if a connection uses it.
    pub(crate) fn map_wal_index(&mut self) -> io::Result<Mapped> {
        let Ok(size) = c_int::try_from(REGION_LEN) else { return Ok(Mapped::Missing) };
        let mut memory: *mut c_void = ptr::null_mut();
        // SAFETY: the file is open, and `memory` outlives the call.
        let code = unsafe { call!(self, xShmMap(0, size, 0, &raw mut memory)) };
        self.region = NonNull::new(memory.cast());
        match code {
            // SQLite reports `SQLITE_READONLY` beside memory that it has mapped for reading only.
            ffi::SQLITE_OK | ffi::SQLITE_READONLY if self.region.is_some() => Ok(Mapped::InUse),
            ffi::SQLITE_READONLY_CANTINIT => Ok(Mapped::Unused),
            ffi::SQLITE_OK | ffi::SQLITE_READONLY | ffi::SQLITE_BUSY | ffi::SQLITE_CANTOPEN => {
                Ok(Mapped::Missing)
            }
            code => Err(failed(code)),
        }
    }

    /// Fills `into` from the start of the mapped region, in whole words. Returns how many bytes were read.
    pub(crate) fn read_wal_index(&self, into: &mut [u8]) -> usize {
        let Some(region) = self.region else { return 0 };
        let words = into.chunks_exact_mut(size_of::<AtomicU32>()).take(REGION_LEN / size_of::<AtomicU32>());
        let mut count = 0;
        for bytes in words {
            // SAFETY: the region has this many words, is aligned to a page, and stays mapped until `drop`. Connections access it
            // word by word.
            let word = unsafe { region.add(count).as_ref() }.load(Relaxed);
            bytes.copy_from_slice(&word.to_le().to_le_bytes());
            count += 1;
        }
        count * size_of::<AtomicU32>()
    }
}

impl Drop for SqliteFile {
    fn drop(&mut self) {
        // SAFETY: the file is open unless it has no functions. It is closed once, and nothing uses the region, the memory or the
        // name afterwards. Both functions ignore a file without shared memory or locks.
        unsafe {
            if !self.file.as_ref().pMethods.is_null() {
                let _unmapped = call!(self, xShmUnmap(0));
                let _closed = call!(self, xClose());
            }
            ffi::sqlite3_free_filename(self.name.cast_mut());
        }
    }
}

#[cold]
fn failed(code: c_int) -> io::Error {
    io::Error::other(ffi::Error::new(code))
}
