//! The pages of a database at an instant of the past: a snapshot overlaid with frames of the logs behind it.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::{
    checksummed, damaged,
    fallback::Fallback,
    log,
    log_file::{LogFile, Part},
    missing,
    page_cache::PageCache,
    prefetch::Prefetch,
    snapshot::Snapshot,
    timeline::{Target, Timeline},
};
use crate::{
    disk::{DirLock, Disk},
    error::{Error, ErrorKind, Result},
    layout::ArchivePaths,
    page,
    point::{InstantPosition, ResolvedInstant},
    stamps::{Generation, Stamps},
    sys::isolated_fds,
    time::Timestamp,
    wal::HEADER_LEN,
};

/// Segments that are open at a time.
const OPEN_MAX: usize = 128;

/// The most that is held in memory of a database that has no history yet, in bytes.
const BEGAN_MAX: u64 = 256 << 20;

/// The page size and the pages of a database that nothing was ever written to.
fn read_all(data: &Path) -> Result<(u32, Vec<u8>)> {
    let file = Disk::open_regular(data)?.ok_or_else(|| missing(data))?;
    let mut head = [0; page::HEADER_LEN];
    if Disk::read_up_to(&file, data, &mut head, 0)? < head.len() {
        return Err(damaged(data, "it is cut off"));
    }
    let header = page::Header::parse(&head)?;
    let len = header.database_len(Disk::len(data)?.unwrap_or(0));
    if len > BEGAN_MAX {
        return Err(Error::naming(ErrorKind::Unsupported, data, |data| {
            format!(
                "nothing was ever written to {data}: connect to it as it is, or fork it; a view of it has {len} bytes \
                 to hold in memory, which is more than {BEGAN_MAX}"
            )
        }));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let count = Disk::read_up_to(&file, data, &mut bytes, 0)?;
    bytes.truncate(count);
    Ok((header.page_size, bytes))
}

/// The pages of a database at one commit.
#[derive(Debug)]
pub(crate) struct HistoricalImage {
    /// The generation before which the snapshot was made.
    pub(crate) first: u64,
    pub(crate) page_size: u32,
    /// The size of the database in pages.
    pub(crate) page_count: u32,
    pub(crate) reached: ResolvedInstant,
    pub(super) snapshot: Snapshot,
    /// The pages of the snapshot that no commit has cut off since.
    pub(super) snapshot_pages: u32,
    /// Where the newest version of each page is.
    pub(super) places: Vec<Option<FrameRef>>,
    /// Those of them that are in compressed logs, in their order there, and the page of each.
    pub(super) packed: Vec<(FrameRef, u32)>,
    pub(super) logs: Vec<OpenLog>,
    paths: ArchivePaths,
    open: Mutex<Open>,
    kept: PageCache,
    pub(super) ahead: Prefetch,
    snapshot_file: OnceLock<File>,
    /// Pages that are held in memory.
    held: HashMap<u32, Vec<u8>>,
    /// Nothing where there is no snapshot.
    detour: Option<Fallback>,
    /// None of the files is removed for as long as this is held.
    _lock: Option<Arc<DirLock>>,
}

/// Segments that are open.
#[derive(Debug, Default)]
struct Open {
    /// By their number among the logs.
    files: HashMap<u32, Arc<LogFile>>,
    /// The numbers in the order in which they were opened.
    order: VecDeque<u32>,
}

/// A frame of one of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FrameRef {
    pub(super) log: u32,
    pub(super) frame: u32,
}

/// What was decompressed last: a part of a log.
#[derive(Debug)]
pub(super) struct Unpacked {
    log: u32,
    file: Arc<LogFile>,
    part: Part,
}

#[derive(Debug)]
pub(super) struct OpenLog {
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
    pub(super) is_compressed: bool,
    /// The checksum of each frame's page.
    pub(super) sums: Vec<u64>,
    /// The header of the WAL that SQLite writes to: while it is the same, the frames are too.
    pub(super) live: Option<(Arc<File>, [u8; HEADER_LEN])>,
}

impl HistoricalImage {
    /// Finds the pages of an instant; nothing where the database has no history and is as it began. Each page is checked
    /// when it is read.
    ///
    /// Of several snapshots the newest is taken that leads there. Where a page turns out to be damaged, an older one may
    /// still lead there: one before the generation `below`.
    pub(crate) fn find(
        timeline: &Timeline,
        at: Timestamp,
        now: Timestamp,
        below: Option<u64>,
    ) -> Result<Option<Self>> {
        let Some(target) = timeline.find(at, now)? else { return Ok(None) };
        Self::with(timeline, &target, below).map(Some)
    }

