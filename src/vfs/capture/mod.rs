//! Capture: what makes every commit of a database a point in its history.
//!
//! The WAL is the log; nothing is written twice. What is added is a stamp for each commit, in memory that is shared with a
//! file, and the keeping of each WAL before SQLite writes over it, cuts it off or deletes it. All of that happens while
//! SQLite holds the lock under which nobody else writes to the WAL, so nothing here needs a lock of its own between
//! processes.
//!
//! A stamp is written before the frame that commits. So no commit that was seen by anybody lacks its stamp, whatever kills
//! the process; a stamp whose commit did not come about is told by what follows (see [`Stamps::made`]).

mod newest;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use rusqlite::ffi::SQLITE_OK;

use super::{beneath::Beneath, live::Live};
use crate::{
    archive::{self, Birth, Log, Timeline, present},
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::{self, ArchiveFile, ArchivePaths},
    stamps::{Commit, FileState, Generation, LogEnd, Made, Record, Stamps},
    time::{Clock, Timestamp},
    wal::{self, Header},
};

/// The size of a new file of stamps: room for 124.
const FILE_LEN: u64 = 4096;

/// The most room that is made in a new WAL, in bytes: SQLite begins it anew at about 1000 frames.
const ROOM_MAX: u64 = 8 << 20;

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
    wal: PathBuf,
    paths: ArchivePaths,
    live: Mutex<Option<Live>>,
    /// The instant of the last commit that was stamped here.
    stamped_at: AtomicI64,
    /// The version of the rules that were seen last.
    version: AtomicU64,
    /// Whether the history was never off.
    since_birth: AtomicBool,
    /// What must be on the disk before the WAL is flushed again.
    unsynced: Mutex<Vec<PathBuf>>,
    /// Whether this connection has flushed a WAL.
    flushes: AtomicBool,
}

/// The frame that ended the last commit of the WAL with these salts, if that is known.
type LastFrame<'a> = dyn Fn([u8; 8]) -> Option<u32> + 'a;

/// How a new generation follows what was there before.
struct Follows {
    sequence: u64,
    begins: bool,
    after_change: bool,
    not_before: i64,
    link: u64,
    end_before: LogEnd,
}

/// How a WAL ends.
enum End<'a> {
    /// Another one is begun over it. Where it was moved away, that is said.
    Begun(&'a dyn Beneath, &'a mut bool),
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
    Lost,
}

impl Follows {
    /// No generation.
    const NOTHING: Self = Self {
        sequence: 1,
        begins: true,
        after_change: false,
        not_before: i64::MIN,
        link: 0,
        end_before: LogEnd::NONE,
    };
}

