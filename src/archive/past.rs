//! The pages of a database at an instant of the past: a snapshot overlaid with frames of the logs behind it.

use std::{
    collections::VecDeque,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    damaged, missing,
    segment::{self, Log},
    snapshot::{self, Checksum, Snapshot},
    timeline::{Source, Target, Timeline, frames},
};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    layout::ArchiveFile,
    point::{Reached, ReachedKind},
    progress::{self, Phase, Watch},
    stamps::{Generation, LogEnd, Stamps},
    time::Timestamp,
    wal::HEADER_LEN,
};

/// Segments that are open at a time.
const OPEN_MAX: usize = 128;

/// The pages of a database at one commit.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) page_size: u32,
    /// The size of the database in pages.
    pub(crate) page_count: u32,
    pub(crate) reached: Reached,
    snapshot: Snapshot,
    /// The pages of the snapshot that no commit has cut off since.
    snapshot_pages: u32,
    /// Where the newest version of each page is.
    places: Vec<Option<Place>>,
    logs: Vec<LogFile>,
    open: Mutex<VecDeque<(usize, Arc<File>)>>,
}

/// A frame of one of the logs.
#[derive(Clone, Copy, Debug)]
struct Place {
    log: u32,
    frame: u32,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    /// The header of the WAL that SQLite writes to: while it is the same, the frames are too.
    live: Option<(Arc<File>, [u8; HEADER_LEN])>,
}

impl Past {
    /// Finds the pages of an instant, and checks every frame that it takes; nothing where the database has no history and
    /// is as it began.
    ///
    /// Of several snapshots the newest is taken that is whole and leads there.
    pub(crate) fn find(timeline: &Timeline, at: Timestamp, now: Timestamp) -> Result<Option<Self>> {
        let Some(target) = timeline.find(at, now)? else { return Ok(None) };
        Self::with(timeline, &target).map(Some)
    }

    /// The pages at the end of the newest generation, which has ended.
    pub(crate) fn at_end(timeline: &Timeline, stamps: &Stamps) -> Result<Self> {
        let sequence = stamps.generation.sequence;
        // One in which nobody committed ends as it began.
        let frame = stamps.end().map_or(stamps.generation.first_frame, |end| end.frame);
        let reached = Reached { kind: ReachedKind::AfterLast, commit: None, next: None };
        Self::with(timeline, &Target { sequence, frame, reached })
    }