    /// The pages at the end of the newest generation, which has ended.
    pub(crate) fn at_end(timeline: &Timeline, stamps: &Stamps) -> Result<Self> {
        let sequence = stamps.generation.sequence;
        // One in which nobody committed ends as it began.
        let end = timeline.known_end(stamps)?;
        let frame = end.map_or(stamps.generation.first_frame, |end| end.frame);
        let reached = ResolvedInstant { kind: InstantPosition::AfterLast, commit: None, next: None };
        Self::with(timeline, &Target { sequence, frame, reached }, None)
    }

    /// The pages before the first commit of a generation, which goes on from the one before it.
    pub(super) fn before(timeline: &Timeline, generation: &Generation) -> Result<Self> {
        let reached = ResolvedInstant { kind: InstantPosition::AfterLast, commit: None, next: None };
        let (sequence, frame) = (generation.sequence - 1, generation.end_before.frame);
        Self::with(timeline, &Target { sequence, frame, reached }, None)
    }

    /// The pages of a database that has no history and is as it began, in memory.
    pub(crate) fn began(data: &Path) -> Result<Self> {
        let (page_size, bytes) = isolated_fds::run(|| read_all(data))??;
        let held: HashMap<u32, Vec<u8>> =
            (1..).zip(bytes.chunks_exact(page_size as usize).map(<[u8]>::to_vec)).collect();
        let pages = u32::try_from(held.len()).unwrap_or(u32::MAX);
        Ok(Self {
            first: 0,
            page_size,
            page_count: pages,
            reached: ResolvedInstant { kind: InstantPosition::BeforeFirst, commit: None, next: None },
            snapshot: Snapshot::none(data),
            snapshot_pages: 0,
            places: Vec::new(),
            packed: Vec::new(),
            logs: Vec::new(),
            paths: ArchivePaths::of(data),
            open: Mutex::default(),
            kept: PageCache::default(),
            ahead: Prefetch::default(),
            snapshot_file: OnceLock::new(),
            held,
            detour: None,
            // What is in memory nobody removes.
            _lock: None,
        })
    }

    /// What a snapshot holds, before the first commit behind it.
    pub(super) fn of_snapshot(
        timeline: &Timeline,
        target: &Target,
        (first, page_size): (u64, u32),
        snapshot: Snapshot,
    ) -> Self {
        let pages = snapshot.pages();
        Self {
            first,
            page_size,
            page_count: pages,
            reached: target.reached,
            snapshot,
            snapshot_pages: pages,
            places: vec![None; pages as usize],
            packed: Vec::new(),
            logs: Vec::new(),
            paths: timeline.paths.clone(),
            open: Mutex::default(),
            kept: PageCache::default(),
            ahead: Prefetch::default(),
            snapshot_file: OnceLock::new(),
            held: HashMap::new(),
            detour: Some(Fallback::new(timeline, target, first)),
            _lock: timeline.held.clone(),
        }
    }

    /// Takes what is in the log that SQLite writes to into memory, where it stays as it is.
    pub(crate) fn hold(&mut self) -> Result<()> {
        let live = |place: &FrameRef| self.logs[place.log as usize].live.is_some();
        let mut held = HashMap::new();
        for (number, place) in (1..).zip(&self.places) {
            if let Some(place) = place.filter(live) {
                let mut page = vec![0; self.page_size as usize];
                self.read_frame(place, &mut page)?;
                held.insert(number, page);
            }
        }
        self.held = held;
        Ok(())
    }

