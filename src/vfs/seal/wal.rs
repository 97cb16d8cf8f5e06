//! The WAL of an encrypted database.
//!
//! On disk it is a valid SQLite WAL over ciphertext. SQLite's checksums are those of plaintext, which they would reveal; the VFS
//! discards them and stores the running checksum of what is stored. When SQLite recovers the WAL, the VFS verifies the stored
//! checksum and tag of each frame, and returns the frame with a checksum that is right for the plaintext.

use rusqlite::ffi::SQLITE_OK;

use super::pages::Sealed;
use crate::{
    page::{self, PageCodec},
    vfs::{
        error::VfsError,
        frame_offset::{FIRST_FRAME, FrameOffset, FramePosition, frame_len},
        frames::{FrameHeader, WalEvent},
        raw_file::{Buffer, RawFile},
        rechecksum::{CHECKSUM_AT, chain_before, lacks_checksum, stored_header},
        shim::WalIndex,
        stored::StoredWrite,
    },
    wal::{self, Chain, FRAME_HEADER_LEN, Header},
};

/// Where a frame starts in the buffer, so that its page is aligned to cache lines.
const FRAME_START: usize = PAGE_START - FRAME_HEADER_LEN;
const PAGE_START: usize = 64;

/// The cached state of an encrypted WAL. It is valid within one write transaction, in which no other connection writes to the
/// WAL, or within one recovery. The header stays cached for longer, because its salts show whether it is current.
#[derive(Debug, Default)]
pub(in crate::vfs) struct SealedWal {
    header: Option<Header>,
    /// The frame that was written last, and the running checksum after it.
    last: Option<(FramePosition, Chain)>,
    /// The value of `last` once the current write succeeds.
    next: Option<(FramePosition, Chain)>,
    recovery: Option<Recovery>,
    frame: Buffer,
}

/// A recovery, in which SQLite reads all frames in order to find what is committed.
#[derive(Debug)]
struct Recovery {
    /// The start of the frame that follows.
    next: u64,
    /// The running checksum of the stored frames.
    stored: Chain,
    /// The running checksum of the plaintext frames that SQLite receives.
    plain: Chain,
}

/// The encryption of a database whose page layout is known.
#[derive(Clone, Copy)]
pub(in crate::vfs) struct Encryption<'a> {
    pub(in crate::vfs) sealed: &'a Sealed,
    pub(in crate::vfs) codec: &'a PageCodec,
    pub(in crate::vfs) wal_index: &'a WalIndex,
}

/// A frame header that SQLite writes, and the running checksum after the frame that was written last, if it is known.
#[derive(Clone, Copy, Debug)]
struct FrameWrite {
    position: FramePosition,
    head: FrameHeader,
    before: Option<(FramePosition, Chain)>,
}

impl SealedWal {
    /// Discards all cached state but the header, because another connection may have written to the WAL.
    pub(in crate::vfs) fn begin_transaction(&mut self) {
        (self.last, self.next, self.recovery) = (None, None, None);
    }

