//! Writes to a WAL as they are stored, below encryption.

use std::ffi::c_int;

use rusqlite::ffi::SQLITE_OK;

use super::{
    frame_offset::FramePosition,
    frames::WalEvent,
    raw_file::{Buffer, RawFile},
};
use crate::wal::FRAME_HEADER_LEN;

/// A write to a WAL as it is stored.
#[derive(Debug)]
pub(super) struct StoredWrite<'a> {
    at: u64,
    /// The frame header, if it is written first in a separate write.
    head: &'a [u8],
    bytes: &'a [u8],
    /// Where the page of a frame starts in `bytes`.
    page: Option<usize>,
}

impl<'a> StoredWrite<'a> {
    pub(super) fn at(at: u64, bytes: &'a [u8]) -> Self {
        Self { at, head: &[], bytes, page: None }
    }

    /// A whole frame, written at once.
    pub(super) fn frame(position: FramePosition, frame: &'a [u8]) -> Self {
        Self { at: position.start, head: &[], bytes: frame, page: Some(FRAME_HEADER_LEN) }
    }

    /// A whole frame, written in two parts.
    fn split_frame(position: FramePosition, head: &'a [u8], page: &'a [u8]) -> Self {
        Self { at: position.start, head, bytes: page, page: Some(0) }
    }

    /// The stored page of a frame that is appended.
    pub(super) fn page(&self) -> Option<&[u8]> {
        Some(&self.bytes[self.page?..])
    }

    /// The bytes that are stored, without a frame header that is written separately.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The stored header of a frame whose header is written.
    pub(super) fn frame_header(&self) -> &[u8] {
        if self.head.is_empty() { self.bytes } else { self.head }
    }

    pub(super) fn write(&self, raw: &dyn RawFile) -> c_int {
        if !self.head.is_empty() {
            let code = raw.write(self.head, self.at);
            if code != SQLITE_OK {
                return code;
            }
        }
        raw.write(self.bytes, self.at + self.head.len() as u64)
    }
}

/// Above this page size a second write costs less than a copy of the page.
const JOINED_MAX: usize = 16 << 10;

/// The writes to a plain WAL, which are stored as they are. A frame is stored with one write.
#[derive(Debug, Default)]
pub(super) struct PlainWal {
    frame: Buffer,
}

impl PlainWal {
    pub(super) fn store<'a>(&'a mut self, event: &'a WalEvent<'_>) -> StoredWrite<'a> {
        match event {
            WalEvent::Header { bytes, .. } => StoredWrite::at(0, *bytes),
            WalEvent::Frame { position, head, page } if page.len() > JOINED_MAX => {
                StoredWrite::split_frame(*position, head, page)
            }
            WalEvent::Frame { position, head, page } => {
                const START: usize = 64 - FRAME_HEADER_LEN;
                let frame = &mut self.frame.of(64 + page.len())[START..];
                frame[..FRAME_HEADER_LEN].copy_from_slice(head);
                frame[FRAME_HEADER_LEN..].copy_from_slice(page);
                StoredWrite::frame(*position, frame)
            }
            WalEvent::Rechecksum { position, head } => StoredWrite::at(position.start, head),
            WalEvent::Overwrite { position, page } => StoredWrite::at(position.page(), page),
            WalEvent::Other { at, bytes } => StoredWrite::at(*at, bytes),
        }
    }
}
