//! Files that are opened with [isolated descriptors](crate::sys::isolated_fds).

use std::{
    fs::File,
    marker::PhantomData,
    ops::Range,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self as unix, FlockOperation},
    process::{Flock, FlockType, fcntl_getlk},
};

pub(crate) use crate::sys::isolated_fds::{run, run_while};
use crate::{
    disk::{Disk, FileCopy, Metadata, failed},
    error::Result,
};

/// The bytes of a database file that a reader locks, and a writer exclusively (<https://www.sqlite.org/src/file/src/os.h>).
const SHARED_BYTES: Range<u64> = 0x4000_0002..0x4000_0200;

/// The byte of a wal-index file that every open connection locks (`UNIX_SHM_DMS` of SQLite).
const OPEN_BYTE: Range<u64> = 128..129;

/// A type that stays on its thread: a descriptor is meaningless in another table.
type NotSend = PhantomData<*const ()>;

/// A database file, opened for reading.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    file: File,
    path: PathBuf,
    _not_send: NotSend,
}

impl DatabaseFile {
    /// Opens a database file, within [`run`] if a connection of this process may have it open. Returns `None` if it does not
    /// exist, and fails with [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it is not a regular file.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        let file = Disk::open_regular(path)?;
        Ok(file.map(|file| Self { file, path: path.to_owned(), _not_send: PhantomData }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `into` from the file, and returns how many bytes were read: fewer if the file ends before.
    pub(crate) fn read_up_to(&self, into: &mut [u8], offset: u64) -> Result<usize> {
        Disk::read_up_to(&self.file, &self.path, into, offset)
    }

    pub(crate) fn metadata(&self) -> Result<Metadata> {
        Disk::metadata_of(&self.file, &self.path)
    }

    /// Whether a connection holds the lock to write to the file.
    pub(crate) fn is_write_locked(&self) -> Result<bool> {
        // Only a write lock conflicts with a read lock.
        is_locked(&self.file, FlockType::ReadLock, SHARED_BYTES, &self.path)
    }

    /// Makes `to` share the blocks of the file. Returns `false` if the file system does not support this.
    pub(crate) fn clone_to(&self, disk: &Disk, to: &File, to_path: &Path) -> Result<bool> {
        disk.clone_file(&self.file, to, to_path)
    }

    /// Copies the first `len` bytes of the file to `to`, as [`Disk::copy`] does.
    pub(crate) fn copy_to(
        &self,
        disk: &Disk,
        to: &File,
        to_path: &Path,
        len: u64,
        go_on: impl FnMut(u64) -> bool,
    ) -> Result<u64> {
        disk.copy(FileCopy { from: &self.file, to, to_path, len }, go_on)
    }
}

/// The wal-index file of a database.
#[derive(Debug)]
pub(crate) struct WalIndexFile<'p> {
    file: File,
    path: &'p Path,
    _not_send: NotSend,
}

impl<'p> WalIndexFile<'p> {
    /// Opens the wal-index file `path` of the database file `data`, within [`run`]. Returns `None` if it does not exist.
    pub(crate) fn open(_data: &Path, path: &'p Path) -> Result<Option<Self>> {
        Ok(Disk::open_regular(path)?.map(|file| Self { file, path, _not_send: PhantomData }))
    }

    /// Whether a connection uses it. Otherwise it is what connections have left, and the next one overwrites it.
    pub(crate) fn is_in_use(&self) -> Result<bool> {
        is_locked(&self.file, FlockType::WriteLock, OPEN_BYTE, self.path)
    }

    /// Fills `into` from its start, and returns how many bytes were read: fewer if it is shorter.
    pub(crate) fn read_start(&self, into: &mut [u8]) -> Result<usize> {
        Disk::read_up_to(&self.file, self.path, into, 0)
    }
}

/// An exclusive lock of a database file, which SQLite's connections find busy until this is dropped.
#[derive(Debug)]
pub(crate) struct ExclusiveLock {
    _file: File,
    _not_send: NotSend,
}

impl ExclusiveLock {
    /// Takes the lock of a file that no connection has open, within [`run`]. If the file system has no such locks, SQLite has
    /// none there either.
    pub(crate) fn take(disk: &Disk, path: &Path) -> Result<Self> {
        let file = disk.open_to_write(path)?;
        let _unsupported = unix::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(Self { _file: file, _not_send: PhantomData })
    }
}

/// Whether a lock of these bytes of a file conflicts with one of this kind.
fn is_locked(file: &File, kind: FlockType, bytes: Range<u64>, path: &Path) -> Result<bool> {
    let mut probe = Flock::from(kind);
    (probe.start, probe.length) = (bytes.start, bytes.end - bytes.start);
    let found =
        fcntl_getlk(file, &probe).map_err(|error| failed("reading the locks of", path, error.into()))?;
    Ok(found.is_some())
}