    /// Fills `into` with a page, counted from 1. Where the snapshot has it damaged, an older one may lead to it.
    pub(crate) fn read_page(&self, number: u32, into: &mut [u8]) -> Result<()> {
        if let Some(page) = self.held.get(&number) {
            into.copy_from_slice(page);
            return Ok(());
        }
        if let Some(place) = self.place(number) {
            return self.read_ahead(number, place, into);
        }
        if number > self.snapshot_pages {
            into.fill(0);
            return Ok(());
        }
        match self.read_snapshot(number, into) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let way = self.detour.as_ref().map(Fallback::way).transpose()?.flatten();
                let Some(way) = way else { return Err(error) };
                // Where no way leads there, the newest snapshot is the one to be put back.
                way.read_page(number, into).map_err(|other| match other.kind() {
                    ErrorKind::Corrupt => error,
                    _ => other,
                })
            }
            read => read,
        }
    }

    /// Fills `into` with a page as the snapshot has it.
    fn read_snapshot(&self, number: u32, into: &mut [u8]) -> Result<()> {
        let file = if let Some(file) = self.snapshot_file.get() {
            file
        } else {
            let file = self.snapshot.open()?;
            self.snapshot_file.get_or_init(|| file)
        };
        let at = u64::from(number - 1) * u64::from(self.page_size);
        if Disk::read_up_to(file, &self.snapshot.path, into, at)? < into.len() {
            return Err(damaged(&self.snapshot.path, "it is cut off"));
        }
        self.snapshot.check(number, into)
    }

    /// The file of the snapshot.
    pub(crate) fn snapshot_path(&self) -> &Path {
        &self.snapshot.path
    }

    /// Whether the log that SQLite writes to is still the one whose frames were found.
    pub(crate) fn is_still_there(&self) -> Result<bool> {
        for OpenLog { path, live, .. } in &self.logs {
            if let Some((file, header)) = live {
                let mut now = [0; HEADER_LEN];
                Disk::read_up_to(file, path, &mut now, 0)?;
                if now != *header {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The size in bytes.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.page_count) * u64::from(self.page_size)
    }

    pub(super) fn place(&self, number: u32) -> Option<FrameRef> {
        self.places.get(number as usize - 1).copied().flatten()
    }

    pub(super) fn is_packed(&self, place: FrameRef) -> bool {
        self.logs[place.log as usize].is_compressed
    }

    pub(super) fn read_frame(&self, place: FrameRef, into: &mut [u8]) -> Result<()> {
        if self.is_packed(place) {
            return self.read_packed(place, into);
        }
        let OpenLog { path, live, .. } = &self.logs[place.log as usize];
        let at = log::page_offset(place.frame, self.page_size);
        let count = match live {
            Some((file, _)) => Disk::read_up_to(file, path, into, at)?,
            None => self.opened(place.log)?.read_up_to(into, at)?,
        };
        self.check_frame(place, &into[..count])
    }

    /// Fills `into` with a page of a compressed log. The pages that were decompressed with it and are of this commit too
    /// are kept: whoever reads one of them reads others.
    fn read_packed(&self, place: FrameRef, into: &mut [u8]) -> Result<()> {
        if self.kept.get(place, into) {
            return self.check_frame(place, into);
        }
        let mut unpacked = None;
        self.unpack(place, &mut unpacked, into)?;
        let Some(Unpacked { part, .. }) = unpacked else { return Ok(()) };
        let at = self.packed.partition_point(|(other, _)| *other < place);
        let bytes = |(other, _): &(FrameRef, u32)| {
            let at = log::page_offset(other.frame, self.page_size);
            let bytes = (other.log == place.log).then(|| part.get(at, into.len()))??;
            Some((*other, bytes.to_vec()))
        };
        self.kept.keep(self.packed[..at].iter().rev().map_while(bytes));
        self.kept.keep(self.packed[at..].iter().map_while(bytes));
        Ok(())
    }

    /// The same without keeping anything but the part that was decompressed last.
    pub(super) fn unpack(&self, place: FrameRef, last: &mut Option<Unpacked>, into: &mut [u8]) -> Result<()> {
        let at = log::page_offset(place.frame, self.page_size);
        let is_there = |last: &Unpacked| last.log == place.log && last.part.get(at, into.len()).is_some();
        if !last.as_ref().is_some_and(is_there) {
            let file = match last.take().filter(|last| last.log == place.log) {
                Some(last) => last.file,
                None => self.opened(place.log)?,
            };
            let Some(part) = file.part(at)?.filter(|part| part.get(at, into.len()).is_some()) else {
                // It is in two parts of a file that is divided elsewhere.
                let count = file.read_up_to(into, at)?;
                return self.check_frame(place, &into[..count]);
            };
            *last = Some(Unpacked { log: place.log, file, part });
        }
        if let Some(page) = last.as_ref().and_then(|last| last.part.get(at, into.len())) {
            into.copy_from_slice(page);
        }
        self.check_frame(place, into)
    }

    pub(super) fn check_frame(&self, place: FrameRef, page: &[u8]) -> Result<()> {
        let OpenLog { path, sums, .. } = &self.logs[place.log as usize];
        let is_whole = page.len() == self.page_size as usize;
        if !is_whole || sums.get(place.frame as usize - 1) != Some(&checksummed::of(page)) {
            return Err(damaged(path, format_args!("the checksum of frame {} does not fit", place.frame)));
        }
        Ok(())
    }

    pub(super) fn opened(&self, number: u32) -> Result<Arc<LogFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.files.get(&number) {
            return Ok(Arc::clone(file));
        }
        let OpenLog { sequence, path, .. } = &self.logs[number as usize];
        let bytes = LogFile::open(&self.paths, *sequence)?.ok_or_else(|| missing(path))?;
        let file = Arc::new(bytes);
        if open.order.len() >= OPEN_MAX
            && let Some(oldest) = open.order.pop_front()
        {
            open.files.remove(&oldest);
        }
        open.order.push_back(number);
        open.files.insert(number, Arc::clone(&file));
        Ok(file)
    }
}
