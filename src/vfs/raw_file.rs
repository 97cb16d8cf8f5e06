//! The file of the VFS beneath, as the code above it sees it; and buffers for what goes to it and comes from it.

use std::ffi::c_int;

use zeroize::Zeroize;

/// A file of the VFS beneath. Answers are SQLite's result codes.
pub(super) trait RawFile {
    /// Fills `into` from `at` on. What lies beyond the end of the file reads as zeros, with
    /// `SQLITE_IOERR_SHORT_READ`.
    fn read(&self, into: &mut [u8], at: u64) -> c_int;

    fn write(&self, bytes: &[u8], at: u64) -> c_int;

    /// The length of the file.
    fn len(&self) -> Result<u64, c_int>;

    /// Runs what moves the WAL away, with everybody else kept out of its database, if no other program has that open and no
    /// connection that knows nothing of this. It is called in a write transaction. The answer of `run` says whether the other
    /// connections of this process are to go on with the new file; that of this, whether `run` ran, and whether there are any.
    fn alone(&self, _run: &mut dyn FnMut() -> bool) -> Exclusive {
        Exclusive::No
    }

    /// Runs `run` while nobody begins the WAL of this database file anew, and tells it whether nobody writes to it either.
    fn without_restarts(&self, run: &mut dyn FnMut(bool)) {
        run(false);
    }

    /// Whether somebody else has this database file open, which this connection has no more than open.
    fn has_company(&self) -> bool {
        false
    }

    /// Goes on with a new file at the path of this one, which was moved away. If that fails, it goes on with this one.
    fn begin_anew(&self) -> c_int {
        rusqlite::ffi::SQLITE_CANTOPEN
    }
}

/// Whether a connection is the only one that has a database open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exclusive {
    No,
    Yes,
    /// But for others of this process, which know of each other.
    WithNeighbours,
}

/// Locks in the shared memory, by their offsets (<https://www.sqlite.org/walformat.html>).
pub(super) const WRITE_LOCK: u32 = 0;
pub(super) const CHECKPOINT_LOCK: u32 = 1;
pub(super) const FIRST_READ_LOCK: u32 = 3;

/// A lock of the shared memory, taken or given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShmLock {
    pub(super) offset: u32,
    pub(super) take: bool,
    pub(super) shared: bool,
}

/// A buffer that begins where cache lines do, and is wiped when dropped.
///
/// A large `Vec` begins 16 bytes into a page of memory, where copies take as much as 25 times as long on some processors.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    const ALIGN: usize = 64;

    /// The buffer with a length of `len`; its contents are what they were, or zeros.
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