    /// Encrypts a write. [`written`](Self::written) must follow.
    pub(in crate::vfs) fn store<'a>(
        &'a mut self,
        event: &'a WalEvent<'_>,
        is_forgotten: bool,
        with: Encryption<'_>,
        raw: &dyn RawFile,
    ) -> Result<StoredWrite<'a>, VfsError> {
        let before = self.last.take();
        self.next = None;
        match event {
            WalEvent::Header { header, bytes } => {
                if header.page_size() as usize != with.codec.page_size() {
                    self.header = None;
                    return Err(VfsError::Layout);
                }
                self.header = Some(*header);
                self.recovery = None;
                Ok(StoredWrite::at(0, *bytes))
            }
            WalEvent::Frame { position, head, page } => {
                let mut head = *head;
                if is_forgotten {
                    let salts = stored_header(raw)?.ok_or(VfsError::Layout)?.salts();
                    head[8..CHECKSUM_AT].copy_from_slice(&salts.bytes());
                }
                self.append(FrameWrite { position: *position, head, before }, page, with, raw)
            }
            WalEvent::Rechecksum { position, head } => {
                self.rechecksum(FrameWrite { position: *position, head: *head, before }, with, raw)
            }
            WalEvent::Overwrite { position, page } => {
                let number = page_number(*position, with.wal_index, raw)?;
                let sealed = &mut self.frame.of(PAGE_START + with.codec.page_size())[PAGE_START..];
                with.codec.seal_page(number, page, sealed, &mut with.sealed.writer()?.nonces)?;
                Ok(StoredWrite::at(position.page(), sealed))
            }
            WalEvent::Other { .. } => Err(VfsError::Layout),
        }
    }

    /// Runs after the write that [`store`](Self::store) has prepared succeeded.
    pub(in crate::vfs) fn written(&mut self) {
        self.last = self.next.take();
    }

    /// Appends a frame: header and encrypted page in one write.
    fn append(
        &mut self,
        frame: FrameWrite,
        plain: &[u8],
        with: Encryption<'_>,
        raw: &dyn RawFile,
    ) -> Result<StoredWrite<'_>, VfsError> {
        let FrameWrite { position, head, .. } = frame;
        // After an overwritten frame, SQLite writes the checksum at the commit.
        let chain = if lacks_checksum(&head) { None } else { Some(self.chain_before(&frame, with, raw)?) };
        let frame = &mut self.frame.of(PAGE_START + with.codec.page_size())[FRAME_START..];
        frame[..FRAME_HEADER_LEN].copy_from_slice(&head);
        let (head, page) = frame.split_at_mut(FRAME_HEADER_LEN);
        with.codec.seal_page(page::be32(head, 0), plain, page, &mut with.sealed.writer()?.nonces)?;
        if let Some(mut chain) = chain {
            let checksum = chain.extend(head, page);
            head[CHECKSUM_AT..].copy_from_slice(&checksum.to_bytes());
            self.next = Some((position, chain));
        }
        Ok(StoredWrite::frame(position, frame))
    }

    /// Writes the header of a stored frame with the checksum of its stored page.
    fn rechecksum(
        &mut self,
        frame: FrameWrite,
        with: Encryption<'_>,
        raw: &dyn RawFile,
    ) -> Result<StoredWrite<'_>, VfsError> {
        let FrameWrite { position, head, .. } = &frame;
        let mut chain = self.chain_before(&frame, with, raw)?;
        let frame = &mut self.frame.of(PAGE_START + with.codec.page_size())[FRAME_START..];
        let (stored_head, page) = frame.split_at_mut(FRAME_HEADER_LEN);
        match raw.read(page, position.page()) {
            SQLITE_OK => {}
            code => return Err(VfsError::unreadable(code)),
        }
        stored_head.copy_from_slice(head);
        let checksum = chain.extend(head, page);
        stored_head[CHECKSUM_AT..].copy_from_slice(&checksum.to_bytes());
        self.next = Some((*position, chain));
        Ok(StoredWrite::at(position.start, stored_head))
    }

    /// The running checksum before a frame.
    fn chain_before(
        &mut self,
        frame: &FrameWrite,
        with: Encryption<'_>,
        raw: &dyn RawFile,
    ) -> Result<Chain, VfsError> {
        let FrameWrite { position, head, before } = frame;
        let page_size = with.codec.page_size();
        let known = self.header.filter(|header| header.has_salts(head));
        let header = match known {
            Some(header) => header,
            // SQLite accepts a WAL only with a valid header.
            None => stored_header(raw)?
                .filter(|header| header.page_size() as usize == page_size && header.has_salts(head))
                .ok_or_else(|| {
                    with.sealed.inconsistent("-wal", "its header is not the one that the log was begun with")
                })?,
        };
        self.header = Some(header);
        match before {
            Some((last, chain))
                if position.start != FIRST_FRAME && last.start + frame_len(page_size) == position.start =>
            {
                Ok(*chain)
            }
            _ => chain_before(header, *position, raw),
        }
    }

    /// Decrypts a frame that SQLite has read whole, in a recovery. The frame is zeros if the stored log ends before it.
    pub(in crate::vfs) fn recover(
        &mut self,
        bytes: &mut [u8],
        at: u64,
        with: Encryption<'_>,
        raw: &dyn RawFile,
    ) -> Result<(), VfsError> {
        if at == FIRST_FRAME {
            self.recovery = stored_header(raw)?.map(|header| Recovery {
                next: at,
                stored: header.chain(),
                plain: header.chain(),
            });
        }
        let recovery = self.recovery.as_mut().filter(|recovery| recovery.next == at);
        let followed = recovery.and_then(|recovery| Some((recovery.stored.follow(bytes)?, recovery)));
        let Some((frame, recovery)) = followed else {
            // SQLite checks the page number first, and treats page 0 as the end of the WAL.
            bytes.fill(0);
            self.recovery = None;
            return Ok(());
        };
        // The stored checksum is right, so the frame is whole. A wrong tag means that it was forged.
        let (head, page) = bytes.split_at_mut(FRAME_HEADER_LEN);
        with.sealed.open_page(with.codec, frame.page_number.get(), page, "-wal")?;
        let checksum = recovery.plain.extend(head, page);
        head[CHECKSUM_AT..].copy_from_slice(&checksum.to_bytes());
        recovery.next += bytes.len() as u64;
        Ok(())
    }
}

/// The kinds of reads that SQLite makes of an encrypted WAL.
pub(in crate::vfs) enum WalRead {
    /// The header of the WAL, or a part of a frame header. Both are stored as SQLite reads them.
    Header,
    Page(FramePosition),
    WholeFrame(FramePosition),
}

impl WalRead {
    /// Classifies a read. `None` for a read that SQLite does not make of pages of this size.
    pub(in crate::vfs) fn of(at: u64, len: usize, page_size: usize) -> Option<Self> {
        if at + len as u64 <= wal::HEADER_LEN as u64 {
            return Some(Self::Header);
        }
        let FrameOffset { frame, inside } = FrameOffset::of(at, page_size)?;
        match (inside, len) {
            (FRAME_HEADER_LEN, len) if len == page_size => Some(Self::Page(frame)),
            (0, len) if len == FRAME_HEADER_LEN + page_size => Some(Self::WholeFrame(frame)),
            (inside, len) if inside + len <= FRAME_HEADER_LEN => Some(Self::Header),
            _ => None,
        }
    }
}

/// The page of a frame. The wal-index names it, by which SQLite found the frame, so a moved frame is detected. The frame header
/// names it if the wal-index is not mapped.
pub(in crate::vfs) fn page_number(
    position: FramePosition,
    wal_index: &WalIndex,
    raw: &dyn RawFile,
) -> Result<u32, VfsError> {
    if let Some(number) = wal_index.page_of(position.number) {
        return Ok(number);
    }
    let mut word = [0; 4];
    match raw.read(&mut word, position.start) {
        SQLITE_OK => Ok(u32::from_be_bytes(word)),
        code => Err(VfsError::unreadable(code)),
    }
}
