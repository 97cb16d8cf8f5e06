//! The pages of a live database at one commit: its file overlaid with the committed frames of its WAL.
//!
//! A copy is made without any lock, without a trace beside the source, and without stopping its writers:
//!
//! 1. The header of the WAL is read. While it stays the same, the WAL is only appended to.
//! 2. The database file is copied, or cloned. A checkpoint may run meanwhile and tear what is copied; but it only
//!    writes pages whose newest committed versions are in the WAL.
//! 3. The committed frames of the WAL are read, and their newest page versions written over the copy. Whatever a
//!    checkpoint wrote or tore is thereby made good, since every frame it took is among these.
//! 4. The header of the WAL is read again. If it changed, the WAL was begun anew in between, and all is done again.
//!
//! Where there is no WAL (a database in rollback mode, or one at rest) the copy stands if no journal was hot and
//! neither the change counter, the size nor the time of the file moved meanwhile.
//!
//! A fork holds a read transaction of the source besides, so that its WAL can be begun anew at most once.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    thread,
    time::Duration,
};

use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout, page,
    progress::{self, Phase, ProgressFn},
    shm,
    size::SizeLimit,
    vfs::{Scratch, ScratchFile},
    wal::{self, SeenFrames},
};

/// How much longer each attempt waits for the source to rest than the one before.
const PAUSE: Duration = Duration::from_millis(5);

/// The bytes of a database that SQLite locks to write to it (<https://www.sqlite.org/src/file/src/os.h>).
const SHARED_LOCKS: (u64, u64) = (page::PENDING_BYTE + 2, 510);

/// The bytes that are sealed between two looks at whether to go on.
const SEALED_STEP: usize = 1 << 20;

/// Copies that are begun before a source that never rests is given up.
const ATTEMPTS: u32 = 10;

/// What is to be copied, and where to.
pub(crate) struct LiveCopy<'a> {
    pub(crate) disk: &'a Disk,
    /// The database file.
    pub(crate) source: &'a Path,
    /// The file to be made.
    pub(crate) target: &'a Path,
    /// What seals the bytes that are written to it, if they are not to stand there as they are.
    pub(crate) scratch: Option<&'a Scratch>,
    pub(crate) size_limit: Option<SizeLimit>,
    /// Looks at the source's first bytes (fewer than a header if it is shorter) and its length.
    pub(crate) inspect: &'a (dyn Fn(&[u8], u64) -> Result<page::Header> + Sync),
}

/// What stands beside and in a database file, as far as it tells whether a copy is whole.
#[derive(PartialEq, Eq)]
struct Surroundings {
    /// The inode and the header of the WAL, if it has a valid one.
    wal: Option<(u64, wal::Header)>,
    /// A rollback journal that is not empty: a transaction is under way, or was interrupted.
    journal: Option<Journal>,
    /// Whether somebody may be writing to the database file itself.
    exclusive: bool,
    /// The length, change counter and time of the database file.
    data: (u64, u32, i64, i64),
}

/// A rollback journal that SQLite would roll back.
#[derive(PartialEq, Eq)]
struct Journal {
    /// The inode, length and time of its file.
    file: (u64, u64, i64, i64),
    /// The fields at its start, which a transaction writes first and last.
    head: [u8; 28],
    /// Whether it ends in the name of a super-journal.
    names_another: bool,
}

/// The newest committed versions of pages in a WAL.
struct Overlay {
    page_size: u32,
    /// The size of the database in pages after the last commit.
    page_count: u32,
    /// Offsets of pages in the WAL, by page number.
    pages: BTreeMap<u32, u64>,
    /// The number of the frame, from 1, that is damaged in front of a commit.
    damaged: Option<u64>,
}

impl Surroundings {
    /// The bytes of the file that belong to the database: those that its header counts and, for an interrupted transaction,
    /// those that it had before. All other pages are in the log.
    fn database_len(&self, header: &page::Header) -> u64 {
        let (file_len, ..) = self.data;
        let before = self.journal.as_ref().map_or(0, Journal::database_len);
        file_len.min(header.database_len(file_len).max(before))
    }
}

impl Journal {
    /// The size of the database before the transaction, which rolling back cuts it to; 0 if the journal does not tell.
    fn database_len(&self) -> u64 {
        if !self.head.starts_with(&page::JOURNAL_MAGIC) {
            return 0;
        }
        u64::from(page::be32(&self.head, 16)) * u64::from(page::be32(&self.head, 24))
    }
}

