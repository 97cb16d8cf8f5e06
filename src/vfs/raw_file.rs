//! The files of the default VFS, as the layers above see them; and buffers for their contents.

use std::{ffi::c_int, fmt};

use rusqlite::ffi::{SQLITE_CANTOPEN, SQLITE_IOERR};
use zeroize::Zeroize;

use crate::sys::read_buf::ReadBuf;

/// A file of the default VFS. Calls return SQLite's result codes.
pub(super) trait RawFile {
    /// Fills `into` with the bytes at `at`. Bytes beyond the end of the file are zero; the result is then
    /// `SQLITE_IOERR_SHORT_READ`.
    fn read(&self, into: &mut [u8], at: u64) -> c_int;

    /// Reads like [`read`](Self::read), into memory that may be uninitialized.
    fn read_buf(&self, into: &mut ReadBuf<'_>, at: u64) -> c_int {
        self.read(into.bytes(), at)
    }

    fn write(&self, bytes: &[u8], at: u64) -> c_int;

    /// The length of the file.
    fn len(&self) -> Result<u64, c_int>;

    fn truncate(&self, _len: u64) -> c_int {
        SQLITE_IOERR
    }

    /// Flushes the file. `flags` are those of `xSync`.
    fn sync(&self, _flags: c_int) -> c_int {
        SQLITE_IOERR
    }

    /// Opens a new file at the path of this one, which was renamed, and continues with it. On failure it continues with the
    /// renamed file.
    fn reopen(&self) -> c_int {
        SQLITE_CANTOPEN
    }
}

/// The locks of an open database file, which the default VFS takes.
///
/// The locks of the file are taken and released with the list of its [peers](super::peers) locked.
pub(super) trait FileLocks: fmt::Debug + Send + Sync {
    fn lock(&self, level: c_int) -> c_int;

    fn unlock(&self, level: c_int) -> c_int;

    /// Takes or releases one lock of the shared memory. `flags` are those of `xShmLock`.
    fn shm_lock(&self, lock: u32, flags: c_int) -> c_int;
}

/// Offsets of the locks in the shared memory (<https://www.sqlite.org/walformat.html#wal_locks>).
pub(super) const WRITE_LOCK: u32 = 0;
pub(super) const CHECKPOINT_LOCK: u32 = 1;
pub(super) const FIRST_READ_LOCK: u32 = 3;

/// A call of `xShmLock`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShmLock {
    /// The first of the locks.
    pub(super) offset: u32,
    /// Whether they are taken and not released.
    pub(super) take: bool,
    pub(super) shared: bool,
}

/// A buffer that is aligned to cache lines, and wiped when it is dropped.
///
/// A large `Vec` starts 16 bytes into a page of memory. Copies to there take up to 25 times as long on some processors.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    const ALIGN: usize = 64;

    /// The first `len` bytes of the buffer. They keep their contents; new bytes are zero.
    pub(super) fn of(&mut self, len: usize) -> &mut [u8] {
        if self.memory.len() < len + Self::ALIGN {
            self.memory.zeroize();
            self.memory = vec![0; len + Self::ALIGN];
            self.start = self.memory.as_ptr().align_offset(Self::ALIGN).min(Self::ALIGN);
        }
        &mut self.memory[self.start..self.start + len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.memory.zeroize();
    }
}

#[cfg(test)]
pub(super) mod memory {
    use std::{
        cell::{Ref, RefCell},
        ffi::c_int,
    };

    use rusqlite::ffi::{SQLITE_IOERR_SHORT_READ, SQLITE_OK};

    use super::RawFile;

    /// A file in memory.
    #[derive(Default)]
    pub(in crate::vfs) struct Memory(pub(in crate::vfs) RefCell<Vec<u8>>);

    impl Memory {
        pub(in crate::vfs) fn bytes(&self) -> Ref<'_, Vec<u8>> {
            self.0.borrow()
        }
    }

    impl RawFile for Memory {
        fn read(&self, into: &mut [u8], at: u64) -> c_int {
            let (bytes, at) = (self.0.borrow(), usize::try_from(at).unwrap());
            let there = bytes.len().saturating_sub(at).min(into.len());
            into.fill(0);
            if there > 0 {
                into[..there].copy_from_slice(&bytes[at..at + there]);
            }
            if there < into.len() { SQLITE_IOERR_SHORT_READ } else { SQLITE_OK }
        }

        fn write(&self, bytes: &[u8], at: u64) -> c_int {
            let (mut all, at) = (self.0.borrow_mut(), usize::try_from(at).unwrap());
            let len = all.len().max(at + bytes.len());
            all.resize(len, 0);
            all[at..at + bytes.len()].copy_from_slice(bytes);
            SQLITE_OK
        }

        fn len(&self) -> Result<u64, c_int> {
            Ok(self.0.borrow().len() as u64)
        }
    }
}
