//! Connections for the host: plain `rusqlite` connections, opened through the fleet's VFS.

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::{
    catalog::{Catalog, Entry, State},
    changes::{Changes, Pair},
    error::{Error, ErrorKind, Result},
    sqlite,
    vfs::{self, Governor, Refusal, Rules},
};

/// How much a committed transaction is worth when the power fails; `PRAGMA synchronous` by its own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Synchronous {
    /// The system decides when to write. A power failure may damage the database.
    Off,
    /// A power failure may undo the last transactions, but damages nothing.
    Normal,
    /// Each transaction is on the disk before it returns.
    Full,
}

/// How to open a database.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectOptions {
    read_only: bool,
    busy_timeout: Duration,
    foreign_keys: bool,
    synchronous: Synchronous,
}

impl Default for ConnectOptions {
    /// Reads and writes, a busy timeout of 5 seconds, foreign keys on, `synchronous=NORMAL`.
    fn default() -> Self {
        Self {
            read_only: false,
            busy_timeout: Duration::from_secs(5),
            foreign_keys: true,
            synchronous: Synchronous::Normal,
        }
    }
}

impl ConnectOptions {
    /// Whether to refuse writes on this connection.
    #[must_use]
    pub fn read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// How long a statement waits for another connection's transaction.
    #[must_use]
    pub fn busy_timeout(self, busy_timeout: Duration) -> Self {
        Self { busy_timeout, ..self }
    }

    /// Whether foreign keys are enforced.
    #[must_use]
    pub fn foreign_keys(self, foreign_keys: bool) -> Self {
        Self { foreign_keys, ..self }
    }

    /// How much a committed transaction is worth when the power fails.
    #[must_use]
    pub fn synchronous(self, synchronous: Synchronous) -> Self {
        Self { synchronous, ..self }
    }
}

/// The rules of one database, as the catalog has them.
#[derive(Debug)]
pub(crate) struct CatalogGovernor {
    catalog: Arc<Catalog>,
    changes: Arc<Changes>,
    id: String,
    pair: Pair,
    read_only: bool,
    first: Option<(u64, Rules)>,
}

impl CatalogGovernor {
    /// Of the database whose row was read after the stamp was taken.
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        changes: Arc<Changes>,
        entry: &Entry,
        stamp: Option<u64>,
    ) -> Self {
        Self {
            catalog,
            changes,
            id: entry.database.id.clone(),
            pair: Pair::of(&entry.database.name),
            read_only: false,
            first: stamp.zip(rules(entry)),
        }
    }

    /// The same for a connection that may or may not write.
    fn read_only(self, read_only: bool) -> Self {
        let first = self.first.map(|(stamp, rules)| (stamp, Rules { read_only, ..rules }));
        Self { read_only, first, ..self }
    }
}

/// The rules that a row has; nothing if the database is not there any more.
fn rules(entry: &Entry) -> Option<Rules> {
    (entry.state == State::Ready).then_some(Rules {
        size_limit: entry.database.size_limit,
        block_reads: entry.database.block_reads,
        block_writes: entry.database.block_writes,
        read_only: false,
    })
}

impl Governor for CatalogGovernor {
    fn stamp(&self) -> Option<u64> {
        self.changes.stamp(self.pair)
    }

    fn rules(&self) -> Result<Option<Rules>> {
        let entry = self.catalog.read(|rows| rows.entry_by_id(&self.id))?;
        Ok(entry.as_ref().and_then(rules).map(|rules| Rules { read_only: self.read_only, ..rules }))
    }

    fn first_rules(&self) -> Option<(u64, Rules)> {
        self.first
    }
}

/// Opens the database file at `path` under the rules of `governor`.
pub(crate) fn open(path: &Path, governor: CatalogGovernor, options: &ConnectOptions) -> Result<Connection> {
    // Never `CREATE`: a database that is not there was destroyed, and is not to come back empty.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = vfs::open(path, flags, Arc::new(governor.read_only(options.read_only)))
        .map_err(|error| sqlite::failed(format_args!("opening {}", path.display()), error))?;
    connection.busy_timeout(options.busy_timeout).map_err(|error| explain(&connection, error))?;
    into_wal(&connection, "main")?;
    let prepared = connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, options.foreign_keys)
        .and_then(|_| {
            connection.execute_batch(match options.synchronous {
                Synchronous::Off => "PRAGMA synchronous=OFF",
                Synchronous::Normal => "PRAGMA synchronous=NORMAL",
                Synchronous::Full => "PRAGMA synchronous=FULL",
            })
        });
    match prepared {
        Ok(()) => Ok(connection),
        Err(error) => Err(explain(&connection, error)),
    }
}

