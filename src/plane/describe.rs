//! Writing the descriptions that stand beside databases and groups.
//!
//! A database is described in the directory in which it is built, before that is renamed into its place. A later change
//! marks the description stale in the transaction that changes the row, and the description is replaced after that, in
//! a transaction of its own: so of two changes the later one is described. What is left stale, by a crash or on a full disk,
//! is replaced by the next call that opens the root or maintains the database.

use std::path::Path;

use super::Plane;
use crate::{
    catalog::{Durability, Entry, Rows, State},
    disk::Disk,
    error::Result,
    layout,
    seed::Staged,
    time::Timestamp,
};

/// How many stale descriptions are replaced where a root is opened.
const AT_OPEN: u32 = 64;

/// How long ago a file was changed last that is on the disk by now, in nanoseconds: an hour.
const WRITTEN_AFTER: i64 = 60 * 60 * 1_000_000_000;

impl Plane {
    /// Describes a database that is about to be published. The file is not flushed: that would be a flush more for each
    /// database, the system does it within half a minute, and maintenance makes sure.
    pub(super) fn describe_staged(&self, staged: &Staged, entry: &Entry) -> Result<()> {
        let path = layout::description(&staged.dir);
        // One that an earlier attempt left.
        self.disk.remove(&path)?;
        let file = self.disk.create_like(&path, &staged.data())?;
        self.disk.write_at(&file, &path, &entry.description().to_json(), 0)
    }

    /// Replaces the stale description of a database or a group. If that fails, the description stays stale.
    pub(super) fn describe(&self, uuid: &str) {
        let _replaced_later =
            self.catalog.write(Durability::Lazy, |rows| self.replace_description(rows, uuid));
    }

    /// Replaces the descriptions that are stale, up to a number that keeps opening a root cheap.
    pub(super) fn describe_stale(&self) {
        for uuid in self.catalog.read(|rows| rows.stale(AT_OPEN)).unwrap_or_default() {
            self.describe(&uuid);
        }
    }

    /// Makes sure that a database and its group have descriptions, which those of earlier versions do not, and that they are
    /// on the disk.
    pub(super) fn keep_described(&self, entry: &Entry) -> Result<()> {
        let database = (&entry.database.id, layout::description(&self.place(entry)));
        let group = (&entry.group_id, layout::group_description(&self.layout.group(&entry.group_dir)));
        for (uuid, path) in [database, group] {
            let now = Timestamp::now().as_micros().saturating_mul(1000);
            match Disk::last_change(&path)? {
                Some(_) if self.catalog.read(|rows| rows.is_stale(uuid))? => self.describe(uuid),
                Some((_, changed_at)) if changed_at >= now.saturating_sub(WRITTEN_AFTER) => {
                    if let Some(file) = Disk::open(&path)? {
                        self.disk.sync_file(&file, &path)?;
                    }
                }
                Some(_) => {}
                None => self.describe(uuid),
            }
        }
        Ok(())
    }

    fn replace_description(&self, rows: &Rows<'_>, uuid: &str) -> Result<()> {
        if let Some(entry) = rows.entry_by_id(uuid)? {
            // Until it is ready its directory is elsewhere, and afterwards this transaction keeps it in its place.
            if entry.state != State::Ready {
                return Ok(());
            }
            let place = self.place(&entry);
            self.replace_file(&place, &layout::description(&place), &entry.description().to_json())?;
        } else if let Some((group, dir)) = rows.group_description(uuid)? {
            let dir = self.layout.group(&dir);
            // The first database makes it, and has the group described then.
            if Disk::exists(&dir)? {
                self.replace_file(&dir, &layout::group_description(&dir), &group.to_json())?;
            }
        }
        rows.clear_stale(uuid)
    }

    /// Replaces a file as a whole, on the disk when this returns. The caller is in a write transaction of the catalog, so that
    /// nobody else writes the file beside it; what is there is left by a process that was killed.
    fn replace_file(&self, dir: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
        let beside = layout::beside(path, ".new");
        self.disk.remove(&beside)?;
        // Whoever may write to the database may replace its description. Beside a group there is no such file.
        let replaced = self.disk.create_like(&beside, &layout::data(dir)).and_then(|file| {
            self.disk.write_at(&file, &beside, bytes, 0)?;
            self.disk.sync_file(&file, &beside)?;
            self.disk.rename(&beside, path)?;
            self.disk.sync_dir(dir)
        });
        if replaced.is_err() {
            let _nothing_left = self.disk.remove(&beside);
        }
        replaced
    }
}
