//! The control plane: the one handle through which a host does everything.

mod create;
mod describe;
mod destroy;
mod export;
mod groups;
mod history;
mod list;
mod open;
mod partial;
mod recover;
mod reserve;
mod resolve;
mod settle;
mod verify;

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;

pub use export::ExportOptions;
pub use groups::GroupChanges;
pub use open::ControlPlaneBuilder;
pub use recover::Recovered;
use reserve::Reserve;
use resolve::Resolved;
pub use resolve::{DatabaseRef, GroupRef, NameOrId};
pub use verify::VerifyOptions;

use crate::{
    api::{CreateDatabaseInput, CreateDatabaseOutput, Database, DatabaseChanges, RemoteEncryption, Uploaded},
    catalog::{Catalog, Durability, Entry},
    changes::{Changes, Pair},
    cipher::EncryptionKey,
    connect::{self, CatalogGovernor, ConnectOptions},
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::{self, Layout},
    name::DatabaseName,
    progress::{ProgressFn, no_progress},
    seed::upload::Upload,
    time::Clock,
};

/// A fleet of SQLite databases in a directory.
///
/// It is cheap to clone, and may be used from any number of threads. Any number of processes may open the same
/// directory at once.
///
/// If the directory or its catalog is replaced or removed meanwhile, every call fails with [`ErrorKind::Replaced`] and changes
/// no file. Connections that are open keep the file that they have, and the configuration that they know.
///
/// Every call that changes something is done, and on the disk, when it returns; one that fails leaves nothing
/// behind. What a killed process left half done is settled by the next [`open`](Self::open).
#[derive(Clone, Debug)]
pub struct ControlPlane(Arc<Plane>);

#[derive(Debug)]
struct Plane {
    disk: Disk,
    clock: Clock,
    reserve: Reserve,
    layout: Layout,
    catalog: Arc<Catalog>,
    changes: Arc<Changes>,
    /// Whether nothing in the root may be changed.
    read_only: bool,
}

