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
    /// Lists databases in ascending order of their names: all of them, those of a group, the forks of a database, or a page.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if there is no such group or parent.
    pub fn list_databases(&self, options: ListDatabases) -> Result<Vec<Database>> {
        Ok(self.0.list(&options)?.into_iter().map(|entry| entry.database).collect())
    }

    /// Lists databases with their current sizes in bytes, as [`database_size`](Self::database_size) returns them. The size is
    /// `None` for a draft and for a database whose files cannot be examined.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// let listed = plane.list_databases_with_size(Default::default())?;
    /// assert_eq!((listed[0].0.name.as_str(), listed[0].1), ("orders", Some(4096)));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`list_databases`](Self::list_databases) does.
    pub fn list_databases_with_size(&self, options: ListDatabases) -> Result<Vec<(Database, Option<u64>)>> {
        let sized = |entry: Entry| {
            let size =
                (entry.state == State::Ready).then(|| self.0.data(&entry)).and_then(|data| size(&data));
            (entry.database, size)
        };
        Ok(self.0.list(&options)?.into_iter().map(sized).collect())
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

/// Returns the size of a database file and its WAL in bytes. `None` if it cannot be examined.
fn size(data: &Path) -> Option<u64> {
    let log = Disk::len(&layout::beside(data, "-wal")).ok()?.unwrap_or(0);
    Disk::len(data).ok()?.map(|len| len + log)
}
