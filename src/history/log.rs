//! The frames of a WAL, archived or live.

use std::{fs::File, path::Path};

use super::checksummed;
use crate::{
    disk::Disk,
    error::Result,
    shm,
    stamps::LogEnd,
    sys::isolated_fds,
    wal::{self, FRAME_HEADER_LEN, Frame, HEADER_LEN, Header, SeenFrames},
};

/// About how much of a log is read at once.
const READ_LEN: usize = 1 << 20;

/// The frames of a log, as far as its chain of checksums holds.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// The header as it stands in the file, if it was read.
    pub(super) start: [u8; HEADER_LEN],
    pub(crate) salts: [u8; 8],
    pub(crate) page_size: u32,
    /// All frames up to the last commit.
    pub(crate) frames: Vec<Frame>,
    /// The checksum of the page of each.
    pub(crate) sums: Vec<u64>,
    /// The checksum in the last of them.
    pub(crate) checksum: [u8; 8],
}

impl Log {
    /// Reads a log and checks all that it reads; nothing if it has no header that SQLite would take.
    pub(crate) fn read(file: &File, path: &Path) -> Result<Option<Self>> {
        Self::read_from(|into, at| Disk::read_up_to(file, path, into, at))
    }

    /// The same of a log that `read` reads: it fills a buffer from an offset as far as that goes, and says how far.
    pub(super) fn read_from(mut read: impl FnMut(&mut [u8], u64) -> Result<usize>) -> Result<Option<Self>> {
        let mut start = [0; HEADER_LEN];
        if read(&mut start, 0)? < HEADER_LEN {
            return Ok(None);
        }
        let Some(header) = Header::parse(&start) else { return Ok(None) };
        let frame_len = header.frame_len();
        let mut buffer = vec![0; (READ_LEN / frame_len).max(1) * frame_len];
        let mut chain = header.chain();
        let (salts, page_size) = (header.salts(), header.page_size());
        let mut log =
            Self { start, salts, page_size, frames: Vec::new(), sums: Vec::new(), checksum: [0; 8] };
        let mut committed = 0;
        let mut at = HEADER_LEN as u64;
        'reading: loop {
            let count = read(&mut buffer, at)?;
            for bytes in buffer[..count].chunks_exact(frame_len) {
                let Some(frame) = chain.follow(bytes) else { break 'reading };
                log.frames.push(frame);
                log.sums.push(checksummed::of(&bytes[FRAME_HEADER_LEN..]));
                if frame.commit.is_some() {
                    committed = log.frames.len();
                    log.checksum.copy_from_slice(&bytes[16..FRAME_HEADER_LEN]);
                }
            }
            if count < buffer.len() {
                break;
            }
            at += count as u64;
        }
        log.frames.truncate(committed);
        log.sums.truncate(committed);
        Ok(Some(log))
    }

    /// The log that SQLite writes to, up to the last commit that anybody has seen, if it has these salts.
    pub(super) fn open_live(data: &Path, path: &Path, salts: [u8; 8]) -> Result<Option<(File, Self)>> {
        let Some((file, log)) = Self::open(path)?.filter(|(_, log)| log.salts == salts) else {
            return Ok(None);
        };
        match isolated_fds::run(|| shm::seen(data, salts))?? {
            SeenFrames::UpTo(frame) => log.up_to(frame, &file, path).map(|log| Some((file, log))),
            SeenFrames::Unknown => Ok(Some((file, log))),
        }
    }

    /// The log without the commits behind a frame.
    fn up_to(mut self, frame: u32, file: &File, path: &Path) -> Result<Self> {
        if self.frames.len() <= frame as usize {
            return Ok(self);
        }
        self.frames.truncate(frame as usize);
        self.sums.truncate(frame as usize);
        self.checksum = [0; 8];
        if let Some(before) = frame.checked_sub(1) {
            let at =
                HEADER_LEN as u64 + u64::from(before) * (FRAME_HEADER_LEN as u64 + u64::from(self.page_size));
            Disk::read_at(file, path, &mut self.checksum, at + 16)?;
        }
        Ok(self)
    }

