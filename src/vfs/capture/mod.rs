//! Capture: what makes every commit of a database a point in its history.
//!
//! The WAL is the log; nothing is written twice. What is added is a stamp for each commit, in memory that is shared with a
//! file, and the keeping of each WAL before SQLite writes over it, cuts it off or deletes it. All of that happens while
//! SQLite holds the lock under which nobody else writes to the WAL, so nothing here needs a lock of its own between
//! processes.
//!
//! A stamp is written before the frame that commits. So no commit that was seen by anybody lacks its stamp, whatever kills
//! the process; a stamp whose commit did not come about is told by what follows (see [`Stamps::commits_up_to`]).

pub(super) mod commits;
mod copy_log;
mod flush;
mod recover;
mod rotate;
mod stamp_log;

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use super::raw_file::{Exclusive, RawFile};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    history::{self, Birth, Origin, base_snapshot},
    layout::{self, ArchiveFile, ArchivePaths},
    os_cache,
    stamps::{Commit, FileState, Generation, Lineage, LogEnd, Stamps},
    sys::isolated_fds,
    time::{Clock, Timestamp},
    units::{FrameNumber, GenerationNumber, Micros, PageCount, Salts, ShortChecksum},
    wal::{Header, SeenFrames},
};
use stamp_log::StampLog;

/// The size of a new file of stamps: room for 124.
const FILE_LEN: u64 = 4096;

/// The most room that is made in a new WAL, in bytes: SQLite begins it anew at about 1000 frames.
const ROOM_MAX: u64 = 8 << 20;

/// How many of the newest segments stay in memory, as far as the system likes: some 64 MB, from which the last minutes are
/// restored. Every log takes memory for its file, which SQLite without a history takes once. What is not given back takes the
/// place of what is read again, and where all is taken, a writer waits for room.
const IN_MEMORY: u64 = 16;

/// Whose history is kept, and how.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    /// The id of the database.
    pub(crate) database: u128,
    /// When it was created, in microseconds of UTC: no commit is stamped before that.
    pub(crate) born_at: i64,
}

/// One connection's part in capturing one database.
#[derive(Debug)]
pub(super) struct Capture {
    history: History,
    data: PathBuf,
    /// The file that is open, which may be at that path no longer.
    inode: Option<(u64, u64)>,
    wal: PathBuf,
    paths: ArchivePaths,
    live: Mutex<Option<StampLog>>,
    /// The instant of the last commit that was stamped here.
    stamped_at: AtomicI64,
    /// The version of the rules that were seen last.
    version: AtomicU64,
    /// Whether the history was never off.
    since_birth: AtomicBool,
    /// What must be on the disk before the WAL is flushed again.
    unsynced: Mutex<Vec<PathBuf>>,
    /// The check of the header of the stamps that were made here last, and of those that were flushed here last.
    made: AtomicU64,
    flushed: AtomicU64,
    /// Whether this connection has flushed a WAL.
    flushes: AtomicBool,
}

/// A frame that commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) number: FrameNumber,
    /// The pages that the commit leaves.
    pub(super) pages: PageCount,
    /// The size of a page in bytes.
    pub(super) page_size: u32,
    /// The checksum of its page, as it is stored; `None` while it is not known.
    pub(super) checksum: Option<ShortChecksum>,
}

/// Finds the last committed frame of the WAL with these salts.
type LastFrame<'a> = dyn Fn(Salts) -> SeenFrames + 'a;

/// The part of a new generation's header that depends on the generation before it.
struct Successor {
    number: GenerationNumber,
    lineage: Lineage,
    not_before: Micros,
}

/// How a WAL ends.
enum End<'a> {
    /// Another one is begun over it. It is moved away where nobody else is at it, and that is said.
    Begun(&'a dyn RawFile, &'a mut Exclusive),
    /// It is cut off.
    Cut,
    /// The last connection that had it open closes, and deletes it.
    Deleted,
}

