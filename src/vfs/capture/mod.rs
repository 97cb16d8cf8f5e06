//! Capture: makes every commit of a database a point in its history.
//!
//! The WAL is the log, so no page is written twice. Capture writes a stamp for each commit to a memory-mapped file. It archives
//! each WAL before SQLite overwrites, truncates or deletes it. SQLite holds the write lock during these calls, so no other
//! process writes to the WAL or its stamps.
//!
//! A stamp is written before its commit frame. So every visible commit has its stamp, even if the process is killed. The records
//! after a stamp show whether its commit failed (see [`Stamps::commits_up_to`]).

mod commits;
mod copy_log;
mod flush;
mod live_wal;
mod recover;
mod rotate;
mod stamp_log;
mod take_over;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

pub(super) use commits::Commits;
pub(super) use live_wal::LiveWal;

use super::{
    known_files::KnownFiles, latch::Latch, limits::HistoryPolicy, peers::Exclusive, policy::History,
    raw_file::RawFile,
};
use crate::{
    disk::{Disk, open_databases},
    error::{Error, ErrorKind, Result},
    history::{self, Birth, Origin, base_snapshot},
    layout::{self, ArchiveFile, ArchivePaths},
    os_cache,
    stamps::{Commit, FileState, Generation, Lineage, LogEnd, Stamps},
    sync::{Mutex, Rank},
    time::Timestamp,
    units::{FrameNumber, GenerationNumber, Micros, PageCount, Salts, ShortChecksum},
    wal::Header,
};
use stamp_log::StampLog;

/// The size in bytes of a new file of stamps, which has space for 124 records.
const FILE_LEN: u64 = 4096;

/// The maximum preallocation of a new WAL in bytes. SQLite restarts a WAL at about 1000 frames.
const ROOM_MAX: u64 = 8 << 20;

/// The number of newest segments that stay in the page cache of the operating system: about 64 MB. Restores to a recent instant
/// read them. Older segments are dropped from the cache, where they would evict pages in use and make writers wait for memory.
const IN_MEMORY: u64 = 16;

/// The capture of one database by one connection.
#[derive(Debug)]
pub(super) struct Capture {
    history: History,
    data: PathBuf,
    /// The device and inode of the open database file. Its path may refer to another file since.
    inode: Option<(u64, u64)>,
    wal: PathBuf,
    paths: ArchivePaths,
    live: Mutex<Option<StampLog>>,
    /// The instant of the last stamp of this connection; `i64::MIN` before the first one.
    stamped_at: AtomicI64,
    /// The version of the policy that was applied last.
    version: AtomicU64,
    /// Whether the history covers every commit since the database was created.
    since_birth: AtomicBool,
    /// The files that must be flushed before the WAL is flushed.
    unsynced: Mutex<Vec<PathBuf>>,
    latch: Arc<Latch>,
    /// The [seed](Generation::seed) of the generation that the next flush includes.
    made: AtomicU64,
    /// Shared with the other connections of this process to the database. Not shared before the file is open.
    known: OnceLock<Arc<KnownFiles>>,
    /// Whether this connection has flushed a WAL.
    flushes: AtomicBool,
}

/// A commit frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) number: FrameNumber,
    /// The size of the database in pages after the commit.
    pub(super) pages: PageCount,
    /// The size of a page in bytes.
    pub(super) page_size: u32,
    /// The checksum of the stored page of the frame. `None` if the checksum is zero.
    pub(super) checksum: Option<ShortChecksum>,
}

/// The part of a new generation's header that depends on the generation before it.
struct Successor {
    number: GenerationNumber,
    lineage: Lineage,
    not_before: Micros,
}

/// How a WAL ends.
enum End<'a> {
    /// SQLite restarts it. It is moved into the archive if no foreign process has it open. `moved` receives the outcome.
    Restarted { raw: &'a dyn RawFile, moved: &'a mut Exclusive },
    /// SQLite truncates it.
    Truncated,
    /// The last connection closes, and SQLite deletes it.
    Deleted,
}

/// How the previous generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    /// Its segment is in the archive, and the database file is at its last commit.
    Kept,
    /// It has no commit.
    Unused,
    /// Its end is unknown.
    Unstamped,
}

impl Capture {
    pub(super) fn new(history: History, data: &Path, inode: Option<(u64, u64)>, latch: Arc<Latch>) -> Self {
        Self {
            history,
            data: data.to_owned(),
            inode,
            wal: layout::beside(data, "-wal"),
            paths: ArchivePaths::of(data),
            live: Mutex::new(Rank::Capture, None),
            stamped_at: AtomicI64::new(i64::MIN),
            version: AtomicU64::new(0),
            since_birth: AtomicBool::new(false),
            unsynced: Mutex::new(Rank::Unsynced, Vec::new()),
            latch,
            made: AtomicU64::new(0),
            known: OnceLock::new(),
            flushes: AtomicBool::new(false),
        }
    }

