//! The end of a WAL: finds its last commit, and archives it as a segment.

use std::{fs::File, path::Path};

use rusqlite::ffi::SQLITE_OK;

use super::{Capture, End, LiveWal, ROOM_MAX, StampLog, copy_log::Place};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    history::{self, IndexWriter, Log},
    layout::ArchiveFile,
    stamps::{Commit, CommitRecord, Generation, LogEnd, Record},
    vfs::{peers::Exclusive, raw_file::RawFile},
    wal::{self, Header, SeenFrames},
};

impl Capture {
    /// The WAL and its header. `None` if it does not belong to the generation.
    pub(super) fn wal_of(&self, generation: &Generation) -> Result<Option<(File, Header)>> {
        if Disk::len(&self.wal)?.is_none() {
            return Ok(None);
        }
        let file = self.disk().open_to_write(&self.wal)?;
        let mut start = [0; wal::HEADER_LEN];
        Disk::read_up_to(&file, &self.wal, &mut start, 0)?;
        let header = Header::parse(&start).filter(|header| header.salts() == generation.salts);
        Ok(header.map(|header| (file, header)))
    }

    /// The WAL, its committed length and its end. `None` if it does not belong to the generation or has no commit.
    pub(super) fn end_of(&self, live: &StampLog, wal: &dyn LiveWal) -> Result<Option<(File, u64, LogEnd)>> {
        let Some((file, header)) = self.wal_of(live.generation())? else { return Ok(None) };
        let len = |end: &LogEnd| wal::len_up_to(end.frame, header.page_size());
        if let SeenFrames::UpTo(frame) = wal.last_frame(live.generation().salts) {
            // Readers see no commit after this frame.
            let Some(frame) = frame else { return Ok(None) };
            let end = history::commit_at(&file, &self.wal, &header, frame)?;
            return Ok(end.map(|end| (file, len(&end), end)));
        }
        if let Some(CommitRecord::Commit(Commit { frame, pages, .. })) =
            live.stamps()?.commits().last().copied()
            && let Some(end) = history::ends_with(&file, &self.wal, &header, frame, pages)?
        {
            return Ok(Some((file, len(&end), end)));
        }
        // The frames after the last stamped commit belong to a transaction that was rolled back, or to a foreign process.
        let Some(log) = Log::read(&file, &self.wal)?.filter(|log| !log.frames.is_empty()) else {
            return Ok(None);
        };
        Ok(Some((file, log.len(), log.end())))
    }

    /// Archives the WAL of a generation as a segment. Returns whether the WAL had a commit.
    ///
    /// The WAL is moved if no foreign process has it open, and copied otherwise: a foreign process would continue to write to the
    /// moved file.
    ///
    /// The end record is written after the segment is renamed to its final name. So a process that is killed between the two
    /// leaves a segment without an end record, never the reverse. The frames of the segment show where it ends.
    pub(super) fn archive(&self, live: &mut StampLog, how: End<'_>, wal: &dyn LiveWal) -> Result<bool> {
        let Some((file, len, end)) = self.end_of(live, wal)? else { return Ok(false) };
        let segment = self.paths.file(live.generation().number, ArchiveFile::Segment);
        match how {
            End::Deleted => {
                self.cut_off_rest(&file, len)?;
                self.disk().rename(&self.wal, &segment)?;
                self.append_end(live, end)?;
                self.rest(live)?;
                self.index(live.generation(), &end, wal);
                return Ok(true);
            }
            End::Restarted { raw, moved } => {
                let mut done = Ok(());
                *moved = wal.exclusively(&mut || {
                    done = self.move_away(&file, len, &segment, raw);
                    done.is_ok()
                });
                done?;
                if *moved != Exclusive::No {
                    self.append_end(live, end)?;
                    self.index(live.generation(), &end, wal);
                    preallocate(len, raw);
                    return Ok(true);
                }
            }
            End::Truncated => {}
        }
        self.copy_log(&file, len, live.generation(), live.stamps()?.last_end(), Place::Exclusive)?;
        self.flush_later(segment);
        // The segment is flushed in every synchronous mode: an end record states that the segment is on disk up to its frame. If a
        // power loss keeps the record and the WAL but not the segment, the next copy would append to a damaged segment.
        self.flush_unsynced()?;
        self.append_end(live, end)?;
        self.index(live.generation(), &end, wal);
        Ok(true)
    }

    /// Writes the index of an archived log if the connections of this process have written all of its frames.
    pub(super) fn index(&self, generation: &Generation, end: &LogEnd, wal: &dyn LiveWal) {
        if let Some(frames) = wal.frames().up_to(generation.salts, end) {
            IndexWriter { disk: self.disk(), paths: &self.paths }.store(generation, end, &frames);
        }
    }

