//! The history of a database: recovery points, views, restores, maintenance.

use std::{
    ops::{ControlFlow, RangeBounds},
    time::Duration,
};

use rusqlite::Connection;

use super::{
    ControlPlane, DatabaseRef, Plane,
    resolve::{self, Resolved},
};
use crate::{
    catalog::{Entry, State},
    cipher::EncryptionKey,
    connect::{self, ConnectOptions},
    disk::Disk,
    error::{Error, ErrorKind, Result},
    history::{self, Birth, Maintenance, Origin},
    id,
    layout::ArchivePaths,
    point::{InstantPosition, MaintenanceReport, Points, ResolvedInstant, Restored},
    progress::{OnProgress, Progress, ProgressFn},
    retention::RetentionPolicy,
    seed::restore,
    time::Timestamp,
    vfs,
};

/// Options of [`restore_database`](ControlPlane::restore_database).
#[derive(Debug)]
#[non_exhaustive]
pub struct RestoreOptions<'p> {
    connect: ConnectOptions,
    progress: OnProgress<'p>,
}

impl Default for RestoreOptions<'_> {
    /// A busy timeout of 5 seconds and no key.
    fn default() -> Self {
        ConnectOptions::default().into()
    }
}

/// Takes the key and the busy timeout; the other options do not apply to a restore.
impl From<ConnectOptions> for RestoreOptions<'_> {
    fn from(options: ConnectOptions) -> Self {
        let (busy_timeout, key) = (options.waits(), options.key().cloned());
        let connect = ConnectOptions::default().busy_timeout(busy_timeout);
        let connect = key.into_iter().fold(connect, ConnectOptions::encryption_key);
        Self { connect, progress: OnProgress::default() }
    }
}

impl<'p> RestoreOptions<'p> {
    /// Sets the key of an encrypted database.
    #[must_use]
    pub fn encryption_key(self, key: EncryptionKey) -> Self {
        Self { connect: self.connect.encryption_key(key), ..self }
    }

    /// Sets how long to wait for the write transaction of another connection.
    #[must_use]
    pub fn busy_timeout(self, timeout: Duration) -> Self {
        Self { connect: self.connect.busy_timeout(timeout), ..self }
    }

    /// Calls `callback` with the progress of the call; [`ControlFlow::Break`] cancels it.
    #[must_use]
    pub fn progress(self, callback: impl FnMut(Progress) -> ControlFlow<()> + 'p) -> Self {
        Self { progress: OnProgress::new(callback), ..self }
    }
}

/// Options of [`maintain_database`](ControlPlane::maintain_database).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct MaintainOptions<'p> {
    progress: OnProgress<'p>,
}

impl<'p> MaintainOptions<'p> {
    /// Calls `callback` with the progress of the call; [`ControlFlow::Break`] cancels it.
    #[must_use]
    pub fn progress(self, callback: impl FnMut(Progress) -> ControlFlow<()> + 'p) -> Self {
        Self { progress: OnProgress::new(callback) }
    }
}

/// Returns the identity that the history of a database must have.
pub(super) fn birth(entry: &Entry) -> Result<Birth> {
    Ok(Birth {
        database: id::number(&entry.database.id)?,
        at: entry.database.created_at,
        is_kept_since: !entry.history_paused,
    })
}

impl Plane {
    /// Opens a database as of an instant.
    pub(super) fn view(
        &self,
        database: &Resolved,
        at: Timestamp,
        options: &ConnectOptions,
    ) -> Result<(Connection, ResolvedInstant)> {
        let entry = &database.entry;
        let governor = self.governor(database, options.key())?;
        if entry.database.block_reads {
            return Err(Error::new(ErrorKind::Blocked, connect::reads_blocked()));
        }
        let instant = restore::Instant { at, birth: birth(entry)?, now: self.clock.now() };
        let view = restore::view(&self.disk, &self.data(entry), instant).and_then(|image| {
            let reached = image.resolved();
            Ok((connect::open_view(image, governor.into_sealing(), options)?, reached))
        });
        self.hold(database, view)
    }