    /// The instant of the last commit of this connection. `None` if it has made none.
    pub(super) fn stamped_at(&self) -> Option<i64> {
        Some(self.stamped_at.load(Relaxed)).filter(|at| *at != i64::MIN)
    }

    fn disk(&self) -> &Disk {
        &self.history.disk
    }

    /// Shares what is known of the files with the other connections of this process.
    pub(super) fn share(&self, known: Arc<KnownFiles>) {
        let _first = self.known.set(known);
    }

    fn known(&self) -> &KnownFiles {
        self.known.get_or_init(Arc::default)
    }

    /// Whether the open database file is still at its path. If the database was destroyed during a transaction, the path may
    /// refer to another database with another history.
    fn is_in_place(&self) -> bool {
        Disk::is_at(&self.data, self.inode)
    }

    fn check_place(&self) -> Result<()> {
        if self.is_in_place() {
            return Ok(());
        }
        let message = "the database was destroyed, or its file replaced, while this connection had it open";
        Err(Error::new(ErrorKind::Destroyed, message))
    }

    /// Applies the current policy. After a change the stamps are read again, because the history may have been turned off and
    /// pruned since the last read.
    pub(super) fn obey(&self, policy: HistoryPolicy) {
        if self.version.swap(policy.version, Relaxed) != policy.version {
            self.since_birth.store(policy.since_birth, Relaxed);
            *self.live.lock_or_clear() = None;
        }
    }

    /// Stamps a commit that is about to be written to the WAL with these salts. `before` is the last frame of the previous
    /// commit.
    pub(super) fn stamp(&self, salts: Salts, frame: &Frame, before: Option<FrameNumber>) -> Result<()> {
        let mut live = self.live.lock()?;
        let known = live.as_ref().is_some_and(|live| live.generation().salts == salts);
        if !known {
            self.check_place()?;
            let (_held, newest) = self.open()?;
            *live = match newest {
                Some(live)
                    if live.generation().salts == salts
                        && !self.is_pruned(live.generation())?
                        && self.is_founded(&live)? =>
                {
                    self.flush_taken_over(live.generation());
                    Some(live)
                }
                _ => None,
            };
        }
        let live = match &mut *live {
            Some(live) => live,
            none => none.insert(self.begin_within(salts, frame.page_size, before)?),
        };
        let Frame { number, pages, checksum, .. } = *frame;
        let now = Micros::from(self.history.clock.now());
        let commit = Commit { at: now, frame: number, before, pages, checksum };
        let at = live.stamp(self.disk(), &self.paths.live_stamps(), now, commit)?;
        self.stamped_at.store(at.get(), Relaxed);
        Ok(())
    }

    /// Runs before a WAL with this header replaces the one with the header `old`. Returns whether the old WAL was moved into
    /// the archive, in which case a new file is open.
    pub(super) fn begin(
        &self,
        header: &Header,
        old: Option<&Header>,
        raw: &dyn RawFile,
        wal: &dyn LiveWal,
    ) -> Result<bool> {
        self.check_place()?;
        self.make_dir()?;
        let mut live = self.live.lock()?;
        *live = None;
        let old_salts = old.map(Header::salts);
        let (_held, before) = self.open()?;
        let mut moved = Exclusive::No;
        let follows = match before {
            None => self.begins(false)?,
            Some(mut before) => {
                let is_founded = self.is_founded(&before)?;
                let was = if self.is_pruned(before.generation())? {
                    Was::Unstamped
                } else if old_salts == Some(before.generation().salts) {
                    let kept = self.archive(&mut before, End::Restarted { raw, moved: &mut moved }, wal)?;
                    self.forget_behind(before.generation().number);
                    match kept || self.was_kept(&mut before)? {
                        true if is_founded => Was::Kept,
                        true => Was::Unstamped,
                        false => Was::Unused,
                    }
                } else {
                    self.recover_end(&mut before)?;
                    let stamps = before.stamps()?;
                    match stamps.end() {
                        _ if stamps.commits().is_empty() => Was::Unused,
                        Some(_) if is_founded && self.is_at_rest(&stamps)? => Was::Kept,
                        _ => Was::Unstamped,
                    }
                };
                if was == Was::Unused && is_founded && self.is_begun_again(&before, header)? {
                    self.flush_all_later(before.generation());
                    *live = Some(before);
                    return Ok(false);
                }
                self.follow(&mut before, was)?
            }
        };
        *live = Some(self.create(&follows, header.salts(), header.page_size(), None)?);
        // A peer may be the first to flush the new WAL, and its list of unflushed files does not include those of this
        // connection.
        if moved == Exclusive::WithPeers && self.flushes.load(Relaxed) {
            self.flush()?;
        }
        Ok(moved != Exclusive::No)
    }

