//! Writes the description files of databases and groups.
//!
//! The first description of a database is written into its staged directory, before the rename into its place. A later change
//! marks the description stale in the transaction that changes the row. A second transaction then replaces the description, so
//! that the later of two changes is described. The next call that opens the root or maintains the database replaces a
//! description that a crash or a full disk left stale.

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

/// The maximum number of stale descriptions replaced when a root is opened.
const AT_OPEN: u32 = 64;

/// The age in nanoseconds after which a file is assumed to be flushed by the system: one hour.
const WRITTEN_AFTER: i64 = 60 * 60 * 1_000_000_000;

/// The number of attempts to read a description that agrees with its row.
const VERIFY_ATTEMPTS: u32 = 3;

/// Returns whether a description agrees with a row. The name of the group may be an earlier one, because renaming a group
/// changes no file of its databases.
fn agrees(bytes: &[u8], row: &Entry) -> bool {
    DatabaseDescription::parse(bytes).is_ok_and(|mut found| {
        let row = row.description();
        found.group.name.clone_from(&row.group.name);
        found == row
    })
}

impl Plane {
    /// Describes a database that is about to be published. The file is not flushed, which saves one flush per database: the
    /// system flushes it within half a minute, and maintenance flushes it otherwise.
    pub(super) fn describe_staged(&self, staged: &Staged, entry: &Entry) -> Result<()> {
        let path = layout::description(&staged.dir);
        // An earlier attempt may have left one.
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

    /// Replaces stale descriptions, up to a number that keeps opening a root cheap. Stops at the first failure.
    pub(super) fn describe_stale(&self) {
        let stale = self.catalog.read(|rows| rows.stale(AT_OPEN)).unwrap_or_default();
        let _replaced_later = stale.iter().try_for_each(|uuid| self.try_describe(uuid));
    }

    /// Ensures that a database and its group have flushed descriptions. Those of earlier versions have none.
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

    /// Finds a description that disagrees with the row of its database. A description that is stale, or missing because an
    /// earlier version created the database, is not a finding: the next maintenance writes it.
    pub(super) fn verify_description(&self, id: &str) -> Result<Option<Finding>> {
        let mut finding = None;
        // A change between the two reads is visible to both of the next reads, or marks the description stale.
        for _ in 0..VERIFY_ATTEMPTS {
            let row = self.catalog.read(|rows| Ok((rows.entry_by_id(id)?, rows.is_stale(id)?)))?;
            let (Some(entry), false) = row else { return Ok(None) };
            let path = layout::description(&self.place(&entry));
            match Disk::read(&path)? {
                Some(bytes) if !agrees(&bytes, &entry) => {
                    let message = "it differs from the catalog; the next maintenance replaces it";
                    finding = Some(Finding::new(&path, message));
                }
                _ => return Ok(None),
            }
        }
        Ok(finding)
    }

    fn replace_description(&self, rows: &Rows<'_>, uuid: &str) -> Result<()> {
        if let Some(entry) = rows.entry_by_id(uuid)? {
            // Only a ready database has its directory in place, and this transaction keeps it there.
            if entry.state != State::Ready {
                return Ok(());
            }
            let place = self.place(&entry);
            self.replace_file(&place, &layout::description(&place), &entry.description().to_json())?;
        } else if let Some((group, dir)) = rows.group_description(uuid)? {
            let dir = self.layout.group(&dir);
            // The first database of the group creates the directory and its description.
            if Disk::exists(&dir)? {
                self.replace_file(&dir, &layout::group_description(&dir), &group.to_json())?;
            }
        }
        rows.clear_stale(uuid)
    }

    /// Replaces a file atomically and flushes it. The caller holds a write transaction of the catalog, so no other process writes
    /// the temporary file; an existing one is left from a killed process.
    fn replace_file(&self, dir: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
        let beside = layout::beside(path, ".new");
        self.disk.remove(&beside)?;
        // Every user that may write to the database may replace its description. A group has no such file.
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
