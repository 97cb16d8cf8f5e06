//! Groups: create, rename, configure, destroy.

use super::{ControlPlane, DatabaseRef, GroupRef, Plane};
use crate::{
    api::Group,
    catalog::{Durability, Entry, Rows},
    changes::{Begun, Pair},
    disk::Disk,
    error::Result,
    history_limit::HistoryLimit,
    id,
    name::{GroupDir, GroupName},
    retention::Retention,
    time::Timestamp,
};

/// Changes to the configuration of a group. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupChanges {
    /// Whether destroying the group and every database in it is refused. `None` keeps the setting.
    pub delete_protection: Option<bool>,
    /// The history window of the databases in the group that have none of their own. `None` keeps the setting.
    pub history_window: Option<Retention>,
    /// The limit on the size of the history of each database in the group that has none of its own. `None` keeps the setting.
    pub history_limit: Option<HistoryLimit>,
}

impl GroupChanges {
    /// Turns delete protection on or off.
    #[must_use]
    pub fn delete_protection(self, protect: bool) -> Self {
        Self { delete_protection: Some(protect), ..self }
    }

    /// Sets the history window.
    #[must_use]
    pub fn history_window(self, window: Retention) -> Self {
        Self { history_window: Some(window), ..self }
    }

    /// Sets the limit on the size of the history of each database. [`HistoryLimit::NONE`] removes it.
    #[must_use]
    pub fn history_limit(self, limit: HistoryLimit) -> Self {
        Self { history_limit: Some(limit), ..self }
    }
}

impl ControlPlane {
    /// Creates a group.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) if the name is taken, and with
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it is not a valid [`GroupName`].
    pub fn create_group(&self, name: &str) -> Result<Group> {
        let name: GroupName = name.parse()?;
        let now = Timestamp::now();
        let id = id::new_id(now);
        self.0.catalog.write(Durability::Full, |rows| {
            let dir = self.0.new_group_dir(rows, &name, &id)?;
            rows.insert_group(&name, &id, &dir, now)
        })
    }

    /// Returns the group with this name or id.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if there is no such group.
    pub fn get_group<'a>(&self, group: impl Into<GroupRef<'a>>) -> Result<Group> {
        let group = group.into().parse()?;
        self.0.catalog.read(|rows| group.group(rows))
    }

    /// Returns the group that contains a database.
    ///
    /// # Errors
    ///
    /// Fails as [`get_database`](Self::get_database) does.
    pub fn group_of_database<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<Group> {
        let database = self.0.resolve(&database.into().parse()?)?;
        // A database never leaves its group, and a group is destroyed together with its databases.
        let group = self.0.catalog.read(|rows| rows.group_by_id(&database.entry.group_id));
        self.0.hold(&database, group)
    }

    /// Returns all groups in ascending order of their names.
    pub fn list_groups(&self) -> Result<Vec<Group>> {
        self.0.catalog.read(|rows| rows.groups("ready"))
    }

    /// Renames a group and returns its new state. A rename to the current name changes nothing.
    ///
    /// The id of the group, its databases and its directory do not change. Connections stay open and running calls
    /// continue. The old name becomes available.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("staging")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "staging"))?;
    /// plane.rename_group("staging", "production")?;
    /// assert_eq!(plane.get_database("orders")?.group.as_str(), "production");
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if there is no such group, with
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) if the new name is taken, and with
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it is not a valid [`GroupName`].
    pub fn rename_group<'a>(&self, group: impl Into<GroupRef<'a>>, new: &str) -> Result<Group> {
        let (group, new) = (group.into().parse()?, new.parse::<GroupName>()?);
        let group =
            self.0.catalog.write(Durability::Full, |rows| rows.rename_group(group.group(rows)?, &new))?;
        self.0.describe(&group.id);
        Ok(group)
    }

    /// Changes the configuration of a group in one transaction and returns its new state.
    ///
    /// Open connections to its databases apply the change from their next transaction, in every process.
    ///
    /// Delete protection covers the group and every database in it. The history window applies to the databases without a
    /// window [of their own](crate::DatabaseChanges::history_window). A window of zero stops the capture of commits; the
    /// existing history can be restored until [`maintain_database`](Self::maintain_database) prunes it. A window that is
    /// turned on again begins a new history with the next commit. The limit on the size of a history applies to each database
    /// without a limit [of its own](crate::DatabaseChanges::history_limit), from its next maintenance.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// use litefleet::GroupChanges;
    ///
    /// let changes = GroupChanges::default().delete_protection(true).history_window("7d".parse()?);
    /// let group = plane.configure_group("default", changes)?;
    /// assert_eq!((group.delete_protection, group.history_window), (true, "7d".parse()?));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if there is no such group.
    pub fn configure_group<'a>(
        &self,
        group: impl Into<GroupRef<'a>>,
        changes: GroupChanges,
    ) -> Result<Group> {
        let group = group.into().parse()?;
        let configure = |rows: &Rows<'_>, begun: &mut Vec<Begun>| {
            let group = group.group(rows)?;
            let GroupChanges { delete_protection, history_window, history_limit } = changes;
            rows.configure_group(&group.id, delete_protection, history_window, history_limit)?;
            // Connections do not depend on the other settings.
            if changes.history_window.is_some() {
                self.0.begin_all(&rows.entries_of_group(&group.id)?, begun)?;
            }
            rows.group_by_id(&group.id)
        };
        let group: Group = self.0.with_reserve(|| self.0.change_all(configure))?;
        self.0.describe(&group.id);
        if changes.history_window.is_some_and(Retention::is_off) {
            self.0.describe_stale();
        }
        Ok(group)
    }

    /// Destroys a group and every database in it. Open connections to them fail with
    /// [`ErrorKind::Destroyed`](crate::ErrorKind::Destroyed).
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if there is no such group, with
    /// [`ErrorKind::Protected`](crate::ErrorKind::Protected) if the group or one of its databases is delete-protected, and
    /// with [`ErrorKind::Busy`](crate::ErrorKind::Busy) while a database is being created in it.
    pub fn destroy_group<'a>(&self, group: impl Into<GroupRef<'a>>) -> Result<()> {
        self.0.destroy_group(&group.into().parse()?)
    }
}

impl Plane {
    /// Chooses the directory of a group that this transaction inserts, so that no other process can choose it too. An
    /// existing directory is never reused, even if no group has it.
    fn new_group_dir(&self, rows: &Rows<'_>, name: &GroupName, id: &str) -> Result<GroupDir> {
        let dir = GroupDir::of(name);
        if rows.is_group_dir(&dir)? || Disk::exists(&self.layout.group(&dir))? {
            return Ok(GroupDir::with_id(name, id));
        }
        Ok(dir)
    }

    /// Changes rows in one transaction and notifies open connections of the changes that `change` begins.
    pub(super) fn change_all<T>(
        &self,
        change: impl FnOnce(&Rows<'_>, &mut Vec<Begun>) -> Result<T>,
    ) -> Result<T> {
        let mut begun = Vec::new();
        let result = self.catalog.write(Durability::Full, |rows| change(rows, &mut begun));
        // Also after a rollback: while a change is unfinished, readers query the catalog in each transaction.
        for change in &begun {
            self.changes.finish(change);
        }
        result
    }

    /// Begins a change of each database.
    pub(super) fn begin_all(&self, entries: &[Entry], begun: &mut Vec<Begun>) -> Result<()> {
        let mut pairs: Vec<_> = entries.iter().map(|entry| Pair::of(&entry.database.name)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        for pair in pairs {
            begun.push(self.changes.begin(pair)?);
        }
        Ok(())
    }
}
