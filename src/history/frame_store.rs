//! The pages in the frames of an image's logs.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    path::PathBuf,
    sync::Arc,
};

use super::{
    archive::Archive,
    checksummed::page_checksum,
    errors::{damaged, missing},
    frame_ref::{FrameRef, PackedPage},
    log_file::{LogFile, Part},
    page_cache::PageCache,
};
use crate::{
    disk::Disk,
    error::Result,
    sync::{Mutex, Rank},
    units::{GenerationNumber, PageChecksum},
    wal::{self, FRAME_HEADER_LEN, HEADER_LEN},
};

/// Maximum number of segments that are open at a time.
const OPEN_MAX: usize = 128;

/// One of the logs of an image.
#[derive(Debug)]
pub(super) struct ImageLog {
    pub(super) number: GenerationNumber,
    /// The name of the log in errors.
    pub(super) path: PathBuf,
    pub(super) is_compressed: bool,
    /// The checksum of each frame's page.
    pub(super) page_checksums: Vec<PageChecksum>,
    /// The WAL, if the log is not archived.
    pub(super) live: Option<LiveWal>,
}

/// A WAL that SQLite may restart. Its frames do not change while its header is the same.
#[derive(Debug)]
pub(super) struct LiveWal {
    pub(super) file: File,
    pub(super) header: [u8; HEADER_LEN],
}

/// Reads and checks the pages in frames.
#[derive(Debug)]
pub(super) struct FrameStore {
    archive: Archive,
    page_size: u32,
    logs: Vec<ImageLog>,
    /// The pages in compressed logs, in the order of the logs.
    packed: Vec<PackedPage>,
    open: Mutex<OpenSegments>,
    cache: PageCache,
}

#[derive(Debug, Default)]
struct OpenSegments {
    /// By position among the logs.
    files: HashMap<u32, Arc<LogFile>>,
    /// The positions in the order in which the segments were opened.
    order: VecDeque<u32>,
}

/// The part that was decompressed last, of the segment of a log or of the pack with that segment.
#[derive(Debug)]
pub(super) struct Unpacked {
    log: u32,
    file: Arc<LogFile>,
    part: Part,
}

impl FrameStore {
    /// `pages` are the newest versions of all pages that are in a log.
    pub(super) fn new(
        archive: Archive,
        page_size: u32,
        logs: Vec<ImageLog>,
        pages: impl Iterator<Item = PackedPage>,
    ) -> Self {
        let mut packed: Vec<_> = pages.filter(|page| logs[page.frame.log as usize].is_compressed).collect();
        packed.sort_unstable();
        Self {
            archive,
            page_size,
            logs,
            packed,
            open: Mutex::new(Rank::ImageFiles, OpenSegments::default()),
            cache: PageCache::default(),
        }
    }

    /// The pages in compressed logs, in the order of the logs.
    pub(super) fn packed(&self) -> &[PackedPage] {
        &self.packed
    }

