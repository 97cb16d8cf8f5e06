//! Groups: creating, renaming and protecting them.

use super::{ControlPlane, DatabaseRef, GroupRef, Plane};
use crate::{
    api::Group,
    catalog::{Durability, Entry, Rows},
    changes::{Begun, Pair},
    disk::Disk,
    error::Result,
    id,
    name::{GroupDir, GroupName},
    retention::Retention,
    time::Timestamp,
};

/// What to change about a group; what is left out stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupChanges {
    /// Whether to refuse destroying the group and every database in it.
    pub delete_protection: Option<bool>,
    /// How long back its databases can be restored, unless they have a window of their own.
    pub history_window: Option<Retention>,
}

impl GroupChanges {
    /// With delete protection on or off.
    #[must_use]
    pub fn delete_protection(self, protect: bool) -> Self {
        Self { delete_protection: Some(protect), ..self }
    }

    /// With a new history window.
    #[must_use]
    pub fn history_window(self, window: Retention) -> Self {
        Self { history_window: Some(window), ..self }
    }
}

impl ControlPlane {
    /// Creates a group.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists): `group already exists`;
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a name that is none.
    pub fn create_group(&self, name: &str) -> Result<Group> {
        let name: GroupName = name.parse()?;
        let now = Timestamp::now();
        let uuid = id::new_id(now);
        self.0.catalog.write(Durability::Full, |rows| {
            let dir = self.0.new_group_dir(rows, &name, &uuid)?;
            rows.insert_group(&name, &uuid, &dir, now)
        })
    }

    /// The group with this name or id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): `group not found`.
    pub fn get_group<'a>(&self, group: impl Into<GroupRef<'a>>) -> Result<Group> {
        let group = group.into().parse()?;
        self.0.catalog.read(|rows| group.group(rows))
    }

    /// The group that a database is in, whatever its name is now.
    ///
    /// # Errors
    ///
    /// As for [`get_database`](Self::get_database).
    pub fn group_of_database<'a>(&self, database: impl Into<DatabaseRef<'a>>) -> Result<Group> {
        let database = self.0.resolve(&database.into().parse()?)?;
        // A database stays in its group, which is destroyed with all that is in it.
        let group = self.0.catalog.read(|rows| rows.group_by_id(&database.entry.group_id));
        self.0.hold(&database, group)
    }

    /// All groups, by name.
    pub fn list_groups(&self) -> Result<Vec<Group>> {
        self.0.catalog.read(|rows| rows.groups("ready"))
    }

    /// Gives a group the name `new`, and returns what it is now. Its id stays, and so does everything in it: no
    /// file is moved, connections stay open, calls that run go on, and the name is free for another group. With the name
    /// that it has already nothing changes.
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
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): `group not found`;
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists): `group already exists`;
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a name that is none.
    pub fn rename_group<'a>(&self, group: impl Into<GroupRef<'a>>, new: &str) -> Result<Group> {
        let (group, new) = (group.into().parse()?, new.parse::<GroupName>()?);
        let group =
            self.0.catalog.write(Durability::Full, |rows| rows.rename_group(group.group(rows)?, &new))?;
        self.0.describe(&group.uuid);
        Ok(group)
    }

    /// Changes the configuration of a group in one transaction, and returns what the group is now. Connections that are
    /// open to its databases follow from their next transaction on, in every process.
    ///
    /// Delete protection covers the group and every database in it. The history window applies to the databases that have
    /// no window [of their own](crate::DatabaseChanges::history_window). With a window of zero no commit is kept any more;
    /// what is kept so far can be restored until [`maintain_database`](Self::maintain_database) removes it. Turned on
    /// again, a new history begins with the next commit.
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
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): `group not found`.
    pub fn configure_group<'a>(
        &self,
        group: impl Into<GroupRef<'a>>,
        changes: GroupChanges,
    ) -> Result<Group> {
        let group = group.into().parse()?;
        let configure = |rows: &Rows<'_>, begun: &mut Vec<Begun>| {
            let group = group.group(rows)?;
            rows.configure_group(&group.uuid, changes.delete_protection, changes.history_window)?;
            // Whether it is protected is not known to connections.
            if changes.history_window.is_some() {
                self.0.begin_all(&rows.entries_of_group(&group.uuid)?, begun)?;
            }
            rows.group_by_id(&group.uuid)
        };
        let group: Group = self.0.with_reserve(|| self.0.change_all(configure))?;
        self.0.describe(&group.uuid);
        if changes.history_window.is_some_and(Retention::is_off) {
            self.0.describe_stale();
        }
        Ok(group)
    }

    /// Turns a group's delete protection on or off, as [`configure_group`](Self::configure_group) does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): `group not found`.
    pub fn protect_group<'a>(&self, group: impl Into<GroupRef<'a>>, protect: bool) -> Result<()> {
        self.configure_group(group, GroupChanges::default().delete_protection(protect)).map(|_| ())
    }

    /// Sets a group's history window, as [`configure_group`](Self::configure_group) does, and returns what the group is
    /// now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): `group not found`.
    pub fn set_group_history_window<'a>(
        &self,
        group: impl Into<GroupRef<'a>>,
        window: Retention,
    ) -> Result<Group> {
        self.configure_group(group, GroupChanges::default().history_window(window))
    }

    /// Destroys a group and every database in it. Connections that are open to them fail from then on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound); [`ErrorKind::Protected`](crate::ErrorKind::Protected) if the
    /// group or a database in it is; [`ErrorKind::Busy`](crate::ErrorKind::Busy) while a database is being created in it.
    pub fn destroy_group<'a>(&self, group: impl Into<GroupRef<'a>>) -> Result<()> {
        self.0.destroy_group(&group.into().parse()?)
    }
}

impl Plane {
    /// The directory for a group that is about to be inserted in the same transaction, so that no other process can choose
    /// it too. One that is on the disk is nobody's to take, whether or not a group has it.
    fn new_group_dir(&self, rows: &Rows<'_>, name: &GroupName, uuid: &str) -> Result<GroupDir> {
        let dir = GroupDir::of(name);
        if rows.is_group_dir(&dir)? || Disk::exists(&self.layout.group(&dir))? {
            return Ok(GroupDir::apart(name, uuid));
        }
        Ok(dir)
    }

    /// Changes rows in one transaction, and lets open connections know of the changes that `change` begins.
    pub(super) fn change_all<T>(
        &self,
        change: impl FnOnce(&Rows<'_>, &mut Vec<Begun>) -> Result<T>,
    ) -> Result<T> {
        let mut begun = Vec::new();
        let result = self.catalog.write(Durability::Full, |rows| change(rows, &mut begun));
        // Whether or not it was committed: what is not finished makes every reader look again each time.
        for change in &begun {
            self.changes.finish(change);
        }
        result
    }

    /// Begins a change of each of these databases.
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
