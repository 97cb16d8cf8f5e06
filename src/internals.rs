//! Internals for benches, fuzzers and tests, without any stability guarantee.

use std::fmt;

pub use crate::disk::storage::{Entry, Lock, Metadata, Mount, Open, Os, Storage, mount};

#[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
pub use crate::sys::sqlite_file::{Access, SqliteFile};

use crate::{
    api::RemoteEncryption,
    cipher::Nonces,
    error::{Error, ErrorKind, Result},
    page::{self, HEADER_LEN, PageCodec, Seal},
    wal,
};

/// Seals and opens the pages of an imaginary file.
pub struct Pages {
    codec: PageCodec,
    nonces: Nonces,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pages").field(&self.codec).finish()
    }
}

impl Pages {
    /// Creates the codec of a new file.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] without a cipher, or if the pages are too small for it.
    pub fn new(encryption: &RemoteEncryption, page_size: u32) -> Result<Self> {
        let cipher = encryption.cipher().ok_or_else(|| Error::new(ErrorKind::Invalid, "no cipher"))?;
        let seal = Seal::new(encryption.page_format().unwrap_or_default(), cipher, encryption.key())?;
        Ok(Self { codec: PageCodec::new(seal, page_size, encryption.key())?, nonces: Nonces::new()? })
    }

    /// Seals a page into another buffer. Returns whether it succeeded.
    pub fn seal(&mut self, number: u32, plain: &[u8], sealed: &mut [u8]) -> bool {
        self.codec.seal_page(number, plain, sealed, &mut self.nonces).is_ok()
    }

    /// Opens a page in place. Returns whether it succeeded.
    pub fn open(&self, number: u32, page: &mut [u8]) -> bool {
        self.codec.open_page(number, page).is_ok()
    }
}

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