    /// Opens the source of a restore: the database itself or, if that cannot be opened, a view of it as of the instant. If
    /// neither can be opened, returns the error of the database.
    pub(super) fn connect_to_restore(
        &self,
        database: &Resolved,
        at: Timestamp,
        options: &ConnectOptions,
    ) -> Result<Connection> {
        self.connect(database, options).or_else(|error| {
            let view = self.view(database, at, &options.clone().read_only(true));
            // Its state before the first commit comes from the database file alone.
            let view = view.ok().filter(|(_, reached)| reached.kind != InstantPosition::BeforeFirst);
            view.map(|(view, _)| view).ok_or(error)
        })
    }

    /// Restores a database to an instant.
    fn restore(
        &self,
        database: &Resolved,
        at: Timestamp,
        options: &ConnectOptions,
        watch: &mut ProgressFn<'_>,
    ) -> Result<Restored> {
        self.check_writable()?;
        let (view, reached) = self.view(database, at, options)?;
        let mut connection = self.connect(database, options)?;
        // Unstamped commits are not recovery points, but a restore undoes them like others.
        if reached.kind == InstantPosition::BeforeFirst && self.is_unwritten(database)? {
            return Ok(Restored { reached, undo: None });
        }
        restore::in_place(&view, &mut connection, options.waits(), watch)?;
        // Stamps are strictly increasing, so the instant just before this one includes every earlier commit.
        let own = vfs::last_commit_at(&connection).map(|at| Timestamp::from_micros(at - 1)).transpose()?;
        Ok(Restored { reached, undo: own })
    }

    /// Returns whether nothing was ever committed to a database.
    fn is_unwritten(&self, database: &Resolved) -> Result<bool> {
        let data = self.data(&database.entry);
        let birth = birth(&database.entry)?;
        let answer = Origin::local(Some(&self.disk), &data, birth).ask(|timeline| Ok(timeline.is_empty()));
        self.hold(database, answer)
    }
}

