//! Listing databases.

use std::path::Path;

use super::{ControlPlane, Plane};
use crate::{
    api::{Database, ListDatabases},
    catalog::{Entry, State},
    disk::Disk,
    error::Result,
    layout,
    name::GroupName,
};

impl ControlPlane {
    /// The databases, by name: all of them, those of a group, the forks of a database, or a page of these.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a group or a parent that does not exist.
    pub fn list_databases(&self, which: &ListDatabases) -> Result<Vec<Database>> {
        Ok(self.0.list(which)?.into_iter().map(|entry| entry.database).collect())
    }

    /// Lists databases, each with the bytes that it takes on the disk now, its log included: what
    /// [`database_size`](Self::database_size) returns for each of them. The size is `None` for a draft, and for a database
    /// whose files cannot be examined.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// let listed = plane.list_databases_with_size(&Default::default())?;
    /// assert_eq!((listed[0].0.name.as_str(), listed[0].1), ("orders", Some(4096)));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`list_databases`](Self::list_databases).
    pub fn list_databases_with_size(&self, which: &ListDatabases) -> Result<Vec<(Database, Option<u64>)>> {
        let sized = |entry: Entry| {
            let size =
                (entry.state == State::Ready).then(|| self.0.data(&entry)).and_then(|data| size(&data));
            (entry.database, size)
        };
        Ok(self.0.list(which)?.into_iter().map(sized).collect())
    }
}

impl Plane {
    fn list(&self, which: &ListDatabases) -> Result<Vec<Entry>> {
        let group = which.group.as_deref().map(str::parse::<GroupName>).transpose()?;
        self.catalog.read(|rows| {
            if let Some(group) = &group {
                rows.group(group)?;
            }
            rows.list(which)
        })
    }
}

/// The bytes of a database file and its log.
fn size(data: &Path) -> Option<u64> {
    let log = Disk::len(&layout::beside(data, "-wal")).ok()?.unwrap_or(0);
    Disk::len(data).ok()?.map(|len| len + log)
}
