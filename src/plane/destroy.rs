//! The destroy protocol for databases and groups.
//!
//! First the row is marked `deleting`, which hides the database. Then one transaction of the catalog renames the directory into
//! the trash and removes the row, so that the name cannot be reused in between. Finally the trash is emptied. After a crash,
//! the next sweep continues from the first step.

use std::path::Path;

use super::{Plane, resolve::Wanted};
use crate::{
    catalog::{Durability, Rows, State},
    changes::Begun,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    id,
    name::GroupName,
    time::Timestamp,
};

impl Plane {
    pub(super) fn destroy(&self, wanted: &Wanted<'_>) -> Result<()> {
        let name = &wanted.name;
        let mark = |rows: &Rows<'_>| {
            let entry = wanted.settled_entry(rows)?;
            if entry.database.delete_protection {
                return Err(protected("database", name));
            }
            if entry.group_protected {
                return Err(protected("group", &entry.database.group));
            }
            rows.set_state(&entry.database.id, entry.state, State::Deleting)?;
            let place = self.place(&entry);
            Ok((name.clone(), (entry.database.id, entry.state, place)))
        };
        let (id, was, place) = self.with_reserve(|| self.change(mark))?;
        self.finish_destroy(&id).inspect_err(|_| {
            // The directory could not be moved, so the database still exists.
            let _swept_later = self.change(|rows| {
                if was == State::Draft || Disk::exists(&place)? {
                    rows.set_state(&id, State::Deleting, was)?;
                }
                Ok((name.clone(), ()))
            });
        })
    }

    /// Runs the transaction that moves a directory to `trashed` and removes its rows, and then empties `trashed`.
    fn empty(&self, trashed: &Path, transaction: impl Fn(&Rows<'_>) -> Result<()>) -> Result<()> {
        self.with_reserve(|| {
            let done = self.catalog.write(Durability::Full, &transaction);
            if done.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull) {
                // The trash is never restored, so emptying it now makes room for the transaction.
                self.disk.remove(trashed)?;
            }
            done
        })?;
        // The database is gone; its files are removed now or by the next sweep.
        let _swept_later = self.disk.remove(trashed);
        self.reserve.refill();
        Ok(())
    }

    /// Completes the destruction of a database marked `deleting`. Any number of processes may do so.
    pub(super) fn finish_destroy(&self, id: &str) -> Result<()> {
        let trashed = self.layout.trashed(&id::new_id(Timestamp::now()));
        self.empty(&trashed, |rows| {
            let Some(entry) = rows.entry_by_id(id)?.filter(|entry| entry.state == State::Deleting) else {
                return Ok(());
            };
            self.move_to_trash(&self.place(&entry), &trashed)?;
            rows.delete_database(id, State::Deleting)
        })
    }

    /// Moves an existing directory into the trash and flushes the move, or leaves the directory in place.
    fn move_to_trash(&self, place: &Path, trashed: &Path) -> Result<()> {
        if !Disk::exists(place)? {
            return Ok(());
        }
        self.disk.rename(place, trashed)?;
        place
            .parent()
            .map_or(Ok(()), |parent| self.disk.sync_dir(parent))
            .and_then(|()| self.disk.sync_dir(&self.layout.trash()))
            .inspect_err(|_| {
                let _still_in_the_trash = self.disk.rename(trashed, place);
            })
    }

    pub(super) fn destroy_group(&self, wanted: &Wanted<'_, GroupName>) -> Result<()> {
        let group = self.catalog.read(|rows| wanted.group(rows))?;
        match self.try_destroy_group(&group.id) {
            // The process that creates a database in it may have been killed.
            Err(busy) if busy.kind() == ErrorKind::Busy => {
                self.settle()?;
                self.try_destroy_group(&group.id)
            }
            done => done,
        }
    }

    fn try_destroy_group(&self, uuid: &str) -> Result<()> {
        let mark = |rows: &Rows<'_>, begun: &mut Vec<Begun>| {
            let group = rows.group_by_id(uuid)?;
            if group.delete_protection {
                return Err(protected("group", &group.name));
            }
            let entries = rows.entries_of_group(uuid)?;
            for entry in &entries {
                if entry.database.delete_protection {
                    return Err(protected("database", &entry.database.name));
                }
                if matches!(entry.state, State::Creating | State::Publishing) {
                    let message =
                        format!("database {} is being created in group {}", entry.database.name, group.name);
                    return Err(Error::new(ErrorKind::Busy, message));
                }
            }
            rows.mark_group_deleting(uuid, true)?;
            self.begin_all(&entries, begun)
        };
        self.with_reserve(|| self.change_all(mark))?;
        self.finish_destroy_group(uuid).inspect_err(|_| {
            let _swept_later = self.change_all(|rows, begun| {
                // A sweep may have completed the destruction.
                let Some(dir) = rows.deleting_group_dir(uuid)? else { return Ok(()) };
                // A directory in the trash is never moved back: the next sweep completes the destruction.
                let entries = rows.entries_of_group(uuid)?;
                let has_files = entries.iter().any(|entry| entry.has_files);
                if !has_files || Disk::exists(&self.layout.group(&dir))? {
                    rows.mark_group_deleting(uuid, false)?;
                    self.begin_all(&entries, begun)?;
                }
                Ok(())
            });
        })
    }

    /// Completes the destruction of a group marked `deleting`.
    pub(super) fn finish_destroy_group(&self, uuid: &str) -> Result<()> {
        let trashed = self.layout.trashed(&id::new_id(Timestamp::now()));
        self.empty(&trashed, |rows| {
            let Some(dir) = rows.deleting_group_dir(uuid)? else { return Ok(()) };
            self.move_to_trash(&self.layout.group(&dir), &trashed)?;
            rows.delete_group(uuid)
        })
    }
}

fn protected(what: &str, name: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Protected, format!("{what} {name} is delete-protected and cannot be deleted"))
}
