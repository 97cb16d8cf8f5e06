//! Pages and the header on the first of them, plain and sealed. Pure code: bytes in, bytes out.
//!
//! The formats of sealed files are set out, byte by byte, in `src/docs/format.md`.

mod codec;
mod header;
mod seal;

pub(crate) use codec::{PageCodec, PageFault};
pub(crate) use header::{
    HEADER_LEN, Header, MAGIC, PAGE_SIZE, choose_utf8, empty_database, enter_wal, leave_wal,
};
pub use seal::PageFormat;
pub(crate) use seal::Seal;

/// Reads a big-endian `u32` at `at`, which must lie within `bytes`.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}
