//! Internals for benches, fuzzers and tests, without any stability guarantee.

pub use crate::disk::storage::{Entry, Lock, Metadata, Mount, Open, Os, Storage, mount};

#[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
pub use crate::sys::sqlite_file::{Access, SqliteFile};

pub use crate::pages::Pages;

use crate::{
    error::Result,
    page::{self, HEADER_LEN},
    wal,
};

/// Returns the page size in a header, plain or sealed.
///
/// # Errors
///
/// Fails if the header is invalid.
pub fn page_size(header: &[u8; HEADER_LEN]) -> Result<u32> {
    page::Header::parse(header).map(|header| header.page_size)
}

/// Returns an empty plain database with `reserved` bytes at the end of each page.
#[must_use]
pub fn empty_database(reserved: u8) -> Vec<u8> {
    page::empty_database(reserved).to_vec()
}

/// Returns the number of committed frames of a WAL.
#[must_use]
pub fn committed_frames(log: &[u8]) -> usize {
    let Some(header) = log.first_chunk().and_then(wal::Header::parse) else { return 0 };
    let mut chain = header.chain();
    let (mut committed, mut count) = (0, 0);
    for frame in log[wal::HEADER_LEN..].chunks(header.frame_len()) {
        let Some(frame) = chain.follow(frame) else { break };
        count += 1;
        if frame.commit.is_some() {
            committed = count;
        }
    }
    committed
}
