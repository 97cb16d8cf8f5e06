//! Finds the newest stamps after a crash, a power loss or damage.

use super::{Capture, Relaxed, StampLog, Successor};
use crate::{
    disk::{DirLock, Disk},
    error::{ErrorKind, Result},
    history::{self, CurrentStamps, RetentionMark, pristine},
    layout::{self, ArchiveFile, ArchivePaths},
    stamps::{Generation, Lineage, Stamps},
    units::{GenerationNumber, Micros},
};

/// The newest stamps in an archive.
enum Newest {
    None,
    Own(StampLog),
    /// They belong to another database.
    Foreign,
}

impl Capture {
    /// Locks the history against pruning, and returns the newest stamps. `None` if no stamps exist.
    ///
    /// The archive of another database is set aside first, so that a new history begins.
    pub(super) fn open(&self) -> Result<(Option<DirLock>, Option<StampLog>)> {
        loop {
            let held = self.hold()?;
            match self.newest_stamps()? {
                Newest::None => return Ok((held, None)),
                Newest::Own(live) => return Ok((held, Some(live))),
                Newest::Foreign => {
                    drop(held);
                    if !self.set_foreign_aside()? {
                        return Ok((self.hold()?, None));
                    }
                }
            }
        }
    }

    /// Locks the history against pruning, and returns the newest stamps of this database. `None` if there are none. An archive of
    /// another database is not changed.
    pub(super) fn open_own(&self) -> Result<(Option<DirLock>, Option<StampLog>)> {
        let held = self.hold()?;
        let newest = self.newest_stamps()?;
        Ok((held, if let Newest::Own(live) = newest { Some(live) } else { None }))
    }

