//! The sweep: what dead processes left half done is carried on, or undone.
//!
//! A staging directory whose lock can be taken belongs to nobody. Whatever is decided about a row is decided in a
//! write transaction of the catalog, with the state that the row has there: a living process that is about to move
//! the row on holds the lock of the directory, or waits for the transaction.

use super::Plane;
use crate::{
    catalog::{Durability, Entry, State},
    disk::Disk,
    error::Result,
    id,
    time::Timestamp,
};

impl Plane {
    /// Settles what can be settled now. What living processes are at is left alone.
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
            // Nobody needs it any more, so what cannot be removed now keeps nobody from opening the root.
            let _swept_later = self.disk.remove(&self.layout.trashed(&id));
        }
        Ok(())
    }

    /// A directory in staging: it is moved to its place if it was whole, and to the trash otherwise.
    fn settle_staged(&self, id: &str) -> Result<()> {
        let dir = self.layout.staged(id);
        let Some(_nobodys) = Disk::lock_dir(&dir)? else { return Ok(()) };
        self.catalog.write(Durability::Full, |rows| match rows.entry_by_id(id)? {
            // With a directory in its place already, this one is a leftover of another call.
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

    /// A row without a directory in staging: its directory is in its place already, or nowhere.
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
                    // Its creator may be about to do the same, which does no harm.
                    rows.set_state(id, State::Publishing, State::Ready).map(|_| ())
                }
                Some(state @ (State::Creating | State::Publishing)) => rows.delete_database(id, state),
                _ => Ok(()),
            }
        })
    }
}
