//! The frames of a WAL, archived or live.

use std::{fs::File, path::Path};

use super::checksummed::page_checksum;
use crate::{
    disk::{Disk, open_databases},
    error::Result,
    shm,
    stamps::LogEnd,
    units::{FrameNumber, PageChecksum, PageCount, Salts, WalChecksum},
    wal::{self, FRAME_HEADER_LEN, Frame, HEADER_LEN, Header, SeenFrames},
};

/// Approximate number of bytes of a WAL that are read at once.
const READ_LEN: usize = 1 << 20;

/// The committed frames of a WAL whose checksums are valid.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// The header of the file, or zeros if the log was read from an index.
    pub(super) start: [u8; HEADER_LEN],
    pub(crate) salts: Salts,
    pub(crate) page_size: u32,
    /// All frames up to the last commit.
    pub(crate) frames: Vec<Frame>,
    /// The checksum of each frame's page.
    pub(super) page_checksums: Vec<PageChecksum>,
    /// The running checksum of the last frame.
    pub(super) checksum: WalChecksum,
}

impl Log {
    /// Reads and checks a WAL. Returns `None` if it has no header that SQLite would accept.
    pub(crate) fn read(file: &File, path: &Path) -> Result<Option<Self>> {
        Self::read_from(|into, at| Disk::read_up_to(file, path, into, at))
    }

    /// Reads and checks a WAL through `read`, which fills a buffer from an offset as far as the WAL goes, and returns the
    /// number of bytes read. Returns `None` if the WAL has no header that SQLite would accept.
    pub(super) fn read_from(mut read: impl FnMut(&mut [u8], u64) -> Result<usize>) -> Result<Option<Self>> {
        let mut start = [0; HEADER_LEN];
        if read(&mut start, 0)? < HEADER_LEN {
            return Ok(None);
        }
        let Some(header) = Header::parse(&start) else { return Ok(None) };
        let frame_len = header.frame_len();
        let mut buffer = vec![0; (READ_LEN / frame_len).max(1) * frame_len];
        let mut chain = header.chain();
        let mut log = Self {
            start,
            salts: header.salts(),
            page_size: header.page_size(),
            frames: Vec::new(),
            page_checksums: Vec::new(),
            checksum: WalChecksum::ZERO,
        };
        let mut committed = 0;
        let mut at = HEADER_LEN as u64;
        'reading: loop {
            let count = read(&mut buffer, at)?;
            for bytes in buffer[..count].chunks_exact(frame_len) {
                let Some(frame) = chain.follow(bytes) else { break 'reading };
                log.frames.push(frame);
                log.page_checksums.push(page_checksum(&bytes[FRAME_HEADER_LEN..]));
                if frame.commit.is_some() {
                    committed = log.frames.len();
                    log.checksum = wal::checksum_in(bytes);
                }
            }
            if count < buffer.len() {
                break;
            }
            at += count as u64;
        }
        log.frames.truncate(committed);
        log.page_checksums.truncate(committed);
        Ok(Some(log))
    }

    /// Opens and reads a WAL. Returns `None` if it does not exist or has no header that SQLite would accept.
    pub(crate) fn open(path: &Path) -> Result<Option<(File, Self)>> {
        let Some(file) = Disk::open_regular(path)? else { return Ok(None) };
        Ok(Self::read(&file, path)?.map(|log| (file, log)))
    }

    /// Opens and reads the WAL of the database in the file `data` up to the last visible commit. Returns `None` if the WAL
    /// does not have these salts.
    pub(super) fn open_live(data: &Path, path: &Path, salts: Salts) -> Result<Option<(File, Self)>> {
        let Some((file, log)) = Self::open(path)?.filter(|(_, log)| log.salts == salts) else {
            return Ok(None);
        };
        match open_databases(|| shm::seen(data, salts))?? {
            SeenFrames::UpTo(last) => log.up_to(last, &file, path).map(|log| Some((file, log))),
            SeenFrames::Unknown => Ok(Some((file, log))),
        }
    }