    fn newest_stamps(&self) -> Result<Newest> {
        let path = self.paths.live_stamps();
        if Disk::len(&path)?.is_none() {
            let Some((newest, stamps)) = self.newest_numbered()? else { return Ok(Newest::None) };
            if stamps.generation.database != self.history.database {
                return Ok(Newest::Foreign);
            }
            // A crash between two renames leaves the newest stamps under their number. They become the live stamps again.
            self.disk().rename(&self.paths.file(newest, ArchiveFile::Stamps), &path)?;
        }
        let current = match history::current_stamps(&self.paths, &self.data) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.set_aside()?;
                None
            }
            Ok(Some(current)) if current.stamps.generation.database != self.history.database => {
                return Ok(Newest::Foreign);
            }
            // Older stamps have replaced the newest.
            Ok(Some(CurrentStamps { stamps, newer_are_void: false }))
                if Disk::exists(&self.paths.file(stamps.generation.number, ArchiveFile::Stamps))? =>
            {
                self.set_aside()?;
                None
            }
            current => current?,
        };
        let Some(CurrentStamps { stamps, newer_are_void }) = current else { return Ok(Newest::None) };
        if newer_are_void {
            let numbered = self.paths.file(stamps.generation.number, ArchiveFile::Stamps);
            self.disk().rename(&numbered, &path)?;
        }
        let file = self.disk().open_to_write(&path)?;
        StampLog::map(&stamps.generation, &file, &path).map(Newest::Own)
    }

    /// Sets aside the archive of another database, and removes nothing of it.
    ///
    /// The whole directory is renamed: it may be the only copy of that history. If the archive holds stamps of this database too,
    /// only the live stamps are foreign; they get the next number, as damaged ones do. Returns whether the directory was renamed.
    fn set_foreign_aside(&self) -> Result<bool> {
        let is_own = |sequence: GenerationNumber| {
            let stamps = history::read_stamps(&self.paths.file(sequence, ArchiveFile::Stamps));
            matches!(stamps, Ok(Some(stamps)) if stamps.generation.database == self.history.database)
        };
        if self.numbered()?.into_iter().any(is_own) {
            if Disk::exists(&self.paths.live_stamps())? {
                self.set_aside()?;
            }
            return Ok(false);
        }
        let mut number = 1;
        while Disk::exists(&layout::archive_aside(&self.data, number))? {
            number += 1;
        }
        self.disk().rename(self.paths.dir(), &layout::archive_aside(&self.data, number))?;
        self.make_dir().map(|()| true)
    }

    /// The newest numbered stamps. `None` if none exist or the newest are damaged.
    fn newest_numbered(&self) -> Result<Option<(GenerationNumber, Stamps)>> {
        if !Disk::exists(self.paths.dir())? {
            return Ok(None);
        }
        let Some(newest) = self.newest()? else { return Ok(None) };
        match history::read_stamps(&self.paths.file(newest, ArchiveFile::Stamps)) {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            stamps => Ok(stamps?.map(|stamps| (newest, stamps))),
        }
    }

    /// Gives damaged live stamps the next number, under which they are reported. A new history begins after them, so that damage
    /// does not prevent writes.
    fn set_aside(&self) -> Result<()> {
        let number = self.next_number()?;
        self.disk().rename(&self.paths.live_stamps(), &self.paths.file(number, ArchiveFile::Stamps))
    }

    /// The newest generation with numbered stamps.
    fn newest(&self) -> Result<Option<GenerationNumber>> {
        Ok(self.numbered()?.into_iter().max())
    }

    /// The generations with numbered stamps.
    fn numbered(&self) -> Result<Vec<GenerationNumber>> {
        let names = Disk::list(self.paths.dir())?;
        let files = names.iter().filter_map(|name| ArchivePaths::parse(name));
        Ok(files.filter(|(_, file)| *file == ArchiveFile::Stamps).map(|(sequence, _)| sequence).collect())
    }

    /// The number of a generation that begins a history.
    fn next_number(&self) -> Result<GenerationNumber> {
        let retained = self.retained()?.map_or(GenerationNumber::FIRST, |retained| retained.from);
        let newest = self.newest()?.max(self.newest_packed()?);
        Ok(newest.map_or(GenerationNumber::FIRST, GenerationNumber::next).max(retained))
    }

    /// The newest generation in a pack. Stamps with later numbers exist unless they were lost.
    fn newest_packed(&self) -> Result<Option<GenerationNumber>> {
        let names = Disk::list(self.paths.dir())?;
        Ok(names.iter().filter_map(|name| ArchivePaths::parse_pack(name)).map(|span| span.last).max())
    }

    /// The retention mark of the history. `None` if it does not exist or is damaged, which does not prevent writes.
    fn retained(&self) -> Result<Option<RetentionMark>> {
        match RetentionMark::read(&self.paths, self.history.database) {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            retained => retained,
        }
    }

    /// Whether a generation is pruned, so that the history cannot continue from it.
    pub(super) fn is_pruned(&self, generation: &Generation) -> Result<bool> {
        Ok(self.retained()?.is_some_and(|retained| generation.number < retained.from))
    }

    /// Locks the history against pruning.
    pub(super) fn hold(&self) -> Result<Option<DirLock>> {
        Disk::share_dir(self.paths.dir())
    }

    /// How a history begins if no live stamps exist: for the first time, or after damage.
    pub(super) fn begins(&self, after_gap: bool) -> Result<Successor> {
        let newest = self.newest()?;
        let mut not_before = Micros::new(self.history.born_at);
        for sequence in newest.into_iter().chain(newest.and_then(GenerationNumber::previous)) {
            if let Ok(Some(stamps)) = history::read_stamps(&self.paths.file(sequence, ArchiveFile::Stamps))
                && stamps.generation.database == self.history.database
            {
                not_before = not_before.max(stamps.last_instant());
            }
        }
        let number = self.next_number()?;
        let is_unchanged = || match pristine::is_unchanged(&self.data) {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            is_unchanged => is_unchanged,
        };
        let is_born = self.since_birth.load(Relaxed)
            && number == GenerationNumber::FIRST
            && is_unchanged()? == Some(true);
        let lineage = if after_gap || !is_born { Lineage::AfterGap } else { Lineage::Born };
        Ok(Successor { number, lineage, not_before })
    }
}
