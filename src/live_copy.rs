//! Copies of a live database at one commit: its file, overlaid with the committed frames of its WAL.
//!
//! A copy takes no lock, leaves no file beside the source, and does not stop writers:
//!
//! 1. Read the header of the WAL. While it stays the same, the WAL is only appended to.
//! 2. Copy or clone the database file. A concurrent checkpoint may tear pages of this copy, but it only writes pages whose newest
//!    committed version is in the WAL.
//! 3. Read the committed frames of the WAL, and write the newest version of each page over the copy. This replaces every page
//!    that a checkpoint wrote or tore, because its frame is among them.
//! 4. Read the header of the WAL again. If it changed, the WAL was restarted: begin again at 1.
//!
//! Without a WAL (a database in rollback mode, or a checkpointed one), the copy is valid if there was no hot journal and neither
//! the change counter nor the length nor the time of the file changed.
//!
//! A fork also holds a read transaction of the source, so that the WAL can be restarted at most once.

use std::{collections::BTreeMap, fs::File, ops::Range, path::Path, thread, time::Duration};

use crate::{
    disk::{DatabaseFile, Disk, FileCopy},
    error::{Error, ErrorKind, Result},
    layout, page,
    progress::{self, Phase, ProgressFn},
    shm,
    size::SizeLimit,
    vfs::{Scratch, ScratchFile},
    wal::{self, SeenFrames},
};

/// How much longer each attempt waits than the one before.
const PAUSE: Duration = Duration::from_millis(5);

/// The number of bytes that are sealed between two calls of the progress callback.
const SEALED_STEP: usize = 1 << 20;

/// The maximum number of attempts to copy a source that keeps changing.
const ATTEMPTS: u32 = 10;

/// The parameters of a copy.
pub(crate) struct LiveCopy<'a> {
    pub(crate) disk: &'a Disk,
    /// The database file.
    pub(crate) source: &'a Path,
    /// The file to create.
    pub(crate) target: &'a Path,
    /// Seals the bytes of the target. `None` writes them as they are in the source.
    pub(crate) scratch: Option<&'a Scratch>,
    pub(crate) size_limit: Option<SizeLimit>,
    /// Parses the header. Called with the first bytes of the source, fewer than a header if it is shorter, and its length.
    pub(crate) inspect: &'a (dyn Fn(&[u8], u64) -> Result<page::Header> + Sync),
}

/// The state of a database file and the files beside it, which a valid copy finds unchanged at its end.
#[derive(PartialEq, Eq)]
struct SourceState {
    /// The inode and the header of the WAL, if it has a valid one.
    wal: Option<(u64, wal::Header)>,
    /// A rollback journal that is not empty: a transaction is running or was interrupted.
    journal: Option<Journal>,
    /// Whether a process holds the lock to write to the database file.
    is_write_locked: bool,
    data: DataState,
}

/// The state of a database file.
#[derive(PartialEq, Eq)]
struct DataState {
    len: u64,
    change_counter: u32,
    /// In nanoseconds since 1970.
    modified: i64,
}

/// A rollback journal that SQLite would roll back.
#[derive(PartialEq, Eq)]
struct Journal {
    inode: (u64, u64),
    len: u64,
    /// In nanoseconds since 1970.
    modified: i64,
    /// The fields at its start, which a transaction writes first and last.
    head: [u8; 28],
    /// Whether it ends in the name of a super-journal.
    is_multi_file: bool,
}

/// The newest committed versions of pages in a WAL.
struct Overlay {
    page_size: u32,
    /// The size of the database in pages after the last commit.
    page_count: u32,
    /// The offsets of pages in the WAL, by page number.
    pages: BTreeMap<u32, u64>,
    /// The number, from 1, of a damaged frame that a commit follows.
    damaged: Option<u64>,
}

/// One attempt to copy.
enum Attempt {
    /// The size of the copy in bytes.
    Done(u64),
    /// The source changed.
    Changed,
    /// Another program holds the lock to write to the source.
    Locked,
}

impl SourceState {
    /// Whether the database file holds whole transactions: a half-written one could not be undone without a WAL or a journal.
    fn is_consistent(&self) -> bool {
        self.wal.is_some() || self.journal.is_some() || !self.is_write_locked
    }