impl ControlPlane {
    /// Lists the recovery points of a database in a range of time, and its restorable ranges.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// let connection = plane.connect("orders", Default::default())?;
    /// connection.execute_batch("CREATE TABLE t(a)").unwrap();
    /// let points = plane.points("orders", ..)?;
    /// assert_eq!(points.points.len(), 1);
    /// assert_eq!(points.windows[0].to, None);
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`database_path`](Self::database_path) does, and with [`ErrorKind::Busy`] if the history keeps changing.
    ///
    /// Damage is not an error. Damaged stamps leave a gap between two [ranges](Points::windows), as does a foreign writer;
    /// without a valid header of the stamps, the gap extends to the next snapshot. A damaged or missing WAL or snapshot is
    /// not reported, because listing does not read it: a restore that needs it fails with [`ErrorKind::Corrupt`] and names
    /// the file. [`verify_database`](Self::verify_database) finds both kinds of damage.
    pub fn points<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        range: impl RangeBounds<Timestamp>,
    ) -> Result<Points> {
        let database = self.0.ready(database.into())?;
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let (data, birth) = (self.0.data(&database.entry), birth(&database.entry)?);
        let disk = Some(&self.0.disk);
        let points = Origin::local(disk, &data, birth).ask(|timeline| history::points(timeline, range));
        self.0.hold(&database, points)
    }

    /// Opens a read-only connection to a database as of an instant, and returns the commit to which the instant resolved.
    ///
    /// The view reads pages from the history in place and writes nothing. It stays valid while it is open: neither blocked
    /// reads nor the destruction of the database affect it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// let connection = plane.connect("orders", Default::default())?;
    /// connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    /// let before = litefleet::Timestamp::now();
    /// connection.execute_batch("DELETE FROM t").unwrap();
    /// let (past, _) = plane.connect_at("orders", before, Default::default())?;
    /// assert_eq!(past.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(1));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`connect`](Self::connect) does, with [`ErrorKind::OutsideWindow`] if the instant cannot be restored, and with
    /// [`ErrorKind::Corrupt`] if the history that leads to it is damaged.
    pub fn connect_at<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        at: impl Into<Timestamp>,
        options: ConnectOptions,
    ) -> Result<(Connection, ResolvedInstant)> {
        self.0.view(&self.0.ready(database.into())?, at.into(), &options)
    }

    /// Restores a database to an instant in one transaction.
    ///
    /// Readers keep their snapshot. The restore is itself a commit in the history, so it can be undone. It writes every page:
    /// the WAL grows by the size of the database until the next checkpoint.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// use litefleet::Timestamp;
    ///
    /// let connection = plane.connect("orders", Default::default())?;
    /// connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    /// let before = Timestamp::now();
    /// connection.execute_batch("DELETE FROM t").unwrap();
    /// let restored = plane.restore_database("orders", before, Default::default())?;
    /// assert_eq!(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(1));
    /// plane.restore_database("orders", restored.undo.unwrap(), Default::default())?;
    /// assert_eq!(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(0));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`connect_at`](Self::connect_at) does, with [`ErrorKind::Blocked`] if writes are blocked, with
    /// [`ErrorKind::TooLarge`] if the restored state exceeds the size limit, with [`ErrorKind::Busy`] if another connection
    /// writes for longer than the busy timeout, and with [`ErrorKind::Cancelled`]. A failed restore changes nothing.
    pub fn restore_database<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        at: impl Into<Timestamp>,
        options: RestoreOptions<'_>,
    ) -> Result<Restored> {
        let database = self.0.ready(database.into())?;
        let RestoreOptions { connect, mut progress } = options;
        let restored = self.0.restore(&database, at.into(), &connect, progress.callback());
        self.0.hold(&database, restored.map_err(connect::with_remedy))
    }

    /// Returns the total length of the files of a history, in bytes. The files may share disk blocks.
    ///
    /// # Errors
    ///
    /// Fails as [`database_path`](Self::database_path) does.
    pub fn history_size<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<u64> {
        let archive = ArchivePaths::of(&self.database_path(database)?);
        if !Disk::exists(archive.dir())? {
            return Ok(0);
        }
        let mut size = 0;
        for file in Disk::list(archive.dir())? {
            // A file that was removed concurrently takes no space.
            size += Disk::len(&archive.dir().join(file))?.unwrap_or(0);
        }
        Ok(size)
    }

    /// Maintains the history of a database and reports what was done.
    ///
    /// Maintenance writes a snapshot if the WALs since the last one exceed both the size of the database and 1 MiB, which
    /// bounds the time of a restore. It prunes what no instant of the history window needs and, if the history exceeds its
    /// [limit](crate::HistoryLimit), its oldest instants, for which it may write another snapshot. It merges the files of ended WALs
    /// into packs, compresses other WALs of a plain database that no restore to the last 24 hours needs, and flushes unflushed
    /// files.
    ///
    /// Only maintenance bounds the disk space of a history; a host calls it regularly, for example every hour, or runs a
    /// [`Maintainer`](crate::Maintainer). It runs while any number of processes use the database, and changes no file
    /// if no work is due. It never changes the result of a restore to an instant of the window, except that it removes the oldest
    /// instants of a history that exceeds its limit. It needs no key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// let report = plane.maintain_database("orders", Default::default())?;
    /// assert_eq!((report.snapshots, report.generations), (0, 0));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`database_path`](Self::database_path) does, with [`ErrorKind::Corrupt`] if the history is damaged, with
    /// [`ErrorKind::Cancelled`], and with the errors of the disk. A damaged history is not pruned, and the next WAL begins
    /// with a new snapshot.
    pub fn maintain_database<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        options: MaintainOptions<'_>,
    ) -> Result<MaintenanceReport> {
        let MaintainOptions { mut progress } = options;
        self.0.check_writable()?;
        let database = self.0.ready(database.into())?;
        let entry = &database.entry;
        let maintenance = Maintenance {
            disk: &self.0.disk,
            data: &self.0.data(entry),
            birth: birth(entry)?,
            is_plain: entry.database.cipher.is_none(),
            now: self.0.clock.now(),
        };
        let policy = || {
            let now = self.0.catalog.read(|rows| rows.entry_by_id(&entry.database.id))?;
            let now = now.filter(|now| now.state == State::Ready);
            now.map(|now| RetentionPolicy {
                window: now.database.history_window,
                limit: now.database.history_limit,
            })
            .ok_or_else(|| resolve::destroyed(&entry.database.name))
        };
        let mut maintained = maintenance.run(&policy, progress.callback());
        // Pruning writes a small file, for which the reserve makes room; a snapshot is written only if there is room.
        while maintained.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull)
            && self.0.reserve.give_up()
        {
            maintained = maintenance.run(&policy, progress.callback());
        }
        // If the directory belongs to another database by now, this changes nothing: only existing rows are described.
        let described = self.0.keep_described(entry);
        self.0.reserve.refill();
        let done = maintained.and_then(|done| described.map(|()| done));
        self.0.hold(&database, done.map_err(connect::with_remedy))
    }
}
