//! Files that are opened through [SQLite's VFS](crate::sys::sqlite_file), which knows the locks of every connection of this
//! process.
//!
//! A wal-index is read in the shared memory that SQLite maps. If no connection of this process uses it, SQLite opens it
//! read-only, so that it neither creates nor truncates the file. A connection that joined this use would be read-only too, so
//! the connections of the VFS wait for [`mapping_turn`].

use std::{
    fs::File,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use crate::{
    disk::{Disk, DiskOp, Entry, Metadata, failed, storage},
    error::{Error, ErrorKind, Result},
    sync::Guard,
    sys::sqlite_file::{Access, Mapped, SqliteFile, mapping_turn},
};

/// The buffer of copies.
const BUFFER_LEN: usize = 128 << 10;

/// Runs `run`, which may open database files.
#[expect(clippy::unnecessary_wraps, reason = "the signature of the Linux function")]
pub(crate) fn run<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    Ok(run())
}

/// Runs `run`, which may open database files, and `meanwhile` on the calling thread.
pub(crate) fn run_while<T: Send>(run: impl FnOnce() -> T + Send, meanwhile: impl FnOnce()) -> Result<T> {
    let ran = thread::scope(|scope| {
        let running = thread::Builder::new().name("litefleet-copy".into()).spawn_scoped(scope, run)?;
        meanwhile();
        Ok(running.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    ran.map_err(|error| Error::io("starting a thread", error))
}

/// A database file, opened for reading.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    file: SqliteFile,
    path: PathBuf,
}

impl DatabaseFile {
    /// Opens a database file. Returns `None` if it does not exist, and fails with
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it is not a regular file.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        if !Disk::is_regular(path)? {
            return Ok(None);
        }
        let file = open(path, Access::Read)?;
        Ok(Some(Self { file, path: path.to_owned() }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `into` from the file, and returns how many bytes were read: fewer if the file ends before.
    pub(crate) fn read_up_to(&self, into: &mut [u8], offset: u64) -> Result<usize> {
        let storage = storage::at(&self.path);
        let mut count = 0;
        while count < into.len() {
            let at = offset + count as u64;
            match storage.read_database(&self.file, &self.path, &mut into[count..], at) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) => return Err(failed("reading", &self.path, error)),
            }
        }
        Ok(count)
    }

    /// The metadata of the file. Fails with [`ErrorKind::Busy`] if another file is at its path by now.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        let found = Disk::metadata(&self.path)?;
        let moved =
            self.file.has_moved().map_err(|error| failed("reading the metadata of", &self.path, error))?;
        found.filter(|_| !moved).ok_or_else(|| {
            Error::naming(ErrorKind::Busy, &self.path, |file| {
                format!("{file} was replaced while it was read; retry")
            })
        })
    }

    /// Whether a connection holds the lock to write to the file.
    pub(crate) fn is_write_locked(&self) -> Result<bool> {
        self.file.is_write_locked().map_err(|error| failed("reading the locks of", &self.path, error))
    }

    /// Returns `false`: the file shares no blocks.
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "the signature of the Linux function")]
    pub(crate) fn clone_to(&self, _: &Disk, _: &File, _: &Path) -> Result<bool> {
        Ok(false)
    }

    /// Copies the first `len` bytes of the file to `to`, as [`Disk::copy`] does.
    pub(crate) fn copy_to(
        &self,
        disk: &Disk,
        to: &File,
        to_path: &Path,
        len: u64,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<u64> {
        let mut buffer = vec![0; BUFFER_LEN];
        let mut done = 0;
        while done < len && go_on(done) {
            let want = usize::try_from(len - done).unwrap_or(usize::MAX).min(BUFFER_LEN);
            match self.read_up_to(&mut buffer[..want], done)? {
                0 => break,
                count => {
                    disk.write_at(to, to_path, &buffer[..count], done)?;
                    done += count as u64;
                }
            }
        }
        Ok(done)
    }
}

/// The wal-index file of a database. The fields are dropped in their order.
#[derive(Debug)]
pub(crate) struct WalIndexFile<'p> {
    /// The file that connections have left.
    unused: Option<File>,
    path: &'p Path,
    /// While this has an unused wal-index open read-only, no connection of this process takes locks of it, so that `unused` may be
    /// closed.
    database: SqliteFile,
    _turn: Guard<'static, ()>,
}

impl<'p> WalIndexFile<'p> {
    /// Opens the wal-index file `path` of the database file `data`. Returns `None` if one of them does not exist, or if the
    /// wal-index is being initialized.
    pub(crate) fn open(data: &Path, path: &'p Path) -> Result<Option<Self>> {
        let turn = mapping_turn();
        if !Disk::is_regular(data)? || !Disk::is_regular(path)? {
            return Ok(None);
        }
        let mut database = open(data, Access::ReadOnlyWalIndex)?;
        let mapped = database.map_wal_index().map_err(|error| failed("opening", path, error))?;
        let unused = match mapped {
            Mapped::InUse => None,
            Mapped::Unused => match Disk::open_regular(path)? {
                None => return Ok(None),
                unused => unused,
            },
            Mapped::Missing => return Ok(None),
        };
        Ok(Some(Self { unused, path, database, _turn: turn }))
    }

    /// Whether a connection uses it. Otherwise it is what connections have left, and the next one overwrites it.
    #[expect(clippy::unnecessary_wraps, reason = "the signature of the Linux function")]
    pub(crate) fn is_in_use(&self) -> Result<bool> {
        Ok(self.unused.is_none())
    }

    /// Fills `into` from its start, and returns how many bytes were read: fewer if it is shorter.
    pub(crate) fn read_start(&self, into: &mut [u8]) -> Result<usize> {
        match &self.unused {
            Some(file) => Disk::read_up_to(file, self.path, into, 0),
            None => Ok(self.database.read_wal_index(into)),
        }
    }
}

/// An exclusive lock of a database file, which SQLite's connections find busy until this is dropped.
#[derive(Debug)]
pub(crate) struct ExclusiveLock {
    _file: SqliteFile,
}

impl ExclusiveLock {
    /// Takes the lock of a file that no connection has open. If the file system has no such locks, SQLite has none there either.
    pub(crate) fn take(disk: &Disk, path: &Path) -> Result<Self> {
        disk.step(DiskOp::Write, path, || Ok(())).map_err(|error| failed("opening", path, error))?;
        let file = open(path, Access::Write)?;
        file.lock_exclusively();
        Ok(Self { _file: file })
    }
}

fn open(path: &Path, access: Access) -> Result<SqliteFile> {
    // SQLite follows no symbolic link here.
    let resolved = Disk::canonical(path)?;
    storage::at(path)
        .open_database(Entry::path(path), &resolved, access)
        .map_err(|error| failed("opening", path, error))
}
