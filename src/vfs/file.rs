//! An open file of this VFS, as SQLite calls it.

use std::{ffi::c_int, sync::Arc};

use super::{
    error::VfsError,
    leased::LeasedFile,
    raw_file::{RawFile, ShmLock},
    shim::WalIndex,
};
use crate::{page::Seal, sys::read_buf::ReadBuf};

/// An open file of this VFS. Every call gets the file of the default VFS below it, to which the default implementations pass
/// the call on.
pub(super) trait VfsFile: Send + Sync {
    /// Runs before each call that reads or writes the file.
    fn prepare(&self, _raw: &dyn RawFile) -> c_int {
        rusqlite::ffi::SQLITE_OK
    }

    fn read(&self, into: &mut ReadBuf<'_>, at: u64, raw: &dyn RawFile) -> c_int {
        raw.read_buf(into, at)
    }

    fn write(&self, bytes: &[u8], at: u64, raw: &dyn RawFile) -> c_int {
        raw.write(bytes, at)
    }

    fn truncate(&self, len: u64, raw: &dyn RawFile) -> c_int {
        raw.truncate(len)
    }

    fn sync(&self, flags: c_int, raw: &dyn RawFile) -> c_int {
        raw.sync(flags)
    }

    fn len(&self, raw: &dyn RawFile) -> Result<u64, c_int> {
        raw.len()
    }

    /// Takes a lock of the file, which `raw` does.
    fn lock(&self, _level: c_int, raw: &mut dyn FnMut() -> c_int) -> c_int {
        raw()
    }

    /// Releases a lock of the file, which `raw` does.
    fn unlock(&self, _level: c_int, raw: &mut dyn FnMut() -> c_int) -> c_int {
        raw()
    }

    /// Takes or releases a lock of the shared memory, which `raw` does.
    fn shm_lock(&self, _lock: ShmLock, raw: &mut dyn FnMut() -> c_int) -> c_int {
        raw()
    }

    /// Runs before the shared memory is unmapped, and deleted if `deletes`.
    fn before_shm_unmap(&self, _deletes: bool) {}

    /// The wal-index of the file, in which the shim registers mapped regions.
    fn wal_index(&self) -> Option<&WalIndex> {
        None
    }

    /// The device characteristics of the file, given those of the file below.
    fn device_characteristics(&self, raw: c_int) -> c_int {
        raw
    }

    /// Runs on `SQLITE_FCNTL_PDB`, with the address of the `sqlite3` handle that the file belongs to.
    fn set_connection(&self, _connection: usize, _raw: &dyn RawFile) {}

    /// Why a pragma is refused. `None` if it is permitted.
    fn refused_pragma(&self, _name: &str, _value: Option<&str>, _raw: &dyn RawFile) -> Option<&'static str> {
        None
    }

    /// Whether a file control is answered with success and not passed on.
    fn swallows(&self, _op: c_int) -> bool {
        false
    }

    /// Describes the file. `code` is the result code of the call whose refusal is wanted. `None` if the file is not the main
    /// file of a database.
    fn describe(&self, _code: c_int) -> Option<FileInfo> {
        None
    }

    /// The lease that the file was opened under. `None` if it was opened under none.
    fn lease(&self) -> Option<Arc<dyn LeasedFile>> {
        None
    }

    /// Runs after a call panicked.
    fn panicked(&self) {}

    /// Runs before the file below is closed.
    fn close(&self) {}
}

/// The description of a main database file.
#[derive(Clone, Debug, Default)]
pub(super) struct FileInfo {
    /// Why the last refused call was refused, if it was refused with the code in question.
    pub(super) refusal: Option<VfsError>,
    /// Whether a policy applies to the file.
    pub(super) is_governed: bool,
    /// Whether the connection was opened read-only.
    pub(super) is_read_only: bool,
    pub(super) seal: Option<Seal>,
    /// The instant of the last commit of the connection, in microseconds of UTC.
    pub(super) stamped_at: Option<i64>,
}

/// `SQLITE_IOCAP_SUBPAGE_READ`, which older headers do not name.
const SUBPAGE_READ: c_int = 0x8000;

/// Device characteristics under which SQLite reads or writes less than a page or a frame at once.
const PARTIAL_IO: c_int = {
    use rusqlite::ffi;
    SUBPAGE_READ
        | ffi::SQLITE_IOCAP_BATCH_ATOMIC
        | ffi::SQLITE_IOCAP_SAFE_APPEND
        | ffi::SQLITE_IOCAP_SEQUENTIAL
        | ffi::SQLITE_IOCAP_ATOMIC
        | ffi::SQLITE_IOCAP_ATOMIC512
        | ffi::SQLITE_IOCAP_ATOMIC1K
        | ffi::SQLITE_IOCAP_ATOMIC2K
        | ffi::SQLITE_IOCAP_ATOMIC4K
        | ffi::SQLITE_IOCAP_ATOMIC8K
        | ffi::SQLITE_IOCAP_ATOMIC16K
        | ffi::SQLITE_IOCAP_ATOMIC32K
        | ffi::SQLITE_IOCAP_ATOMIC64K
};

/// The device characteristics of an encrypted file, under which SQLite reads and writes whole pages and never splits a frame.
pub(super) fn whole_pages(raw: c_int) -> c_int {
    raw & !PARTIAL_IO | rusqlite::ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}
