//! The catalog: which groups and databases there are. One SQLite database, `control.db`, which alone decides.
//!
//! Any number of processes may have it open. Nothing of it is kept in memory: every call asks it anew.

mod databases;
mod descriptions;
mod groups;
mod schema;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

pub(crate) use databases::{Entry, InGroup, NewDatabase, State};

use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout, sqlite,
    sync::{Mutex, Rank},
};

/// How long a transaction waits for another process's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// The permissions of a new catalog, from which the umask is taken away: those that SQLite gives.
const FILE_MODE: u32 = 0o644;

/// Connections for reading that are kept open.
const READERS_MAX: usize = 8;

/// How much a committed transaction is worth when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It is on the disk when the call returns.
    Full,
    /// It may be lost, but never in part, and never while a later [`Full`](Self::Full) one is kept.
    Lazy,
}

#[derive(Debug)]
pub(crate) struct Catalog {
    disk: Disk,
    path: PathBuf,
    /// The file that is open, which may be at that path no longer.
    inode: Option<(u64, u64)>,
    domain: String,
    /// `None` if the catalog is only read.
    writer: Option<Mutex<Connection>>,
    readers: Mutex<Vec<Connection>>,
}

impl Catalog {
    /// Opens the catalog at `path`, and makes it if there is none. Databases get host names in `domain`.
    pub(crate) fn open(disk: &Disk, path: PathBuf, domain: String) -> Result<Self> {
        check_place(&path)?;
        if Disk::len(&path)?.is_none() {
            // SQLite would leave it with root where root opens the fleet of another user first.
            disk.create_with(&path, FILE_MODE)?;
        }
        let writer = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        schema::prepare(&writer)?;
        let inode = Disk::inode(&path);
        Ok(Self {
            disk: disk.clone(),
            path,
            inode,
            domain,
            writer: Some(Mutex::new(Rank::CatalogWriter, writer)),
            readers: Mutex::new(Rank::CatalogReaders, Vec::new()),
        })
    }

    /// Opens the catalog at `path` to be read. Nothing of it is changed.
    pub(crate) fn open_read_only(disk: &Disk, path: PathBuf, domain: String) -> Result<Self> {
        let inode = Disk::inode(&path);
        schema::check(&connect_to_read(&path)?)?;
        Ok(Self {
            disk: disk.clone(),
            path,
            inode,
            domain,
            writer: None,
            readers: Mutex::new(Rank::CatalogReaders, Vec::new()),
        })
    }

    /// Fails with [`ErrorKind::Replaced`] if the catalog is not the file that was opened, in the directory that was opened.
    fn check(&self) -> Result<()> {
        self.disk.check_root()?;
        if Disk::is_at(&self.path, self.inode) {
            return Ok(());
        }
        Err(Error::replaced(&self.path))
    }

    fn read_only(&self) -> Error {
        Error::read_only(self.path.parent().unwrap_or(&self.path))
    }

    /// Runs `run`, which sees each row as it is when it is read.
    pub(crate) fn read<T>(&self, run: impl FnOnce(&Rows<'_>) -> Result<T>) -> Result<T> {
        self.check()?;
        // No lock is held while `run` runs: it may be called by the VFS in the middle of a host's own transaction.
        let pooled = self.readers.lock_or_recover().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None if self.writer.is_none() => connect_to_read(&self.path)?,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?,
        };
        let result = run(&Rows { connection: &connection, domain: &self.domain });
        // One that takes the file for immutable sees no later change.
        if self.writer.is_none() {
            return result;
        }
        let mut readers = self.readers.lock_or_recover();
        if readers.len() < READERS_MAX {
            readers.push(connection);
        }
        result
    }

