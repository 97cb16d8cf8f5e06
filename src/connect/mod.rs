//! Connections for the host: plain `rusqlite` connections, opened through the fleet's VFS.

mod lease;
mod options;

use std::{path::Path, sync::Arc};

pub use lease::Lease;
pub(crate) use lease::{lease, lease_to_read};
pub use options::{AttachOptions, ConnectOptions, Synchronous};
use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::{
    api::Database,
    catalog::{Catalog, Entry, State},
    changes::{Changes, Pair},
    cipher::{Cipher, EncryptionKey},
    disk::Disk,
    error::{Error, ErrorKind, Message, Result},
    history::ResilientImage,
    id, sqlite,
    time::Clock,
    vfs::{self, History, HistoryMode, NoPolicy, NotOpened, Policy, PolicySource, Sealing, VfsError},
};

/// The services of a control plane that a [`CatalogGovernor`] uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Services<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) clock: &'a Clock,
    pub(crate) catalog: &'a Arc<Catalog>,
    pub(crate) changes: &'a Arc<Changes>,
}

/// The policy of one database, read from the catalog.
#[derive(Debug)]
pub(crate) struct CatalogGovernor {
    catalog: Arc<Catalog>,
    changes: Arc<Changes>,
    id: String,
    pair: Pair,
    read_only: bool,
    first: Option<(u64, Policy)>,
    sealing: Option<Sealing>,
    /// `None` if the connection writes nothing to the disk.
    history: Option<History>,
}

impl CatalogGovernor {
    /// Returns the policy source of a database, whose row `entry` was read after `stamp`. Fails with
    /// [`ErrorKind::KeyRequired`] or [`ErrorKind::Invalid`] if the key does not fit the cipher.
    pub(crate) fn new(
        services: Services<'_>,
        entry: &Entry,
        stamp: Option<u64>,
        key: Option<&EncryptionKey>,
    ) -> Result<Self> {
        let sealing = match (entry.database.cipher, key) {
            (None, None) => None,
            (Some(cipher), Some(key)) => {
                key.check_size(cipher)?;
                Some(Sealing::new(key.clone(), cipher).of(entry.identity))
            }
            (Some(cipher), None) => return Err(key_required(&entry.database, cipher)),
            (None, Some(_)) => {
                let name = &entry.database.name;
                let message = format!("database {name} is not encrypted: leave the encryption key out");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        };
        let Services { disk, clock, catalog, changes } = services;
        Ok(Self {
            catalog: Arc::clone(catalog),
            changes: Arc::clone(changes),
            id: entry.database.id.clone(),
            pair: Pair::of(&entry.database.name),
            read_only: false,
            first: stamp.zip(rules(entry)),
            sealing,
            history: Some(History {
                disk: disk.clone(),
                clock: clock.clone(),
                database: id::number(&entry.database.id)?,
                born_at: entry.database.created_at.as_micros(),
            }),
        })
    }

    /// Returns how the database is sealed. `None` for a plain database.
    pub(crate) fn into_sealing(self) -> Option<Sealing> {
        self.sealing
    }

    /// Sets whether the connection may write.
    fn read_only(self, read_only: bool) -> Self {
        let first = self.first.map(|(stamp, rules)| (stamp, Policy { read_only, ..rules }));
        Self { read_only, first, ..self }
    }
}

impl CatalogGovernor {
    /// Returns the policy source of a connection that writes nothing to the disk.
    fn reading(self) -> Self {
        Self { history: None, ..self.read_only(true) }
    }
}

/// Returns the policy in a row. `None` if the database is not ready.
fn rules(entry: &Entry) -> Option<Policy> {
    (entry.state == State::Ready).then_some(Policy {
        size_limit: entry.database.size_limit,
        block_reads: entry.database.block_reads,
        block_writes: entry.database.block_writes,
        read_only: false,
        history: match entry.database.history_window {
            window if window.is_off() => HistoryMode::Off,
            _ if entry.history_paused => HistoryMode::Resumed,
            _ => HistoryMode::SinceCreation,
        },
    })
}

impl PolicySource for CatalogGovernor {
    fn stamp(&self) -> Option<u64> {
        self.changes.stamp(self.pair)
    }

