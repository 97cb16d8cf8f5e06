//! The history of a database: what it can be restored to.

use std::ops::RangeBounds;

use super::ControlPlane;
use crate::{archive::Timeline, error::Result, point::Points, time::Timestamp, vfs};

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
    /// As for [`database_path`](Self::database_path), and [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for a history that is damaged.
    pub fn points(&self, name: &str, range: impl RangeBounds<Timestamp>) -> Result<Points> {
        let entry = self.0.ready(&name.parse()?)?;
        let timeline = Timeline::read(&self.0.data(&entry), entry.database.created_at, vfs::apart)?;
        timeline.points((range.start_bound().cloned(), range.end_bound().cloned()))
    }
}
