//! The control plane: the handle through which a host uses a fleet.

mod create;
mod describe;
mod destroy;
mod export;
mod groups;
mod history;
mod list;
mod lost_catalog;
mod open;
mod partial;
mod recover;
mod request;
mod reserve;
mod resolve;
mod settle;
mod state;
mod verify;

use std::path::{Path, PathBuf};

use rusqlite::Connection;

pub use export::ExportOptions;
pub use groups::GroupChanges;
pub use history::{MaintainOptions, RestoreOptions};
pub use open::ControlPlaneBuilder;
pub use recover::Recovered;
pub use request::{CreateDatabase, UploadOptions};
use resolve::Resolved;
pub use resolve::{DatabaseRef, GroupRef, NameOrId};
pub use state::ControlPlane;
use state::Plane;
pub use verify::VerifyOptions;

use crate::{
    api::{CreateDatabaseOutput, Database, DatabaseChanges, Uploaded},
    catalog::{Durability, Entry},
    changes::Pair,
    cipher::EncryptionKey,
    connect::{self, AttachOptions, CatalogGovernor, ConnectOptions, Lease, Services},
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout,
    name::DatabaseName,
    seed::upload::Upload,
    time::Clock,
};

impl ControlPlane {
    /// Opens the control plane in the directory `root`, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// Fails as [`ControlPlaneBuilder::open`] does.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(root)
    }

    /// Opens the control plane in the directory `root` for reading, for example on a read-only file system, where
    /// [`open`](Self::open) fails with [`ErrorKind::ReadOnly`].
    ///
    /// Databases can be listed, connected to, viewed, exported and verified. Every call that would change something fails with
    /// [`ErrorKind::ReadOnly`]. What a killed process left is neither completed nor undone.
    ///
    /// Only committed data is read. A database with a WAL is read through its `-shm` file, and refused if that is missing. A
    /// database without a WAL is opened as [immutable](https://www.sqlite.org/c3ref/open.html): a connection does not see
    /// later writes through another mount of the disk, and may report damage while they happen. If the root is writable after
    /// all, SQLite creates `-wal` and `-shm` as for every reader.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::NotFound`] if there is no fleet, with [`ErrorKind::ReadOnly`] if the catalog has a WAL that
    /// cannot be read, and with [`ErrorKind::Unsupported`] if another version of this crate wrote the root, newer or older.
    pub fn open_read_only(root: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open_read_only(root)
    }

    /// Returns a builder with the default settings.
    #[must_use]
    pub fn builder() -> ControlPlaneBuilder {
        ControlPlaneBuilder { domain: "localhost".into(), disk: Disk::default(), clock: Clock::default() }
    }

    /// Returns the directory of the control plane, with symbolic links resolved.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.0.layout.root()
    }

    /// Creates a database: empty, as a fork of another database now or as of an instant, or as a draft for an upload.
    ///
    /// [`CreateDatabaseInput::progress`](crate::CreateDatabaseInput::progress) adds a progress callback.
    ///
    /// # Errors
    ///
    /// Fails with
    ///
    /// - [`ErrorKind::NotFound`] if there is no such group or source,
    /// - [`ErrorKind::AlreadyExists`] if the name is taken,
    /// - [`ErrorKind::Invalid`] if the request is invalid,
    /// - [`ErrorKind::TooLarge`] if the source exceeds the size limit,
    /// - [`ErrorKind::Blocked`] if reads of the source are blocked,
    /// - [`ErrorKind::OutsideWindow`] if the instant cannot be restored; the message names the restorable ranges,
    /// - [`ErrorKind::Corrupt`] if the history that leads to the instant is damaged,
    /// - [`ErrorKind::Cancelled`] if the progress callback cancels the call.
    pub fn create_database<'p>(
        &self,
        request: impl Into<CreateDatabase<'p>>,
    ) -> Result<CreateDatabaseOutput> {
        self.0.create(request.into(), None)
    }

    /// Creates a database from a SQLite file in one step, without a draft.
    ///
    /// Every page size, journal mode, text encoding and number of reserved bytes is accepted. The source file is only read. It
    /// is checked completely; the [output](CreateDatabaseOutput::unchecked) names what could not be checked. CHECK
    /// constraints are not evaluated, so rows may violate them. Expressions of indexes and generated columns are evaluated
    /// within bounds.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path().join("fleet"))?;
    /// # plane.create_group("default")?;
    /// # let file = dir.path().join("some.sqlite");
    /// # rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    /// use litefleet::CreateDatabaseInput;
    ///
    /// plane.import_database(CreateDatabaseInput::new("orders", "default"), &file)?;
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`create_database`](Self::create_database) does, and with
    ///
    /// - [`ErrorKind::NotFound`] if there is no such file,
    /// - [`ErrorKind::Invalid`] if the file is not a SQLite database,
    /// - [`ErrorKind::Corrupt`] with the first finding if the file is damaged,
    /// - [`ErrorKind::TooLarge`] if the file exceeds the size limit,
    /// - [`ErrorKind::Busy`] if the file keeps changing,
    /// - [`ErrorKind::Unsupported`] if the evaluation exceeds a bound, or if SQLite cannot read some commits.
    pub fn import_database<'p, 'u>(
        &self,
        request: impl Into<CreateDatabase<'p>>,
        upload: impl Into<Upload<'u>>,
    ) -> Result<CreateDatabaseOutput> {
        self.0.create(request.into(), Some(upload.into()))
    }

    /// Completes a draft with a SQLite file. If the call fails, the draft remains a draft.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path().join("fleet"))?;
    /// # plane.create_group("default")?;
    /// # let file = dir.path().join("some.sqlite");
    /// # rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    /// use std::fs::File;
    /// use litefleet::{CreateDatabaseInput, Seed, UploadOptions};
    ///
    /// plane.create_database(CreateDatabaseInput::new("orders", "default").with_seed(Seed::DatabaseUpload))?;
    /// plane.upload_database("orders", &mut File::open(&file).unwrap(), UploadOptions::default())?;
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`import_database`](Self::import_database) does, and with
    ///
    /// - [`ErrorKind::AlreadyExists`] if the database is not a draft,
    /// - [`ErrorKind::KeyRequired`] if the draft was created with a cipher and no key is given,
    /// - [`ErrorKind::WrongKey`] if the file is encrypted under another key,
    /// - [`ErrorKind::Unsupported`] if the rows of an encrypted file cannot be rewritten.
    pub fn upload_database<'a, 'u>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        upload: impl Into<Upload<'u>>,
        options: UploadOptions<'_>,
    ) -> Result<Uploaded> {
        self.0.upload(&database.into().parse()?, upload.into(), options)
    }

    /// Returns the database with this name or id.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::NotFound`] if there is no such database.
    pub fn get_database<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<Database> {
        let wanted = database.into().parse()?;
        self.0.catalog.read(|rows| Ok(wanted.settled_entry(rows)?.database))
    }

    /// Changes the configuration of a database and returns its new state.
    ///
    /// Open connections apply the change from their next transaction, in every process. With a size limit below the current
    /// size, the database cannot grow, but rows can be deleted.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::NotFound`] if there is no such database.
    pub fn configure_database<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        changes: DatabaseChanges,
    ) -> Result<Database> {
        let wanted = database.into().parse()?;
        let database: Database = self.0.with_reserve(|| {
            self.0.change(|rows| {
                let id = wanted.settled_entry(rows)?.database.id;
                rows.configure(&id, &changes)?;
                // The row exists: this transaction has just read it.
                let now = rows.entry_by_id(&id)?.ok_or_else(|| resolve::destroyed(&wanted.name))?;
                Ok((wanted.name.clone(), now.database))
            })
        })?;
        self.0.describe(&database.id);
        Ok(database)
    }

    /// Destroys a database. Its open connections fail with [`ErrorKind::Destroyed`]. Its forks remain.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::NotFound`] if there is no such database, and with [`ErrorKind::Protected`] if the database or
    /// its group is delete-protected.
    pub fn destroy_database<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<()> {
        self.0.destroy(&database.into().parse()?)
    }

    /// Opens a connection to a database.
    ///
    /// It is a plain [`rusqlite::Connection`] whose SQL is [fenced](crate::fence). What the fleet refuses, such as a write past
    /// the size limit, is an SQLite error; [`Error::from_sqlite`](crate::Error::from_sqlite) returns its reason.
    ///
    /// An open connection maps `data.db-shm` and `archive/live.stamps` into memory. A program that truncates either file
    /// terminates the process with `SIGBUS`.
    ///
    /// # Errors
    ///
    /// Fails with
    ///
    /// - [`ErrorKind::NotFound`] if there is no such database,
    /// - [`ErrorKind::Invalid`] if it is a draft,
    /// - [`ErrorKind::Blocked`] if its reads are blocked,
    /// - [`ErrorKind::KeyRequired`] if it is encrypted and there is no [key](ConnectOptions::encryption_key),
    /// - [`ErrorKind::WrongKey`] if the key is another one,
    /// - [`ErrorKind::Corrupt`] if its file is not encrypted as the catalog says.
    pub fn connect<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        options: ConnectOptions,
    ) -> Result<Connection> {
        self.0.connect(&self.0.ready(database.into())?, &options)
    }

    /// Leases a database to libraries that open a database by a file name, such as sqlx, diesel, sea-orm and most pools.
    ///
    /// [`Lease::uri`] is a name that SQLite opens in this process, through the library's own calls, as often as the library
    /// likes, until the lease is dropped. It must reach SQLite unchanged. The connections are [fenced](crate::fence) and obey the
    /// configuration of the database, and its history and encryption, as those of [`connect`](Self::connect) do. They begin with
    /// the settings of `options`, which the library may change.
    ///
    /// What the fleet refuses is an SQLite error; [`ErrorKind::from_sqlite_code`] returns its kind. A shared cache is refused.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// use litefleet::{ConnectOptions, rusqlite::Connection};
    ///
    /// let lease = plane.lease("orders", ConnectOptions::default())?;
    /// // A library does this:
    /// let connection = Connection::open(lease.uri()).unwrap();
    /// connection.execute_batch("CREATE TABLE t(a)").unwrap();
    /// drop(lease);
    /// connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`connect`](Self::connect) does, and with [`ErrorKind::Unsupported`] if SQLite is older than 3.49.
    pub fn lease<'a>(&self, database: impl Into<DatabaseRef<'a>>, options: ConnectOptions) -> Result<Lease> {
        self.0.lease(&self.0.ready(database.into())?, &options)
    }

    /// Writes a database, as of one commit, to a new file. The database may be in use.
    ///
    /// An encrypted database stays encrypted unless [`ExportOptions::decrypt`] is set. Without a key, its pages are copied as
    /// they are.
    ///
    /// # Errors
    ///
    /// Fails with
    ///
    /// - [`ErrorKind::AlreadyExists`] if the file exists,
    /// - [`ErrorKind::NotFound`] if there is no such database,
    /// - [`ErrorKind::Blocked`] if its reads are blocked,
    /// - [`ErrorKind::KeyRequired`] or [`ErrorKind::WrongKey`] if its pages must be decrypted,
    /// - [`ErrorKind::OutsideWindow`] if the instant cannot be restored,
    /// - [`ErrorKind::Cancelled`] if the progress callback cancels the call.
    pub fn export_database<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        path: impl AsRef<Path>,
        options: ExportOptions<'_>,
    ) -> Result<()> {
        self.0.export(database.into(), path.as_ref(), options)
    }

    /// Attaches a database of this fleet to a connection as `schema`, under its own configuration.
    ///
    /// An encrypted database needs its key and a connection to an encrypted database. On a read-only connection the attached
    /// database is read-only. SQL cannot attach a database by its path; see [`fence`](crate::fence).
    ///
    /// # Errors
    ///
    /// Fails as [`connect`](Self::connect) does, with [`ErrorKind::Invalid`] if the connection does not belong to the fleet, and
    /// with [`ErrorKind::Sql`] if SQLite refuses the name of the schema.
    pub fn attach<'a>(
        &self,
        connection: &Connection,
        database: impl Into<DatabaseRef<'a>>,
        schema: &str,
        options: AttachOptions,
    ) -> Result<()> {
        let database = self.0.ready(database.into())?;
        let governor = self.0.governor(&database, options.key())?;
        let attach = if self.0.read_only { connect::attach_to_read } else { connect::attach };
        let attached = attach(connection, &self.0.data(&database.entry), governor, schema);
        let is_attached = attached.is_ok();
        self.0.hold(&database, attached).inspect_err(|_| {
            if is_attached {
                // If it cannot be detached, its policy refuses each statement.
                let _detached = connect::detach(connection, schema);
            }
        })
    }

    /// Returns the path of the database file.
    ///
    /// It is a SQLite database. While it is in use, some of its rows are in the `-wal` file. Renaming the group does not
    /// change the path, so derive no path from names.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::NotFound`] if there is no such database, and with [`ErrorKind::Invalid`] if it is a draft.
    pub fn database_path<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<PathBuf> {
        Ok(self.0.data(&self.0.ready(database.into())?.entry))
    }

    /// Returns the current size of the database file and its WAL in bytes.
    ///
    /// # Errors
    ///
    /// Fails as [`database_path`](Self::database_path) does.
    pub fn database_size<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<u64> {
        let database = self.0.ready(database.into())?;
        let data = self.0.data(&database.entry);
        let len = |path: &Path| Ok(Disk::len(path)?.unwrap_or(0));
        let size = len(&data).and_then(|size| Ok(size + len(&layout::beside(&data, "-wal"))?));
        self.0.hold(&database, size)
    }
}