    fn rules(&self) -> Result<Option<Policy>> {
        let entry = self.catalog.read(|rows| rows.entry_by_id(&self.id))?;
        Ok(entry.as_ref().and_then(rules).map(|rules| Policy { read_only: self.read_only, ..rules }))
    }

    fn first_rules(&self) -> Option<(u64, Policy)> {
        self.first
    }

    fn sealing(&self) -> Option<Sealing> {
        self.sealing.clone()
    }

    fn history(&self) -> Option<History> {
        self.history.clone()
    }
}

/// No mutex: `Connection` is not shared by threads. No shared cache, even if the host has made that the default: a connection
/// that joins one opens no file, so `ATTACH` could reach a database of the fleet by its path.
const PRIVATE: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX.union(OpenFlags::SQLITE_OPEN_PRIVATE_CACHE);

/// Opens the database file at `path` under the policy of `governor`.
pub(crate) fn open(path: &Path, governor: CatalogGovernor, options: &ConnectOptions) -> Result<Connection> {
    // Never `CREATE`: a missing file belongs to a destroyed database, which must not reappear empty.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | PRIVATE;
    let connection = open_as(path, flags, Arc::new(governor.read_only(options.read_only)), options)?;
    prepare(&connection, options)?;
    fence(&connection, options).map_err(|error| Error::from_sqlite(&connection, error))?;
    Ok(connection)
}

/// Prepares a new connection that may write.
fn prepare(connection: &Connection, options: &ConnectOptions) -> Result<()> {
    let explained = |error| Error::from_sqlite(connection, error);
    connection.busy_timeout(options.busy_timeout).map_err(explained)?;
    into_wal(connection, "main")?;
    let synchronous = match options.synchronous {
        Synchronous::Off => "PRAGMA synchronous=OFF",
        Synchronous::Normal => "PRAGMA synchronous=NORMAL",
        Synchronous::Full => "PRAGMA synchronous=FULL",
    };
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, options.foreign_keys)
        .and_then(|_| connection.execute_batch(synchronous))
        .map_err(explained)
}

/// Opens a file under `governor`, through the VFS that the fence of the connection needs.
fn open_as(
    path: &Path,
    flags: OpenFlags,
    governor: Arc<dyn PolicySource>,
    options: &ConnectOptions,
) -> Result<Connection> {
    let opened = if options.unfenced {
        vfs::open(path, flags | OpenFlags::SQLITE_OPEN_URI, governor)
    } else {
        vfs::open_fenced(path, flags, governor)
    };
    opened.map_err(|not_opened| explain_open(path, not_opened))
}

/// Fences the SQL of a new connection. Call it last: setting an authorizer expires every statement prepared before.
fn fence(connection: &Connection, options: &ConnectOptions) -> rusqlite::Result<()> {
    if options.unfenced { Ok(()) } else { vfs::raise_fence(connection) }
}

/// Opens the database file at `path` of a read-only fleet.
pub(crate) fn open_to_read(
    path: &Path,
    governor: CatalogGovernor,
    options: &ConnectOptions,
) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | PRIVATE | OpenFlags::SQLITE_OPEN_URI;
    let (name, governor) = (sqlite::uri_to_read(path)?, Arc::new(governor.reading()));
    let opened = if options.unfenced {
        vfs::open(name.as_ref(), flags, governor)
    } else {
        vfs::open_fenced(name.as_ref(), flags, governor)
    };
    let connection = opened.map_err(|not_opened| explain_open(path, not_opened))?;
    prepare_to_read(&connection, options)
        .and_then(|()| fence(&connection, options))
        .map_err(|error| Error::from_sqlite(&connection, error))?;
    Ok(connection)
}

/// Prepares a new connection that writes nothing to the disk.
fn prepare_to_read(connection: &Connection, options: &ConnectOptions) -> rusqlite::Result<()> {
    connection.busy_timeout(options.busy_timeout)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, options.foreign_keys)?;
    // Reads the first page, so that a wrong key fails here.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// Opens a read-only connection to a database as of an instant.