/// What became of the generation before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    /// Its segment is in the archive, and the database file is what it ended with.
    Kept,
    /// Nobody ever committed in it.
    Unused,
    /// Its end is not known.
    Unstamped,
}

impl Capture {
    pub(super) fn new(history: History, data: &Path, inode: Option<(u64, u64)>) -> Self {
        Self {
            history,
            data: data.to_owned(),
            inode,
            wal: layout::beside(data, "-wal"),
            paths: ArchivePaths::of(data),
            live: Mutex::default(),
            stamped_at: AtomicI64::new(i64::MIN),
            version: AtomicU64::new(0),
            since_birth: AtomicBool::new(false),
            unsynced: Mutex::default(),
            made: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            flushes: AtomicBool::new(false),
        }
    }

    /// The instant of the last commit of this connection, if it made one.
    pub(super) fn stamped_at(&self) -> Option<i64> {
        Some(self.stamped_at.load(Relaxed)).filter(|at| *at != i64::MIN)
    }

    fn disk(&self) -> &Disk {
        &self.history.disk
    }

    /// Whether the database is where it was opened. Where it was destroyed under a transaction, another one of its name may
    /// be there, whose history this is not.
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

    /// Takes the rules as they are now. With new ones what was known is looked at anew: in between the history may have
    /// been off, and what was there may be pruned.
    pub(super) fn obey(&self, version: u64, since_birth: bool) {
        if self.version.load(Relaxed) != version {
            self.version.store(version, Relaxed);
            self.since_birth.store(since_birth, Relaxed);
            *self.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Stamps a commit that is about to be written: to a WAL with these salts, behind a commit that ended with the frame
    /// `before`.
    pub(super) fn stamp(&self, salts: Salts, frame: &Frame, before: Option<FrameNumber>) -> Result<()> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let known = live.as_ref().is_some_and(|live| live.generation().salts == salts);
        if !known {
            self.check_place()?;
            let (_held, newest) = self.open()?;
            *live = match newest {
                Some(live) if live.generation().salts == salts && !self.is_pruned(live.generation())? => {
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

    /// A WAL with this header is about to be begun, over the one that is there. Says whether that was moved away, so that
    /// there is a new file now.
    pub(super) fn begin(
        &self,
        header: &Header,
        old: Option<&Header>,
        beneath: &impl RawFile,
        last_frame: &LastFrame<'_>,
    ) -> Result<bool> {
        self.check_place()?;
        self.make_dir()?;
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        *live = None;
        let old_salts = old.map(Header::salts);
        let (_held, before) = self.open()?;
        let mut moved = Exclusive::No;
        let follows = match before {
            None => self.begins(false)?,
            Some(mut before) => {
                let was = if self.is_pruned(before.generation())? {
                    Was::Unstamped
                } else if old_salts == Some(before.generation().salts) {
                    let kept = self.archive(&mut before, End::Begun(beneath, &mut moved), last_frame)?;
                    self.forget_behind(before.generation().number);
                    if kept || self.was_kept(&mut before)? { Was::Kept } else { Was::Unused }
                } else {
                    self.recover_end(&mut before)?;
                    let stamps = before.stamps()?;
                    match stamps.end() {
                        _ if stamps.commits().is_empty() => Was::Unused,
                        Some(_) if self.is_at_rest(&stamps)? => Was::Kept,
                        _ => Was::Unstamped,
                    }
                };
                if was == Was::Unused && self.is_begun_again(&before, header)? {
                    self.flush_all_later(before.generation());
                    *live = Some(before);
                    return Ok(false);
                }
                self.follow(&mut before, was)?
            }
        };
        *live = Some(self.create(&follows, header.salts(), header.page_size(), None)?);
        // Its first flush may be another connection's, which knows nothing of what was made here.
        if moved == Exclusive::WithNeighbours && self.flushes.load(Relaxed) {
            self.flush()?;
        }
        Ok(moved != Exclusive::No)
    }

    /// Lets go of the memory of the segment that is so old now that hardly anybody asks for it.
    fn forget_behind(&self, number: GenerationNumber) {
        if let Some(old) = number.get().checked_sub(IN_MEMORY).map(GenerationNumber::new)
            && let Ok(Some(file)) = Disk::open(&self.paths.file(old, ArchiveFile::Segment))
        {
            os_cache::forget(&file);
        }
    }

    /// Whether this header was written before, for a transaction that was rolled back. Other connections have the stamps of
    /// that generation open, and would go on to stamp there if new ones took their place: they tell them by the salts.
    fn is_begun_again(&self, before: &StampLog, header: &Header) -> Result<bool> {
        let generation = before.generation();
        let is_same = (generation.salts, generation.page_size, generation.first_frame)
            == (header.salts(), header.page_size(), None);
        Ok(is_same && self.is_as(&before.stamps()?, Some(generation.data))?)
    }

    /// Whether a generation of which the WAL has a header alone has ended all the same: the power may have taken the header
    /// of the one that was begun over it.
    fn was_kept(&self, before: &mut StampLog) -> Result<bool> {
        self.recover_end(before)?;
        let stamps = before.stamps()?;
        Ok(stamps.end().is_some() && self.is_at_rest(&stamps)?)
    }

    /// How a generation follows `before`: it goes on from that, or takes its place, or begins anew.
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
        // Another connection made them, and perhaps never flushed anything. Without their header nothing leads beyond them.
        if self.flushed.load(Relaxed) != generation.seed() {
            let begun =
                [ArchiveFile::Snapshot, ArchiveFile::Sum].map(|of| self.paths.file(generation.number, of));
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

    /// A history that begins in the middle of a WAL, which somebody else began.
    fn begin_within(
        &self,
        salts: Salts,
        page_size: u32,
        first_frame: Option<FrameNumber>,
    ) -> Result<StampLog> {
        self.make_dir()?;
        let (_held, before) = self.open()?;
        let follows = match before {
            None => self.begins(true)?,
            Some(mut before) => self.follow(&mut before, Was::Unstamped)?,
        };
        // The snapshot holds the frames that are there, and must not outlive them.
        self.flush_files([self.wal.clone()])?;
        let live = self.create(&follows, salts, page_size, first_frame)?;
        // No header is written, and so none is flushed before the first frame: that might be there after a power loss, and
        // the snapshot not.
        self.flush_unsynced()?;
        Ok(live)
    }

    /// Makes the stamps of a new generation, and a snapshot before them if the history begins there.
    fn create(
        &self,
        follows: &Successor,
        salts: Salts,
        page_size: u32,
        first_frame: Option<FrameNumber>,
    ) -> Result<StampLog> {
        let data = history::state_of(&self.data)?.unwrap_or(FileState::MISSING);
        // A history that begins anew begins after every earlier stamp.
        let earliest = if follows.lineage.begins() { follows.not_before.next() } else { follows.not_before };
        let generation = Generation {
            database: self.history.database,
            number: follows.number,
            salts,
            page_size,
            first_frame,
            lineage: follows.lineage,
            not_before: follows.not_before,
            begun_at: Micros::from(self.history.clock.now()).max(earliest),
            data,
        };
        if generation.begins() {
            self.take_snapshot(&generation)?;
        }
        // What is only wanted stops nobody, be the disk full.
        let is_taken = self.is_snapshot_wanted(&generation)? && self.take_snapshot(&generation).is_ok();
        let beside = self.paths.dir().join("live.new");
        self.disk().remove(&beside)?;
        let file = self.disk().create_like(&beside, &self.data)?;
        self.disk().allocate(&file, &beside, FILE_LEN)?;
        self.disk().write_at(&file, &beside, &crate::stamps::bytes(&generation.encode()), 0)?;
        self.disk().rename(&beside, &self.paths.live_stamps())?;
        // In this order: without both the history would count as lost.
        self.disk().remove(&layout::unwritten(&self.data))?;
        if is_taken {
            self.disk().remove(&self.paths.snapshot_request())?;
        }
        self.flush_stamps_later(&generation);
        StampLog::map(&generation, &file, &self.paths.live_stamps())
    }

    /// Whether maintenance asked for a snapshot before a generation, or one was taken before the same generation was begun
    /// in vain. The database file is what the generation before ended with.
    fn is_snapshot_wanted(&self, generation: &Generation) -> Result<bool> {
        let Some(end) = generation.lineage.end_before() else { return Ok(false) };
        let of_this = self.paths.file(generation.number, ArchiveFile::Sum);
        Ok(generation.data.len == end.pages.len(generation.page_size)
            && (Disk::exists(&self.paths.snapshot_request())? || Disk::exists(&of_this)?))
    }

    /// Takes a snapshot before a generation.
    fn take_snapshot(&self, generation: &Generation) -> Result<()> {
        let taken =
            isolated_fds::run(|| base_snapshot::take(self.disk(), &self.paths, &self.data, generation))?;
        if taken.is_err() {
            let _removed_by_the_next = self.disk().remove(&self.paths.dir().join("snapshot.new"));
        }
        taken?;
        for file in [ArchiveFile::Snapshot, ArchiveFile::Sum] {
            self.flush_later(self.paths.file(generation.number, file));
        }
        Ok(())
    }

    /// The WAL is about to be cut to a length.
    pub(super) fn cut(&self, to: u64, last_frame: &LastFrame<'_>) -> Result<()> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        *live = None;
        if !self.is_in_place() {
            return Ok(());
        }
        let (_held, newest) = self.open_own()?;
        let Some(mut newest) = newest else { return Ok(()) };
        if self.is_pruned(newest.generation())? {
            return Ok(());
        }
        let end = self.end_of(&newest, last_frame)?;
        if end.is_none() && to == 0 {
            return self.void(&mut newest, last_frame);
        }
        if end.is_some_and(|(_, len, _)| to < len) && self.archive(&mut newest, End::Cut, last_frame)? {
            self.rest(&mut newest)?;
        }
        Ok(())
    }

    /// The WAL is about to be deleted. Says whether it was moved into the archive instead.
    pub(super) fn end(&self, last_frame: &LastFrame<'_>) -> Result<bool> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        *live = None;
        self.check_place()?;
        let (_held, newest) = self.open_own()?;
        let Some(mut newest) = newest else { return Ok(false) };
        if self.is_pruned(newest.generation())? {
            return Ok(false);
        }
        let kept = self.archive(&mut newest, End::Deleted, last_frame)?;
        if !kept {
            self.void(&mut newest, last_frame)?;
        }
        Ok(kept)
    }

    /// Whether the database file is what it was when its last WAL ended.
    fn is_at_rest(&self, stamps: &Stamps) -> Result<bool> {
        self.is_as(stamps, stamps.checkpointed())
    }

    /// Whether the database file is what a generation ended with, after which it was in this state. Where that cannot be
    /// told from its length and time (they change when a fleet is copied elsewhere, and when a log is checkpointed once
    /// more after a crash), its pages are compared.
    fn is_as(&self, stamps: &Stamps, state: Option<FileState>) -> Result<bool> {
        if state.is_some() && history::state_of(&self.data)? == state {
            return Ok(true);
        }
        let database = self.history.database;
        let birth = Birth { database, at: Timestamp::from_micros(0)?, is_kept_since: false };
        match Origin::local(Some(self.disk()), &self.data, birth).read() {
            // What is damaged cannot be gone on from.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            timeline => history::is_at_end(&timeline?, stamps),
        }
    }

    /// Makes the directory of the archive, if there is none.
    fn make_dir(&self) -> Result<()> {
        if self.disk().make_dir_like(self.paths.dir(), &self.data)?
            && let Some(dir) = self.data.parent()
        {
            self.flush_later(dir.to_owned());
        }
        Ok(())
    }
}