    /// Runs `run` in a write transaction, which is committed unless `run` fails.
    pub(crate) fn write<T>(
        &self,
        durability: Durability,
        run: impl FnOnce(&Rows<'_>) -> Result<T>,
    ) -> Result<T> {
        let failed = |error| sqlite::failed_at(self.path.to_str(), "writing the catalog", error);
        let writer = self.writer.as_ref().ok_or_else(|| self.read_only())?;
        // A panic under the lock rolls the transaction back.
        let mut writer = writer.lock_or_recover();
        let synchronous = match durability {
            Durability::Full => "PRAGMA synchronous=FULL",
            Durability::Lazy => "PRAGMA synchronous=NORMAL",
        };
        writer.prepare_cached(synchronous).and_then(|mut pragma| pragma.execute([])).map_err(failed)?;
        let transaction = Transaction::new(&mut writer, TransactionBehavior::Immediate).map_err(failed)?;
        // What is decided here acts on files. Nobody may act on those of another fleet by the word of a catalog that is gone.
        self.check()?;
        let result = run(&Rows { connection: &transaction, domain: &self.domain })?;
        self.check()?;
        transaction.commit().map_err(failed)?;
        Ok(result)
    }
}

impl Catalog {
    /// Makes the catalog that `fill` fills at `path`, where there is no file, and leaves nothing beside it.
    pub(crate) fn make(disk: &Disk, path: &Path, fill: impl FnOnce(&Rows<'_>) -> Result<()>) -> Result<()> {
        let catalog = Self::open(disk, path.to_owned(), String::new())?;
        catalog.write(Durability::Full, fill)?;
        let Some(writer) = catalog.writer else { return Ok(()) };
        let writer = writer.into_inner_or_recover();
        // The last connection takes the log along.
        writer.close().map_err(|(_, error)| sqlite::failed_at(path.to_str(), "writing the catalog", error))
    }
}

/// The rows of the catalog.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    connection: &'a Connection,
    domain: &'a str,
}

/// Makes sure that a catalog can be at `path`, before SQLite opens it in its own way.
pub(crate) fn check_place(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    // SQLite would open it for reading then, and fail in the middle of something.
    for path in [dir, path, &layout::beside(path, "-wal"), &layout::beside(path, "-shm")] {
        if let Some(error) = Disk::not_writable(path) {
            let sentence = |file: &dyn Display| {
                format!("{file}: {error}; a fleet's directory and catalog must be writable")
            };
            return Err(Error::naming(ErrorKind::ReadOnly, path, sentence).caused_by(error));
        }
    }
    // SQLite would take an empty file for a new database, and throw away the log beside it. A first open that was
    // killed leaves no more than this.
    let left =
        |name: &String| [".staging", ".trash", "control.db", "control.db-journal"].contains(&name.as_str());
    if Disk::len(path)? == Some(0) && !Disk::list(dir)?.iter().all(left) {
        return Err(Error::naming(ErrorKind::Corrupt, path, |file| {
            format!(
                "{file} is empty, but its directory is not: put a copy of it back, or remove it to begin a new fleet there"
            )
        }));
    }
    Ok(())
}

fn connect_to_read(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    connect_by(sqlite::uri_to_read(path)?.as_ref(), path, flags)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    connect_by(path, path, flags)
}

/// Connects to the catalog at `path`, which SQLite is given as `name`.
fn connect_by(name: &Path, path: &Path, flags: OpenFlags) -> Result<Connection> {
    let open = || {
        let connection = Connection::open_with_flags(name, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    open().map_err(|error| sqlite::failed_to_open(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn open(path: PathBuf) -> Result<Catalog> {
        Catalog::open(&Disk::default(), path, "localhost".into())
    }

    #[test]
    fn a_newer_catalog_and_a_foreign_one_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        drop(open(path.clone()).unwrap());
        drop(open(path.clone()).unwrap());

        let raw = Connection::open(&path).unwrap();
        raw.execute_batch("PRAGMA user_version=99").unwrap();
        let error = open(path.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("schema version 99"), "{error}");
        raw.execute_batch("PRAGMA user_version=3; UPDATE root SET format_version=7").unwrap();
        let error = open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("format version 7"), "{error}");

        let foreign = dir.path().join("foreign.db");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        assert_eq!(open(foreign).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
