//! Offsets in a WAL.

use crate::wal::{self, FRAME_HEADER_LEN};

/// The offset of the first frame.
pub(super) const FIRST_FRAME: u64 = wal::HEADER_LEN as u64;

/// A frame of a WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FramePosition {
    /// The number of the frame, from 1.
    pub(super) number: u32,
    /// The offset of its header.
    pub(super) start: u64,
}

impl FramePosition {
    /// The offset of the page of the frame.
    pub(super) fn page(self) -> u64 {
        self.start + FRAME_HEADER_LEN as u64
    }
}

/// An offset in a WAL, as a frame and an offset within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameOffset {
    pub(super) frame: FramePosition,
    /// The offset from the start of the frame.
    pub(super) inside: usize,
}

impl FrameOffset {
    /// The frame offset of the file offset `at`. `None` if it lies in the header of the WAL.
    pub(super) fn of(at: u64, page_size: usize) -> Option<Self> {
        let frame_len = frame_len(page_size);
        let from_first = at.checked_sub(FIRST_FRAME)?;
        let inside = from_first % frame_len;
        let number = u32::try_from(from_first / frame_len + 1).ok()?;
        let frame = FramePosition { number, start: at - inside };
        Some(Self { frame, inside: usize::try_from(inside).ok()? })
    }
}

/// The length of a frame: its header and its page.
pub(super) fn frame_len(page_size: usize) -> u64 {
    (FRAME_HEADER_LEN + page_size) as u64
}
