//! The history of a database: what it can be restored to, how long back, and what is done to keep it that way.

use std::ops::RangeBounds;

use rusqlite::Connection;

use super::{
    ControlPlane, DatabaseRef, Plane,
    resolve::{self, Resolved},
};
use crate::{
    catalog::{Entry, State},
    connect::{self, ConnectOptions},
    disk::Disk,
    error::{Error, ErrorKind, Result},
    history::{Birth, Maintenance, Timeline},
    id,
    layout::ArchivePaths,
    point::{InstantPosition, MaintenanceReport, Points, ResolvedInstant, Restored},
    progress::ProgressFn,
    seed::restore,
    time::Timestamp,
    vfs,
};

/// What the catalog says of a database, which its history is held to.
pub(super) fn birth(entry: &Entry) -> Result<Birth> {
    Ok(Birth {
        database: id::number(&entry.database.id)?,
        at: entry.database.created_at,
        is_kept_since: !entry.history_paused,
    })
}

impl Plane {
    /// Opens a database as it was at an instant.
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
        let view = restore::view(&self.disk, &self.data(entry), instant).and_then(|past| {
            let reached = past.reached;
            Ok((connect::open_past(past, governor.into_sealing(), options)?, reached))
        });
        self.hold(database, view)
    }

    /// Opens what a database is restored from to an instant: the database itself, or, where that is damaged or gone, what it
    /// was then. An error is that of the database.
    pub(super) fn connect_to_restore(
        &self,
        database: &Resolved,
        at: Timestamp,
        options: &ConnectOptions,
    ) -> Result<Connection> {
        self.connect(database, options).or_else(|error| {
            let view = self.view(database, at, &options.clone().read_only(true));
            // Before its first commit it is restored from nothing else than what it is now.
            let view = view.ok().filter(|(_, reached)| reached.kind != InstantPosition::BeforeFirst);
            view.map(|(view, _)| view).ok_or(error)
        })
    }

    /// Makes a database what it was at an instant.
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
        // Commits without stamps are no points, and are undone like others.
        if reached.kind == InstantPosition::BeforeFirst && self.is_unwritten(database)? {
            return Ok(Restored { reached, undo: None });
        }
        restore::in_place(&view, &mut connection, options.waits(), watch)?;
        // Stamps never repeat: just before its own, all earlier commits are there and no other is.
        let own = vfs::last_commit_at(&connection).map(|at| Timestamp::from_micros(at - 1)).transpose()?;
        Ok(Restored { reached, undo: own })
    }

    /// Whether nothing was ever committed to a database.
    fn is_unwritten(&self, database: &Resolved) -> Result<bool> {
        let data = self.data(&database.entry);
        let birth = birth(&database.entry)?;
        let answer = Timeline::ask(Some(&self.disk), &data, birth, |timeline| Ok(timeline.is_empty()));
        self.hold(database, answer)
    }
}