/// Puts a database into WAL mode, which another program may have taken it out of. Where none did, this reads and
/// writes nothing. The rules hold in WAL mode only, so a database that stays out of it is not to be had.
fn into_wal(connection: &Connection, schema: &str) -> Result<()> {
    let pragma = format!("PRAGMA \"{}\".journal_mode=WAL", schema.replace('"', "\"\""));
    let mode: String =
        connection.query_row(&pragma, [], |row| row.get(0)).map_err(|error| explain(connection, error))?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    let message = format!(
        "another program took the database into journal mode {mode}, and it cannot be taken back now"
    );
    Err(Error::new(ErrorKind::Busy, message))
}

/// Attaches the database file at `path` to a connection, under the rules of `governor`.
pub(crate) fn attach(
    connection: &Connection,
    path: &Path,
    governor: CatalogGovernor,
    schema: &str,
) -> Result<()> {
    // On any other connection SQLite would open the file through another VFS, and without rules.
    if !vfs::is_governed(connection) {
        let message = "a database can be attached to a connection that `connect` made, and to no other";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let path_text = path.to_str().ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("{}: a path to attach must be UTF-8", path.display()))
    })?;
    vfs::hand_over(Arc::new(governor), || connection.execute("ATTACH ?1 AS ?2", [path_text, schema]))
        .map_err(|error| explain(connection, error))?;
    into_wal(connection, schema).inspect_err(|_| {
        let _still_attached = connection.execute("DETACH ?1", [schema]);
    })
}

/// Says what an SQL error on a connection of the fleet means, in this crate's terms.
///
/// SQLite has only its own result codes to say that the fleet refused something. This tells them apart: the kind
/// is [`Blocked`](ErrorKind::Blocked) for `SQLITE_AUTH` and `SQLITE_READONLY` that come from blocked reads and
/// writes, [`TooLarge`](ErrorKind::TooLarge) for `SQLITE_FULL` that comes from the size limit,
/// [`Destroyed`](ErrorKind::Destroyed) where the database is gone, and the kind of SQLite's own error otherwise.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let plane = litefleet::ControlPlane::open(dir.path())?;
/// # plane.create_group("default")?;
/// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
/// use litefleet::{DatabaseChanges, ErrorKind, explain};
///
/// let connection = plane.connect("orders", &Default::default())?;
/// plane.configure_database("orders", DatabaseChanges::default().block_writes(true))?;
/// let error = connection.execute_batch("CREATE TABLE t(a)").unwrap_err();
/// assert_eq!(explain(&connection, error).kind(), ErrorKind::Blocked);
/// # Ok::<(), litefleet::Error>(())
/// ```
#[must_use]
pub fn explain(connection: &Connection, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error().map(|error| error.extended_code & 0xff);
    let refusal = code.and_then(|code| vfs::take_refusal(connection, code));
    let (kind, message) = match refusal {
        None => return Error::new(sqlite::kind(&error), error.to_string()).caused_by(error),
        Some(Refusal::ReadsBlocked) => (ErrorKind::Blocked, reads_blocked().to_owned()),
        Some(Refusal::WritesBlocked) => (
            ErrorKind::Blocked,
            "Operation was blocked: SQL write operations are forbidden (writes are blocked)".to_owned(),
        ),
        Some(Refusal::ReadOnly) => (ErrorKind::Sql, format!("{error}: this connection was opened read-only")),
        Some(Refusal::OverLimit(limit)) => {
            (ErrorKind::TooLarge, format!("database or disk is full: the size limit is {limit} bytes"))
        }
        Some(Refusal::Destroyed) => (ErrorKind::Destroyed, "the database was destroyed".to_owned()),
        Some(Refusal::NoRules(why)) => {
            (ErrorKind::Io, format!("the database's configuration could not be read: {why}"))
        }
    };
    Error::new(kind, message).caused_by(error)
}

/// What a caller is told whose reads are blocked.
pub(crate) fn reads_blocked() -> &'static str {
    "Operation was blocked: SQL read operations are forbidden (reads are blocked)"
}
