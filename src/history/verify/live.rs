//! The log that SQLite writes to.

use super::{Known, Observation, Run, file_name};
use crate::{
    disk::Disk,
    error::Result,
    finding::Finding,
    history::{log::Log, low_sum, state_of},
    layout::{self, ArchiveFile},
    stamps::{CommitRecord, FileState, Record, Slot, Stamps},
    wal::{self, Header},
};

impl Run<'_> {
    /// The log that SQLite writes to, against its stamps: the last frame that is committed in it; nothing if it is not of
    /// this generation.
    pub(super) fn live_log(&mut self, look: &Observation, stamps: &Stamps) -> Result<Option<u32>> {
        let path = layout::beside(self.subject.data, "-wal");
        let salts = stamps.generation.salts;
        // What is known to be committed is found out before the log is read to there.
        let indexed = self.indexed(salts)?;
        let written_before = match stamps.slots.iter().rev().find(|slot| matches!(slot, Slot::Record(_))) {
            Some(Slot::Record(Record::Commit(commit))) => commit.before,
            _ => stamps.end().map_or(0, |end| end.frame),
        };
        let known = indexed.max(written_before);
        let (file, log) = match Log::open(&path)? {
            Some((file, log)) if log.salts == salts => (file, log),
            other => {
                let len = Disk::len(&path)?.unwrap_or(0);
                let has_commits = known > stamps.generation.first_frame || !stamps.made(None).is_empty();
                let is_archived = look.has(stamps.generation.sequence, ArchiveFile::Segment);
                let is_gap = self.was_changed_unseen(stamps.rest().unwrap_or(stamps.generation.data))?
                    || !is_archived && has_commits && len == 0 && self.is_checkpointed(stamps)?;
                if is_gap {
                    return Ok(None);
                }
                if stamps.end().is_none() && has_commits && !(is_archived && len == 0) {
                    let message = match &other {
                        None if len == 0 => {
                            "it is missing, and with it commits that are not in the database file"
                        }
                        None => "it is damaged: its header is none",
                        Some(_) => "another program began it anew, or it is of another database",
                    };
                    self.found(Finding::new(&path, message));
                } else if other.is_some_and(|(_, log)| !log.frames.is_empty())
                    // A connection that keeps no history may have.
                    && self.subject.birth.is_kept_since
                {
                    let message = "another program began it: what stands there is no part of the history yet";
                    self.found(Finding::new(&path, message));
                }
                return Ok(None);
            }
        };
        self.verified.logs += 1;
        let last = log.end().frame.max(known);
        if let Some(header) = Header::parse(&log.start) {
            self.frames(&path, &header, last, |into, at| Disk::read_up_to(&file, &path, into, at))?;
        }
        self.commits(&path, stamps, &log, last);
        Ok(Some(last))
    }

    /// A log whose stamps are not there.
    pub(super) fn unknown_log(&mut self, known: &Known) -> Result<()> {
        let path = layout::beside(self.subject.data, "-wal");
        let Some((_, newest)) = known.last_key_value() else { return Ok(()) };
        // A process that was killed while it began a log anew leaves the one before.
        if let Some((_, log)) = Log::open(&path)?
            && log.salts != newest.generation.salts
            && !log.frames.is_empty()
        {
            let message = format!("it is missing, or another program began {}", file_name(&path));
            self.found(Finding::new(self.paths.live_stamps(), message));
        }
        Ok(())
    }

    /// The last frame that the wal-index knows to be committed to the log with these salts.
    fn indexed(&self, salts: [u8; 8]) -> Result<u32> {
        let path = layout::beside(self.subject.data, "-shm");
        let Some(file) = Disk::open_regular(&path)? else { return Ok(0) };
        let mut head = [0; 2 * wal::INDEX_HEADER_LEN];
        if Disk::read_up_to(&file, &path, &mut head, 0)? < head.len() {
            return Ok(0);
        }
        Ok(wal::indexed(&head).filter(|(_, of)| *of == salts).map_or(0, |(frame, _)| frame))
    }

    /// Whether the database file may have been written while no history was kept, since it was in a state: that is no damage.
    pub(super) fn was_changed_unseen(&self, since: FileState) -> Result<bool> {
        Ok(!self.subject.birth.is_kept_since && state_of(self.subject.data)? != Some(since))
    }

    /// Whether the last commit of a log that is gone stands in the database file: another program has checkpointed the log
    /// and deleted it, and no commit is lost.
    fn is_checkpointed(&mut self, stamps: &Stamps) -> Result<bool> {
        let data = self.subject.data;
        let last = stamps.made(None).into_iter().rev().find_map(|made| match made {
            CommitRecord::Commit(commit) => Some(commit),
            CommitRecord::Unstamped { .. } => None,
        });
        let Some(last) = last.filter(|commit| commit.sum != 0) else { return Ok(false) };
        let Some(file) = Disk::open_regular(data)? else { return Ok(false) };
        let mut page = vec![0; stamps.generation.page_size as usize];
        let mut at = 0;
        while Disk::read_up_to(&file, data, &mut page, at)? == page.len() {
            if low_sum(&page) == last.sum {
                return Ok(true);
            }
            at += page.len() as u64;
            self.read(page.len() as u64)?;
        }
        Ok(false)
    }
}
