//! The history of a database: what it can be restored to.

use std::ops::RangeBounds;

use rusqlite::Connection;

use super::ControlPlane;
use crate::{
    archive::Timeline,
    connect::{self, ConnectOptions},
    error::{Error, ErrorKind, Result},
    point::{Points, Reached, ReachedKind, Restored},
    progress::Watch,
    seed::restore,
    time::Timestamp,
    vfs,
};

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
    /// listed. Damage is no error: what cannot be restored for it is a gap between two [windows](Points::windows), as is a
    /// change by another program; [`verify_database`](Self::verify_database) tells which it is.
    pub fn points(&self, name: &str, range: impl RangeBounds<Timestamp>) -> Result<Points> {
        let entry = self.0.ready(&name.parse()?)?;
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let (data, born_at) = (self.0.data(&entry), entry.database.created_at);
        Timeline::ask(Some(&self.0.disk), &data, born_at, vfs::apart, |timeline| timeline.points(range))
    }

    /// Opens a read-only connection to a database as it was at an instant, and says what the instant came to. Nothing is
    /// written out for it: it reads the pages where the history has them, and sees the same for as long as it is open.
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
    pub fn connect_at(
        &self,
        name: &str,
        at: Timestamp,
        options: &ConnectOptions,
    ) -> Result<(Connection, Reached)> {
        let name = name.parse()?;
        let (entry, governor) = self.0.governed(&name, options.key())?;
        if entry.database.block_reads {
            return Err(Error::new(ErrorKind::Blocked, connect::reads_blocked()));
        }
        let instant = restore::Instant { at, born_at: entry.database.created_at, now: self.0.clock.now() };
        let past = restore::view(&self.0.disk, &self.0.data(&entry), instant)?;
        let reached = past.reached;
        Ok((connect::open_past(past, governor.into_sealing(), options)?, reached))
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
    /// use litefleet::{Timestamp, unwatched};
    ///
    /// let connection = plane.connect("orders", &Default::default())?;
    /// connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    /// let before = Timestamp::now();
    /// connection.execute_batch("DELETE FROM t").unwrap();
    /// let restored = plane.restore_database("orders", before, &Default::default(), &mut unwatched)?;
    /// assert_eq!(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(1));
    /// plane.restore_database("orders", restored.undo.unwrap(), &Default::default(), &mut unwatched)?;
    /// assert_eq!(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(0));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`connect_at`](Self::connect_at); [`ErrorKind::Blocked`] if writes are; [`ErrorKind::TooLarge`] where the
    /// size limit does not admit what the database was; [`ErrorKind::Busy`] where another connection writes for longer
    /// than the busy timeout; [`ErrorKind::Cancelled`]. Whichever it is, nothing has changed.
    pub fn restore_database(
        &self,
        name: &str,
        at: Timestamp,
        options: &ConnectOptions,
        watch: &mut Watch<'_>,
    ) -> Result<Restored> {
        let (view, reached) = self.connect_at(name, at, options)?;
        let mut connection = self.connect(name, options)?;
        if reached.kind == ReachedKind::BeforeFirst && self.points(name, ..)?.points.is_empty() {
            return Ok(Restored { reached, undo: None });
        }
        restore::in_place(&view, &mut connection, options.waits(), watch)?;
        // Stamps never repeat: just before its own, all earlier commits are there and no other is.
        let own = vfs::last_commit_at(&connection).map(|at| Timestamp::from_micros(at - 1)).transpose()?;
        Ok(Restored { reached, undo: own })
    }
}