pub(crate) fn open_view(
    image: ResilientImage,
    sealing: Option<Sealing>,
    options: &ConnectOptions,
) -> Result<Connection> {
    let path = image.path().to_owned();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | PRIVATE;
    let connection = open_as(&path, flags, Arc::new(NoPolicy::viewing(Arc::new(image), sealing)), options)?;
    let prepared = connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, options.foreign_keys)
        // Reads the first page, so that a wrong key fails here.
        .and_then(|_| connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())))
        .and_then(|()| fence(&connection, options));
    match prepared {
        Ok(()) => Ok(connection),
        Err(error) => Err(Error::from_sqlite(&connection, error)),
    }
}

/// Returns a database to WAL mode if another program has changed its journal mode, and otherwise writes nothing. The policy is
/// enforced in WAL mode only. Fails with [`ErrorKind::Busy`] if the database stays in another mode.
fn into_wal(connection: &Connection, schema: &str) -> Result<()> {
    let pragma = format!("PRAGMA \"{}\".journal_mode=WAL", schema.replace('"', "\"\""));
    let mode: String = connection
        .query_row(&pragma, [], |row| row.get(0))
        .map_err(|error| Error::from_sqlite(connection, error))?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    let message = format!(
        "another program set the database to journal mode {mode}, and it cannot return to WAL mode now; retry later"
    );
    Err(Error::new(ErrorKind::Busy, message))
}

/// Attaches the database file at `path` to a connection, under the policy of `governor`.
pub(crate) fn attach(
    connection: &Connection,
    path: &Path,
    governor: CatalogGovernor,
    schema: &str,
) -> Result<()> {
    let name = path.to_str().ok_or_else(|| {
        Error::naming(ErrorKind::Invalid, path, |file| format!("{file}: a path to attach must be UTF-8"))
    })?;
    attach_as(connection, name, path, governor, schema)?;
    into_wal(connection, schema).inspect_err(|_| {
        let _still_attached = detach(connection, schema);
    })
}

/// Attaches the database file at `path` of a read-only fleet.
pub(crate) fn attach_to_read(
    connection: &Connection,
    path: &Path,
    governor: CatalogGovernor,
    schema: &str,
) -> Result<()> {
    attach_as(connection, &sqlite::uri_to_read(path)?, path, governor.reading(), schema)
}

