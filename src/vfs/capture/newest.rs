//! Which stamps are the newest, whatever a crash, a power loss or damage has left of them.

use super::{Capture, Follows, Live, Relaxed};
use crate::{
    archive::{self, Retained, unwritten},
    disk::{DirLock, Disk},
    error::{Error, ErrorKind, Result},
    layout::{ArchiveFile, ArchivePaths},
};

impl Capture {
    /// The stamps that are the newest; nothing where there are none.
    pub(super) fn open_live(&self) -> Result<Option<Live>> {
        let path = self.paths.live_stamps();
        if Disk::len(&path)?.is_none() && !self.bring_back()? {
            return Ok(None);
        }
        let current = match archive::current_stamps(&self.paths, &self.data) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.set_aside()?;
                None
            }
            // Older ones took the place of the newest.
            Ok(Some((stamps, false)))
                if Disk::exists(&self.paths.file(stamps.generation.sequence, ArchiveFile::Stamps))? =>
            {
                self.set_aside()?;
                None
            }
            current => current?,
        };
        let Some((stamps, newer_are_void)) = current else { return Ok(None) };
        if newer_are_void {
            let numbered = self.paths.file(stamps.generation.sequence, ArchiveFile::Stamps);
            self.disk().rename(&numbered, &path)?;
        }
        if stamps.generation.database != self.history.database {
            return Err(Error::naming(ErrorKind::Corrupt, &path, |file| {
                format!("{file} is of another database: remove its directory")
            }));
        }
        let file = self.disk().open_to_write(&path)?;
        Live::map(&stamps.generation, &file, &path).map(Some)
    }

    /// A crash between two renames leaves the newest stamps under their number. They get their place back.
    fn bring_back(&self) -> Result<bool> {
        if !Disk::exists(self.paths.dir())? {
            return Ok(false);
        }
        let Some(newest) = self.newest()? else { return Ok(false) };
        let numbered = self.paths.file(newest, ArchiveFile::Stamps);
        match archive::read_stamps(&numbered) {
            // One that is damaged stays what it is.
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(false),
            read => read?,
        };
        self.disk().rename(&numbered, &self.paths.live_stamps())?;
        Ok(true)
    }

    /// Damage to the past is no reason to write nothing any more: what is damaged gets the number that it would have got, by
    /// which it is found to be damaged, and a history begins behind it.
    fn set_aside(&self) -> Result<()> {
        let number = self.next_number()?;
        self.disk().rename(&self.paths.live_stamps(), &self.paths.file(number, ArchiveFile::Stamps))
    }

    /// The newest generation whose stamps have its number.
    fn newest(&self) -> Result<Option<u64>> {
        let names = Disk::list(self.paths.dir())?;
        let stamps = names.iter().filter_map(|name| ArchivePaths::parse(name));
        Ok(stamps.filter(|(_, file)| *file == ArchiveFile::Stamps).map(|(sequence, _)| sequence).max())
    }

    /// The number of a generation that goes on from none that is there.
    fn next_number(&self) -> Result<u64> {
        let retained = self.retained()?.map_or(1, |retained| retained.from);
        Ok(self.newest()?.map_or(1, |newest| newest + 1).max(retained))
    }

    /// What the history retains. What is damaged keeps nobody from writing.
    fn retained(&self) -> Result<Option<Retained>> {
        match Retained::read(&self.paths) {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            retained => retained,
        }
    }

    /// Whether a generation is pruned: its history does not go on.
    pub(super) fn is_pruned(&self, live: &Live) -> Result<bool> {
        Ok(self.retained()?.is_some_and(|retained| live.generation().sequence < retained.from))
    }

    /// Keeps the history from being pruned while it is added to.
    pub(super) fn hold(&self) -> Result<Option<DirLock>> {
        Disk::share_dir(self.paths.dir())
    }

    /// How a history begins where no stamps are current: for the first time, or behind what is damaged.
    pub(super) fn begins(&self, after_change: bool) -> Result<Follows> {
        let newest = self.newest()?;
        let mut not_before = self.history.born_at;
        for sequence in newest.into_iter().chain(newest.and_then(|newest| newest.checked_sub(1))) {
            if let Ok(Some(stamps)) = archive::read_stamps(&self.paths.file(sequence, ArchiveFile::Stamps)) {
                not_before = not_before.max(stamps.last_instant());
            }
        }
        let sequence = self.next_number()?;
        let is_as_it_began = || match unwritten::is_as_it_began(&self.data, crate::vfs::apart) {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            is_as_it_began => is_as_it_began,
        };
        let is_born = self.since_birth.load(Relaxed) && sequence == 1 && is_as_it_began()? == Some(true);
        let after_change = after_change || !is_born;
        Ok(Follows { sequence, after_change, not_before, ..Follows::NOTHING })
    }
}