impl ControlPlane {
    /// The commits of a database in a range of time, and the instants that it can be restored to: give one to
    /// [`Seed::database_at`](crate::Seed::database_at).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// let connection = plane.connect("orders", &Default::default())?;
    /// connection.execute_batch("CREATE TABLE t(a)").unwrap();
    /// let points = plane.points("orders", ..)?;
    /// assert_eq!(points.points.len(), 1);
    /// assert_eq!(points.windows[0].to, None);
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`database_path`](Self::database_path), and [`ErrorKind::Busy`] for a history that moves on too fast to be
    /// listed. Damage is no error. Where it is in the stamps of commits, what they told of is a gap between two
    /// [windows](Points::windows), as is a change by another program; where not even the header of these stamps is left, the
    /// gap is up to the next snapshot, from which the history can be told again. Where a log or a snapshot is damaged or
    /// missing, the windows do not tell, since neither is read to list them: a restore to an instant that needs it is
    /// [`ErrorKind::Corrupt`] and names the file, so that it can be put back.
    /// [`verify_database`](Self::verify_database) finds either.
    pub fn points<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        range: impl RangeBounds<Timestamp>,
    ) -> Result<Points> {
        let database = self.0.ready(database.into())?;
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let (data, birth) = (self.0.data(&database.entry), birth(&database.entry)?);
        let disk = Some(&self.0.disk);
        let points = Timeline::ask(disk, &data, birth, |timeline| timeline.points(range));
        self.0.hold(&database, points)
    }

    /// Opens a read-only connection to a database as it was at an instant, and says what the instant came to. Nothing is
    /// written out for it: it reads the pages where the history has them, and sees the same for as long as it is open:
    /// blocked reads and the destruction of the database do not reach a view that is open already.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// let connection = plane.connect("orders", &Default::default())?;
    /// connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    /// let before = litefleet::Timestamp::now();
    /// connection.execute_batch("DELETE FROM t").unwrap();
    /// let (past, _) = plane.connect_at("orders", before, &Default::default())?;
    /// assert_eq!(past.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(1));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect), [`ErrorKind::OutsideWindow`] for an instant that cannot be restored, and
    /// [`ErrorKind::Corrupt`] where the history that leads there is damaged.
    pub fn connect_at<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        at: Timestamp,
        options: &ConnectOptions,
    ) -> Result<(Connection, ResolvedInstant)> {
        self.0.view(&self.0.ready(database.into())?, at, options)
    }

    /// Makes a database what it was at an instant, in one transaction: readers keep what they read, and the restore is
    /// itself a commit in the history, so that it can be undone.
    ///
    /// Every page is written, so the log grows by the size of the database until the next checkpoint.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// use litefleet::{Timestamp, no_progress};
    ///
    /// let connection = plane.connect("orders", &Default::default())?;
    /// connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    /// let before = Timestamp::now();
    /// connection.execute_batch("DELETE FROM t").unwrap();
    /// let restored = plane.restore_database("orders", before, &Default::default(), &mut no_progress)?;
    /// assert_eq!(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(1));
    /// plane.restore_database("orders", restored.undo.unwrap(), &Default::default(), &mut no_progress)?;
    /// assert_eq!(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(0));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`connect_at`](Self::connect_at); [`ErrorKind::Blocked`] if writes are; [`ErrorKind::TooLarge`] where the
    /// size limit does not admit what the database was; [`ErrorKind::Busy`] where another connection writes for longer
    /// than the busy timeout; [`ErrorKind::Cancelled`]. Whichever it is, nothing has changed.
    pub fn restore_database<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        at: Timestamp,
        options: &ConnectOptions,
        watch: &mut ProgressFn<'_>,
    ) -> Result<Restored> {
        let database = self.0.ready(database.into())?;
        let restored = self.0.restore(&database, at, options, watch);
        self.0.hold(&database, restored.map_err(connect::with_remedy))
    }

    /// The bytes that the history of a database takes on the disk: the lengths of its files, which may share blocks.
    ///
    /// # Errors
    ///
    /// As for [`database_path`](Self::database_path).
    pub fn history_size<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<u64> {
        let archive = ArchivePaths::of(&self.database_path(database)?);
        if !Disk::exists(archive.dir())? {
            return Ok(0);
        }
        let mut size = 0;
        for file in Disk::list(archive.dir())? {
            // A file that was removed meanwhile takes nothing.
            size += Disk::len(&archive.dir().join(file))?.unwrap_or(0);
        }
        Ok(size)
    }

    /// Does what a database's history needs from time to time, and says what was done: a snapshot where the logs since the
    /// last one have grown larger than the database (and than 1 MiB), so that a restore stays short; removing what no
    /// instant within the history window needs; compressing the logs that no restore to the last 24 hours needs, where the
    /// database is plain; flushing what is not on the disk.
    ///
    /// The host calls it as often as it likes, such as each hour: it is what bounds the room that a history takes. It runs
    /// while the database is used, by any number of processes, and changes nothing where nothing is due. Every instant of
    /// the window has the same answer before and after it. It needs no key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// use litefleet::{DatabaseChanges, no_progress};
    ///
    /// plane.configure_database("orders", DatabaseChanges::default().history_window(Some("7d".parse()?)))?;
    /// let done = plane.maintain_database("orders", &mut no_progress)?;
    /// assert_eq!((done.snapshots, done.generations), (0, 0));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`database_path`](Self::database_path), [`ErrorKind::Corrupt`] where the history is damaged, which keeps all
    /// that may still be of use, and has the next log begin with a new snapshot, [`ErrorKind::Cancelled`], and what the disk
    /// may answer.
    pub fn maintain_database<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<MaintenanceReport> {
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
        let window = || {
            let now = self.0.catalog.read(|rows| rows.entry_by_id(&entry.database.id))?;
            let now = now.filter(|now| now.state == State::Ready);
            now.map(|now| now.database.history_window).ok_or_else(|| resolve::destroyed(&entry.database.name))
        };
        let mut maintained = maintenance.run(&window, watch);
        // Pruning comes with a small file, for which the reserve is; a snapshot is made only where there is room.
        while maintained.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull)
            && self.0.reserve.give_up()
        {
            maintained = maintenance.run(&window, watch);
        }
        // In a directory that is not this database's any more, what is described is another one's, as its row says.
        let described = self.0.keep_described(entry);
        self.0.reserve.refill();
        let done = maintained.and_then(|done| described.map(|()| done));
        self.0.hold(&database, done.map_err(connect::with_remedy))
    }
}
