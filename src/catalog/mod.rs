//! The catalog: the groups and databases of a fleet. It is the SQLite database `control.db`, and is authoritative.
//!
//! Any number of processes may have it open. Nothing is cached: every call queries it.

mod databases;
mod descriptions;
mod groups;
mod schema;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, config::DbConfig};

pub(crate) use databases::{Entry, InGroup, NewDatabase, State};

use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout,
    name::DatabaseName,
    sqlite,
    sync::{Mutex, Rank},
};

/// How long a transaction waits for that of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// The mode of a new catalog, less the umask. SQLite uses the same.
const FILE_MODE: u16 = 0o644;

/// The maximum number of idle connections for reading.
const READERS_MAX: usize = 8;

/// Whether a committed transaction survives a power failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It does.
    Full,
    /// It may be lost, but not in part, and not if a later [`Full`](Self::Full) transaction survives.
    Lazy,
}

#[derive(Debug)]
pub(crate) struct Catalog {
    disk: Disk,
    path: PathBuf,
    /// The file that is open. Another file may be at the path.
    inode: Option<(u64, u64)>,
    domain: String,
    /// `None` if the catalog is open read-only.
    writer: Option<Mutex<Connection>>,
    readers: Mutex<Vec<Connection>>,
}

impl Catalog {
    /// Opens the catalog at `path`, and creates it if it does not exist. The hostnames of databases are in `domain`.
    pub(crate) fn open(disk: &Disk, path: PathBuf, domain: String) -> Result<Self> {
        check_place(&path)?;
        if Disk::len(&path)?.is_none() {
            // SQLite would leave the file root's if root opens the fleet of another user first.
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

    /// Opens the catalog at `path` read-only.
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

    /// Fails with [`ErrorKind::Replaced`] if the path of the catalog or of the root has another file than the one that is open.
    fn check(&self) -> Result<()> {
        self.disk.check_root()?;
        if Disk::is_at(&self.path, self.inode) {
            return Ok(());
        }
        Err(Error::replaced(&self.path))
    }

    /// The hostname of a database.
    pub(crate) fn hostname(&self, name: &DatabaseName) -> String {
        hostname(name, &self.domain)
    }

    fn read_only(&self) -> Error {
        Error::read_only(self.path.parent().unwrap_or(&self.path))
    }

    /// Runs `run` without a transaction: each query sees the latest commit.
    pub(crate) fn read<T>(&self, run: impl FnOnce(&Rows<'_>) -> Result<T>) -> Result<T> {
        self.check()?;
        // `run` runs without the lock: the VFS calls this within a transaction of the application.
        let pooled = self.readers.lock_or_recover().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None if self.writer.is_none() => connect_to_read(&self.path)?,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?,
        };
        let result = run(&Rows { connection: &connection, domain: &self.domain });
        // A connection that opened the file as immutable sees no later commit.
        if self.writer.is_none() {
            return result;
        }
        let mut readers = self.readers.lock_or_recover();
        if readers.len() < READERS_MAX {
            readers.push(connection);
        }
        result
    }

    /// Runs `run` in a write transaction, and commits it unless `run` fails.
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
        // The caller acts on files by the result. A catalog that was replaced must not decide about the files of another fleet.
        self.check()?;
        let result = run(&Rows { connection: &transaction, domain: &self.domain })?;
        self.check()?;
        transaction.commit().map_err(failed)?;
        Ok(result)
    }
}

impl Catalog {
    /// Creates a catalog at `path`, where no file exists, with the rows that `fill` inserts. Leaves no WAL beside it.
    pub(crate) fn make(disk: &Disk, path: &Path, fill: impl FnOnce(&Rows<'_>) -> Result<()>) -> Result<()> {
        let catalog = Self::open(disk, path.to_owned(), String::new())?;
        catalog.write(Durability::Full, fill)?;
        let Some(writer) = catalog.writer else { return Ok(()) };
        let writer = writer.into_inner_or_recover();
        // The last connection to close checkpoints and removes the WAL.
        writer.close().map_err(|(_, error)| sqlite::failed_at(path.to_str(), "writing the catalog", error))
    }
}

/// The rows of the catalog.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    connection: &'a Connection,
    domain: &'a str,
}

/// Fails if SQLite would open the catalog at `path` read-only, or replace a damaged one by an empty one.
pub(crate) fn check_place(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    // SQLite would open it read-only, and a later write would fail.
    for path in [dir, path, &layout::beside(path, "-wal"), &layout::beside(path, "-shm")] {
        if let Some(error) = Disk::not_writable(path) {
            let sentence = |file: &dyn Display| {
                format!("{file}: {error}; a fleet's directory and catalog must be writable")
            };
            return Err(Error::naming(ErrorKind::ReadOnly, path, sentence).caused_by(error));
        }
    }
    // SQLite treats an empty file as a new database, and deletes the WAL beside it. A first open that was killed leaves these
    // files only.
    let left =
        |name: &String| [".staging", ".trash", "control.db", "control.db-journal"].contains(&name.as_str());
    if Disk::len(path)? == Some(0) && !Disk::list(dir)?.iter().all(left) {
        return Err(Error::naming(ErrorKind::Corrupt, path, |file| {
            format!(
                "{file} is empty, but its directory is not; restore the file, or remove it to start a new fleet there"
            )
        }));
    }
    Ok(())
}

fn hostname(name: &DatabaseName, domain: &str) -> String {
    format!("{name}.{domain}")
}

fn connect_to_read(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    connect_by(sqlite::uri_to_read(path)?.as_ref(), path, flags)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    connect_by(path, path, flags)
}

/// Connects to the catalog at `path` by a file name or URI.
fn connect_by(name: &Path, path: &Path, flags: OpenFlags) -> Result<Connection> {
    let open = || {
        let connection = Connection::open_with_flags(name, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF")?;
        // Otherwise an SQLite with `SQLITE_ENABLE_STAT4` compiles a cached statement again for every value that is bound to it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
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
    fn newer_and_foreign_catalogs_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        drop(open(path.clone()).unwrap());
        drop(open(path.clone()).unwrap());

        let raw = Connection::open(&path).unwrap();
        raw.execute_batch("PRAGMA user_version=99").unwrap();
        let error = open(path.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("schema version 99"), "{error}");
        raw.execute_batch("PRAGMA user_version=5; UPDATE root SET format_version=7").unwrap();
        let error = open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("format version 7"), "{error}");

        let foreign = dir.path().join("foreign.db");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        assert_eq!(open(foreign).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
