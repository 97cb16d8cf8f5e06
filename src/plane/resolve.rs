//! Which database or group a call acts on: a name is resolved once, and the call keeps to the id.
//!
//! Files are opened by path, and a path follows from a name. A database can be destroyed at any time, and another one
//! created under its name. So a call [holds](Plane::hold) each result that came from a path to the row that it resolved:
//! if that row is still there afterwards, it was there when the path was opened, and the path was its own.

use super::Plane;
use crate::{
    api::{CreateDatabaseOutput, Database, Group},
    catalog::{Entry, Rows, State},
    changes::Pair,
    error::{Error, ErrorKind, Result},
    name::{DatabaseName, GroupName},
};

/// Which database a call acts on: by name, or by id.
///
/// Text and a [`DatabaseName`] name the database that has that name when the call begins. A [`Database`] and a
/// [`CreateDatabaseOutput`] stand for their id: the call acts on that database, and on no other one that has taken its
/// name since.
///
/// Either way, a call resolves its database once. If that database is destroyed before the call ends, the call fails with
/// [`ErrorKind::Destroyed`]. A name that no database has when the call begins is [`ErrorKind::NotFound`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let plane = litefleet::ControlPlane::open(dir.path())?;
/// # plane.create_group("default")?;
/// use litefleet::{CreateDatabaseInput, ErrorKind};
///
/// plane.create_database(CreateDatabaseInput::new("orders", "default"))?;
/// let orders = plane.get_database("orders")?;
/// plane.destroy_database(&orders)?;
/// plane.create_database(CreateDatabaseInput::new("orders", "default"))?;
/// assert_eq!(plane.destroy_database(&orders).unwrap_err().kind(), ErrorKind::Destroyed);
/// # Ok::<(), litefleet::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DatabaseRef<'a> {
    name: &'a str,
    id: Option<&'a str>,
}

impl<'a, T: AsRef<str> + ?Sized> From<&'a T> for DatabaseRef<'a> {
    fn from(name: &'a T) -> Self {
        Self { name: name.as_ref(), id: None }
    }
}

impl<'a> From<&'a Database> for DatabaseRef<'a> {
    fn from(database: &'a Database) -> Self {
        Self { name: database.name.as_str(), id: Some(&database.id) }
    }
}

impl<'a> From<&'a CreateDatabaseOutput> for DatabaseRef<'a> {
    fn from(created: &'a CreateDatabaseOutput) -> Self {
        Self { name: &created.name, id: Some(&created.id) }
    }
}

impl<'a> DatabaseRef<'a> {
    pub(super) fn parse(self) -> Result<Wanted<'a>> {
        Ok(Wanted { name: self.name.parse()?, id: self.id })
    }
}

/// Which group a call acts on: by name, or by id.
///
/// Text and a [`GroupName`] name the group that has that name when the call begins. A [`Group`] stands for its id,
/// whatever its name is by then.
#[derive(Clone, Copy, Debug)]
pub struct GroupRef<'a> {
    name: &'a str,
    uuid: Option<&'a str>,
}

impl<'a, T: AsRef<str> + ?Sized> From<&'a T> for GroupRef<'a> {
    fn from(name: &'a T) -> Self {
        Self { name: name.as_ref(), uuid: None }
    }
}

impl<'a> From<&'a Group> for GroupRef<'a> {
    fn from(group: &'a Group) -> Self {
        Self { name: group.name.as_str(), uuid: Some(&group.uuid) }
    }
}

impl<'a> GroupRef<'a> {
    pub(super) fn parse(self) -> Result<WantedGroup<'a>> {
        Ok(WantedGroup { name: self.name.parse()?, uuid: self.uuid })
    }
}

/// A database that a call asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) name: DatabaseName,
    id: Option<&'a str>,
}

impl Wanted<'_> {
    /// Its row, if it is a draft or ready.
    pub(super) fn settled_entry(&self, rows: &Rows<'_>) -> Result<Entry> {
        let Some(id) = self.id else { return rows.settled_entry(&self.name) };
        let entry = rows.entry_by_id(id)?.filter(|entry| !entry.state.is_unsettled());
        entry.ok_or_else(|| destroyed(&self.name))
    }
}

/// A group that a call asks for.
#[derive(Clone, Debug)]
pub(super) struct WantedGroup<'a> {
    name: GroupName,
    uuid: Option<&'a str>,
}

impl WantedGroup<'_> {
    /// The group, if it is not being destroyed.
    pub(super) fn group(&self, rows: &Rows<'_>) -> Result<Group> {
        match self.uuid {
            Some(uuid) => rows.group_by_id(uuid),
            None => rows.group(&self.name),
        }
    }
}

/// A database that a call has resolved: its row, and the number of changes that were made before the row was read.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) entry: Entry,
    pub(super) stamp: Option<u64>,
}

impl Plane {
    /// Resolves a database that is a draft or ready.
    pub(super) fn resolve(&self, wanted: &Wanted<'_>) -> Result<Resolved> {
        let stamp = self.changes.stamp(Pair::of(&wanted.name));
        let entry = self.catalog.read(|rows| wanted.settled_entry(rows))?;
        Ok(Resolved { entry, stamp })
    }

    /// Resolves a database that can be used.
    pub(super) fn ready(&self, database: DatabaseRef<'_>) -> Result<Resolved> {
        let resolved = self.resolve(&database.parse()?)?;
        if resolved.entry.state == State::Draft {
            let name = &resolved.entry.database.name;
            let message = format!("database {name} is a draft: upload a file to it first");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.disk.check_own(&self.data(&resolved.entry))?;
        Ok(resolved)
    }

    /// Passes on a result that came from the path of a database, if that database was there until now. If it was destroyed,
    /// the path may have been another one's, and whatever was found there says nothing about this database.
    pub(super) fn hold<T>(&self, database: &Resolved, result: Result<T>) -> Result<T> {
        let Resolved { entry, stamp } = database;
        let name = &entry.database.name;
        // Reading two counters: the row is as it was read.
        if result.is_ok() && stamp.is_some() && *stamp == self.changes.stamp(Pair::of(name)) {
            return result;
        }
        let now = self.catalog.read(|rows| rows.entry_by_id(&entry.database.id));
        match now {
            Ok(Some(now)) if !now.state.is_unsettled() => result,
            Ok(_) => Err(destroyed(name)),
            Err(error) => result.and(Err(error)),
        }
    }
}

/// The answer to a call whose database was destroyed while it ran.
#[cold]
pub(super) fn destroyed(name: &DatabaseName) -> Error {
    Error::new(ErrorKind::Destroyed, format!("database {name} was destroyed during this call"))
}