    /// Whether every log that is not archived still has the header with which it was read.
    pub(super) fn is_current(&self) -> Result<bool> {
        for ImageLog { path, live, .. } in &self.logs {
            if let Some(LiveWal { file, header }) = live {
                let mut now = [0; HEADER_LEN];
                Disk::read_up_to(file, path, &mut now, 0)?;
                if now != *header {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn log(&self, frame: FrameRef) -> &ImageLog {
        &self.logs[frame.log as usize]
    }

    /// Whether the frame is in a WAL that SQLite may restart.
    pub(super) fn is_live(&self, frame: FrameRef) -> bool {
        self.log(frame).live.is_some()
    }

    pub(super) fn is_packed(&self, frame: FrameRef) -> bool {
        self.log(frame).is_compressed
    }

    fn offset(&self, frame: FrameRef) -> u64 {
        wal::page_offset(frame.frame, self.page_size)
    }

    /// Fills `into` with the page of a frame.
    pub(super) fn read(&self, frame: FrameRef, into: &mut [u8]) -> Result<()> {
        if self.is_packed(frame) {
            return self.read_packed(frame, into);
        }
        let ImageLog { path, live, .. } = self.log(frame);
        let at = self.offset(frame);
        let count = match live {
            Some(LiveWal { file, .. }) => Disk::read_up_to(file, path, into, at)?,
            None => self.opened(frame.log)?.read_up_to(into, at)?,
        };
        self.check(frame, &into[..count])
    }

    /// Fills `into` with the page of a frame if that does not block. Returns whether it filled `into`.
    pub(super) fn read_cached(&self, frame: FrameRef, into: &mut [u8]) -> Result<bool> {
        if self.is_live(frame) || self.is_packed(frame) {
            return Ok(false);
        }
        if !self.opened(frame.log)?.read_cached(into, self.offset(frame)) {
            return Ok(false);
        }
        self.check(frame, into).map(|()| true)
    }

    /// Starts to read the pages of frames.
    pub(super) fn prefetch(&self, mut frames: Vec<FrameRef>) -> Result<()> {
        frames.sort_unstable();
        let frame_len = u64::from(self.page_size) + FRAME_HEADER_LEN as u64;
        // Frames that are adjacent, or nearly adjacent, are read together.
        let is_near =
            |one: &FrameRef, next: &FrameRef| one.log == next.log && next.frame.get() - one.frame.get() <= 2;
        for run in frames.chunk_by(is_near) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            if !self.is_live(*first) && !self.is_packed(*first) {
                let between = u64::from(last.frame.get() - first.frame.get()) * frame_len;
                let len = between + u64::from(self.page_size);
                self.opened(first.log)?.prefetch(self.offset(*first), len);
            }
        }
        Ok(())
    }

    /// Fills `into` with a page of a compressed log. The other pages of the image that were decompressed with it are cached,
    /// because they are likely to be read next.
    fn read_packed(&self, frame: FrameRef, into: &mut [u8]) -> Result<()> {
        if self.cache.get(frame, into) {
            return self.check(frame, into);
        }
        let mut unpacked = None;
        self.unpack(frame, &mut unpacked, into)?;
        let Some(Unpacked { file, part, .. }) = unpacked else { return Ok(()) };
        let at = self.packed.partition_point(|other| other.frame < frame);
        let cached = |other: &PackedPage| {
            let at = self.offset(other.frame);
            let bytes = (other.frame.log == frame.log).then(|| file.within(&part, at, into.len()))??;
            Some((other.frame, bytes.to_vec()))
        };
        self.cache.insert(self.packed[..at].iter().rev().map_while(cached));
        self.cache.insert(self.packed[at..].iter().map_while(cached));
        Ok(())
    }

    /// Fills `into` with a page of a compressed log, from the part `last` if that has it. Otherwise decompresses another part
    /// into `last`.
    pub(super) fn unpack(&self, frame: FrameRef, last: &mut Option<Unpacked>, into: &mut [u8]) -> Result<()> {
        let at = self.offset(frame);
        // Several logs may be in one part of a pack.
        let (file, part) = match last.take() {
            Some(Unpacked { log, file, part }) if log == frame.log => (file, Some(part)),
            unpacked => (self.opened(frame.log)?, unpacked.map(|unpacked| unpacked.part)),
        };
        let has_page = |part: &Part| file.within(part, at, into.len()).is_some();
        let part = match part.filter(has_page) {
            Some(part) => Some(part),
            None => file.part(at)?.filter(has_page),
        };
        let Some(part) = part else {
            // The page spans two parts.
            let count = file.read_up_to(into, at)?;
            return self.check(frame, &into[..count]);
        };
        if let Some(page) = file.within(&part, at, into.len()) {
            into.copy_from_slice(page);
        }
        *last = Some(Unpacked { log: frame.log, file, part });
        self.check(frame, into)
    }

    fn check(&self, frame: FrameRef, page: &[u8]) -> Result<()> {
        let ImageLog { path, page_checksums, .. } = self.log(frame);
        let is_whole = page.len() == self.page_size as usize;
        if !is_whole || page_checksums.get(frame.frame.index()) != Some(&page_checksum(page)) {
            return Err(damaged(path, format_args!("the checksum of frame {} does not match", frame.frame)));
        }
        Ok(())
    }

    fn opened(&self, log: u32) -> Result<Arc<LogFile>> {
        let mut open = self.open.lock_or_clear();
        if let Some(file) = open.files.get(&log) {
            return Ok(Arc::clone(file));
        }
        let ImageLog { number, path, .. } = &self.logs[log as usize];
        let file = Arc::new(LogFile::open(&self.archive, *number)?.ok_or_else(|| missing(path))?);
        if open.order.len() >= OPEN_MAX
            && let Some(oldest) = open.order.pop_front()
        {
            open.files.remove(&oldest);
        }
        open.order.push_back(log);
        open.files.insert(log, Arc::clone(&file));
        Ok(file)
    }
}
