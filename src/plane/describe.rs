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
    description::DatabaseDescription,
    disk::Disk,
    error::Result,
    finding::Finding,
    layout,
    seed::Staged,
    time::Timestamp,
};

/// How many stale descriptions are replaced where a root is opened.
const AT_OPEN: u32 = 64;

/// How long ago a file was changed last that is on the disk by now, in nanoseconds: an hour.
const WRITTEN_AFTER: i64 = 60 * 60 * 1_000_000_000;

/// How often a description is read that differs from its row before that is a finding.
const VERIFY_ATTEMPTS: u32 = 3;

/// Whether a description says what a row says. The name of the group may be an earlier one: renaming a group changes no file
/// of its databases.
fn says(bytes: &[u8], row: &Entry) -> bool {
    DatabaseDescription::parse(bytes).is_ok_and(|mut found| {
        let row = row.description();
        found.group.name.clone_from(&row.group.name);
        found == row
    })
}

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
        let _replaced_later = self.try_describe(uuid);
    }

    fn try_describe(&self, uuid: &str) -> Result<()> {
        self.catalog.write(Durability::Lazy, |rows| self.replace_description(rows, uuid))
    }

    /// Replaces the descriptions that are stale, up to a number that keeps opening a root cheap. Stops at the first that
    /// cannot be replaced now.
    pub(super) fn describe_stale(&self) {
        let stale = self.catalog.read(|rows| rows.stale(AT_OPEN)).unwrap_or_default();
        let _replaced_later = stale.iter().try_for_each(|uuid| self.try_describe(uuid));
    }

    /// Makes sure that a database and its group have descriptions, which those of earlier versions do not, and that they are
    /// on the disk.
    pub(super) fn keep_described(&self, entry: &Entry) -> Result<()> {
        let database = layout::description(&self.place(entry));
        let group = layout::group_description(&self.layout.group(&entry.group_dir));
        let group_row = self.catalog.read(|rows| rows.group_description(&entry.group_id))?;
        let group_row = group_row.map(|(group, _)| group.to_json());
        let database_row = Some(entry.description().to_json());
        for (uuid, path, row) in
            [(&entry.database.id, database, database_row), (&entry.group_id, group, group_row)]
        {
            let now = Timestamp::now().as_micros().saturating_mul(1000);
            let changed_at = Disk::last_change(&path)?.map(|(_, changed_at)| changed_at);
            if Disk::read(&path)? != row || self.catalog.read(|rows| rows.is_stale(uuid))? {
                self.describe(uuid);
            } else if changed_at.is_some_and(|changed_at| changed_at >= now.saturating_sub(WRITTEN_AFTER))
                && let Some(file) = Disk::open(&path)?
            {
                self.disk.sync_file(&file, &path)?;
            }
        }
        Ok(())
    }

    /// Finds a description that does not say what the row of its database says. One that is stale, or that is not there
    /// because an earlier version made the database, is written by the next maintenance and is no finding.
    pub(super) fn verify_description(&self, id: &str) -> Result<Option<Finding>> {
        let mut finding = None;
        // A change that comes between the two reads is in both of the next ones, or marks the description stale.
        for _ in 0..VERIFY_ATTEMPTS {
            let row = self.catalog.read(|rows| Ok((rows.entry_by_id(id)?, rows.is_stale(id)?)))?;
            let (Some(entry), false) = row else { return Ok(None) };
            let path = layout::description(&self.place(&entry));
            match Disk::read(&path)? {
                Some(bytes) if !says(&bytes, &entry) => {
                    let message = "it does not say what the catalog says; the next maintenance replaces it";
                    finding = Some(Finding::new(&path, message));
                }
                _ => return Ok(None),
            }
        }
        Ok(finding)
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
        // Every user that may write to the database may replace its description. Beside a group there is no such file.
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
