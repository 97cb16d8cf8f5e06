//! Resolves the database or group of a call. A name is resolved once; every later step uses the id.
//!
//! Files are opened by path, and a path follows from a name. A database can be destroyed at any time and its name reused.
//! Therefore a call [checks](Plane::hold) each result obtained through a path against the row that it resolved: if the row
//! still exists afterwards, it existed when the path was opened, and the path belonged to that row.

use std::{fmt, marker::PhantomData, str::FromStr};

use super::state::Plane;
use crate::{
    api::{CreateDatabaseOutput, Database, Group},
    catalog::{Entry, Rows, State},
    changes::Pair,
    error::{Error, ErrorKind, Result},
    name::{DatabaseName, GroupName},
};

/// The database or group that a call acts on, given by name or by id.
///
/// A string or a parsed name selects the database or group that has the name when the call begins; without one, the call fails
/// with [`ErrorKind::NotFound`]. A [`Database`], a [`CreateDatabaseOutput`] or a [`Group`] selects by id, and never selects
/// another database or group that has taken the name since.
///
/// A call resolves its database once. If that database is destroyed before the call ends, the call fails with
/// [`ErrorKind::Destroyed`].
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
pub struct NameOrId<'a, N> {
    name: &'a str,
    id: Option<&'a str>,
    of: PhantomData<fn() -> N>,
}

/// The database that a call acts on.
pub type DatabaseRef<'a> = NameOrId<'a, DatabaseName>;

/// The group that a call acts on.
pub type GroupRef<'a> = NameOrId<'a, GroupName>;

impl<N> Clone for NameOrId<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for NameOrId<'_, N> {}

impl<N> fmt::Debug for NameOrId<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameOrId").field("name", &self.name).field("id", &self.id).finish()
    }
}

impl<'a, N> NameOrId<'a, N> {
    fn with_id(name: &'a str, id: &'a str) -> Self {
        Self { name, id: Some(id), of: PhantomData }
    }
}

impl<'a, N: FromStr<Err = Error>> NameOrId<'a, N> {
    pub(super) fn parse(self) -> Result<Wanted<'a, N>> {
        Ok(Wanted { name: self.name.parse()?, id: self.id })
    }
}

impl<'a, N, T: AsRef<str> + ?Sized> From<&'a T> for NameOrId<'a, N> {
    fn from(name: &'a T) -> Self {
        Self { name: name.as_ref(), id: None, of: PhantomData }
    }
}

impl<'a> From<&'a Database> for DatabaseRef<'a> {
    fn from(database: &'a Database) -> Self {
        Self::with_id(&database.name, &database.id)
    }
}

impl<'a> From<&'a CreateDatabaseOutput> for DatabaseRef<'a> {
    fn from(created: &'a CreateDatabaseOutput) -> Self {
        Self::with_id(&created.name, &created.id)
    }
}

impl<'a> From<&'a Group> for GroupRef<'a> {
    fn from(group: &'a Group) -> Self {
        Self::with_id(&group.name, &group.id)
    }
}

/// A [`NameOrId`] with a valid name.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a, N = DatabaseName> {
    pub(super) name: N,
    id: Option<&'a str>,
}

impl Wanted<'_> {
    /// Returns the row of the database, if it is a draft or ready.
    pub(super) fn settled_entry(&self, rows: &Rows<'_>) -> Result<Entry> {
        let Some(id) = self.id else { return rows.settled_entry(&self.name) };
        let entry = rows.entry_by_id(id)?.filter(|entry| !entry.state.is_unsettled());
        entry.ok_or_else(|| destroyed(&self.name))
    }
}

impl Wanted<'_, GroupName> {
    /// Returns the group, if it is not being destroyed.
    pub(super) fn group(&self, rows: &Rows<'_>) -> Result<Group> {
        match self.id {
            Some(id) => rows.group_by_id(id),
            None => rows.group(&self.name),
        }
    }
}

/// A database that a call has resolved: its row, and the change counter read before the row.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) entry: Entry,
    pub(super) stamp: Option<u64>,
}

impl Plane {
    /// Resolves a draft or a ready database.
    pub(super) fn resolve(&self, wanted: &Wanted<'_>) -> Result<Resolved> {
        let stamp = self.changes.stamp(Pair::of(&wanted.name));
        let entry = self.catalog.read(|rows| wanted.settled_entry(rows))?;
        Ok(Resolved { entry, stamp })
    }

    /// Resolves a ready database.
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

    /// Returns `result`, obtained through the path of a database, if that database still exists. After its destruction the
    /// path may belong to another database, so neither a success nor a failure says anything about this one.
    pub(super) fn hold<T>(&self, database: &Resolved, result: Result<T>) -> Result<T> {
        let Resolved { entry, stamp } = database;
        let name = &entry.database.name;
        // Two unchanged counters prove that the row has not changed.
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

/// The error of a call whose database was destroyed while it ran.
#[cold]
pub(super) fn destroyed(name: &DatabaseName) -> Error {
    Error::new(ErrorKind::Destroyed, format!("database {name} was destroyed during this call"))
}
