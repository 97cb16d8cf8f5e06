//! Copies of a WAL that cannot be moved, because a foreign process has it open.
//!
//! When the last connection of this process closes while a foreign process has the database open, the WAL stays. That process may
//! close last: its SQLite then checkpoints and deletes the WAL without this VFS. So all committed frames are copied into the
//! archive before this process closes the WAL.
//!
//! Only the frames after the last copy are appended to the segment. The end record is written after they are flushed. So after a
//! power loss the segment is intact up to its newest end record, and the frames after that are copied again. Committed frames do
//! not change until the WAL restarts, which the caller prevents. [`Capture::keep`] detects a program that ignores SQLite's locks.

use std::{fs::File, path::Path};

use super::{Capture, LiveWal};
use crate::{
    disk::{Disk, FileCopy},
    error::{Error, ErrorKind, Result},
    history::{self, Log},
    layout::ArchiveFile,
    stamps::{Generation, LogEnd, Record},
    wal::{self, Header, SeenFrames},
};

/// The number of bytes that are copied at a time.
const STEP: usize = 1 << 20;

/// Whether other processes may write to the same segment during the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// They cannot, because the caller holds the write lock of the WAL.
    Exclusive,
    /// They may write identical frames at identical offsets. A new copy is written under this name and then renamed.
    Shared(&'a str),
}

impl Capture {
    /// Copies the frames that were committed to the WAL since the last copy into the archive.
    ///
    /// The caller prevents restarts of the WAL. A change of the WAL during the copy is an error. An end record is written only if `is_exclusive`, which means that no
    /// other connection writes to the WAL and its stamps.
    pub(in crate::vfs) fn keep(&self, wal: &dyn LiveWal, is_exclusive: bool) -> Result<()> {
        if !self.is_in_place() {
            return Ok(());
        }
        *self.live.lock()? = None;
        let held = self.hold()?;
        let current = match history::current_stamps(&self.paths, &self.data) {
            // The next writer begins a new history after the damage.
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(()),
            current => current?,
        };
        let current = current.map(|current| current.stamps);
        let Some(stamps) = current.filter(|stamps| self.is_own(&stamps.generation)) else { return Ok(()) };
        let generation = stamps.generation;
        if self.is_pruned(&generation)? {
            return Ok(());
        }
        let Some((file, header)) = self.wal_of(&generation)? else { return Ok(()) };
        let SeenFrames::UpTo(Some(frame)) = wal.last_frame(generation.salts) else { return Ok(()) };
        if Some(frame) <= generation.base_frame {
            return Ok(());
        }
        let Some(end) = history::commit_at(&file, &self.wal, &header, frame)? else { return Ok(()) };
        let copied = stamps.last_end();
        let segment = self.paths.file(generation.number, ArchiveFile::Segment);
        if copied == Some(end) && stamps.end().is_some() && Disk::exists(&segment)? {
            return Ok(());
        }
        // If no random bytes are available, two processes may choose equal names. The segment is verified before it is used.
        let beside = format!("segment-{:016x}.new", getrandom::u64().unwrap_or_default());
        let place = if is_exclusive { Place::Exclusive } else { Place::Shared(&beside) };
        let len = wal::len_up_to(end.frame, header.page_size());
        self.copy_log(&file, len, &generation, copied, place)?;
        let is_same = history::commit_at(&file, &self.wal, &header, frame)? == Some(end);
        if !is_same || self.wal_of(&generation)?.is_none() {
            return Err(in_use());
        }
        self.flush_later(segment);
        self.flush()?;
        drop(held);
        if is_exclusive
            && let (_held, Some(mut live)) = self.open_own()?
            && *live.generation() == generation
        {
            self.append(&mut live, Record::End(end))?;
            self.index(&generation, &end, wal);
        }
        Ok(())
    }

