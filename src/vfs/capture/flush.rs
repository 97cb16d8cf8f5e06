//! What is on the disk before the WAL is.

use std::path::PathBuf;

use super::{Capture, PoisonError, Relaxed};
use crate::{disk::Disk, error::Result, layout::ArchiveFile, stamps::Generation};

impl Capture {
    /// What another connection may have begun a generation with.
    pub(super) fn flush_all_later(&self, generation: &Generation) {
        for file in [ArchiveFile::Snapshot, ArchiveFile::Sum] {
            self.flush_later(self.paths.file(generation.number, file));
        }
        self.flush_stamps_later(generation);
    }

    /// The live stamps are those of this generation, and are flushed with the WAL.
    pub(super) fn flush_stamps_later(&self, generation: &Generation) {
        self.flush_later(self.paths.live_stamps());
        self.made.store(generation.seed(), Relaxed);
    }

    pub(super) fn flush_later(&self, path: PathBuf) {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    pub(super) fn flush_files(&self, paths: impl IntoIterator<Item = PathBuf>) -> Result<()> {
        for path in paths {
            if let Some(file) = Disk::open(&path)? {
                self.disk().sync_file(&file, &path)?;
            }
        }
        Ok(())
    }

    /// The WAL is about to be flushed: what it may be written over for is flushed first.
    pub(in crate::vfs) fn flush(&self) -> Result<()> {
        self.flushes.store(true, Relaxed);
        self.flush_unsynced()
    }

    pub(super) fn flush_unsynced(&self) -> Result<()> {
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        if unsynced.is_empty() {
            return Ok(());
        }
        self.flush_files(unsynced.iter().cloned())?;
        self.disk().sync_dir(self.paths.dir())?;
        self.flushed.store(self.made.load(Relaxed), Relaxed);
        unsynced.clear();
        Ok(())
    }
}
