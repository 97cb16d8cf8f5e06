//! Pages and the database header, plain and sealed. No I/O.
//!
//! `src/docs/format.md` specifies the formats of sealed files.

mod codec;
mod header;
mod offsets;
mod seal;

pub(crate) use codec::{PageCodec, PageFault};
pub(crate) use header::{Header, PAGE_SIZE, choose_utf8, empty_database, enter_wal, leave_wal};
pub(crate) use offsets::{HEADER_LEN, MAGIC};
pub use seal::PageFormat;
pub(crate) use seal::{Identity, Seal};

/// The offset of the first byte that SQLite locks (<https://www.sqlite.org/fileformat2.html#the_lock_byte_page>).
pub(crate) const PENDING_BYTE: u64 = 0x4000_0000;

/// The number of the lock-byte page, which has no content. In a rollback journal it precedes the name of a super-journal.
pub(crate) fn lock_page(page_size: usize) -> u32 {
    u32::try_from(PENDING_BYTE / page_size as u64 + 1).unwrap_or(u32::MAX)
}

/// The magic bytes at the start of each header of a rollback journal, and after the name of a super-journal
/// (<https://www.sqlite.org/fileformat2.html#the_rollback_journal>).
pub(crate) const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// Reads a big-endian `u32` at `at`.
///
/// # Panics
///
/// Panics if `bytes` ends before.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}
