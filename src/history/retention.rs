//! The first generation that a history retains.
//!
//! Earlier generations are pruned: readers ignore them, whether or not their files have been deleted. The rename of this file
//! into its place is the commit point of pruning. The files are deleted afterwards. Neither the order of the deletions nor a
//! crash between them affects the result of a read.

use super::{checksummed, errors::damaged};
use crate::{
    disk::Disk,
    error::Result,
    layout::ArchivePaths,
    stamps::{Word, low},
    units::GenerationNumber,
};

const MAGIC: Word = Word::from_le_bytes(*b"LFretain");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetentionMark {
    /// The first generation that is retained. If it does not exist yet, nothing is retained.
    pub(crate) from: GenerationNumber,
    /// The id of the database.
    pub(crate) database: u128,
}

impl RetentionMark {
    /// Reads the mark of a database. Returns `None` if its history was never pruned.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::error::ErrorKind::Corrupt) if the file is damaged or belongs to another database.
    pub(crate) fn read(paths: &ArchivePaths, database: u128) -> Result<Option<Self>> {
        let path = paths.retention_mark();
        match checksummed::read(&path)?.as_deref() {
            None => Ok(None),
            Some(&[MAGIC, from, low, high]) => {
                let found = u128::from(low) | u128::from(high) << 64;
                if found != database {
                    return Err(damaged(&path, "it belongs to another database"));
                }
                Ok(Some(Self { from: GenerationNumber::new(from), database }))
            }
            Some(_) => Err(damaged(&path, "invalid header")),
        }
    }

    /// Prunes a history. The mark is durable when this returns.
    pub(super) fn write(&self, disk: &Disk, paths: &ArchivePaths) -> Result<()> {
        let words = [MAGIC, self.from.get(), low(self.database), low(self.database >> 64)];
        let (path, beside) = (paths.retention_mark(), paths.dir().join("retained.new"));
        let file = checksummed::create(disk, &beside, &words, &paths.data())?;
        disk.sync_file(&file, &beside)?;
        disk.rename(&beside, &path)?;
        disk.sync_dir(paths.dir())
    }
}