    /// Drops the segment that left the [`IN_MEMORY`] newest ones from the page cache of the operating system.
    fn forget_behind(&self, number: GenerationNumber) {
        if let Some(old) = number.get().checked_sub(IN_MEMORY).map(GenerationNumber::new)
            && let Ok(Some(file)) = Disk::open(&self.paths.file(old, ArchiveFile::Segment))
        {
            os_cache::forget(&file);
        }
    }

    /// Whether this header was written before, by a transaction that was rolled back. The stamps must then stay in place: other
    /// connections have mapped them, identify them by the salts, and would append to a file that was replaced.
    fn is_begun_again(&self, before: &StampLog, header: &Header) -> Result<bool> {
        let generation = before.generation();
        let is_same = (generation.salts, generation.page_size, generation.base_frame)
            == (header.salts(), header.page_size(), None);
        Ok(is_same && self.is_as(&before.stamps()?, Some(generation.data))?)
    }

    /// Whether a generation has ended although the WAL has its header and no commit. A power loss may have reverted the header of
    /// the next generation.
    fn was_kept(&self, before: &mut StampLog) -> Result<bool> {
        self.recover_end(before)?;
        let stamps = before.stamps()?;
        Ok(stamps.end().is_some() && self.is_at_rest(&stamps)?)
    }

    /// How the next generation follows `before`: it continues `before`, replaces it, or begins a new history after a gap.
    fn follow(&self, before: &mut StampLog, was: Was) -> Result<Successor> {
        if was == Was::Unstamped {
            self.note_lost_log(before)?;
        }
        let stamps = before.stamps()?;
        let generation = stamps.generation;
        if was == Was::Unused && self.is_as(&stamps, Some(generation.data))? {
            let Generation { number, lineage, not_before, .. } = generation;
            return Ok(Successor { number, lineage, not_before });
        }
        // Another connection began the generation and may not have flushed it. If its header is lost, the chain ends before it.
        if !self.known().is_flushed(&generation) {
            let begun = ArchiveFile::OF_SNAPSHOT.map(|of| self.paths.file(generation.number, of));
            let begun = begun.into_iter().filter(|_| generation.begins());
            self.flush_files(begun.chain([self.paths.live_stamps()]))?;
        }
        let numbered = self.paths.file(generation.number, ArchiveFile::Stamps);
        self.disk().rename(&self.paths.live_stamps(), &numbered)?;
        let lineage = match was {
            Was::Kept => {
                Lineage::Continues { digest: stamps.digest, end: stamps.end().unwrap_or(LogEnd::EMPTY) }
            }
            Was::Unused | Was::Unstamped => Lineage::AfterGap,
        };
        Ok(Successor { number: generation.number.next(), lineage, not_before: stamps.last_instant() })
    }

    /// Begins a history in the middle of a WAL that a foreign process has begun.
    fn begin_within(
        &self,
        salts: Salts,
        page_size: u32,
        base_frame: Option<FrameNumber>,
    ) -> Result<StampLog> {
        self.make_dir()?;
        let (_held, before) = self.open()?;
        let follows = match before {
            None => self.begins(true)?,
            Some(mut before) => self.follow(&mut before, Was::Unstamped)?,
        };
        // The snapshot contains the frames of the WAL, and must not reach the disk without them.
        self.flush_files([self.wal.clone()])?;
        let live = self.create(&follows, salts, page_size, base_frame)?;
        // SQLite flushes a new WAL header before the first frame, but this WAL already has its header. Without this flush, a
        // power loss could leave the frame without the snapshot.
        self.flush_unsynced()?;
        Ok(live)
    }

