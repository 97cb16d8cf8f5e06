//! The commits of a WAL: each gets its stamp before it is written, and a WAL that ends is archived before it is overwritten.
//!
//! The stamp holds the checksum of the last page of the commit as it is stored. Until that page is written, the frame is invalid.

use super::{Capture, Frame, live_wal::LiveWal};
use crate::{
    history,
    units::{FrameNumber, Salts, WalChecksum},
    vfs::{error::VfsError, frames::WalEvent, raw_file::RawFile, stored::StoredWrite},
    wal::{self, Header, LastCommit},
};

use rusqlite::ffi::SQLITE_OK;

/// The cached state of the commits of a WAL.
#[derive(Debug, Default)]
pub(in crate::vfs) struct Commits {
    /// Whether only a header was written, to a new file.
    is_bare: bool,
    /// The write transaction in which the WAL began, and its salts. The wal-index does not have them before the commit.
    begun: Option<(u64, Salts)>,
    /// The commit that was stamped last, and its write transaction.
    stamped: Option<(u64, Frame)>,
}

impl Commits {
    /// Runs before each write to the WAL: archives a WAL that is about to be overwritten, and stamps a commit.
    pub(in crate::vfs) fn before_write(
        &mut self,
        event: &WalEvent<'_>,
        write: &StoredWrite<'_>,
        capture: Option<&Capture>,
        wal: &dyn LiveWal,
        raw: &dyn RawFile,
    ) -> Result<(), VfsError> {
        if let WalEvent::Header { header, .. } = event {
            self.begun = Some((wal.transaction(), header.salts()));
            self.stamped = None;
        }
        // If the history was turned off since the header was written, the WAL is flushed like any other.
        self.is_bare = false;
        let Some(capture) = capture else { return Ok(()) };
        match (event, write.page()) {
            (WalEvent::Header { header, .. }, _) => {
                let mut old = [0; wal::HEADER_LEN];
                let old = (raw.read(&mut old, 0) == SQLITE_OK).then_some(old);
                let old = old.as_ref().and_then(Header::parse);
                self.is_bare = capture
                    .begin(header, old.as_ref(), raw, wal)
                    .map_err(|error| VfsError::not_kept(&error))?;
                wal.frames().begin(header.salts());
                Ok(())
            }
            (WalEvent::Frame { position, head, .. }, Some(page)) => {
                let Some(number) = FrameNumber::new(position.number) else { return Ok(()) };
                let checksum = history::page_checksum(page);
                wal.frames().append(number, head, checksum);
                // Only the last frame of a transaction holds the size of the database.
                let Some(pages) = wal::commit_size(head) else { return Ok(()) };
                let page_size = u32::try_from(page.len()).unwrap_or(u32::MAX);
                let frame = Frame { number, pages, page_size, checksum: checksum.short() };
                let last = self.last_commit(wal).ok_or(VfsError::Layout)?;
                self.stamp(frame, &last, capture, wal)?;
                wal.frames().commit(number, &last, wal::checksum_in(write.frame_header()));
                Ok(())
            }
            (WalEvent::Rechecksum { position, head }, _) => {
                wal.frames().rechecksum(position.number, head, wal::checksum_in(write.frame_header()));
                Ok(())
            }
            (WalEvent::Overwrite { position, .. }, _) => {
                wal.frames().overwrite(position.number, history::page_checksum(write.bytes()));
                Ok(())
            }
            // A header that SQLite would not read belongs to no generation.
            (WalEvent::Other { at, .. }, _) if *at < wal::HEADER_LEN as u64 => Err(VfsError::Layout),
            _ => Ok(()),
        }
    }

    /// The last commit of the WAL before the current write transaction. `None` if the wal-index is not mapped.
    pub(in crate::vfs) fn last_commit(&self, wal: &dyn LiveWal) -> Option<LastCommit> {
        match self.begun {
            Some((begun, salts)) if begun == wal.transaction() => {
                Some(LastCommit { frame: None, salts, checksum: WalChecksum::ZERO })
            }
            _ => wal.last_commit(),
        }
    }

    /// Stamps a commit that is about to be written. `last` is the commit before it.
    fn stamp(
        &mut self,
        frame: Frame,
        last: &LastCommit,
        capture: &Capture,
        wal: &dyn LiveWal,
    ) -> Result<(), VfsError> {
        let transaction = wal.transaction();
        // SQLite tries to write a frame again after a failure.
        if self.stamped == Some((transaction, frame)) {
            return Ok(());
        }
        capture.stamp(last.salts, &frame, last.frame).map_err(|error| VfsError::not_kept(&error))?;
        self.stamped = Some((transaction, frame));
        Ok(())
    }

    /// Runs before the WAL is flushed, and flushes the files that must be on disk first. Returns whether the WAL needs the flush.
    ///
    /// SQLite flushes a header before the first frame after it, so that a power loss leaves no old frames after a new header.
    /// A new file has no old frames.
    pub(in crate::vfs) fn before_sync(&self, capture: Option<&Capture>) -> Result<bool, VfsError> {
        if self.is_bare {
            return Ok(false);
        }
        capture.map_or(Ok(()), Capture::flush).map_err(|error| VfsError::not_kept(&error))?;
        Ok(true)
    }
}
