//! The frame assembler: turns SQLite's writes to a WAL into typed events.
//!
//! The layers above and below consume events and decode no offsets. SQLite writes to a WAL in these ways:
//!
//! - It writes the header of the WAL, when the WAL begins or restarts.
//! - It appends a frame: first the frame header, then the page.
//! - It writes a page of its own transaction again, in place. From there on it leaves the salts and checksums of the frames that
//!   it appends empty. Before the commit it reads every frame from the overwritten one on, and writes its header with the
//!   checksum.
//! - Without `POWERSAFE_OVERWRITE`, it pads a commit to a sector by repeating the last frame. It flushes the WAL within such a
//!   repeated frame, and writes that frame in pieces.
//!
//! A frame header is buffered until its page is written. A frame header without its page is never valid.

use super::frame_offset::{FrameOffset, FramePosition, frame_len};
use crate::wal::{self, FRAME_HEADER_LEN, Header};

pub(super) type FrameHeader = [u8; FRAME_HEADER_LEN];

/// A write of SQLite to a WAL.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WalEvent<'a> {
    /// The header of a WAL that begins or restarts.
    Header { header: Header, bytes: &'a [u8; wal::HEADER_LEN] },
    /// A frame that is appended.
    Frame { position: FramePosition, head: FrameHeader, page: &'a [u8] },
    /// The header of a stored frame, with its final checksum.
    Rechecksum { position: FramePosition, head: FrameHeader },
    /// The page of a stored frame of the current transaction.
    Overwrite { position: FramePosition, page: &'a [u8] },
    /// Any other write. SQLite makes none.
    Other { at: u64, bytes: &'a [u8] },
}

/// Joins the writes of one write transaction into events.
#[derive(Debug, Default)]
pub(super) struct FrameAssembler {
    pending: Option<Pending>,
    /// The start of the frame that SQLite has read whole last. Within a write transaction it does so to write its checksum.
    whole_read: Option<u64>,
    /// The frame whose header was the last write. If its page follows, the header was that of an appended frame.
    rechecksummed: Option<(FramePosition, FrameHeader)>,
    /// The page of `pending`, as far as it was written in pieces.
    pieces: Vec<u8>,
}

/// A frame that is written up to an offset within it.
#[derive(Clone, Copy, Debug)]
struct Pending {
    position: FramePosition,
    head: FrameHeader,
    written: usize,
}

impl FrameAssembler {
    /// Takes in a write of `bytes` at `at`. `None` if the event is complete with a later write.
    ///
    /// [`take_pending`](Self::take_pending) must be called first.
    pub(super) fn push<'a>(&'a mut self, bytes: &'a [u8], at: u64, page_size: usize) -> Option<WalEvent<'a>> {
        let other = WalEvent::Other { at, bytes };
        if at == 0
            && let Ok(bytes) = bytes.try_into()
            && let Some(header) = Header::parse(bytes)
        {
            *self = Self::default();
            return Some(WalEvent::Header { header, bytes });
        }
        let rechecksummed = self.rechecksummed.take();
        let Some(FrameOffset { frame: position, inside }) = FrameOffset::of(at, page_size) else {
            return Some(other);
        };
        if let Some(pending) = self.pending {
            return self.join(pending, bytes, page_size);
        }
        match (inside, bytes.len()) {
            (0, 1..=FRAME_HEADER_LEN) => {
                let mut head = [0; FRAME_HEADER_LEN];
                head[..bytes.len()].copy_from_slice(bytes);
                if self.whole_read.take() == Some(at) && bytes.len() == FRAME_HEADER_LEN {
                    self.rechecksummed = Some((position, head));
                    return Some(WalEvent::Rechecksum { position, head });
                }
                self.pending = Some(Pending { position, head, written: bytes.len() });
                None
            }
            (FRAME_HEADER_LEN, len) if len == page_size => {
                Some(match rechecksummed.filter(|(of, _)| *of == position) {
                    Some((_, head)) => WalEvent::Frame { position, head, page: bytes },
                    None => WalEvent::Overwrite { position, page: bytes },
                })
            }
            _ => Some(other),
        }
    }

    /// Joins a write to the frame that it continues.
    fn join<'a>(&'a mut self, pending: Pending, bytes: &'a [u8], page_size: usize) -> Option<WalEvent<'a>> {
        let Pending { position, mut head, written } = pending;
        self.pending = None;
        if written == FRAME_HEADER_LEN && bytes.len() == page_size {
            return Some(WalEvent::Frame { position, head, page: bytes });
        }
        if written <= FRAME_HEADER_LEN {
            self.pieces.clear();
        }
        let in_head = FRAME_HEADER_LEN.saturating_sub(written).min(bytes.len());
        let (for_head, for_page) = bytes.split_at(in_head);
        if in_head > 0 {
            head[written..written + in_head].copy_from_slice(for_head);
        }
        self.pieces.extend_from_slice(for_page);
        if self.pieces.len() == page_size {
            return Some(WalEvent::Frame { position, head, page: &self.pieces });
        }
        self.pending = Some(Pending { position, head, written: written + bytes.len() });
        None
    }

    /// Takes the frame header that is held back, unless a write of `len` bytes at `at` continues its frame: no page follows it,
    /// so it belongs to a stored frame. Pieces of a frame that no write completes are dropped.
    pub(super) fn take_pending(
        &mut self,
        at: u64,
        len: usize,
        page_size: usize,
    ) -> Option<WalEvent<'static>> {
        let Pending { position, written, .. } = self.pending?;
        let is_continued =
            at == position.start + written as u64 && at + len as u64 <= position.start + frame_len(page_size);
        let header = if is_continued { None } else { self.take_header() };
        self.pending.take_if(|_| !is_continued);
        header
    }

    /// Takes the frame header that is held back, if one is and nothing of its page was written.
    pub(super) fn take_header(&mut self) -> Option<WalEvent<'static>> {
        let Pending { position, head, .. } =
            self.pending.take_if(|pending| pending.written == FRAME_HEADER_LEN)?;
        Some(WalEvent::Rechecksum { position, head })
    }

    /// SQLite has read the frame at `start` whole, within a write transaction.
    pub(super) fn read_whole(&mut self, start: u64) {
        self.whole_read = Some(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 512;

    /// An event without its bytes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Kind {
        Frame(u32),
        Rechecksum(u32),
        Overwrite(u32),
        Other,
    }

    fn kind(event: &WalEvent<'_>) -> Kind {
        match event {
            WalEvent::Frame { position, head, page } => {
                assert_eq!((head[0], page[0], page.len()), (1, 2, PAGE));
                assert!(page.iter().all(|byte| *byte == 2), "the pieces are in order");
                Kind::Frame(position.number)
            }
            WalEvent::Rechecksum { position, .. } => Kind::Rechecksum(position.number),
            WalEvent::Overwrite { position, .. } => Kind::Overwrite(position.number),
            WalEvent::Header { .. } | WalEvent::Other { .. } => Kind::Other,
        }
    }

    fn start(number: u64) -> u64 {
        32 + (number - 1) * frame_len(PAGE)
    }

    fn push(assembler: &mut FrameAssembler, bytes: &[u8], at: u64) -> Vec<Kind> {
        let mut events: Vec<_> = assembler.take_pending(at, bytes.len(), PAGE).iter().map(kind).collect();
        events.extend(assembler.push(bytes, at, PAGE).as_ref().map(kind));
        events
    }

    fn frame() -> Vec<u8> {
        [[1; FRAME_HEADER_LEN].as_slice(), &[2; PAGE]].concat()
    }

    #[test]
    fn header_and_page_are_one_frame() {
        let mut assembler = FrameAssembler::default();
        assert_eq!(push(&mut assembler, &[1; 24], start(3)), []);
        assert_eq!(push(&mut assembler, &[2; PAGE], start(3) + 24), [Kind::Frame(3)]);
        assert_eq!(push(&mut assembler, &[2; PAGE], start(2) + 24), [Kind::Overwrite(2)]);
    }

    #[test]
    fn frame_written_in_pieces_is_one_frame() {
        // SQLite splits the header or the page at the end of a sector.
        for cuts in [vec![10, 24], vec![24, 124], vec![23, 24], vec![24, 25], vec![10, 24, 200]] {
            let mut assembler = FrameAssembler::default();
            let bytes = frame();
            let mut events = Vec::new();
            let mut from = 0;
            for end in cuts.iter().copied().chain([bytes.len()]) {
                events.extend(push(&mut assembler, &bytes[from..end], start(2) + from as u64));
                from = end;
            }
            assert_eq!(events, [Kind::Frame(2)], "{cuts:?}");
        }
    }

    #[test]
    fn header_after_whole_read_is_a_checksum() {
        let mut assembler = FrameAssembler::default();
        assembler.read_whole(start(2));
        assert_eq!(push(&mut assembler, &[1; 24], start(2)), [Kind::Rechecksum(2)]);
        // A page that follows makes it a frame after all: it was read before a rollback.
        assert_eq!(push(&mut assembler, &[2; PAGE], start(2) + 24), [Kind::Frame(2)]);
        // Another frame was read.
        assembler.read_whole(start(4));
        assert_eq!(push(&mut assembler, &[1; 24], start(5)), []);
    }

    #[test]
    fn header_without_its_page_is_a_checksum() {
        let mut assembler = FrameAssembler::default();
        assert_eq!(push(&mut assembler, &[1; 24], start(2)), []);
        assert_eq!(push(&mut assembler, &[1; 24], start(3)), [Kind::Rechecksum(2)]);
        assert_eq!(assembler.take_header().as_ref().map(kind), Some(Kind::Rechecksum(3)));
        assert_eq!(assembler.take_header(), None);
    }
}