    /// The log without the frames after `last`.
    fn up_to(mut self, last: Option<FrameNumber>, file: &File, path: &Path) -> Result<Self> {
        let len = FrameNumber::count(last) as usize;
        if self.frames.len() <= len {
            return Ok(self);
        }
        self.frames.truncate(len);
        self.page_checksums.truncate(len);
        self.checksum = match last {
            Some(last) => {
                let mut header = [0; FRAME_HEADER_LEN];
                Disk::read_at(file, path, &mut header, wal::frame_offset(last, self.page_size))?;
                wal::checksum_in(&header)
            }
            None => WalChecksum::ZERO,
        };
        Ok(self)
    }

    /// Whether the WAL has not been restarted since its header was read. SQLite writes the header before the first frame. If the
    /// header is unchanged, all frames read in between belong to this log.
    pub(super) fn is_current(&self, file: &File, path: &Path) -> Result<bool> {
        let mut now = [0; HEADER_LEN];
        Disk::read_up_to(file, path, &mut now, 0)?;
        Ok(now == self.start)
    }

    pub(super) fn frame(&self, number: FrameNumber) -> Option<&Frame> {
        self.frames.get(number.index())
    }

    /// The last frame, or `None` if the log has no commits.
    fn last_frame(&self) -> Option<FrameNumber> {
        let last = self.frames.len().checked_sub(1)?;
        Some(FrameNumber::from_index(last as u64))
    }

    /// The size in bytes of the header and all frames.
    pub(crate) fn len(&self) -> u64 {
        wal::len_up_to(self.last_frame(), self.page_size)
    }

    pub(crate) fn end(&self) -> LogEnd {
        let pages = self.frames.last().and_then(|frame| frame.commit).unwrap_or(PageCount::ZERO);
        LogEnd { frame: self.last_frame(), pages, checksum: self.checksum }
    }
}

/// The salts of a WAL. Returns `None` if it does not exist or its header is invalid.
pub(super) fn salts_of(wal: &Path) -> Result<Option<Salts>> {
    let Some(file) = Disk::open_regular(wal)? else { return Ok(None) };
    let mut start = [0; HEADER_LEN];
    let count = Disk::read_up_to(&file, wal, &mut start, 0)?;
    Ok(Header::parse(&start).filter(|_| count == HEADER_LEN).map(|header| header.salts()))
}

/// The end of a WAL that ends with a commit of `pages` pages in the frame `last`. Returns `None` if the WAL does not end there,
/// or if only reading the whole WAL can decide that.
pub(crate) fn ends_with(
    file: &File,
    path: &Path,
    header: &Header,
    last: FrameNumber,
    pages: PageCount,
) -> Result<Option<LogEnd>> {
    let at = wal::frame_offset(last, header.page_size());
    let frame_len = header.frame_len() as u64;
    let mut bytes = vec![0; header.frame_len()];
    if Disk::read_up_to(file, path, &mut bytes, at)? < bytes.len() {
        return Ok(None);
    }
    let mut chain = header.chain();
    if last > FrameNumber::FIRST {
        let mut before = [0; FRAME_HEADER_LEN];
        Disk::read_at(file, path, &mut before, at - frame_len)?;
        chain = header.chain_after(wal::checksum_in(&before));
    }
    let is_commit = chain.follow(&bytes).is_some_and(|frame| frame.commit == Some(pages));
    let mut next = [0; FRAME_HEADER_LEN];
    let continues =
        Disk::read_up_to(file, path, &mut next, at + frame_len)? == next.len() && header.has_salts(&next);
    let end = LogEnd { frame: Some(last), pages, checksum: wal::checksum_in(&bytes) };
    Ok((is_commit && !continues).then_some(end))
}

/// The end of a WAL whose last commit ends with the frame `last`. Returns `None` if that frame ends no commit.
pub(crate) fn commit_at(
    file: &File,
    path: &Path,
    header: &Header,
    last: FrameNumber,
) -> Result<Option<LogEnd>> {
    let mut bytes = [0; FRAME_HEADER_LEN];
    let at = wal::frame_offset(last, header.page_size());
    if Disk::read_up_to(file, path, &mut bytes, at)? < bytes.len() || !header.has_salts(&bytes) {
        return Ok(None);
    }
    let checksum = wal::checksum_in(&bytes);
    Ok(wal::commit_size(&bytes).map(|pages| LogEnd { frame: Some(last), pages, checksum }))
}