    /// Copies the first `len` bytes of a WAL to its segment. If the segment has the frames up to the end record `copied`, only
    /// the frames after it are copied. Otherwise all frames are copied to a temporary file, which is then renamed.
    pub(super) fn copy_log(
        &self,
        file: &File,
        len: u64,
        generation: &Generation,
        copied: Option<LogEnd>,
        place: Place<'_>,
    ) -> Result<()> {
        let segment = self.paths.file(generation.number, ArchiveFile::Segment);
        let cut = || {
            Error::naming(ErrorKind::Io, &self.wal, |log| format!("{log} was truncated while it was copied"))
        };
        if let Some(from) = self.copied_len(file, generation, copied, place)? {
            let copy = self.disk().open_to_write(&segment)?;
            let mut buffer = Vec::new();
            let mut at = from;
            while at < len {
                buffer.resize(usize::try_from(len - at).unwrap_or(STEP).min(STEP), 0);
                if Disk::read_up_to(file, &self.wal, &mut buffer, at)? < buffer.len() {
                    return Err(cut());
                }
                self.disk().write_at(&copy, &segment, &buffer, at)?;
                at += buffer.len() as u64;
            }
            // An interrupted copy may have left a longer segment.
            if place == Place::Exclusive && Disk::len(&segment)?.is_some_and(|found| found > len.max(from)) {
                self.disk().set_len(&copy, &segment, len.max(from))?;
            }
            return Ok(());
        }
        let beside = match place {
            Place::Exclusive => "segment.new",
            // Another process may have created the segment and written an end record, which must stay valid.
            Place::Shared(_) if Disk::exists(&segment)? => return Err(in_use()),
            Place::Shared(beside) => beside,
        };
        let beside = self.paths.dir().join(beside);
        self.disk().remove(&beside)?;
        let copied = self.disk().create_like(&beside, &self.data).and_then(|copy| {
            if self.disk().clone_file(file, &copy, &beside)? {
                self.disk().set_len(&copy, &beside, len)?;
            } else if self.disk().copy(FileCopy { from: file, to: &copy, to_path: &beside, len }, |_| true)?
                < len
            {
                return Err(cut());
            }
            match place {
                Place::Exclusive => self.disk().rename(&beside, &segment),
                // A shared segment is never replaced after the rename, so it is flushed before the rename.
                Place::Shared(_) => {
                    self.disk().sync_file(&copy, &beside)?;
                    self.disk().rename_new(&beside, &segment)
                }
            }
        });
        copied.map_err(|error| {
            let _removed_by_maintenance = self.disk().remove(&beside);
            let is_taken = place != Place::Exclusive && error.kind() == ErrorKind::AlreadyExists;
            if is_taken { in_use() } else { error }
        })
    }

    /// The length of the prefix of a WAL that its segment contains. `None` if no valid segment exists.
    ///
    /// The segment is flushed up to the end record `copied`. Without such a record an exclusive caller replaces the segment. In a
    /// shared segment, the frames show where it ends.
    ///
    /// The WAL and the segment must both contain the frame of `copied`. The checksum of that frame covers all frames before it. A
    /// WAL that lost its end in a power loss may contain other frames at these offsets.
    fn copied_len(
        &self,
        file: &File,
        generation: &Generation,
        copied: Option<LogEnd>,
        place: Place<'_>,
    ) -> Result<Option<u64>> {
        let path = self.paths.file(generation.number, ArchiveFile::Segment);
        let Some(segment) = Disk::open_regular(&path)? else { return Ok(None) };
        let read = || Ok::<_, Error>(Log::read(&segment, &path)?.map(|log| log.end()));
        let end = match copied.filter(|end| end.frame.is_some()) {
            None if place != Place::Exclusive => read()?,
            copied => copied,
        };
        let Some((end, frame)) = end.and_then(|end| Some((end, end.frame?))) else { return Ok(None) };
        let (mut ours, mut theirs) = ([0; wal::HEADER_LEN], [0; wal::HEADER_LEN]);
        Disk::read_up_to(&segment, &path, &mut ours, 0)?;
        Disk::read_up_to(file, &self.wal, &mut theirs, 0)?;
        let Some(header) = Header::parse(&ours).filter(|_| ours == theirs) else { return Ok(None) };
        let has_end = |file: &File, path: &Path| {
            Ok::<_, Error>(history::commit_at(file, path, &header, frame)? == Some(end))
        };
        let len = wal::len_up_to(end.frame, header.page_size());
        let is_copied =
            has_end(&segment, &path)? && has_end(file, &self.wal)? && Disk::len(&path)? >= Some(len);
        Ok(is_copied.then_some(len))
    }

    fn is_own(&self, generation: &Generation) -> bool {
        generation.database == self.history.database
    }
}

#[cold]
fn in_use() -> Error {
    let message = "another program writes to the log, or to its copy in the archive, at the same time";
    Error::new(ErrorKind::Busy, message)
}