impl ControlPlane {
    /// Opens the control plane in the directory `root`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// As for [`ControlPlaneBuilder::open`].
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(root)
    }

    /// Opens the control plane in the directory `root` to be read, where [`open`](Self::open) fails with
    /// [`ErrorKind::ReadOnly`]: on a disk that is mounted read-only, or as a user who may not write there.
    ///
    /// Databases can be listed, connected to, restored as views, exported and verified. Every call that would change something
    /// fails with [`ErrorKind::ReadOnly`], and nothing that another process left half done is settled.
    ///
    /// Nothing but what was committed is ever read. If a database has a log, its rows are read through the `-shm` beside it;
    /// if that is missing, the database is refused. If it has no log, SQLite takes its file for
    /// [immutable](https://www.sqlite.org/c3ref/open.html): a connection then sees nothing that is written through another
    /// mount of the disk after it was opened, and may find the database damaged while that is done. Where the root can be
    /// written to after all, SQLite makes `-wal` and `-shm` as for every reader.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no fleet; [`ErrorKind::ReadOnly`] if the catalog has a log that cannot be read
    /// there; [`ErrorKind::Unsupported`] if the root is of another version of this crate, whether newer or older.
    pub fn open_read_only(root: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open_read_only(root)
    }

    /// How to open a control plane otherwise.
    #[must_use]
    pub fn builder() -> ControlPlaneBuilder {
        ControlPlaneBuilder { domain: "localhost".into(), disk: Disk::default(), clock: Clock::default() }
    }

    /// The directory of the control plane, with symbolic links resolved.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.0.layout.root()
    }

    /// Creates a database: an empty one, a fork of another as it is or as it was at an instant, or a draft that waits for
    /// an upload.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a group or source that is not there (`group not found`),
    /// [`ErrorKind::AlreadyExists`] (`database with name <name> already exists`), [`ErrorKind::Invalid`] for what
    /// the request says, [`ErrorKind::TooLarge`] for a source larger than the size limit, [`ErrorKind::Blocked`]
    /// for a source whose reads are blocked, [`ErrorKind::OutsideWindow`] for an instant that cannot be restored, which
    /// names those that can be, [`ErrorKind::Corrupt`] where the history that leads there is damaged.
    pub fn create_database(&self, input: CreateDatabaseInput) -> Result<CreateDatabaseOutput> {
        self.create_database_watched(input, &mut no_progress)
    }

    /// Like [`create_database`](Self::create_database), telling `watch` how far a fork has come.
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Cancelled`].
    pub fn create_database_watched(
        &self,
        input: CreateDatabaseInput,
        watch: &mut ProgressFn<'_>,
    ) -> Result<CreateDatabaseOutput> {
        self.0.create(input, None, watch)
    }

    /// Creates a database from a SQLite file, in one step and without a draft.
    ///
    /// Any page size, journal mode, text encoding and reserve is taken. The file is checked whole, and is only read; what
    /// could not be checked is named in the [output](CreateDatabaseOutput::unchecked). CHECK constraints are not evaluated,
    /// so a row may violate one. Expressions of indexes and generated columns are evaluated within bounds.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path().join("fleet"))?;
    /// # plane.create_group("default")?;
    /// # let file = dir.path().join("some.sqlite");
    /// # rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    /// use litefleet::CreateDatabaseInput;
    ///
    /// plane.import_database(CreateDatabaseInput::new("orders", "default"), file.as_path())?;
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`create_database`](Self::create_database), and [`ErrorKind::Invalid`] for a file that is not a
    /// SQLite database, [`ErrorKind::Corrupt`] with the first finding for a damaged one, [`ErrorKind::TooLarge`] for
    /// one larger than the size limit, [`ErrorKind::NotFound`] for a missing one, [`ErrorKind::Busy`] for one that
    /// is written too fast to be copied, [`ErrorKind::Unsupported`] for one that exceeds a bound on what is evaluated, and for
    /// one with commits that SQLite cannot read.
    pub fn import_database<'a>(
        &self,
        input: CreateDatabaseInput,
        upload: impl Into<Upload<'a>>,
    ) -> Result<CreateDatabaseOutput> {
        self.import_database_watched(input, upload, &mut no_progress)
    }

    /// Like [`import_database`](Self::import_database), telling `watch` how far it has come.
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Cancelled`].
    pub fn import_database_watched<'a>(
        &self,
        input: CreateDatabaseInput,
        upload: impl Into<Upload<'a>>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<CreateDatabaseOutput> {
        self.0.create(input, Some(upload.into()), watch)
    }

    /// Completes a draft with the bytes of a SQLite file. If it fails, the draft stays a draft.
    ///
    /// # Errors
    ///
    /// As for [`import_database`](Self::import_database), and [`ErrorKind::AlreadyExists`] for a database that is
    /// not a draft.
    pub fn upload_database<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        mut reader: impl Read,
    ) -> Result<Uploaded> {
        self.0.upload(&database.into().parse()?, Upload::Reader(&mut reader), None, None, &mut no_progress)
    }

    /// Like [`upload_database`](Self::upload_database), from a file or a reader, telling `watch` how far it has come.
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Cancelled`].
    pub fn upload_database_watched<'a, 'u>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        upload: impl Into<Upload<'u>>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<Uploaded> {
        self.0.upload(&database.into().parse()?, upload.into(), None, None, watch)
    }

    /// Completes a draft that was created with a cipher: the key of `encryption` seals its pages. A file that is encrypted
    /// itself, in this crate's format or Turso's, is opened with `file_key`, or with that key where it is nothing.
    ///
    /// # Errors
    ///
    /// As for [`upload_database_watched`](Self::upload_database_watched), [`ErrorKind::WrongKey`] for a file that is
    /// encrypted under another key, [`ErrorKind::Unsupported`] for one whose rows cannot be laid out anew.
    pub fn upload_encrypted_database<'a, 'u>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        upload: impl Into<Upload<'u>>,
        encryption: &RemoteEncryption,
        file_key: Option<&EncryptionKey>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<Uploaded> {
        self.0.upload(&database.into().parse()?, upload.into(), Some(encryption), file_key, watch)
    }

    /// The database with this name or id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: `could not find database with name <name>: record not found`.
    pub fn get_database<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<Database> {
        let wanted = database.into().parse()?;
        self.0.catalog.read(|rows| Ok(wanted.settled_entry(rows)?.database))
    }

    /// Changes the configuration of a database, and returns what it is now. Connections that are open to it follow
    /// from their next transaction on, in every process.
    ///
    /// A size limit below the present size is allowed: the database then cannot grow, but rows can be deleted.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`].
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
                // It is there: this transaction has just read it.
                let now = rows.entry_by_id(&id)?.ok_or_else(|| resolve::destroyed(&wanted.name))?;
                Ok((wanted.name.clone(), now.database))
            })
        })?;
        self.0.describe(&database.id);
        Ok(database)
    }

    /// Destroys a database. Connections that are open to it fail from then on. Forks of it stay.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Protected`] if it or its group is:
    /// `database <name> is delete-protected and cannot be deleted`, or `group <name>` and so on.
    pub fn destroy_database<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<()> {
        self.0.destroy(&database.into().parse()?)
    }

    /// Opens a connection to a database.
    ///
    /// It is a plain [`rusqlite::Connection`], whose SQL is [fenced](crate::fence). What a database of a fleet refuses (writes past its size limit, what
    /// its configuration blocks, leaving WAL mode) reaches the host as an SQLite error, which
    /// [`explain`](crate::explain) tells apart.
    ///
    /// While it is open, `data.db-shm` and `archive/live.stamps` are memory that the processes share: a program that cuts
    /// either of them ends the process with `SIGBUS`. [What a history does not tell](crate::format) says more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Invalid`] for a draft; [`ErrorKind::Blocked`] if reads are blocked;
    /// [`ErrorKind::KeyRequired`] for an encrypted database without [a key](ConnectOptions::encryption_key),
    /// [`ErrorKind::WrongKey`] with another one, [`ErrorKind::Corrupt`] if its file is not encrypted as it was.
    pub fn connect<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        options: &ConnectOptions,
    ) -> Result<Connection> {
        self.0.connect(&self.0.ready(database.into())?, options)
    }

    /// Writes a database, as it is at one commit, to a file that is not there yet, while it may be in use. An encrypted
    /// one leaves encrypted unless it is to be decrypted, and without a key its pages leave as they are.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] if the file is there; [`ErrorKind::NotFound`], [`ErrorKind::Blocked`] if reads are;
    /// [`ErrorKind::KeyRequired`] and [`ErrorKind::WrongKey`] where the pages are to be opened; [`ErrorKind::Cancelled`].
    pub fn export_database<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        path: impl AsRef<Path>,
        options: &ExportOptions,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        self.0.export(database.into(), path.as_ref(), options, watch)
    }

    /// Attaches a database of this fleet to a connection, as `schema`, under its own configuration. An encrypted one
    /// needs its own `key`, and a connection to an encrypted database. On a read-only connection it is read-only as well.
    ///
    /// SQL cannot attach it by its path: see [`fence`](crate::fence).
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect), and what SQLite has against the schema's name.
    pub fn attach<'a>(
        &self,
        connection: &Connection,
        database: impl Into<DatabaseRef<'a>>,
        schema: &str,
        key: Option<&EncryptionKey>,
    ) -> Result<()> {
        let database = self.0.ready(database.into())?;
        let governor = self.0.governor(&database, key)?;
        let attach = if self.0.read_only { connect::attach_to_read } else { connect::attach };
        let attached = attach(connection, &self.0.data(&database.entry), governor, schema);
        let is_attached = attached.is_ok();
        self.0.hold(&database, attached).inspect_err(|_| {
            if is_attached {
                // Where it stays attached, its rules refuse each statement.
                let _detached = connect::detach(connection, schema);
            }
        })
    }

    /// The file of a database. It is a SQLite database; while it is in use, part of its rows stand in the `-wal`
    /// beside it. It stays where it is when the group is renamed, so that a path is to be asked for and not made of names.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Invalid`] for a draft.
    pub fn database_path<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<PathBuf> {
        Ok(self.0.data(&self.0.ready(database.into())?.entry))
    }

    /// The bytes that a database takes on the disk now, its log included.
    ///
    /// # Errors
    ///
    /// As for [`database_path`](Self::database_path).
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

    /// What governs the connections to a database that can be used, under its key if it is encrypted.
    fn governor(&self, database: &Resolved, key: Option<&EncryptionKey>) -> Result<CatalogGovernor> {
        let (catalog, changes) = (Arc::clone(&self.catalog), Arc::clone(&self.changes));
        let Resolved { entry, stamp } = database;
        CatalogGovernor::new((&self.disk, &self.clock), catalog, changes, entry, *stamp, key)
    }

    fn connect(&self, database: &Resolved, options: &ConnectOptions) -> Result<Connection> {
        let governor = self.governor(database, options.key())?;
        if database.entry.database.block_reads {
            return Err(Error::new(ErrorKind::Blocked, connect::reads_blocked()));
        }
        let open = if self.read_only { connect::open_to_read } else { connect::open };
        self.hold(database, open(&self.data(&database.entry), governor, options))
    }

    /// Fails with [`ErrorKind::ReadOnly`] if nothing in the root may be changed.
    fn check_writable(&self) -> Result<()> {
        if self.read_only { Err(Error::read_only(self.layout.root())) } else { Ok(()) }
    }

    /// Changes a database's row, and lets every open connection know. `change` names the database.
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