    fn with(timeline: &Timeline, target: &Target) -> Result<Self> {
        let mut first_error = None;
        for sequence in timeline.snapshots.range(..=target.sequence).rev() {
            match Self::from_snapshot(timeline, *sequence, target) {
                Ok(past) => return Ok(past),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    first_error.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(first_error
            .unwrap_or_else(|| missing(&timeline.paths.file(target.sequence, ArchiveFile::Snapshot))))
    }

    fn from_snapshot(timeline: &Timeline, first: u64, target: &Target) -> Result<Self> {
        let paths = &timeline.paths;
        let mut stamps = timeline.stamps(first)?;
        let Generation { page_size, database, .. } = stamps.generation;
        let snapshot_path = paths.file(first, ArchiveFile::Snapshot);
        let snapshot = Snapshot::find(paths, first, stamps.generation.seed())?
            .ok_or_else(|| damaged(&snapshot_path, "it belongs to another history"))?;
        if Disk::len(&snapshot_path)? != Some(snapshot.len) {
            return Err(if Disk::exists(&snapshot_path)? {
                damaged(&snapshot_path, "its length is not what it was")
            } else {
                missing(&snapshot_path)
            });
        }
        snapshot.check()?;
        let pages = u32::try_from(snapshot.len / u64::from(page_size)).unwrap_or(u32::MAX);
        let mut past = Self {
            page_size,
            page_count: pages,
            reached: target.reached,
            snapshot,
            snapshot_pages: pages,
            places: vec![None; pages as usize],
            logs: Vec::new(),
            open: Mutex::default(),
        };
        for sequence in first..=target.sequence {
            if sequence > first {
                stamps = timeline.stamps(sequence)?;
                if stamps.generation.begins {
                    // The snapshot that was taken leads nowhere beyond this point.
                    return Err(missing(&paths.file(sequence, ArchiveFile::Snapshot)));
                }
            }
            let is_last = sequence == target.sequence;
            let upto = is_last.then_some(target.frame);
            if stamps.generation.database != database || stamps.generation.page_size != page_size {
                let path = paths.file(sequence, ArchiveFile::Stamps);
                return Err(damaged(&path, "it is that of another database"));
            }
            // What follows vouches for how it ended.
            let after = timeline.after(sequence)?.filter(|after| !after.begins);
            past.lay_over(timeline, &stamps, after.map(|after| after.end_before).or(stamps.end()), upto)?;
        }
        Ok(past)
    }

    /// Takes the commits of a generation, all or up to a frame.
    fn lay_over(
        &mut self,
        timeline: &Timeline,
        stamps: &Stamps,
        end: Option<LogEnd>,
        upto: Option<u32>,
    ) -> Result<()> {
        let generation = &stamps.generation;
        let archived = timeline.paths.file(generation.sequence, ArchiveFile::Segment);
        if upto == Some(generation.first_frame) {
            return Ok(());
        }
        let source = timeline.source(generation)?;
        let Some(Source { path, file, log, is_live }) = source else {
            // One that was begun and never used leaves nothing.
            return if upto.is_none() && stamps.made(None).is_empty() {
                Ok(())
            } else {
                Err(missing(&archived))
            };
        };
        let there = LogEnd { frame: frames(&log), pages: log.pages(), checksum: log.checksum };
        if end.is_some_and(|end| end != there) {
            return Err(damaged(&path, "it does not end as it did when it was archived"));
        }
        let upto = upto.unwrap_or_else(|| frames(&log));
        if upto > frames(&log) || log.frames[upto as usize - 1].commit.is_none() {
            return Err(damaged(&path, format_args!("frame {upto} ended a commit, and does not any more")));
        }
        let file = Arc::new(file);
        let mut header = [0; HEADER_LEN];
        Disk::read_at(&file, &path, &mut header, 0)?;
        let log_number = u32::try_from(self.logs.len()).unwrap_or(u32::MAX);
        self.logs.push(LogFile { path, live: is_live.then_some((file, header)) });
        self.apply(log_number, &log, generation.first_frame..upto);
        Ok(())
    }

    fn apply(&mut self, log_number: u32, log: &Log, range: std::ops::Range<u32>) {
        let mut uncommitted = Vec::new();
        for number in range {
            let frame = log.frames[number as usize];
            uncommitted.push((frame.page_number, number + 1));
            let Some(pages) = frame.commit else { continue };
            self.page_count = pages;
            self.snapshot_pages = self.snapshot_pages.min(pages);
            self.places.resize(pages as usize, None);
            for (page, frame) in uncommitted.drain(..) {
                if let Some(place) = self.places.get_mut(page as usize - 1) {
                    *place = Some(Place { log: log_number, frame });
                }
            }
        }
    }

    /// Whether the log that SQLite writes to is still the one whose frames were found.
    pub(crate) fn is_still_there(&self) -> Result<bool> {
        for LogFile { path, live } in &self.logs {
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

    /// Hands all pages to `write`, some at a time, in order, with the offset of each piece.
    ///
    /// Afterwards it is to be asked whether [it is still there](Self::is_still_there).
    pub(crate) fn read_all(
        &self,
        watch: &mut Watch<'_>,
        mut write: impl FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<()> {
        let page_size = self.page_size as usize;
        let total = self.len();
        let file = self.snapshot.open()?;
        let kept = u64::from(self.snapshot_pages) * u64::from(self.page_size);
        let mut buffer = vec![0; (snapshot::STEP / page_size).max(1) * page_size];
        let mut at = 0;
        let mut page = 0;
        while at < total {
            progress::tell(watch, Phase::Copy, at, Some(total))?;
            let want = usize::try_from(total - at).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..want];
            let from_snapshot = usize::try_from(kept.saturating_sub(at)).unwrap_or(usize::MAX).min(want);
            let count = Disk::read_up_to(&file, &self.snapshot.path, &mut piece[..from_snapshot], at)?;
            if count < from_snapshot {
                return Err(damaged(&self.snapshot.path, "it is cut off"));
            }
            piece[from_snapshot..].fill(0);
            for bytes in piece.chunks_exact_mut(page_size) {
                if let Some(place) = self.places[page] {
                    self.read_frame(place, bytes)?;
                }
                page += 1;
            }
            write(piece, at)?;
            at += want as u64;
        }
        progress::tell(watch, Phase::Copy, total, Some(total))
    }

    fn read_frame(&self, place: Place, into: &mut [u8]) -> Result<()> {
        let number = place.log as usize;
        let LogFile { path, live } = &self.logs[number];
        let file = match live {
            Some((file, _)) => Arc::clone(file),
            None => self.opened(number, path)?,
        };
        Disk::read_at(&file, path, into, segment::page_offset(place.frame, self.page_size))
    }

    fn opened(&self, number: usize, path: &Path) -> Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.iter().find(|(open, _)| *open == number) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(Disk::open(path)?.ok_or_else(|| missing(path))?);
        open.truncate(OPEN_MAX - 1);
        open.push_front((number, Arc::clone(&file)));
        Ok(file)
    }
}

impl Snapshot {
    fn open(&self) -> Result<File> {
        Disk::open(&self.path)?.ok_or_else(|| missing(&self.path))
    }

    /// Reads all of it and compares its checksum.
    pub(super) fn check(&self) -> Result<()> {
        let file = self.open()?;
        let mut checksum = Checksum::default();
        let mut buffer = vec![0; snapshot::STEP];
        let mut at = 0;
        loop {
            let count = Disk::read_up_to(&file, &self.path, &mut buffer, at)?;
            checksum.add(&buffer[..count]);
            at += count as u64;
            if count < buffer.len() {
                break;
            }
        }
        if at != self.len || checksum.finish() != self.checksum {
            return Err(damaged(&self.path, "its checksum does not fit"));
        }
        Ok(())
    }
}
