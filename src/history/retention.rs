//! The first generation that a history retains.
//!
//! Earlier generations are pruned: readers ignore them, whether or not their files have been deleted. The rename of this file
//! into its place is the commit point of pruning. The files are deleted afterwards. Neither the order of the deletions nor a
//! crash between them affects the result of a read.
//!
//! A second file has the generation that became the first one because the history exceeded its limit. It is written before the
//! first file, and only explains it: if the generations differ, the window determined the first one.

use std::path::{Path, PathBuf};

use super::{checksummed, errors::damaged};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    layout::{ArchivePaths, beside},
    point::PruneReason,
    stamps::{Word, low},
    units::GenerationNumber,
};

const MAGIC: Word = Word::from_le_bytes(*b"LFretain");
const LIMIT_MAGIC: Word = Word::from_le_bytes(*b"LFlimits");

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
    /// [`ErrorKind::Corrupt`] if the file is damaged or belongs to another database.
    pub(crate) fn read(paths: &ArchivePaths, database: u128) -> Result<Option<Self>> {
        Self::read_from(&paths.retention_mark(), MAGIC, database)
    }

    fn read_from(path: &Path, magic: Word, database: u128) -> Result<Option<Self>> {
        match checksummed::read(path)?.as_deref() {
            None => Ok(None),
            Some(&[found, from, low, high]) if found == magic => {
                let found = u128::from(low) | u128::from(high) << 64;
                if found != database {
                    return Err(damaged(path, "it belongs to another database"));
                }
                Ok(Some(Self { from: GenerationNumber::new(from), database }))
            }
            Some(_) => Err(damaged(path, "invalid header")),
        }
    }

    /// Why the history begins at this generation.
    pub(super) fn reason(&self, paths: &ArchivePaths) -> Result<PruneReason> {
        match Self::read_from(&paths.limit_mark(), LIMIT_MAGIC, self.database) {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(PruneReason::Window),
            limited => Ok(if limited? == Some(*self) { PruneReason::Limit } else { PruneReason::Window }),
        }
    }

    /// Prunes a history. The mark is durable when this returns.
    pub(super) fn write(&self, reason: PruneReason, disk: &Disk, paths: &ArchivePaths) -> Result<()> {
        if reason == PruneReason::Limit {
            self.write_to(paths.limit_mark(), LIMIT_MAGIC, disk, paths)?;
        }
        self.write_to(paths.retention_mark(), MAGIC, disk, paths)?;
        disk.sync_dir(paths.dir())
    }

    fn write_to(&self, path: PathBuf, magic: Word, disk: &Disk, paths: &ArchivePaths) -> Result<()> {
        let words = [magic, self.from.get(), low(self.database), low(self.database >> 64)];
        let staged = beside(&path, ".new");
        let file = checksummed::create(disk, &staged, &words, &paths.data())?;
        disk.sync_file(&file, &staged)?;
        disk.rename(&staged, &path)
    }
}