impl Plane {
    fn place(&self, entry: &Entry) -> PathBuf {
        self.layout.database(&entry.group_dir, &entry.database.name)
    }

    fn data(&self, entry: &Entry) -> PathBuf {
        layout::data(&self.place(entry))
    }

    /// Returns the policy source of the connections to a ready database.
    fn governor(&self, database: &Resolved, key: Option<&EncryptionKey>) -> Result<CatalogGovernor> {
        let Self { disk, clock, catalog, changes, .. } = self;
        let Resolved { entry, stamp } = database;
        CatalogGovernor::new(Services { disk, clock, catalog, changes }, entry, *stamp, key)
    }

    fn connect(&self, database: &Resolved, options: &ConnectOptions) -> Result<Connection> {
        let governor = self.governor(database, options.key())?;
        if database.entry.database.block_reads {
            return Err(Error::new(ErrorKind::Blocked, connect::reads_blocked()));
        }
        let open = if self.read_only { connect::open_to_read } else { connect::open };
        self.hold(database, open(&self.data(&database.entry), governor, options))
    }

    fn lease(&self, database: &Resolved, options: &ConnectOptions) -> Result<Lease> {
        // A wrong key fails here, and not in each connection.
        let _checked = self.connect(database, options)?;
        let governor = self.governor(database, options.key())?;
        let lease = if self.read_only { connect::lease_to_read } else { connect::lease };
        self.hold(database, lease(&self.data(&database.entry), governor, options))
    }

    /// Fails with [`ErrorKind::ReadOnly`] if nothing in the root may be changed.
    fn check_writable(&self) -> Result<()> {
        if self.read_only { Err(Error::read_only(self.layout.root())) } else { Ok(()) }
    }

    /// Changes the row of a database, which `change` names, and notifies its open connections.
    fn change<T>(
        &self,
        change: impl FnOnce(&crate::catalog::Rows<'_>) -> Result<(DatabaseName, T)>,
    ) -> Result<T> {
        let mut begun = None;
        let result = self.catalog.write(Durability::Full, |rows| {
            let (name, result) = change(rows)?;
            begun = Some(self.changes.begin(Pair::of(&name))?);
            Ok(result)
        });
        if let Some(begun) = &begun {
            self.changes.finish(begun);
        }
        result
    }
}