    /// Creates the stamps of a new generation, after a snapshot if a history begins there.
    fn create(
        &self,
        follows: &Successor,
        salts: Salts,
        page_size: u32,
        base_frame: Option<FrameNumber>,
    ) -> Result<StampLog> {
        let data = history::state_of(&self.data)?.unwrap_or(FileState::MISSING);
        // A new history begins after every earlier stamp.
        let earliest = if follows.lineage.begins() { follows.not_before.next() } else { follows.not_before };
        let generation = Generation {
            database: self.history.database,
            number: follows.number,
            salts,
            page_size,
            base_frame,
            lineage: follows.lineage,
            not_before: follows.not_before,
            begun_at: Micros::from(self.history.clock.now()).max(earliest),
            data,
        };
        if generation.begins() {
            self.take_snapshot(&generation)?;
        }
        // The failure of a requested snapshot is not an error. The disk may be full, for example.
        let is_taken = self.is_snapshot_wanted(&generation)? && self.take_snapshot(&generation).is_ok();
        let beside = self.paths.dir().join("live.new");
        self.disk().remove(&beside)?;
        let file = self.disk().create_like(&beside, &self.data)?;
        self.disk().allocate(&file, &beside, FILE_LEN)?;
        self.disk().write_at(&file, &beside, &crate::stamps::bytes(&generation.encode()), 0)?;
        self.disk().rename(&beside, &self.paths.live_stamps())?;
        // The new stamps are in place before the marker is removed: if neither existed, the history would count as lost.
        self.disk().remove(&layout::unwritten(&self.data))?;
        if is_taken {
            self.disk().remove(&self.paths.snapshot_request())?;
        }
        self.flush_stamps_later(&generation);
        StampLog::map(&generation, &file, &self.paths.live_stamps())
    }

    /// Whether maintenance has requested a snapshot, or a snapshot was taken before this generation was begun and rolled back.
    /// The database file must be at the end of the previous generation.
    fn is_snapshot_wanted(&self, generation: &Generation) -> Result<bool> {
        let Some(end) = generation.lineage.end_before() else { return Ok(false) };
        let of_this = self.paths.file(generation.number, ArchiveFile::Sum);
        Ok(generation.data.len == end.pages.len(generation.page_size)
            && (Disk::exists(&self.paths.snapshot_request())? || Disk::exists(&of_this)?))
    }

    /// Takes a snapshot before a generation.
    fn take_snapshot(&self, generation: &Generation) -> Result<()> {
        let taken = open_databases(|| base_snapshot::take(self.disk(), &self.paths, &self.data, generation))?;
        if taken.is_err() {
            let _removed_by_the_next = self.disk().remove(&self.paths.dir().join("snapshot.new"));
        }
        taken?;
        self.known().set_intact(generation);
        for file in ArchiveFile::OF_SNAPSHOT {
            self.flush_later(self.paths.file(generation.number, file));
        }
        Ok(())
    }

    /// Runs before the WAL is truncated to a length.
    pub(super) fn cut(&self, to: u64, wal: &dyn LiveWal) -> Result<()> {
        let mut live = self.live.lock()?;
        *live = None;
        if !self.is_in_place() {
            return Ok(());
        }
        let (_held, newest) = self.open_own()?;
        let Some(mut newest) = newest else { return Ok(()) };
        if self.is_pruned(newest.generation())? {
            return Ok(());
        }
        let end = self.end_of(&newest, wal)?;
        if end.is_none() && to == 0 {
            return self.void(&mut newest, wal);
        }
        if end.is_some_and(|(_, len, _)| to < len) && self.archive(&mut newest, End::Truncated, wal)? {
            self.rest(&mut newest)?;
        }
        Ok(())
    }

    /// Runs before the WAL is deleted. Returns whether it was moved into the archive instead.
    pub(super) fn end(&self, wal: &dyn LiveWal) -> Result<bool> {
        let mut live = self.live.lock()?;
        *live = None;
        self.check_place()?;
        let (_held, newest) = self.open_own()?;
        let Some(mut newest) = newest else { return Ok(false) };
        if self.is_pruned(newest.generation())? {
            return Ok(false);
        }
        let kept = self.archive(&mut newest, End::Deleted, wal)?;
        if !kept {
            self.void(&mut newest, wal)?;
        }
        Ok(kept)
    }

    /// Whether the database file is unchanged since its last WAL ended.
    fn is_at_rest(&self, stamps: &Stamps) -> Result<bool> {
        self.is_as(stamps, stamps.checkpointed())
    }

    /// Whether the database file has the contents that it had at the end of a generation. `state` is its recorded length and
    /// time. If they differ, its pages are compared: copying a fleet or repeating a checkpoint after a crash changes the time.
    fn is_as(&self, stamps: &Stamps, state: Option<FileState>) -> Result<bool> {
        if state.is_some() && history::state_of(&self.data)? == state {
            return Ok(true);
        }
        let database = self.history.database;
        let birth = Birth { database, at: Timestamp::from_micros(0)?, is_kept_since: false };
        match Origin::local(Some(self.disk()), &self.data, birth).read() {
            // A damaged history is not continued.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            timeline => history::is_at_end(&timeline?, stamps),
        }
    }

    /// Creates the directory of the archive if it does not exist.
    fn make_dir(&self) -> Result<()> {
        if self.disk().make_dir_like(self.paths.dir(), &self.data)?
            && let Some(dir) = self.data.parent()
        {
            self.flush_later(dir.to_owned());
        }
        Ok(())
    }
}
