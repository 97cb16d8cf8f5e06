//! The sweep, which completes or undoes the calls of killed processes.
//!
//! A staging directory whose lock is free has no owner. Every decision about a row is made in a write transaction of the catalog,
//! from the state of the row in that transaction: a live process that is about to change the row holds the lock of the
//! directory or waits for the transaction.

use super::Plane;
use crate::{
    catalog::{Durability, Entry, State},
    disk::Disk,
    error::Result,
    id,
    time::Timestamp,
};

impl Plane {
    /// Settles every call of a killed process. Leaves the calls of live processes alone.
    pub(super) fn settle(&self) -> Result<()> {
        for id in Disk::list(&self.layout.staging())? {
            self.settle_staged(&id)?;
        }
        let (unsettled, groups) =
            self.catalog.read(|rows| Ok((rows.unsettled()?, rows.groups("deleting")?)))?;
        for entry in unsettled {
            match entry.state {
                State::Deleting => self.finish_destroy(&entry.database.id)?,
                _ => self.settle_row(&entry)?,
            }
        }
        for group in groups {
            self.finish_destroy_group(&group.id)?;
        }
        for id in Disk::list(&self.layout.trash())? {
            // A failure to empty the trash must not prevent opening the root.
            let _swept_later = self.disk.remove(&self.layout.trashed(&id));
        }
        Ok(())
    }

    /// Moves a staged directory into its place if it is complete, and into the trash otherwise.
    fn settle_staged(&self, id: &str) -> Result<()> {
        let dir = self.layout.staged(id);
        let Some(_lock) = Disk::lock_dir(&dir)? else { return Ok(()) };
        self.catalog.write(Durability::Full, |rows| match rows.entry_by_id(id)? {
            // If the target directory exists, the staged one is left from another call.
            Some(entry)
                if matches!(entry.state, State::Publishing | State::Ready)
                    && !Disk::exists(&self.place(&entry))? =>
            {
                self.make_group_dir(&entry.group_dir)?;
                self.disk.rename(&dir, &self.place(&entry))?;
                rows.set_state(id, State::Publishing, State::Ready).map(|_| ())
            }
            _ => {
                self.disk.rename(&dir, &self.layout.trashed(&id::new_id(Timestamp::now())))?;
                rows.delete_database(id, State::Creating)
            }
        })
    }

    /// Settles a row without a staged directory: its directory is in its place or does not exist.
    fn settle_row(&self, entry: &Entry) -> Result<()> {
        let id = &entry.database.id;
        let place = self.place(entry);
        self.catalog.write(Durability::Full, |rows| {
            let state = rows.entry_by_id(id)?.map(|entry| entry.state);
            if Disk::exists(&self.layout.staged(id))? {
                return Ok(());
            }
            match state {
                Some(State::Publishing) if Disk::exists(&place)? => {
                    // Its creator may do this concurrently, which is harmless.
                    rows.set_state(id, State::Publishing, State::Ready).map(|_| ())
                }
                Some(state @ (State::Creating | State::Publishing)) => rows.delete_database(id, state),
                _ => Ok(()),
            }
        })
    }
}