impl LiveCopy<'_> {
    /// Makes the copy, which is not flushed to the disk, and returns its size in bytes.
    ///
    /// Must run [with isolated descriptors](crate::sys::isolated_fds): it opens and closes the source.
    pub(crate) fn run(&self, watch: &mut ProgressFn<'_>) -> Result<u64> {
        let target = self.disk.create(self.target)?;
        let mut locked = false;
        for attempt in 0..ATTEMPTS {
            thread::sleep(PAUSE * attempt);
            if let Some(len) = self.attempt(&target, &mut locked, watch)? {
                return Ok(len);
            }
            // A journal that belongs to this copy would roll pages of the next one back.
            self.disk.remove(&layout::beside(self.target, "-journal"))?;
            self.set_len(&target, 0)?;
        }
        Err(Error::naming(ErrorKind::Busy, self.source, |source| {
            if locked {
                format!("{source} is locked by another program; try again when it is not")
            } else {
                format!("{source} is being written too fast to be copied; try again when it rests")
            }
        }))
    }

    /// Makes the copy once. Nothing means that the source moved on meanwhile, or is `locked` to be written.
    fn attempt(&self, target: &File, locked: &mut bool, watch: &mut ProgressFn<'_>) -> Result<Option<u64>> {
        let source = Disk::open_regular(self.source)?.ok_or_else(|| {
            Error::naming(ErrorKind::NotFound, self.source, |source| format!("{source}: no such file"))
        })?;
        let (before, header) = self.look(&source)?;
        // Without a log or a journal nothing could undo what is half written.
        let at_rest = |now: &Surroundings| now.wal.is_some() || now.journal.is_some() || !now.exclusive;
        *locked = !at_rest(&before);
        if *locked {
            return Ok(None);
        }
        let (file_len, ..) = before.data;
        let len = before.database_len(&header);
        self.admit(len)?;
        let mut go_on = |done| progress::tell(watch, Phase::Copy, done, Some(len));
        if self.copy(&source, target, len, &mut go_on)? < len {
            return Ok(None);
        }
        if len < file_len {
            self.set_len(target, len)?;
        }
        progress::tell(watch, Phase::Copy, len, Some(len))?;
        let mut size = len;
        let mut complaint = None;
        if before.wal.is_some() {
            let path = layout::beside(self.source, "-wal");
            let Some(log) = Disk::open_regular(&path)? else { return Ok(None) };
            if let Some(overlay) = self.overlay(&log, &path)? {
                if let Some(frame) = overlay.damaged {
                    let message = format!(
                        "frame {frame} of its log is damaged, and what was committed behind it cannot be read; to \
                         go on without that, open it with sqlite3 once and run PRAGMA wal_checkpoint(TRUNCATE)"
                    );
                    complaint = Some((ErrorKind::Corrupt, message));
                } else if overlay.page_size == header.page_size {
                    size = u64::from(overlay.page_count) * u64::from(overlay.page_size);
                    self.admit(size)?;
                    if !self.lay_over(&overlay, &log, &path, target)? {
                        return Ok(None);
                    }
                    self.set_len(target, size)?;
                } else {
                    complaint = Some((ErrorKind::Corrupt, "its WAL is of another page size".to_owned()));
                }
            }
        } else if let Some(journal) = &before.journal {
            // An interrupted transaction: SQLite rolls it back when the copy is opened. But where it ends in the name
            // of a super-journal, SQLite may delete the file of that name, which the journal's maker chose.
            if journal.names_another {
                complaint = Some((
                    ErrorKind::Unsupported,
                    "an interrupted transaction over several databases; open it with sqlite3 once, then import it"
                        .to_owned(),
                ));
            } else if self.scratch.is_some() {
                complaint = Some((
                    ErrorKind::Unsupported,
                    "an interrupted transaction; open it with sqlite3 once, then import it".into(),
                ));
            } else {
                let (from, to) =
                    (layout::beside(self.source, "-journal"), layout::beside(self.target, "-journal"));
                let Some(from) = Disk::open_regular(&from)? else { return Ok(None) };
                let copy = self.disk.create(&to)?;
                let (_, len, ..) = journal.file;
                if self.disk.copy(&from, &copy, &to, len, |_| true)? < len {
                    return Ok(None);
                }
            }
        }
        let (after, _) = self.look(&source)?;
        let whole = match (&before.wal, &after.wal) {
            (Some(before), Some(after)) => before == after,
            (None, None) => before == after && at_rest(&after),
            _ => false,
        };
        // What is wrong with a source that moves may be right a moment later.
        match complaint.filter(|_| whole) {
            Some((kind, complaint)) => {
                Err(Error::naming(kind, self.source, |source| format!("{source}: {complaint}")))
            }
            None => Ok(whole.then_some(size)),
        }
    }

    /// The committed frames of the log.
    fn overlay(&self, log: &File, path: &Path) -> Result<Option<Overlay>> {
        let Some(header) = log_header(log, path)? else { return Ok(None) };
        Overlay::read(log, path, &header, shm::seen(self.source, header.salts())?)
    }

    fn admit(&self, size: u64) -> Result<()> {
        match self.size_limit {
            Some(limit) if !limit.admits(size) => Err(too_large(size, limit)),
            _ => Ok(()),
        }
    }

    fn look(&self, source: &File) -> Result<(Surroundings, page::Header)> {
        let looking = |error| Error::io_at("reading", self.source, error);
        let found = source.metadata().map_err(looking)?;
        let mut bytes = [0; page::HEADER_LEN];
        let count = read_up_to(source, &mut bytes, 0).map_err(looking)?;
        let header = (self.inspect)(&bytes[..count], found.len())?;
        let surroundings = Surroundings {
            wal: wal_header(&layout::beside(self.source, "-wal"))?,
            journal: hot_journal(&layout::beside(self.source, "-journal"))?,
            exclusive: Disk::is_write_locked(source, SHARED_LOCKS.0, SHARED_LOCKS.1).map_err(looking)?,
            data: (found.len(), header.change_counter, found.mtime(), found.mtime_nsec()),
        };
        Ok((surroundings, header))
    }

    /// Writes the pages of the log over the copy, and says whether the log still had them all.
    fn lay_over(&self, overlay: &Overlay, log: &File, log_path: &Path, target: &File) -> Result<bool> {
        let mut page = vec![0; overlay.page_size as usize];
        for (number, offset) in &overlay.pages {
            let read = read_up_to(log, &mut page, *offset)
                .map_err(|error| Error::io_at("reading", log_path, error))?;
            // A checkpoint truncated it meanwhile.
            if read < page.len() {
                return Ok(false);
            }
            let at = u64::from(number - 1) * u64::from(overlay.page_size);
            self.write_at(target, &page, at)?;
        }
        Ok(true)
    }

    /// Copies the first `len` bytes of the source, and says how many there were. `go_on` is told how far it has come.
    fn copy(
        &self,
        source: &File,
        target: &File,
        len: u64,
        go_on: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<u64> {
        if self.scratch.is_some() {
            let mut buffer = vec![0; SEALED_STEP];
            let mut done = 0;
            while done < len {
                go_on(done)?;
                let count = read_up_to(source, &mut buffer, done)
                    .map_err(|error| Error::io_at("reading", self.source, error))?;
                let count = count.min(usize::try_from(len - done).unwrap_or(usize::MAX));
                if count == 0 {
                    break;
                }
                self.write_at(target, &buffer[..count], done)?;
                done += count as u64;
            }
            return Ok(done);
        }
        if self.disk.clone_file(source, target, self.target)? {
            return Ok(len);
        }
        let mut stopped = Ok(());
        let copied = self.disk.copy(source, target, self.target, len, |done| {
            stopped = go_on(done);
            stopped.is_ok()
        })?;
        stopped.map(|()| copied)
    }

    fn write_at(&self, target: &File, bytes: &[u8], at: u64) -> Result<()> {
        match self.scratch {
            Some(scratch) => scratch.write_at(&ScratchFile::new(self.disk, target, self.target), bytes, at),
            None => self.disk.write_at(target, self.target, bytes, at),
        }
    }

    fn set_len(&self, target: &File, len: u64) -> Result<()> {
        match self.scratch {
            Some(scratch) => scratch.set_len(&ScratchFile::new(self.disk, target, self.target), len),
            None => self.disk.set_len(target, self.target, len),
        }
    }
}

