//! From which generation on a history is retained.
//!
//! What lies before that is pruned: for every reader it is not there, whether or not its files are removed yet. So the one
//! rename that puts this file in its place is the step by which a history is pruned, and what follows it, in any order and
//! with any crash in between, changes no answer.

use super::{checksummed, damaged};
use crate::{
    disk::Disk,
    error::Result,
    layout::ArchivePaths,
    stamps::{Word, low},
};

const MAGIC: Word = Word::from_le_bytes(*b"LFretain");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetentionMark {
    /// The first generation that is retained. There need not be one yet: then nothing is.
    pub(crate) from: u64,
    /// The id of the database.
    pub(crate) database: u128,
}

impl RetentionMark {
    /// What the history of a database retains; `None` if it was never pruned.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::error::ErrorKind::Corrupt) if the file is damaged or belongs to another database.
    pub(crate) fn read(paths: &ArchivePaths, database: u128) -> Result<Option<Self>> {
        let path = paths.retained();
        match checksummed::read(&path)?.as_deref() {
            None => Ok(None),
            // The two halves of the id come last.
            Some(&[MAGIC, from, low, high]) => {
                let found = Self { from, database: u128::from(low) | u128::from(high) << 64 };
                let is_own = found.database == database;
                is_own.then_some(Some(found)).ok_or_else(|| damaged(&path, "it is that of another database"))
            }
            Some(_) => Err(damaged(&path, "it holds something else")),
        }
    }

    /// Prunes a history: on the disk when this returns.
    pub(super) fn write(&self, disk: &Disk, paths: &ArchivePaths) -> Result<()> {
        let words = [MAGIC, self.from, low(self.database), low(self.database >> 64)];
        let (path, beside) = (paths.retained(), paths.dir().join("retained.new"));
        let file = checksummed::write_beside(disk, &beside, &words, &paths.data())?;
        disk.sync_file(&file, &beside)?;
        disk.rename(&beside, &path)?;
        disk.sync_dir(paths.dir())
    }
}
