//! Flushes the files that must be on disk before the WAL.

use std::path::PathBuf;

use super::{Capture, Relaxed};
use crate::{disk::Disk, error::Result, layout::ArchiveFile, stamps::Generation};

impl Capture {
    /// Flushes with the WAL all files of a generation that another connection may have begun.
    pub(super) fn flush_all_later(&self, generation: &Generation) {
        for file in ArchiveFile::OF_SNAPSHOT {
            self.flush_later(self.paths.file(generation.number, file));
        }
        self.flush_stamps_later(generation);
    }

    /// Flushes the live stamps with the WAL. They are those of `generation`.
    pub(super) fn flush_stamps_later(&self, generation: &Generation) {
        self.flush_later(self.paths.live_stamps());
        self.made.store(generation.seed(), Relaxed);
    }

    pub(super) fn flush_later(&self, path: PathBuf) {
        self.unsynced.lock_or_recover().push(path);
    }

    /// Flushes files. A file that does not exist is left out. The connection latches if a flush fails.
    pub(super) fn flush_files(&self, paths: impl IntoIterator<Item = PathBuf>) -> Result<()> {
        for path in paths {
            if let Some(file) = Disk::open(&path)? {
                self.check_flush(self.disk().sync_file(&file, &path))?;
            }
        }
        Ok(())
    }

    /// Runs before the WAL is flushed, and flushes the files that must be on disk first.
    pub(in crate::vfs) fn flush(&self) -> Result<()> {
        self.flushes.store(true, Relaxed);
        self.flush_unsynced()
    }

    pub(super) fn flush_unsynced(&self) -> Result<()> {
        let mut unsynced = self.unsynced.lock()?;
        if unsynced.is_empty() {
            return Ok(());
        }
        self.flush_files(unsynced.iter().cloned())?;
        self.check_flush(self.disk().sync_dir(self.paths.dir()))?;
        self.known().set_flushed(self.made.load(Relaxed));
        unsynced.clear();
        Ok(())
    }

    fn check_flush(&self, flushed: Result<()>) -> Result<()> {
        if let Err(error) = &flushed {
            self.latch.flush_failed("the history", error.message());
        }
        flushed
    }
}