    /// The bytes of the file that belong to the database: those that its header counts and, for an interrupted transaction, those
    /// before that transaction. All other pages are in the WAL.
    fn database_len(&self, header: &page::Header) -> u64 {
        let before = self.journal.as_ref().map_or(0, Journal::database_len);
        self.data.len.min(header.database_len(self.data.len).max(before))
    }
}

impl Journal {
    /// The size of the database before the transaction, to which a rollback truncates it. 0 if the journal does not record it.
    fn database_len(&self) -> u64 {
        if !self.head.starts_with(&page::JOURNAL_MAGIC) {
            return 0;
        }
        u64::from(page::be32(&self.head, 16)) * u64::from(page::be32(&self.head, 24))
    }
}

impl LiveCopy<'_> {
    /// Makes the copy, which is not flushed, and returns its size in bytes.
    ///
    /// Must run within [`open_databases`](crate::disk::open_databases).
    pub(crate) fn run(&self, watch: &mut ProgressFn<'_>) -> Result<u64> {
        let target = self.disk.create(self.target)?;
        let mut is_locked = false;
        for attempt in 0..ATTEMPTS {
            thread::sleep(PAUSE * attempt);
            match self.attempt(&target, watch)? {
                Attempt::Done(len) => return Ok(len),
                Attempt::Changed => is_locked = false,
                Attempt::Locked => is_locked = true,
            }
            // The journal of this attempt would roll back pages of the next one.
            self.disk.remove(&layout::beside(self.target, "-journal"))?;
            self.set_len(&target, 0)?;
        }
        Err(Error::naming(ErrorKind::Busy, self.source, |source| {
            if is_locked {
                format!("{source} is locked by another program; retry when it is not")
            } else {
                format!("{source} keeps changing; retry")
            }
        }))
    }

    fn attempt(&self, target: &File, watch: &mut ProgressFn<'_>) -> Result<Attempt> {
        let source = DatabaseFile::open(self.source)?.ok_or_else(|| {
            Error::naming(ErrorKind::NotFound, self.source, |source| format!("{source}: no such file"))
        })?;
        let (before, header) = self.state(&source)?;
        if !before.is_consistent() {
            return Ok(Attempt::Locked);
        }
        let len = before.database_len(&header);
        self.admit(len)?;
        let mut go_on = |done| progress::tell(watch, Phase::Copy, done, Some(len));
        if self.copy(&source, target, len, &mut go_on)? < len {
            return Ok(Attempt::Changed);
        }
        if len < before.data.len {
            self.set_len(target, len)?;
        }
        progress::tell(watch, Phase::Copy, len, Some(len))?;
        let completed = if before.wal.is_some() {
            self.apply_wal(target, &header, len)?
        } else if let Some(journal) = &before.journal {
            self.copy_journal(journal)?.map(|copied| copied.map(|()| len))
        } else {
            Some(Ok(len))
        };
        let Some(completed) = completed else { return Ok(Attempt::Changed) };
        let (after, _) = self.state(&source)?;
        let is_unchanged = match (&before.wal, &after.wal) {
            (Some(before), Some(after)) => before == after,
            (None, None) => before == after && after.is_consistent(),
            _ => false,
        };
        // A source that changes may have been read in an inconsistent state.
        if !is_unchanged {
            return Ok(Attempt::Changed);
        }
        completed.map(Attempt::Done)
    }

    /// Writes the committed frames of the WAL over the copy, whose size is `len`, and returns its new size. Returns `None` if the
    /// WAL changed. The inner error is valid only if the source did not change.
    fn apply_wal(&self, target: &File, header: &page::Header, len: u64) -> Result<Option<Result<u64>>> {
        let path = layout::beside(self.source, "-wal");
        let Some(log) = Disk::open_regular(&path)? else { return Ok(None) };
        let Some(overlay) = self.overlay(&log, &path)? else { return Ok(Some(Ok(len))) };
        if let Some(frame) = overlay.damaged {
            let message = format!(
                "frame {frame} of its WAL is damaged, and the commits after it cannot be read; to go on without them, open \
                 the database with sqlite3 once and run PRAGMA wal_checkpoint(TRUNCATE)"
            );
            return Ok(Some(Err(self.refused(ErrorKind::Corrupt, &message))));
        }
        if overlay.page_size != header.page_size {
            let error = self.refused(ErrorKind::Corrupt, "its WAL has another page size");
            return Ok(Some(Err(error)));
        }
        let size = u64::from(overlay.page_count) * u64::from(overlay.page_size);
        self.admit(size)?;
        if !self.write_overlay(&overlay, &log, &path, target)? {
            return Ok(None);
        }
        self.set_len(target, size)?;
        Ok(Some(Ok(size)))
    }

    /// Copies the journal of an interrupted transaction: SQLite rolls it back when it opens the copy. Returns `None` if the journal
    /// changed.
    fn copy_journal(&self, journal: &Journal) -> Result<Option<Result<()>>> {
        // SQLite may delete the super-journal, whose name the writer of the journal chose.
        if journal.is_multi_file {
            let message = "an interrupted transaction over several databases; open it with sqlite3 once, then import it";
            return Ok(Some(Err(self.refused(ErrorKind::Unsupported, message))));
        }
        if self.scratch.is_some() {
            let message = "an interrupted transaction; open it with sqlite3 once, then import it";
            return Ok(Some(Err(self.refused(ErrorKind::Unsupported, message))));
        }
        let (from, to) = (layout::beside(self.source, "-journal"), layout::beside(self.target, "-journal"));
        let Some(from) = Disk::open_regular(&from)? else { return Ok(None) };
        let copy = self.disk.create(&to)?;
        let copy = FileCopy { from: &from, to: &copy, to_path: &to, len: journal.len };
        let copied = self.disk.copy(copy, |_| true)?;
        Ok((copied == journal.len).then_some(Ok(())))
    }

    fn refused(&self, kind: ErrorKind, why: &str) -> Error {
        Error::naming(kind, self.source, |source| format!("{source}: {why}"))
    }

    /// The committed frames of the WAL.
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

    /// The state and the header of the source.
    fn state(&self, source: &DatabaseFile) -> Result<(SourceState, page::Header)> {
        let found = source.metadata()?;
        let mut bytes = [0; page::HEADER_LEN];
        let count = source.read_up_to(&mut bytes, 0)?;
        let header = (self.inspect)(&bytes[..count], found.len)?;
        let wal = wal_header(&layout::beside(self.source, "-wal"))?;
        let state = SourceState {
            journal: hot_journal(&layout::beside(self.source, "-journal"))?,
            // In WAL mode a copy depends on no lock of the database file.
            is_write_locked: wal.is_none() && source.is_write_locked()?,
            wal,
            data: DataState {
                len: found.len,
                change_counter: header.change_counter,
                modified: found.modified,
            },
        };
        Ok((state, header))
    }

    /// Writes the pages of the overlay over the copy. Returns `false` if a checkpoint has truncated the WAL.
    fn write_overlay(&self, overlay: &Overlay, log: &File, log_path: &Path, target: &File) -> Result<bool> {
        let mut page = vec![0; overlay.page_size as usize];
        for (number, offset) in &overlay.pages {
            if Disk::read_up_to(log, log_path, &mut page, *offset)? < page.len() {
                return Ok(false);
            }
            let at = u64::from(number - 1) * u64::from(overlay.page_size);
            self.write_at(target, &page, at)?;
        }
        Ok(true)
    }

    /// Copies the first `len` bytes of the source, and returns how many were copied: fewer if it is shorter. `go_on` is called
    /// with the bytes copied so far.
    fn copy(
        &self,
        source: &DatabaseFile,
        target: &File,
        len: u64,
        go_on: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<u64> {
        if self.scratch.is_some() {
            let mut buffer = vec![0; SEALED_STEP];
            let mut done = 0;
            while done < len {
                go_on(done)?;
                let count = source.read_up_to(&mut buffer, done)?;
                let count = count.min(usize::try_from(len - done).unwrap_or(usize::MAX));
                if count == 0 {
                    break;
                }
                self.write_at(target, &buffer[..count], done)?;
                done += count as u64;
            }
            return Ok(done);
        }
        if source.clone_to(self.disk, target, self.target)? {
            return Ok(len);
        }
        let mut stopped = Ok(());
        let copied = source.copy_to(self.disk, target, self.target, len, |done| {
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
    /// Reads the committed frames of a WAL, as far as its wal-index shows them. Returns `None` if there are none.
    fn read(log: &File, path: &Path, header: &wal::Header, seen: SeenFrames) -> Result<Option<Self>> {
        let mut chain = header.chain();
        let mut frame = vec![0; header.frame_len()];
        let mut overlay =
            Self { page_size: header.page_size(), page_count: 0, pages: BTreeMap::new(), damaged: None };
        let mut uncommitted = Vec::new();
        // The present length bounds the loop: a writer may append as fast as this reads.
        let mut end = Disk::len_of(log, path)?;
        if let SeenFrames::UpTo(frame) = seen {
            end = end.min(wal::len_up_to(frame, header.page_size()));
        }
        let mut at = wal::HEADER_LEN as u64;
        while at < end && Disk::read_up_to(log, path, &mut frame, at)? == frame.len() {
            let mut followed = chain.follow(&frame);
            if followed.is_none() && has_later_commit(log, path, header, at..end)? {
                // A writer may have overwritten frames of an older WAL since, this one first.
                Disk::read_up_to(log, path, &mut frame, at)?;
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
        let _truncated_pages = overlay.pages.split_off(&overlay.page_count.saturating_add(1));
        Ok((overlay.page_count > 0 || overlay.damaged.is_some()).then_some(overlay))
    }
}

/// Whether a transaction of this WAL ends after the frame at the start of `range`, where the chain of checksums breaks.
///
/// For SQLite the WAL ends there. After the last commit there are only frames of older WALs, which have other salts, and frames of
/// a transaction that was rolled back, which have no commit mark.
fn has_later_commit(log: &File, path: &Path, header: &wal::Header, range: Range<u64>) -> Result<bool> {
    let mut frame = vec![0; header.frame_len()];
    let mut before = None;
    for at in range.step_by(frame.len()) {
        let (head, _) = frame.split_at_mut(wal::FRAME_HEADER_LEN);
        if Disk::read_up_to(log, path, head, at)? < head.len() {
            break;
        }
        if let Some(before) = before
            && header.has_salts(head)
            && wal::commit_size(head).is_some()
            && Disk::read_up_to(log, path, &mut frame, at)? == frame.len()
            && header.chain_after(before).follow(&frame).is_some()
        {
            return Ok(true);
        }
        before = Some(wal::checksum_in(&frame));
    }
    Ok(false)
}

/// The inode and the header of a WAL. Returns `None` if there is no WAL, or SQLite ignores it because of its header.
fn wal_header(path: &Path) -> Result<Option<(u64, wal::Header)>> {
    let Some(log) = Disk::open_regular(path)? else { return Ok(None) };
    let (_, inode) = Disk::metadata_of(&log, path)?.inode;
    Ok(log_header(&log, path)?.map(|header| (inode, header)))
}

/// The header of a WAL. Fails with [`ErrorKind::Unsupported`] if SQLite does not read its format version.
fn log_header(log: &File, path: &Path) -> Result<Option<wal::Header>> {
    let mut bytes = [0; wal::HEADER_LEN];
    if Disk::read_up_to(log, path, &mut bytes, 0)? < bytes.len() {
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
    let Some(journal) = Disk::open_regular(path)? else { return Ok(None) };
    let found = Disk::metadata_of(&journal, path)?;
    let mut head = [0; 28];
    if Disk::read_up_to(&journal, path, &mut head, 0)? == 0 || head[0] == 0 {
        return Ok(None);
    }
    let mut tail = [0; page::JOURNAL_MAGIC.len()];
    let at = found.len.saturating_sub(tail.len() as u64);
    Disk::read_up_to(&journal, path, &mut tail, at)?;
    Ok(Some(Journal {
        inode: found.inode,
        len: found.len,
        modified: found.modified,
        head,
        is_multi_file: at > 0 && tail == page::JOURNAL_MAGIC,
    }))
}

/// The error of a database that exceeds its size limit.
pub(crate) fn too_large(size: u64, limit: SizeLimit) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("the database is {size} bytes, more than its size limit of {limit}"),
    )
}