/// Attaches the database file at `path`. SQLite receives `name` as the file name, which may be a URI.
fn attach_as(
    connection: &Connection,
    name: &str,
    path: &Path,
    governor: CatalogGovernor,
    schema: &str,
) -> Result<()> {
    // A connection that this crate did not open would open the file through another VFS, without a policy.
    let Some(main) = vfs::main_database(connection) else {
        let message = "a database can be attached only to a connection that `connect` opened";
        return Err(Error::new(ErrorKind::Invalid, message));
    };
    // The connection may have files of temporary tables open already, which are not sealed.
    if governor.sealing.is_some() && main.seal.is_none() {
        let message = "an encrypted database cannot be attached to a connection to a plain one; connect to the encrypted database, and attach the plain one";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let governor = Arc::new(governor.read_only(main.is_read_only));
    vfs::hand_over(governor, || connection.execute("ATTACH ?1 AS ?2", [name, schema])).map(|_| ()).map_err(
        |not_opened| match not_opened.refusal {
            Some(_) => explain_open(path, not_opened),
            None => Error::from_sqlite(connection, not_opened.error),
        },
    )
}

/// Detaches the database `schema` from a connection.
pub(crate) fn detach(connection: &Connection, schema: &str) -> rusqlite::Result<()> {
    connection.execute("DETACH ?1", [schema]).map(|_| ())
}

impl Error {
    /// Converts an error of SQLite on a connection to the fleet, with the reason of a refusal and its details.
    ///
    /// SQLite has only its own result codes to report a refusal by the fleet. The kind is
    ///
    /// - [`Blocked`](ErrorKind::Blocked) for `SQLITE_AUTH` and `SQLITE_READONLY` from blocked reads and writes,
    /// - [`TooLarge`](ErrorKind::TooLarge) for `SQLITE_FULL` from the size limit,
    /// - [`Destroyed`](ErrorKind::Destroyed) for `SQLITE_CANTOPEN` from a database that was destroyed,
    /// - [`Corrupt`](ErrorKind::Corrupt) for `SQLITE_IOERR` from a page whose authentication tag is invalid,
    /// - [`Sql`](ErrorKind::Sql) for `SQLITE_AUTH` from the [fence](crate::fence), whose reason is known on the
    ///   thread of the statement only if the host installed its own authorizer,
    /// - and that of SQLite's own error otherwise.
    ///
    /// Without the connection, [`Error::from`] returns the kind, and a message without details such as the size limit.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// use litefleet::{DatabaseChanges, Error, ErrorKind};
    ///
    /// let connection = plane.connect("orders", Default::default())?;
    /// plane.configure_database("orders", DatabaseChanges::default().block_writes(true))?;
    /// let error = connection.execute_batch("CREATE TABLE t(a)").unwrap_err();
    /// assert_eq!(Error::from_sqlite(&connection, error).kind(), ErrorKind::Blocked);
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    #[must_use]
    pub fn from_sqlite(connection: &Connection, error: rusqlite::Error) -> Self {
        let code = error.sqlite_error().map(|error| error.extended_code);
        with_remedy(match code.and_then(|code| vfs::take_refusal(connection, code)) {
            None => sqlite::explained(connection.path(), error),
            Some(VfsError::ReadOnly) => {
                Self::new(ErrorKind::Sql, format!("{error}: {}", VfsError::ReadOnly)).caused_by(error)
            }
            Some(refusal) => Self::with(kind(&refusal), refusal.message()).caused_by(error),
        })
    }
}

/// Adds the remedy to the message of an [`ErrorKind::DiskFull`] error. SQL cannot free space: deleting rows first appends to
/// the WAL.
pub(crate) fn with_remedy(error: Error) -> Error {
    const REMEDY: &str =
        "to free space, destroy a database or a group, or turn a history off and maintain its database";
    if error.kind() != ErrorKind::DiskFull || error.to_string().ends_with(REMEDY) {
        return error;
    }
    error.map_message(|text| format!("{text}; {REMEDY}"))
}

/// Converts the error of a failed open, with the reason of the VFS if the VFS refused it.
pub(crate) fn explain_open(path: &Path, NotOpened { error, refusal }: NotOpened) -> Error {
    match refusal {
        None => with_remedy(sqlite::failed_to_open(path, error)),
        Some(refusal @ VfsError::WrongKey) => Error::new(kind(&refusal), refusal.to_string()),
        Some(refusal) => {
            let opening = Message::naming(path, |file| format!("opening {file}: "));
            Error::with(kind(&refusal), opening.followed_by(&refusal.message())).caused_by(error)
        }
    }
}

fn kind(refusal: &VfsError) -> ErrorKind {
    match refusal {
        VfsError::ReadsBlocked | VfsError::WritesBlocked => ErrorKind::Blocked,
        VfsError::ReadOnly | VfsError::Fenced(_) => ErrorKind::Sql,
        VfsError::LeaseEnded => ErrorKind::NotFound,
        VfsError::LeaseAltered | VfsError::LeaseAttached => ErrorKind::Invalid,
        VfsError::OverLimit(_) => ErrorKind::TooLarge,
        VfsError::Destroyed => ErrorKind::Destroyed,
        VfsError::WrongKey => ErrorKind::WrongKey,
        VfsError::NotSealed(_)
        | VfsError::HistoryDamaged(_)
        | VfsError::Damaged { .. }
        | VfsError::Inconsistent { .. } => ErrorKind::Corrupt,
        VfsError::Layout | VfsError::NoSharedMemory => ErrorKind::Unsupported,
        VfsError::Failed(code) if code & 0xff == rusqlite::ffi::SQLITE_FULL => ErrorKind::DiskFull,
        VfsError::PolicyUnavailable(_)
        | VfsError::Unreadable(_)
        | VfsError::Failed(_)
        | VfsError::LostLock
        | VfsError::Latched { .. } => ErrorKind::Io,
        VfsError::NotKept { kind, .. } => *kind,
    }
}

/// The error of a call that lacks the key of an encrypted database.
pub(crate) fn key_required(database: &Database, cipher: Cipher) -> Error {
    let message =
        format!("database {} is encrypted under {cipher}: its encryption key is required", database.name);
    Error::new(ErrorKind::KeyRequired, message)
}

/// The message of a call whose reads are blocked.
pub(crate) fn reads_blocked() -> String {
    VfsError::ReadsBlocked.to_string()
}
