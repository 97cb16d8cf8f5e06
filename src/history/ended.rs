//! How the log of a generation ended, where its stamps alone do not tell.
//!
//! An end record says how a log ended, and that its segment has all of it. The log may go on all the same: it was copied while
//! another program had the database open. Commits with stamps take the end record back. Commits without stamps do not, and
//! neither do those that were copied by a process that was killed before it wrote the next end record. So as long as the log
//! may be longer, its frames tell where it ends, and the record is a lower bound.

use super::{
    salts_of,
    timeline::{Timeline, state_of},
};
use crate::{
    disk::Disk,
    error::{Error, Result},
    layout::{self, ArchiveFile},
    stamps::{LogEnd, Stamps},
    wal::{FRAME_HEADER_LEN, HEADER_LEN},
};

impl Timeline {
    /// The end that the log of a generation must have by its own stamps; `None` if these do not tell, or it may have gone on.
    pub(super) fn fixed_end(&self, stamps: &Stamps) -> Result<Option<LogEnd>> {
        let Some(end) = stamps.end() else { return Ok(None) };
        Ok((!self.may_go_on(stamps, &end)?).then_some(end))
    }

    /// How the log of a generation ended, by its stamps or by its frames; `None` if neither is there to tell.
    pub(super) fn known_end(&self, stamps: &Stamps) -> Result<Option<LogEnd>> {
        let recorded = stamps.end();
        if let Some(end) = self.fixed_end(stamps)? {
            return Ok(Some(end));
        }
        let found = self.source(&stamps.generation, None)?.map(|source| source.log.end());
        Ok(match (recorded, found) {
            (Some(recorded), Some(found)) if found.frame <= recorded.frame => Some(recorded),
            (recorded, found) => found.or(recorded),
        })
    }

    /// Whether the log of a generation may have frames behind its end record.
    fn may_go_on(&self, stamps: &Stamps, end: &LogEnd) -> Result<bool> {
        let Some(len) = log_len(stamps, end) else { return Ok(false) };
        let segment = self.paths.file(stamps.generation.sequence, ArchiveFile::Segment);
        Ok(self.has_live_log(stamps)? || Disk::len(&segment)?.is_some_and(|found| found > len))
    }

    /// Whether the WAL that stands beside the database is that of a generation, which is the newest one.
    fn has_live_log(&self, stamps: &Stamps) -> Result<bool> {
        let is_newest = self.live.as_ref().is_some_and(|live| live.generation == stamps.generation);
        Ok(is_newest && salts_of(&layout::beside(&self.data, "-wal"))? == Some(stamps.generation.salts))
    }

    /// Whether the log of a generation that nobody goes on from was not kept, which makes its commits a gap.
    ///
    /// A segment that was removed later is damage and no gap. As long as the database file is what the rest record says, nobody
    /// has written to it since its log was moved into the archive, and so it is damage. Otherwise that is not known, until
    /// the next generation begins: that notes whether the segment is there.
    pub(super) fn is_written_away(&self, stamps: &Stamps) -> Result<bool> {
        if self.has_segment(stamps)? || self.has_live_log(stamps)? {
            return Ok(false);
        }
        let is_newest = self.live.as_ref().is_some_and(|live| live.generation == stamps.generation);
        Ok(match stamps.end() {
            None => true,
            Some(end) => {
                let is_touched = || Ok::<_, Error>(stamps.rest() != state_of(&self.data)?);
                end.frame > 0 && (stamps.is_log_lost() || is_newest && is_touched()?)
            }
        })
    }

    pub(super) fn has_segment(&self, stamps: &Stamps) -> Result<bool> {
        let is_there = |file| Disk::exists(&self.paths.file(stamps.generation.sequence, file));
        Ok(is_there(ArchiveFile::Segment)? || is_there(ArchiveFile::Compressed)?)
    }
}

/// The length of a log that ended so; `None` if it has no commits.
fn log_len(stamps: &Stamps, end: &LogEnd) -> Option<u64> {
    let frame_len = FRAME_HEADER_LEN as u64 + u64::from(stamps.generation.page_size);
    (end.frame > 0).then(|| HEADER_LEN as u64 + u64::from(end.frame) * frame_len)
}
