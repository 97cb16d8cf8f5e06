//! A plain database on the disk, sealed like a file without a name: under a key that lives in memory as long as this does.
//!
//! A file that is uploaded to become an encrypted database stands in one until its rows are sealed for good.

use std::{cell::RefCell, ffi::c_int, fs::File, path::Path, sync::Arc};

use rusqlite::{Connection, OpenFlags, ffi};

use super::{NoPolicy, NotOpened, open, raw_file::RawFile, sealed::Counted, temp::Temp};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
};

/// The sealed file, and what it takes to open it.
#[derive(Debug)]
pub(crate) struct Scratch {
    temp: Arc<Temp>,
    _counted: Counted,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { temp: Arc::new(Temp::new()?), _counted: Counted::new() })
    }

    /// Writes plain bytes, sealed, to the file at `path`.
    pub(crate) fn write_at(&self, on: &ScratchFile<'_>, bytes: &[u8], at: u64) -> Result<()> {
        on.check(self.temp.write(bytes, at, on))
    }

    pub(crate) fn set_len(&self, on: &ScratchFile<'_>, len: u64) -> Result<()> {
        on.check(self.temp.truncate(len, on))
    }

    /// Reads plain bytes, which must be there.
    pub(crate) fn read_at(&self, on: &ScratchFile<'_>, into: &mut [u8], at: u64) -> Result<()> {
        on.check(self.temp.read(into, at, on))
    }

    /// Writes out what is still in memory, so that SQLite finds it.
    pub(crate) fn flush(&self, on: &ScratchFile<'_>) -> Result<()> {
        on.check(self.temp.flush(on))
    }

    /// The plain length.
    pub(crate) fn len(&self) -> u64 {
        self.temp.len()
    }

    /// Opens the plain database that is in the file at `path`, in rollback mode.
    pub(crate) fn open(&self, path: &Path) -> Result<Connection, NotOpened> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        open(
            path,
            flags,
            Arc::new(NoPolicy { sealing: None, past: None, scratch: Some(Arc::clone(&self.temp)) }),
        )
    }
}

/// The file that a scratch stands in, as the disk has it.
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