impl Capture {
    pub(super) fn new(history: History, data: &Path) -> Self {
        Self {
            history,
            data: data.to_owned(),
            wal: layout::beside(data, "-wal"),
            paths: ArchivePaths::of(data),
            live: Mutex::default(),
            stamped_at: AtomicI64::new(i64::MIN),
            version: AtomicU64::new(0),
            since_birth: AtomicBool::new(false),
            unsynced: Mutex::default(),
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
    pub(super) fn stamp(
        &self,
        salts: [u8; 8],
        page_size: u32,
        commit: (u32, u32),
        before: u32,
    ) -> Result<()> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let known = live.as_ref().is_some_and(|live| live.generation().salts == salts);
        if !known {
            let _held = self.hold()?;
            *live = match self.open_live()? {
                Some(live) if live.generation().salts == salts && !self.is_pruned(&live)? => Some(live),
                _ => None,
            };
        }
        let live = match &mut *live {
            Some(live) => live,
            none => none.insert(self.begin_within(salts, page_size, before)?),
        };
        let (frame, pages) = commit;
        let now = self.history.clock.now().as_micros();
        let commit = Commit { at: now, frame, before, pages };
        let at = live.stamp(self.disk(), &self.paths.live_stamps(), now, commit)?;
        self.stamped_at.store(at, Relaxed);
        Ok(())
    }

    /// A WAL with this header is about to be begun, over the one that is there. Says whether that was moved away, so that
    /// there is a new file now.
    pub(super) fn begin(
        &self,
        header: &Header,
        old: Option<&Header>,
        beneath: &impl Beneath,
        last_frame: &LastFrame<'_>,
    ) -> Result<bool> {
        self.make_dir()?;
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        *live = None;
        let _held = self.hold()?;
        let old_salts = old.map(Header::salts);
        let before = self.open_live()?;
        let mut moved = false;
        let follows = match before {
            None => self.begins(false)?,
            Some(mut before) => {
                let was = if self.is_pruned(&before)? {
                    Was::Lost
                } else if old_salts == Some(before.generation().salts) {
                    let kept = self.archive(&mut before, End::Begun(beneath, &mut moved), last_frame)?;
                    if kept { Was::Kept } else { Was::Unused }
                } else {
                    self.recover_end(&mut before)?;
                    let stamps = before.stamps()?;
                    match stamps.end() {
                        Some(_) if self.is_at_rest(&stamps)? => Was::Kept,
                        None if stamps.made(None).is_empty() => Was::Unused,
                        _ => Was::Lost,
                    }
                };
                self.follow(&before, was)?
            }
        };
        *live = Some(self.create(&follows, header.salts(), header.page_size(), 0)?);
        Ok(moved)
    }

    /// How a generation follows `before`: it goes on from that, or takes its place, or begins anew.
    fn follow(&self, before: &Live, was: Was) -> Result<Follows> {
        let stamps = before.stamps()?;
        let generation = stamps.generation;
        let next = Follows {
            sequence: generation.sequence + 1,
            begins: false,
            after_change: false,
            not_before: stamps.last_instant(),
            link: stamps.digest,
            end_before: stamps.end().unwrap_or(LogEnd::NONE),
        };
        if was == Was::Unused && self.is_as(&stamps, Some(generation.data))? {
            let Generation { sequence, begins, after_change, not_before, link, end_before, .. } = generation;
            return Ok(Follows { sequence, begins, after_change, not_before, link, end_before });
        }
        let numbered = self.paths.file(generation.sequence, ArchiveFile::Stamps);
        self.disk().rename(&self.paths.live_stamps(), &numbered)?;
        Ok(match was {
            Was::Kept => next,
            Was::Unused | Was::Lost => {
                Follows { begins: true, after_change: true, link: 0, end_before: LogEnd::NONE, ..next }
            }
        })
    }

    /// A history that begins in the middle of a WAL, which somebody else began.
    fn begin_within(&self, salts: [u8; 8], page_size: u32, first_frame: u32) -> Result<Live> {
        self.make_dir()?;
        let _held = self.hold()?;
        let follows = match self.open_live()? {
            None => self.begins(true)?,
            Some(before) => {
                Follows { begins: true, after_change: true, link: 0, ..self.follow(&before, Was::Lost)? }
            }
        };
        self.create(&follows, salts, page_size, first_frame)
    }

    /// Makes the stamps of a new generation, and a snapshot before them if the history begins there.
    fn create(&self, follows: &Follows, salts: [u8; 8], page_size: u32, first_frame: u32) -> Result<Live> {
        let data = archive::state_of(&self.data)?.unwrap_or(FileState { len: 0, changed_at: 0 });
        let generation = Generation {
            database: self.history.database,
            sequence: follows.sequence,
            salts,
            page_size,
            first_frame,
            begins: follows.begins,
            after_change: follows.after_change,
            not_before: follows.not_before,
            // What begins anew begins behind all that was before.
            begun_at: self
                .history
                .clock
                .now()
                .as_micros()
                .max(follows.not_before.saturating_add(i64::from(follows.begins))),
            link: follows.link,
            end_before: follows.end_before,
            data,
        };
        if generation.begins {
            let mut taken = Ok(());
            super::apart(&mut || taken = present::take(self.disk(), &self.paths, &self.data, &generation))?;
            taken?;
            for file in [ArchiveFile::Snapshot, ArchiveFile::Sum] {
                self.flush_later(self.paths.file(generation.sequence, file));
            }
        }
        let beside = self.paths.dir().join("live.new");
        self.disk().remove(&beside)?;
        let file = self.disk().create(&beside)?;
        self.disk().allocate(&file, &beside, FILE_LEN)?;
        self.disk().write_at(&file, &beside, &crate::stamps::bytes(&generation.encode()), 0)?;
        self.disk().rename(&beside, &self.paths.live_stamps())?;
        // In this order: without both the history would count as lost.
        self.disk().remove(&layout::unwritten(&self.data))?;
        self.flush_later(self.paths.live_stamps());
        Live::map(&generation, &file, &self.paths.live_stamps())
    }

    /// The WAL, if it is that of a generation and has commits: how it ends.
    fn end_of(&self, live: &Live, last_frame: &LastFrame<'_>) -> Result<Option<(File, u64, Record)>> {
        if Disk::len(&self.wal)?.is_none() {
            return Ok(None);
        }
        let file = self.disk().open_to_write(&self.wal)?;
        let mut start = [0; wal::HEADER_LEN];
        Disk::read_up_to(&file, &self.wal, &mut start, 0)?;
        let Some(header) = Header::parse(&start).filter(|header| header.salts() == live.generation().salts)
        else {
            return Ok(None);
        };
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
    fn archive(&self, live: &mut Live, how: End<'_>, last_frame: &LastFrame<'_>) -> Result<bool> {
        let Some((file, len, end)) = self.end_of(live, last_frame)? else { return Ok(false) };
        live.append(self.disk(), &self.paths.live_stamps(), end)?;
        let segment = self.paths.file(live.generation().sequence, ArchiveFile::Segment);
        match how {
            End::Deleted => {
                self.rest(live)?;
                self.cut_off_rest(&file, len)?;
                self.disk().rename(&self.wal, &segment)?;
                return Ok(true);
            }
            End::Begun(beneath, moved) if beneath.take_alone() => {
                let done = self.move_away((&file, len), &segment, beneath);
                beneath.share_again();
                *moved = done.is_ok();
                return done.map(|()| true);
            }
            End::Begun(..) | End::Cut => {}
        }
        let beside = self.paths.dir().join("segment.new");
        self.disk().remove(&beside)?;
        let copy = self.disk().create(&beside)?;
        if self.disk().clone_file(&file, &copy, &beside)? {
            self.disk().set_len(&copy, &beside, len)?;
        } else if self.disk().copy(&file, &copy, &beside, len, |_| true)? < len {
            let message = format!("{} was cut while it was copied", self.wal.display());
            return Err(Error::new(ErrorKind::Io, message));
        }
        self.disk().rename(&beside, &segment)?;
        self.flush_later(segment);
        // What is written over stands nowhere else. Who never flushes anything does not wait for this either.
        if self.flushes.load(Relaxed) {
            self.flush()?;
        }
        Ok(true)
    }

    /// Notes how an archived log ended whose stamps do not say it any more, since the power took that.
    fn recover_end(&self, live: &mut Live) -> Result<()> {
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
            // Room for as much again, so that commits write over what is there, as they do in a WAL that is used again: that
            // takes less time than to make a file longer.
            let zeros = vec![0; 64 << 10];
            for at in (0..len.min(ROOM_MAX)).step_by(zeros.len()) {
                if beneath.write(&zeros, at) != SQLITE_OK {
                    break;
                }
            }
            return Ok(());
        }
        self.disk().rename(segment, &self.wal)?;
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        Err(Error::new(ErrorKind::Io, format!("beginning {} anew: {error}", self.wal.display())))
    }

    /// Notes how the database file is, in which the whole WAL stands by now.
    fn rest(&self, live: &mut Live) -> Result<()> {
        match archive::state_of(&self.data)? {
            Some(data) => live.append(self.disk(), &self.paths.live_stamps(), Record::Rest(data)),
            None => Ok(()),
        }
    }

    /// The WAL is about to be cut to a length.
    pub(super) fn cut(&self, to: u64, last_frame: &LastFrame<'_>) -> Result<()> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        *live = None;
        let _held = self.hold()?;
        let Some(mut newest) = self.open_live()? else { return Ok(()) };
        if self.is_pruned(&newest)? {
            return Ok(());
        }
        if self.end_of(&newest, last_frame)?.is_some_and(|(_, len, _)| to < len)
            && self.archive(&mut newest, End::Cut, last_frame)?
        {
            self.rest(&mut newest)?;
        }
        Ok(())
    }

    /// The WAL is about to be deleted. Says whether it was moved into the archive instead.
    pub(super) fn end(&self, last_frame: &LastFrame<'_>) -> Result<bool> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        *live = None;
        let _held = self.hold()?;
        let Some(mut newest) = self.open_live()? else { return Ok(false) };
        Ok(!self.is_pruned(&newest)? && self.archive(&mut newest, End::Deleted, last_frame)?)
    }

    /// Whether the database file is what it was when its last WAL ended.
    fn is_at_rest(&self, stamps: &Stamps) -> Result<bool> {
        self.is_as(stamps, stamps.rest())
    }

    /// Whether the database file is what a generation ended with, after which it was in this state. Where that cannot be
    /// told from its length and time (they change when a fleet is copied elsewhere, and when a log is checkpointed once
    /// more after a crash), its pages are compared.
    fn is_as(&self, stamps: &Stamps, state: Option<FileState>) -> Result<bool> {
        if state.is_some() && archive::state_of(&self.data)? == state {
            return Ok(true);
        }
        let birth = Birth { at: Timestamp::from_micros(0)?, is_kept_since: false };
        match Timeline::read(Some(self.disk()), &self.data, birth, super::apart) {
            // What is damaged cannot be gone on from.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            timeline => timeline?.is_at_end(stamps),
        }
    }

    /// Makes the directory of the archive, if there is none.
    fn make_dir(&self) -> Result<()> {
        if self.disk().make_dir(self.paths.dir())?
            && let Some(dir) = self.data.parent()
        {
            self.flush_later(dir.to_owned());
        }
        Ok(())
    }

    fn flush_later(&self, path: PathBuf) {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    /// The WAL is about to be flushed: what it may be written over for is flushed first.
    pub(super) fn flush(&self) -> Result<()> {
        self.flushes.store(true, Relaxed);
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        if unsynced.is_empty() {
            return Ok(());
        }
        for path in &*unsynced {
            if let Some(file) = Disk::open(path)? {
                self.disk().sync_file(&file, path)?;
            }
        }
        self.disk().sync_dir(self.paths.dir())?;
        unsynced.clear();
        Ok(())
    }
}
