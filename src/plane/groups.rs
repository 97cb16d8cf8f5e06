//! Groups: creating, renaming and protecting them.

use super::{ControlPlane, Plane};
use crate::{
    api::Group,
    catalog::{Durability, Rows},
    disk::Disk,
    error::Result,
    id,
    name::{DatabaseName, GroupDir, GroupName},
    time::Timestamp,
};

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

    /// The group `name`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): `group not found`.
    pub fn get_group(&self, name: &str) -> Result<Group> {
        let name: GroupName = name.parse()?;
        self.0.catalog.read(|rows| rows.group(&name))
    }

    /// The group that a database is in, whatever its name is now.
    ///
    /// # Errors
    ///
    /// As for [`get_database`](Self::get_database).
    pub fn group_of_database(&self, name: &str) -> Result<Group> {
        let name: DatabaseName = name.parse()?;
        self.0.catalog.read(|rows| rows.group_of(&name))
    }

    /// All groups, by name.
    pub fn list_groups(&self) -> Result<Vec<Group>> {
        self.0.catalog.read(|rows| rows.groups("ready"))
    }

    /// Gives the group `name` the name `new`, and returns what it is now. Its id stays, and so does everything in it: no
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
    pub fn rename_group(&self, name: &str, new: &str) -> Result<Group> {
        let (name, new): (GroupName, GroupName) = (name.parse()?, new.parse()?);
        self.0.catalog.write(Durability::Full, |rows| rows.rename_group(&name, &new))
    }

    /// Turns a group's delete protection on or off. It protects every database in the group too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound): `group not found`.
    pub fn protect_group(&self, name: &str, protect: bool) -> Result<()> {
        let name: GroupName = name.parse()?;
        self.0.catalog.write(Durability::Full, |rows| rows.set_group_protection(&name, protect))
    }

    /// Destroys a group and every database in it. Connections that are open to them fail from then on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound); [`ErrorKind::Protected`](crate::ErrorKind::Protected) if the
    /// group or a database in it is; [`ErrorKind::Busy`](crate::ErrorKind::Busy) while a database is being created in it.
    pub fn destroy_group(&self, name: &str) -> Result<()> {
        self.0.destroy_group(&name.parse()?)
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
}
