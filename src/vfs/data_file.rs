//! The database file as SQLite uses it.

use std::{ffi::c_int, sync::Arc};

use rusqlite::ffi::{
    SQLITE_FCNTL_CHUNK_SIZE, SQLITE_FCNTL_POWERSAFE_OVERWRITE, SQLITE_IOERR_SHORT_READ, SQLITE_LOCK_SHARED,
    SQLITE_OK,
};

use super::{
    close,
    connection::DbConnection,
    error::VfsError,
    file::{FileInfo, VfsFile, whole_pages},
    lease::Leased,
    leased::LeasedFile,
    limits::Limits,
    raw_file::{RawFile, ShmLock},
    registry,
    seal::pages::Sealed,
    shim::WalIndex,
};
use crate::{
    page::{HEADER_LEN, Header, PageCodec},
    sys::read_buf::ReadBuf,
};

/// The database file of a connection.
#[derive(Debug)]
pub(super) struct DataFile {
    connection: Arc<DbConnection>,
    /// The address of the name that SQLite opened the file under.
    name: usize,
    lease: Option<Arc<Leased>>,
}

impl DataFile {
    pub(super) fn new(connection: Arc<DbConnection>, name: usize, lease: Option<Arc<Leased>>) -> Self {
        Self { connection, name, lease }
    }

    /// Fails if the file is leased and its connection is not prepared.
    fn check_lease(&self) -> Result<(), VfsError> {
        self.lease.as_ref().map_or(Ok(()), |lease| lease.check())
    }

    /// Admits a lock of the file. No transaction begins without the SHARED lock. A connection whose preparation failed takes the
    /// EXCLUSIVE lock as it closes, so that it leaves no WAL behind.
    fn admit_lock(&self, level: c_int) -> Result<(), VfsError> {
        if level == SQLITE_LOCK_SHARED {
            self.check_lease()?;
        }
        self.connection.before_lock(level)
    }

    fn put(&self, bytes: &[u8], at: u64, raw: &dyn RawFile) -> Result<c_int, VfsError> {
        self.connection.latch().check()?;
        match self.connection.sealed() {
            Some(sealed) => sealed.write(bytes, at, self.connection.is_checkpointing(), raw),
            None if self.connection.refuses_writes() => Err(VfsError::Layout),
            None => Ok(raw.write(bytes, at)),
        }
    }

    /// Whether the file may be empty. SQLite treats an empty file as a new database. An encrypted database of a fleet has its
    /// first page from the start.
    fn check_len(&self, len: u64) -> Result<c_int, VfsError> {
        match self.connection.sealed() {
            Some(sealed) if len == 0 && !sealed.sealing().may_create => {
                Err(VfsError::NotSealed("it is empty".into()))
            }
            _ => Ok(SQLITE_OK),
        }
    }

    fn answer(&self, result: Result<(), VfsError>) -> c_int {
        self.connection.answer(result.map(|()| SQLITE_OK))
    }
}

/// The page size in the header of the file, which never changes. `None` if the header is invalid.
fn page_size(raw: &dyn RawFile) -> Option<u32> {
    let mut header = [0; HEADER_LEN];
    let is_read = raw.read(&mut header, 0) == SQLITE_OK;
    Some(Header::parse(&header).ok().filter(|_| is_read)?.page_size)
}

impl VfsFile for DataFile {
    fn read(&self, into: &mut ReadBuf<'_>, at: u64, raw: &dyn RawFile) -> c_int {
        // SQLite reads the header before it prepares the connection. It takes no locks of an immutable file.
        if into.len() > HEADER_LEN
            && let Err(refusal) = self.check_lease()
        {
            return self.answer(Err(refusal));
        }
        let Some(sealed) = self.connection.sealed() else { return raw.read_buf(into, at) };
        if let Some(opened) = sealed.read_ahead(into, at, raw) {
            return self.answer(opened);
        }
        let code = raw.read_buf(into, at);
        if code != SQLITE_OK && code != SQLITE_IOERR_SHORT_READ {
            return code;
        }
        let must_have = |page| self.connection.must_have(page);
        self.connection.answer(sealed.after_read(into.bytes(), at, code, must_have))
    }

