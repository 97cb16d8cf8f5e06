//! Scratch files: a plain database on disk, encrypted like an unnamed file under a key that exists only in memory.
//!
//! An uploaded file that is to become an encrypted database is kept in a scratch file until then.

use std::{cell::RefCell, ffi::c_int, fs::File, path::Path, sync::Arc};

use rusqlite::{Connection, OpenFlags, ffi};

use super::{pages::Counted, temp::Temp};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    vfs::{hand_over::NotOpened, open, policy::NoPolicy, raw_file::RawFile},
};

/// The state of a scratch file: its key, tags and counters.
#[derive(Debug)]
pub(crate) struct Scratch {
    temp: Arc<Temp>,
    _counted: Counted,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { temp: Arc::new(Temp::new()?), _counted: Counted::new() })
    }

    /// Encrypts plain bytes and writes them.
    pub(crate) fn write_at(&self, on: &ScratchFile<'_>, bytes: &[u8], at: u64) -> Result<()> {
        on.check(self.temp.write(bytes, at, on))
    }

    pub(crate) fn set_len(&self, on: &ScratchFile<'_>, len: u64) -> Result<()> {
        on.check(self.temp.truncate(len, on))
    }

    /// Reads and decrypts bytes. Fails if the file is shorter.
    pub(crate) fn read_at(&self, on: &ScratchFile<'_>, into: &mut [u8], at: u64) -> Result<()> {
        on.check(self.temp.read(into, at, on))
    }

    /// Writes what is in memory, so that SQLite can read it.
    pub(crate) fn flush(&self, on: &ScratchFile<'_>) -> Result<()> {
        on.check(self.temp.flush(on))
    }

    /// The length of the plain database.
    pub(crate) fn len(&self) -> u64 {
        self.temp.len()
    }

    /// Opens the plain database in the scratch file at `path`. It must be in rollback mode.
    pub(crate) fn open(&self, path: &Path) -> Result<Connection, NotOpened> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        open(path, flags, Arc::new(NoPolicy::scratch(Arc::clone(&self.temp))))
    }
}

/// The file on disk that holds a scratch file.
pub(crate) struct ScratchFile<'a> {
    disk: &'a Disk,
    file: &'a File,
    path: &'a Path,
    failed: RefCell<Option<Error>>,
}

impl<'a> ScratchFile<'a> {
    pub(crate) fn new(disk: &'a Disk, file: &'a File, path: &'a Path) -> Self {
        Self { disk, file, path, failed: RefCell::new(None) }
    }

    fn check(&self, code: c_int) -> Result<()> {
        match (code, self.failed.take()) {
            (ffi::SQLITE_OK, _) => Ok(()),
            (_, Some(error)) => Err(error),
            (code, None) => Err(Error::naming(ErrorKind::Io, self.path, |file| {
                format!("{file}: SQLite's result code {code}")
            })),
        }
    }

    fn note(&self, result: Result<()>) -> c_int {
        result.map_or_else(
            |error| {
                self.failed.replace(Some(error));
                ffi::SQLITE_IOERR
            },
            |()| ffi::SQLITE_OK,
        )
    }
}

impl RawFile for ScratchFile<'_> {
    fn read(&self, into: &mut [u8], at: u64) -> c_int {
        self.note(Disk::read_at(self.file, self.path, into, at))
    }

    fn write(&self, bytes: &[u8], at: u64) -> c_int {
        self.note(self.disk.write_at(self.file, self.path, bytes, at))
    }

    fn len(&self) -> Result<u64, c_int> {
        self.file.metadata().map(|found| found.len()).map_err(|_| ffi::SQLITE_IOERR)
    }
}
