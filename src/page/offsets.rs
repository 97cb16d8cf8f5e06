//! The fields of the database header that sealed files and plain files share.
//!
//! Offsets are those of <https://www.sqlite.org/fileformat2.html#the_database_header>.

/// The first bytes of every plain SQLite database.
pub(crate) const MAGIC: [u8; 16] = *b"SQLite format 3\0";

/// The size of the header at the start of page 1.
pub(crate) const HEADER_LEN: usize = 100;

/// The page size: two bytes.
pub(super) const PAGE_SIZE_AT: usize = 16;

/// The number of reserved bytes at the end of each page: one byte.
pub(super) const RESERVED_AT: usize = 20;

/// The bytes that SQLite reserves for expansion. A sealed file has its salt at their start.
pub(super) const EXPANSION: std::ops::Range<usize> = 72..92;