impl Overlay {
    /// Reads the frames of a WAL that are committed, as far as anybody has seen them; nothing if there are none.
    fn read(log: &File, path: &Path, header: &wal::Header, seen: SeenFrames) -> Result<Option<Self>> {
        let reading = |error| Error::io_at("reading", path, error);
        let mut chain = header.chain();
        let mut frame = vec![0; header.frame_len()];
        let mut overlay =
            Self { page_size: header.page_size(), page_count: 0, pages: BTreeMap::new(), damaged: None };
        let mut uncommitted = Vec::new();
        // As far as the log goes now, and no further: a writer may append as fast as this reads.
        let mut end = log.metadata().map_err(reading)?.len();
        if let SeenFrames::UpTo(frame) = seen {
            end = end.min(wal::len_up_to(frame, header.page_size()));
        }
        let mut at = wal::HEADER_LEN as u64;
        while at < end && read_up_to(log, &mut frame, at).map_err(reading)? == frame.len() {
            let mut followed = chain.follow(&frame);
            if followed.is_none() && is_committed_beyond(log, header, at..end).map_err(reading)? {
                // A writer may have put frames over leftovers since, this one first.
                read_up_to(log, &mut frame, at).map_err(reading)?;
                followed = chain.follow(&frame);
                if followed.is_none() {
                    overlay.damaged = Some((at - wal::HEADER_LEN as u64) / frame.len() as u64 + 1);
                }
            }
            let Some(followed) = followed else { break };
            uncommitted.push((followed.page_number.get(), at + wal::FRAME_HEADER_LEN as u64));
            at += frame.len() as u64;
            if let Some(page_count) = followed.commit {
                overlay.page_count = page_count.get();
                overlay.pages.extend(uncommitted.drain(..));
            }
        }
        let _beyond = overlay.pages.split_off(&overlay.page_count.saturating_add(1));
        Ok((overlay.page_count > 0 || overlay.damaged.is_some()).then_some(overlay))
    }
}