    /// The same of a log at a path; nothing also if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Option<(File, Self)>> {
        let Some(file) = Disk::open_regular(path)? else { return Ok(None) };
        Ok(Self::read(&file, path)?.map(|log| (file, log)))
    }

    /// The size of all committed frames with the header of the log.
    pub(crate) fn len(&self) -> u64 {
        HEADER_LEN as u64 + self.frames.len() as u64 * (FRAME_HEADER_LEN as u64 + u64::from(self.page_size))
    }

    /// Whether the log was not begun anew since its header was read. SQLite writes that before the first frame, so what was
    /// read in between is of this log.
    pub(super) fn is_still_there(&self, file: &File, path: &Path) -> Result<bool> {
        let mut now = [0; HEADER_LEN];
        Disk::read_up_to(file, path, &mut now, 0)?;
        Ok(now == self.start)
    }

    /// How it ends.
    pub(crate) fn end(&self) -> LogEnd {
        let frame = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        LogEnd { frame, pages: self.pages(), checksum: self.checksum }
    }

    /// The pages that the last commit left.
    pub(crate) fn pages(&self) -> u32 {
        self.frames.last().and_then(|frame| frame.commit).unwrap_or(0)
    }
}

/// Whether a log ends with this frame, which ends a commit, and the checksum in it. Nothing where that cannot be told
/// without reading the whole log.
pub(crate) fn ends_with(
    file: &File,
    path: &Path,
    header: &Header,
    frame: u32,
    pages: u32,
) -> Result<Option<[u8; 8]>> {
    let frame_len = header.frame_len() as u64;
    let at = HEADER_LEN as u64 + u64::from(frame.saturating_sub(1)) * frame_len;
    let mut bytes = vec![0; header.frame_len()];
    if frame == 0 || Disk::read_up_to(file, path, &mut bytes, at)? < bytes.len() {
        return Ok(None);
    }
    let mut chain = header.chain();
    if frame > 1 {
        let mut before = [0; 8];
        Disk::read_at(file, path, &mut before, at - frame_len + 16)?;
        chain = header.chain_after(before);
    }
    let ends = chain.follow(&bytes).is_some_and(|frame| frame.commit == Some(pages));
    let mut next = [0; FRAME_HEADER_LEN];
    let goes_on =
        Disk::read_up_to(file, path, &mut next, at + frame_len)? == next.len() && header.has_salts(&next);
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&bytes[16..FRAME_HEADER_LEN]);
    Ok((ends && !goes_on).then_some(checksum))
}

/// The pages that the commit leaves which ends with this frame, and the checksum in it; nothing if none does.
pub(crate) fn commit_at(
    file: &File,
    path: &Path,
    header: &Header,
    frame: u32,
) -> Result<Option<(u32, [u8; 8])>> {
    let Some(before) = frame.checked_sub(1) else { return Ok(None) };
    let at = HEADER_LEN as u64 + u64::from(before) * header.frame_len() as u64;
    let mut bytes = [0; FRAME_HEADER_LEN];
    if Disk::read_up_to(file, path, &mut bytes, at)? < bytes.len() || !header.has_salts(&bytes) {
        return Ok(None);
    }
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&bytes[16..]);
    Ok(wal::frame_fields(&bytes).commit.map(|pages| (pages, checksum)))
}

/// Where the page of a frame, counted from 1, stands in a log.
pub(in crate::history) fn page_offset(frame: u32, page_size: u32) -> u64 {
    let frame_len = FRAME_HEADER_LEN as u64 + u64::from(page_size);
    wal::HEADER_LEN as u64 + u64::from(frame - 1) * frame_len + FRAME_HEADER_LEN as u64
}