    fn write(&self, bytes: &[u8], at: u64, raw: &dyn RawFile) -> c_int {
        self.connection.answer(self.put(bytes, at, raw))
    }

    fn truncate(&self, len: u64, raw: &dyn RawFile) -> c_int {
        self.connection.forget();
        self.connection.answer(self.connection.latch().check().map(|()| raw.truncate(len)))
    }

    fn sync(&self, flags: c_int, raw: &dyn RawFile) -> c_int {
        self.connection.answer(self.connection.latch().check().map(|()| raw.sync(flags)))
    }

    fn len(&self, raw: &dyn RawFile) -> Result<u64, c_int> {
        let len = raw.len()?;
        match self.connection.answer(self.check_len(len)) {
            SQLITE_OK => Ok(len),
            refused => Err(refused),
        }
    }

    fn lock(&self, level: c_int, raw: &mut dyn FnMut() -> c_int) -> c_int {
        let admitted = self.answer(self.admit_lock(level));
        if admitted != SQLITE_OK {
            return admitted;
        }
        let _peers = self.connection.peers().lock();
        let code = raw();
        if code == SQLITE_OK {
            self.connection.after_lock(level);
        } else {
            self.connection.after_refused_lock(level);
        }
        code
    }

    fn unlock(&self, level: c_int, raw: &mut dyn FnMut() -> c_int) -> c_int {
        let _peers = self.connection.peers().lock();
        let code = raw();
        if code == SQLITE_OK {
            self.connection.after_unlock(level);
        }
        code
    }

    fn shm_lock(&self, lock: ShmLock, raw: &mut dyn FnMut() -> c_int) -> c_int {
        // A connection of a shared cache keeps the lock of the file for the others.
        let leased = if lock.take { self.check_lease() } else { Ok(()) };
        let admitted = self.answer(leased.and_then(|()| self.connection.before_shm_lock(lock)));
        if admitted != SQLITE_OK {
            return admitted;
        }
        let code = raw();
        // SQLite ignores the result of a release, and treats the lock as released.
        if code == SQLITE_OK || !lock.take {
            self.connection.after_shm_lock(lock);
        }
        code
    }

    fn before_shm_unmap(&self, deletes: bool) {
        if !deletes {
            close::keep_log(&self.connection);
        }
        self.connection.before_shm_unmap();
    }

    fn wal_index(&self) -> Option<&WalIndex> {
        Some(self.connection.wal_index())
    }

    fn device_characteristics(&self, raw: c_int) -> c_int {
        if self.connection.sealed().is_some() { whole_pages(raw) } else { raw }
    }

    fn set_connection(&self, connection: usize, raw: &dyn RawFile) {
        self.connection.belongs_to(connection);
        registry::adopt(&self.connection, connection, raw);
    }

    fn refused_pragma(&self, name: &str, value: Option<&str>, raw: &dyn RawFile) -> Option<&'static str> {
        let is_governed = self.connection.limits().is_some();
        if !is_governed && self.connection.sealed().is_none() {
            return None;
        }
        let page_size = || page_size(raw);
        Limits::refused_pragma(name, value, is_governed.then_some(&page_size))
    }

    /// Chunks would leave unencrypted holes, and encrypted files always overwrite safely.
    fn swallows(&self, op: c_int) -> bool {
        self.connection.sealed().is_some()
            && matches!(op, SQLITE_FCNTL_CHUNK_SIZE | SQLITE_FCNTL_POWERSAFE_OVERWRITE)
    }

    fn describe(&self, code: c_int) -> Option<FileInfo> {
        let connection = &self.connection;
        Some(FileInfo {
            refusal: connection.take_refusal(code),
            is_governed: connection.limits().is_some(),
            is_read_only: connection.limits().is_some_and(Limits::is_read_only),
            seal: connection.sealed().and_then(Sealed::codec).map(PageCodec::seal).copied(),
            stamped_at: connection.stamped_at(),
        })
    }

    fn lease(&self) -> Option<Arc<dyn LeasedFile>> {
        self.lease.clone().map(|lease| lease as Arc<dyn LeasedFile>)
    }

    fn panicked(&self) {
        self.connection.latch().panicked();
    }

    fn close(&self) {
        self.connection.leave();
        registry::remove_database(self.name);
    }
}