/// Whether a transaction of this log ends behind the frame at the start of `range`, where the chain of frames breaks.
///
/// SQLite takes the log to end there. But behind the last commit there are only frames of older logs, which have other
/// salts, and those of a transaction that was rolled back, which have no commit mark.
fn is_committed_beyond(log: &File, header: &wal::Header, range: Range<u64>) -> std::io::Result<bool> {
    let mut frame = vec![0; header.frame_len()];
    let mut before = None;
    for at in range.step_by(frame.len()) {
        let (head, _) = frame.split_at_mut(wal::FRAME_HEADER_LEN);
        if read_up_to(log, head, at)? < head.len() {
            break;
        }
        if let Some(before) = before
            && header.has_salts(head)
            && wal::commit_size(head).is_some()
            && read_up_to(log, &mut frame, at)? == frame.len()
            && header.chain_after(before).follow(&frame).is_some()
        {
            return Ok(true);
        }
        before = Some(wal::checksum_in(&frame));
    }
    Ok(false)
}

/// The inode and the header of a WAL. `None` if there is no WAL, or SQLite ignores it for its header.
fn wal_header(path: &Path) -> Result<Option<(u64, wal::Header)>> {
    let Some(log) = Disk::open_regular(path)? else { return Ok(None) };
    let found = log.metadata().map_err(|error| Error::io_at("reading", path, error))?;
    Ok(log_header(&log, path)?.map(|header| (found.ino(), header)))
}

/// The header of a WAL. Fails with [`ErrorKind::Unsupported`] if it has a format version that SQLite does not read.
fn log_header(log: &File, path: &Path) -> Result<Option<wal::Header>> {
    let mut bytes = [0; wal::HEADER_LEN];
    let count = read_up_to(log, &mut bytes, 0).map_err(|error| Error::io_at("reading", path, error))?;
    if count < bytes.len() {
        return Ok(None);
    }
    if let Some(version) = wal::unknown_version(&bytes) {
        return Err(Error::naming(ErrorKind::Unsupported, path, |log| {
            format!(
                "{log} has the format version {version}, which SQLite cannot read; checkpoint it with the program that \
                 wrote it"
            )
        }));
    }
    Ok(wal::Header::parse(&bytes))
}

/// The rollback journal that SQLite would roll back: one whose first byte is not zero.
fn hot_journal(path: &Path) -> Result<Option<Journal>> {
    let reading = |error| Error::io_at("reading", path, error);
    let Some(journal) = Disk::open_regular(path)? else { return Ok(None) };
    let found = journal.metadata().map_err(reading)?;
    let mut head = [0; 28];
    if read_up_to(&journal, &mut head, 0).map_err(reading)? == 0 || head[0] == 0 {
        return Ok(None);
    }
    let mut tail = [0; page::JOURNAL_MAGIC.len()];
    let at = found.len().saturating_sub(tail.len() as u64);
    read_up_to(&journal, &mut tail, at).map_err(reading)?;
    Ok(Some(Journal {
        file: (found.ino(), found.len(), found.mtime(), found.mtime_nsec()),
        head,
        names_another: at > 0 && tail == page::JOURNAL_MAGIC,
    }))
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], offset + count as u64)? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

/// The database does not fit its limit.
pub(crate) fn too_large(size: u64, limit: SizeLimit) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("the database is {size} bytes, more than its size limit of {limit}"),
    )
}
