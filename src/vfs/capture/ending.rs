//! How a WAL ends, and what is kept of it.

use std::{fs::File, path::Path};

use rusqlite::ffi::SQLITE_OK;

use super::{Capture, End, LastFrame, Live, ROOM_MAX, Relaxed};
use crate::{
    archive::{self, Log},
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::ArchiveFile,
    stamps::{Commit, LogEnd, Made, Record},
    vfs::beneath::{Alone, Beneath},
    wal::{self, Header},
};

impl Capture {
    /// The WAL, if it is that of a generation.
    fn wal_of(&self, live: &Live) -> Result<Option<(File, Header)>> {
        if Disk::len(&self.wal)?.is_none() {
            return Ok(None);
        }
        let file = self.disk().open_to_write(&self.wal)?;
        let mut start = [0; wal::HEADER_LEN];
        Disk::read_up_to(&file, &self.wal, &mut start, 0)?;
        let header = Header::parse(&start).filter(|header| header.salts() == live.generation().salts);
        Ok(header.map(|header| (file, header)))
    }

    /// The WAL, if it is that of a generation and has commits: how it ends.
    pub(super) fn end_of(
        &self,
        live: &Live,
        last_frame: &LastFrame<'_>,
    ) -> Result<Option<(File, u64, Record)>> {
        let Some((file, header)) = self.wal_of(live)? else { return Ok(None) };
        let len = |frame: u32| wal::HEADER_LEN as u64 + u64::from(frame) * header.frame_len() as u64;
        let known = last_frame(live.generation().salts);
        if let Some(frame) = known {
            // What stands behind it nobody has seen.
            let end = archive::commit_at(&file, &self.wal, &header, frame)?;
            return Ok(end.map(|(pages, checksum)| {
                (file, len(frame), Record::End(LogEnd { frame, pages, checksum }))
            }));
        }
        if let Some(Made::Commit(Commit { frame, pages, .. })) = live.stamps()?.made(None).last().copied()
            && let Some(checksum) = archive::ends_with(&file, &self.wal, &header, frame, pages)?
        {
            return Ok(Some((file, len(frame), Record::End(LogEnd { frame, pages, checksum }))));
        }
        // Behind the last stamp stands a transaction that was rolled back, or a commit of somebody else's.
        let Some(log) = Log::read(&file, &self.wal)?.filter(|log| !log.frames.is_empty()) else {
            return Ok(None);
        };
        let frame = u32::try_from(log.frames.len()).unwrap_or(u32::MAX);
        let end = Record::End(LogEnd { frame, pages: log.pages(), checksum: log.checksum });
        Ok(Some((file, log.len(), end)))
    }

    /// Keeps the WAL of a generation as a segment, and says whether there was anything to keep.
    ///
    /// It is moved where no other connection has it open, and copied otherwise: a program that knows nothing of this would
    /// go on writing to the file that it has open.
    pub(super) fn archive(&self, live: &mut Live, how: End<'_>, last_frame: &LastFrame<'_>) -> Result<bool> {
        let Some((file, len, end)) = self.end_of(live, last_frame)? else { return Ok(false) };
        live.append(self.disk(), &self.paths.live_stamps(), end)?;
        let segment = self.paths.file(live.generation().sequence, ArchiveFile::Segment);
        let is_cut = matches!(how, End::Cut);
        match how {
            End::Deleted => {
                self.rest(live)?;
                self.cut_off_rest(&file, len)?;
                self.disk().rename(&self.wal, &segment)?;
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
                if alone != Alone::No {
                    make_room(len, beneath);
                    return Ok(true);
                }
            }
            End::Cut => {}
        }
        let beside = self.paths.dir().join("segment.new");
        self.disk().remove(&beside)?;
        let copy = self.disk().create_like(&beside, &self.data)?;
        if self.disk().clone_file(&file, &copy, &beside)? {
            self.disk().set_len(&copy, &beside, len)?;
        } else if self.disk().copy(&file, &copy, &beside, len, |_| true)? < len {
            return Err(Error::naming(ErrorKind::Io, &self.wal, |wal| {
                format!("{wal} was cut while it was copied")
            }));
        }
        self.disk().rename(&beside, &segment)?;
        self.flush_later(segment);
        // What is written over stands nowhere else. Who never flushes anything does not wait for this either; but no flush
        // comes between this and a cut, which may be the first that a connection does.
        if is_cut || self.flushes.load(Relaxed) {
            self.flush()?;
        }
        Ok(true)
    }

    /// Notes of a WAL that goes, and of which nobody has seen a commit, that the stamps of it tell of none.
    pub(super) fn void(&self, live: &mut Live, last_frame: &LastFrame<'_>) -> Result<()> {
        if self.wal_of(live)?.is_some()
            && last_frame(live.generation().salts) == Some(0)
            && !live.stamps()?.made(None).is_empty()
        {
            live.append(self.disk(), &self.paths.live_stamps(), Record::End(LogEnd::NONE))?;
        }
        Ok(())
    }

    /// Notes how an archived log ended whose stamps do not say it any more, since the power took that.
    pub(super) fn recover_end(&self, live: &mut Live) -> Result<()> {
        let segment = self.paths.file(live.generation().sequence, ArchiveFile::Segment);
        if live.stamps()?.end().is_none()
            && let Some((_, log)) = Log::open(&segment)?
            && log.salts == live.generation().salts
            && !log.frames.is_empty()
        {
            live.append(self.disk(), &self.paths.live_stamps(), Record::End(log.end()))?;
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
    fn move_away(&self, (file, len): (&File, u64), segment: &Path, beneath: &dyn Beneath) -> Result<()> {
        self.cut_off_rest(file, len)?;
        self.disk().rename(&self.wal, segment)?;
        let code = beneath.begin_anew();
        if code == SQLITE_OK {
            return Ok(());
        }
        self.disk().rename(segment, &self.wal)?;
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        Err(Error::naming(ErrorKind::Io, &self.wal, |wal| format!("beginning {wal} anew: {error}")))
    }

    /// Notes how the database file is, in which the whole WAL stands by now.
    pub(super) fn rest(&self, live: &mut Live) -> Result<()> {
        match archive::state_of(&self.data)? {
            Some(data) => live.append(self.disk(), &self.paths.live_stamps(), Record::Rest(data)),
            None => Ok(()),
        }
    }
}

/// Makes room in a new WAL for as much as the one before it had, so that commits write over what is there, as they do in a
/// WAL that is used again: that takes less time than to make a file longer.
fn make_room(len: u64, beneath: &dyn Beneath) {
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