    /// Appends an end record, unless the last record equals it. A repeated end record marks a lost WAL.
    fn append_end(&self, live: &mut StampLog, end: LogEnd) -> Result<()> {
        if live.stamps()?.end() == Some(end) {
            return Ok(());
        }
        self.append(live, Record::End(end))
    }

    pub(super) fn append(&self, live: &mut StampLog, record: Record) -> Result<()> {
        live.append(self.disk(), &self.paths.live_stamps(), record)
    }

    /// Marks a discarded WAL without visible commits so that its stamps are ignored.
    pub(super) fn void(&self, live: &mut StampLog, wal: &dyn LiveWal) -> Result<()> {
        if self.wal_of(live.generation())?.is_some()
            && wal.last_frame(live.generation().salts) == SeenFrames::UpTo(None)
            && !live.stamps()?.commits().is_empty()
        {
            self.append(live, Record::End(LogEnd::EMPTY))?;
        }
        Ok(())
    }

    /// Appends the missing end record of an archived WAL. The process was killed before it wrote the record, or a power loss
    /// reverted the write.
    pub(super) fn recover_end(&self, live: &mut StampLog) -> Result<()> {
        let generation = *live.generation();
        let segment = self.paths.file(generation.number, ArchiveFile::Segment);
        let noted = live.stamps()?.end();
        let noted_len = |end: LogEnd| wal::len_up_to(end.frame, generation.page_size);
        let is_longer = |len: u64| noted.is_none_or(|end| end.frame.is_some() && noted_len(end) < len);
        if Disk::len(&segment)?.is_some_and(is_longer)
            && let Some((_, log)) = Log::open(&segment)?
            && log.salts == generation.salts
            && log.end().frame > noted.and_then(|end| end.frame)
        {
            self.append(live, Record::End(log.end()))?;
        }
        Ok(())
    }

    /// Marks a WAL as lost by repeating its end record, if the end record exists and the segment does not. A power loss reverted
    /// the rename of the WAL into the archive, and a foreign process then deleted the WAL.
    pub(super) fn note_lost_log(&self, live: &mut StampLog) -> Result<()> {
        let sequence = live.generation().number;
        let is_there = |file| Disk::exists(&self.paths.file(sequence, file));
        if let Some(end) = live.stamps()?.end().filter(|end| end.frame.is_some())
            && !is_there(ArchiveFile::Segment)?
            && !is_there(ArchiveFile::Compressed)?
        {
            self.append(live, Record::End(end))?;
        }
        Ok(())
    }

    /// Truncates a WAL after its last commit, which removes rolled-back frames and preallocated zeros.
    fn cut_off_rest(&self, file: &File, len: u64) -> Result<()> {
        if Disk::len(&self.wal)?.is_some_and(|found| found > len) {
            self.disk().set_len(file, &self.wal, len)?;
        }
        Ok(())
    }

    /// Truncates the WAL to its `len` committed bytes, renames it to `segment`, and opens a new file in its place.
    fn move_away(&self, file: &File, len: u64, segment: &Path, raw: &dyn RawFile) -> Result<()> {
        self.cut_off_rest(file, len)?;
        self.disk().rename(&self.wal, segment)?;
        let code = raw.reopen();
        if code == SQLITE_OK {
            return Ok(());
        }
        self.disk().rename(segment, &self.wal)?;
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        let is_full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        let kind = if is_full { ErrorKind::DiskFull } else { ErrorKind::Io };
        let failed = Error::naming(kind, &self.wal, |wal| format!("creating {wal}: {error}"));
        Err(failed.caused_by(error))
    }

    /// Records the state of the database file after the whole WAL was checkpointed.
    pub(super) fn rest(&self, live: &mut StampLog) -> Result<()> {
        match history::state_of(&self.data)? {
            Some(data) => self.append(live, Record::Checkpointed(data)),
            None => Ok(()),
        }
    }
}

/// Preallocates a new WAL of about the length of the previous one. Commits then overwrite zeros, which takes less time than
/// extending a file.
fn preallocate(len: u64, raw: &dyn RawFile) {
    let zeros = vec![0; 64 << 10];
    // One sixteenth less than `len`, so that a slightly shorter WAL need not be truncated.
    let room = (len - len / 16).min(ROOM_MAX);
    for at in (0..room).step_by(zeros.len()) {
        let count = usize::try_from(room - at).unwrap_or(usize::MAX).min(zeros.len());
        if raw.write(&zeros[..count], at) != SQLITE_OK {
            break;
        }
    }
}
