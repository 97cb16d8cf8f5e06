//! Destroying databases and groups: the mirror of creating them.
//!
//! The row is marked `deleting`, and from then on the database is gone for everybody; its directory is renamed into
//! the trash and its row removed in one transaction of the catalog, so that its name cannot be taken in between; and
//! what is in the trash is removed. A crash after the first step is carried on by the next sweep.

use super::Plane;
use crate::{
    catalog::{Durability, State},
    changes::Pair,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    id,
    name::{DatabaseName, GroupName},
    time::Timestamp,
};

impl Plane {
    pub(super) fn destroy(&self, name: &DatabaseName) -> Result<()> {
        let (id, was) = self.change(|rows| {
            let entry = rows.settled_entry(name)?;
            if entry.database.delete_protection || entry.group_protected {
                return Err(protected(name));
            }
            rows.set_state(&entry.database.id, entry.state, State::Deleting)?;
            Ok((entry.database.id.clone(), (entry.database.id, entry.state)))
        })?;
        self.finish_destroy(&id).inspect_err(|_| {
            // The directory could not be moved: then the database is still there.
            let _swept_later = self.change(|rows| {
                rows.set_state(&id, State::Deleting, was)?;
                Ok((id.clone(), ()))
            });
        })
    }

    /// Carries on with a database that is marked `deleting`, if it still is. Any number of processes may do so.
    pub(super) fn finish_destroy(&self, id: &str) -> Result<()> {
        let trashed = self.layout.trashed(&id::new_id(Timestamp::now()));
        self.catalog.write(Durability::Full, |rows| {
            let Some(entry) = rows.entry_by_id(id)?.filter(|entry| entry.state == State::Deleting) else {
                return Ok(());
            };
            let place = self.place(&entry);
            if Disk::exists(&place)? {
                self.disk.rename(&place, &trashed)?;
                self.disk.sync_dir(&self.layout.group(&entry.database.group))?;
                self.disk.sync_dir(&self.layout.trash())?;
            }
            rows.delete_database(id, State::Deleting)
        })?;
        // The database is gone; its remains go now or with the next sweep.
        let _swept_later = self.disk.remove(&trashed);
        Ok(())
    }

    pub(super) fn destroy_group(&self, name: &GroupName) -> Result<()> {
        let mut begun = Vec::new();
        let marked = self.catalog.write(Durability::Full, |rows| {
            let group = rows.group(name)?;
            if group.delete_protection {
                let message = format!("group {name} is delete-protected and cannot be deleted");
                return Err(Error::new(ErrorKind::Protected, message));
            }
            for entry in rows.entries_of_group(name)? {
                if entry.database.delete_protection {
                    return Err(protected(&entry.database.name));
                }
                if matches!(entry.state, State::Creating | State::Publishing) {
                    let message =
                        format!("database {} is being created in group {name}", entry.database.name);
                    return Err(Error::new(ErrorKind::Busy, message));
                }
                begun.push(Pair::of(&entry.database.id));
            }
            begun.sort_unstable();
            begun.dedup();
            rows.mark_group_deleting(name)?;
            Ok((group.uuid, begun.iter().map(|pair| self.changes.begin(*pair)).collect::<Vec<_>>()))
        });
        let (uuid, begun) = marked?;
        for change in &begun {
            self.changes.finish(change);
        }
        self.finish_destroy_group(name, &uuid)
    }

    /// Carries on with a group that is marked `deleting`, if it still is.
    pub(super) fn finish_destroy_group(&self, name: &GroupName, uuid: &str) -> Result<()> {
        let trashed = self.layout.trashed(&id::new_id(Timestamp::now()));
        self.catalog.write(Durability::Full, |rows| {
            if !rows.groups_being_deleted()?.iter().any(|group| group.uuid == uuid) {
                return Ok(());
            }
            let place = self.layout.group(name);
            if Disk::exists(&place)? {
                self.disk.rename(&place, &trashed)?;
                self.disk.sync_dir(self.layout.root())?;
                self.disk.sync_dir(&self.layout.trash())?;
            }
            rows.delete_group(uuid)
        })?;
        let _swept_later = self.disk.remove(&trashed);
        Ok(())
    }
}

fn protected(name: &DatabaseName) -> Error {
    Error::new(ErrorKind::Protected, format!("database {name} is delete-protected and cannot be deleted"))
}
