//! How a WAL ends, and what is kept of it.

use std::{fs::File, path::Path};

use rusqlite::ffi::SQLITE_OK;

use super::{Capture, End, LastFrame, ROOM_MAX, Relaxed, StampLog, copy_log::Place};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    history::{self, Log},
    layout::ArchiveFile,
    stamps::{Commit, CommitRecord, Generation, LogEnd, Record},
    vfs::raw_file::{Exclusive, RawFile},
    wal::{self, Header, SeenFrames},
};

impl Capture {
    /// The WAL, if it is that of a generation.
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

    /// The WAL, if it is that of a generation and has commits: how it ends.
    pub(super) fn end_of(
        &self,
        live: &StampLog,
        last_frame: &LastFrame<'_>,
    ) -> Result<Option<(File, u64, Record)>> {
        let Some((file, header)) = self.wal_of(live.generation())? else { return Ok(None) };
        let len = |end: &LogEnd| wal::len_up_to(end.frame, header.page_size());
        if let SeenFrames::UpTo(frame) = last_frame(live.generation().salts) {
            // No commit behind it is visible.
            let Some(frame) = frame else { return Ok(None) };
            let end = history::commit_at(&file, &self.wal, &header, frame)?;
            return Ok(end.map(|end| (file, len(&end), Record::End(end))));
        }
        if let Some(CommitRecord::Commit(Commit { frame, pages, .. })) =
            live.stamps()?.commits().last().copied()
            && let Some(end) = history::ends_with(&file, &self.wal, &header, frame, pages)?
        {
            return Ok(Some((file, len(&end), Record::End(end))));
        }
        // Behind the last stamp stands a transaction that was rolled back, or a commit of somebody else's.
        let Some(log) = Log::read(&file, &self.wal)?.filter(|log| !log.frames.is_empty()) else {
            return Ok(None);
        };
        Ok(Some((file, log.len(), Record::End(log.end()))))
    }

    /// Keeps the WAL of a generation as a segment, and says whether there was anything to keep.
    ///
    /// It is moved where no other connection has it open, and copied otherwise: a program that knows nothing of this would
    /// go on writing to the file that it has open.
    ///
    /// The end record is written when the segment is in its place: a process that is killed in between leaves a log whose
    /// end its frames tell, and never an end record without a segment.
    pub(super) fn archive(
        &self,
        live: &mut StampLog,
        how: End<'_>,
        last_frame: &LastFrame<'_>,
    ) -> Result<bool> {
        let Some((file, len, end)) = self.end_of(live, last_frame)? else { return Ok(false) };
        let segment = self.paths.file(live.generation().number, ArchiveFile::Segment);
        let is_cut = matches!(how, End::Cut);
        match how {
            End::Deleted => {
                self.cut_off_rest(&file, len)?;
                self.disk().rename(&self.wal, &segment)?;
                self.append_end(live, end)?;
                self.rest(live)?;
                return Ok(true);
            }
            End::Begun(beneath, moved) => {
                let mut done = Ok(());
                let alone = beneath.alone(&mut || {
                    done = self.move_away((&file, len), &segment, beneath);
                    done.is_ok()
                });
                done?;
                *moved = alone;
                if alone != Exclusive::No {
                    self.append_end(live, end)?;
                    make_room(len, beneath);
                    return Ok(true);
                }
            }
            End::Cut => {}
        }
        self.copy_log(&file, len, live.generation(), live.stamps()?.last_end(), Place::Exclusive)?;
        self.flush_later(segment);
        // What is written over stands nowhere else. Who never flushes anything does not wait for this either; but no flush
        // comes between this and a cut, which may be the first that a connection does.
        if is_cut || self.flushes.load(Relaxed) {
            self.flush()?;
        }
        self.append_end(live, end)?;
        Ok(true)
    }

    /// Appends an end record, unless it is there: twice, it would say that the log is lost.
    fn append_end(&self, live: &mut StampLog, end: Record) -> Result<()> {
        if live.stamps()?.end().map(Record::End) == Some(end) {
            return Ok(());
        }
        self.append(live, end)
    }

    pub(super) fn append(&self, live: &mut StampLog, record: Record) -> Result<()> {
        live.append(self.disk(), &self.paths.live_stamps(), record)
    }

    /// Notes of a WAL that goes, and of which nobody has seen a commit, that the stamps of it tell of none.
    pub(super) fn void(&self, live: &mut StampLog, last_frame: &LastFrame<'_>) -> Result<()> {
        if self.wal_of(live.generation())?.is_some()
            && last_frame(live.generation().salts) == SeenFrames::UpTo(None)
            && !live.stamps()?.commits().is_empty()
        {
            self.append(live, Record::End(LogEnd::EMPTY))?;
        }
        Ok(())
    }

    /// Notes how an archived log ended if its stamps do not say it: the process was killed before it wrote that, or the power
    /// took it.
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

    /// Notes that the log of a generation is not there, though its end record says that it was kept, by writing that record
    /// again: the power took the move of the log into the archive, and another program has deleted it since.
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

    /// Cuts off what stands behind the last commit of a WAL that ends: what was rolled back, or the room that was made.
    fn cut_off_rest(&self, file: &File, len: u64) -> Result<()> {
        if Disk::len(&self.wal)?.is_some_and(|found| found > len) {
            self.disk().set_len(file, &self.wal, len)?;
        }
        Ok(())
    }

    /// Moves the WAL, of which so many bytes are committed, into the archive, and begins a new file in its place.
    fn move_away(&self, (file, len): (&File, u64), segment: &Path, beneath: &dyn RawFile) -> Result<()> {
        self.cut_off_rest(file, len)?;
        self.disk().rename(&self.wal, segment)?;
        let code = beneath.begin_anew();
        if code == SQLITE_OK {
            return Ok(());
        }
        self.disk().rename(segment, &self.wal)?;
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        let is_full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        let kind = if is_full { ErrorKind::DiskFull } else { ErrorKind::Io };
        let failed = Error::naming(kind, &self.wal, |wal| format!("beginning {wal} anew: {error}"));
        Err(failed.caused_by(error))
    }

    /// Notes how the database file is, in which the whole WAL stands by now.
    pub(super) fn rest(&self, live: &mut StampLog) -> Result<()> {
        match history::state_of(&self.data)? {
            Some(data) => self.append(live, Record::Checkpointed(data)),
            None => Ok(()),
        }
    }
}

/// Makes room in a new WAL for as much as the one before it had, so that commits write over what is there, as they do in a
/// WAL that is used again: that takes less time than to make a file longer.
fn make_room(len: u64, beneath: &dyn RawFile) {
    let zeros = vec![0; 64 << 10];
    // A little less, so that it need not be cut off again if the next log is a little shorter.
    let room = (len - len / 16).min(ROOM_MAX);
    for at in (0..room).step_by(zeros.len()) {
        let count = usize::try_from(room - at).unwrap_or(usize::MAX).min(zeros.len());
        if beneath.write(&zeros[..count], at) != SQLITE_OK {
            break;
        }
    }
}
