//! Where a WAL is captured: what is written over is kept before, and each commit gets its stamp.
//!
//! A stamp is written before the page of the frame that commits, of which it tells the checksum: as it is stored, and so after
//! it was sealed. Until that page stands there, the frame is none.

use std::{
    ffi::c_int,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use rusqlite::ffi::{SQLITE_NOTFOUND, SQLITE_OK};

use super::{Capture, Frame};
use crate::{
    history, page,
    units::{FrameNumber, PageCount, Salts},
    vfs::{
        VfsError,
        raw_file::RawFile,
        wal::{Place, Wal},
    },
    wal::{self, FRAME_HEADER_LEN, Header},
};

/// What is known of the WAL for its capture.
#[derive(Debug, Default)]
pub(in crate::vfs) struct Commits {
    /// Whether nothing but a header was written to a new file.
    is_bare: AtomicBool,
    /// Where the page of a frame that commits is to follow, or 0.
    page_at: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The write transaction in which a WAL was begun, and its salts: the wal-index may not know them before the commit.
    begun: Option<(u64, Salts)>,
    /// The write transaction, and the frame of it that is to commit, whose page follows.
    next: Option<(u64, Frame)>,
    /// The write transaction, and the frame that was stamped.
    stamped: Option<(u64, Frame)>,
}

impl Commits {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wal {
    /// Keeps what is about to be written over, and notes that a commit is about to be.
    pub(in crate::vfs) fn capture(
        &self,
        bytes: &[u8],
        at: u64,
        beneath: &impl RawFile,
    ) -> Result<(), VfsError> {
        // Also where the history was turned off since a header was written: what is written now is to be flushed.
        self.stamping.is_bare.store(false, Relaxed);
        let Some(capture) = self.database.capture() else { return Ok(()) };
        let transaction = self.database.transactions();
        if at == 0 && bytes.len() == wal::HEADER_LEN {
            let header = bytes.first_chunk().and_then(Header::parse).ok_or(VfsError::Layout)?;
            let mut old = [0; wal::HEADER_LEN];
            let old = (beneath.read(&mut old, 0) == SQLITE_OK).then_some(old);
            let old = old.as_ref().and_then(Header::parse);
            let last_frame = |salts| self.database.last_frame(salts);
            let moved = capture.begin(&header, old.as_ref(), beneath, &last_frame)?;
            self.stamping.is_bare.store(moved, Relaxed);
            *self.stamping.state() = State { begun: Some((transaction, header.salts())), ..State::default() };
            return Ok(());
        }
        // Only a commit says how many pages it leaves.
        if bytes.len() != FRAME_HEADER_LEN || bytes[4..8] == [0; 4] {
            return Ok(());
        }
        let Some(page_size) = self.page_size(beneath) else { return Ok(()) };
        if let Some(Place { inside: 0, number, .. }) = Place::of(at, page_size as usize) {
            let Some(number) = FrameNumber::new(number) else { return Ok(()) };
            let pages = PageCount::new(page::be32(bytes, 4));
            let frame = Frame { number, pages, page_size, checksum: None };
            self.stamping.state().next = Some((transaction, frame));
            self.stamping.page_at.store(at + FRAME_HEADER_LEN as u64, Relaxed);
        }
        Ok(())
    }

    /// Stamps a commit whose last page is about to be written so, at this offset.
    pub(in crate::vfs) fn stamp(&self, page: &[u8], at: u64) -> Result<(), VfsError> {
        if self.stamping.page_at.load(Relaxed) != at {
            return Ok(());
        }
        self.stamping.page_at.store(0, Relaxed);
        let Some(capture) = self.database.capture() else { return Ok(()) };
        let transaction = self.database.transactions();
        let mut state = self.stamping.state();
        let next = state
            .next
            .take()
            .filter(|(of, frame)| *of == transaction && page.len() == frame.page_size as usize);
        let Some((_, frame)) = next else { return Ok(()) };
        let frame = Frame { checksum: history::page_checksum(page).short(), ..frame };
        // The same commit was tried before.
        if state.stamped == Some((transaction, frame)) {
            return Ok(());
        }
        let (before, salts) = match state.begun {
            Some((begun, salts)) if begun == transaction => (None, salts),
            _ => {
                let last = self.database.wal_index().last_commit().ok_or(VfsError::Layout)?;
                (last.frame, last.salts)
            }
        };
        capture.stamp(salts, &frame, before)?;
        state.stamped = Some((transaction, frame));
        Ok(())
    }

    /// The WAL is about to be flushed. Says so by `SQLITE_NOTFOUND` if it need not be.
    ///
    /// SQLite flushes a header before the first frame behind it, so that no power loss leaves frames of the old WAL behind
    /// what was written over them. A new file has no such frames.
    pub(in crate::vfs) fn before_sync(&self) -> Result<c_int, VfsError> {
        if self.stamping.is_bare.load(Relaxed) {
            return Ok(SQLITE_NOTFOUND);
        }
        self.database.capture().map_or(Ok(()), Capture::flush)?;
        Ok(SQLITE_OK)
    }

    /// The WAL is about to be cut to a length.
    pub(in crate::vfs) fn before_truncate(&self, to: u64) -> Result<c_int, VfsError> {
        let last_frame = |salts| self.database.last_frame(salts);
        self.database.capture_now()?.map_or(Ok(()), |capture| capture.cut(to, &last_frame))?;
        Ok(SQLITE_OK)
    }
}
