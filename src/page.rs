//! The SQLite database header, and the pages of an empty database.
//!
//! Offsets are those of <https://www.sqlite.org/fileformat2.html#the_database_header>.

use crate::error::{Error, ErrorKind, Result};

/// The first bytes of every SQLite database.
pub(crate) const MAGIC: [u8; 16] = *b"SQLite format 3\0";

/// The size of the header at the start of page 1.
pub(crate) const HEADER_LEN: usize = 100;

/// The page size of the databases that this crate makes.
pub(crate) const PAGE_SIZE: u16 = 4096;

const PAGE_SIZE_AT: usize = 16;
const WRITE_VERSION_AT: usize = 18;
const CHANGE_COUNTER_AT: usize = 24;
const PAGE_COUNT_AT: usize = 28;
const VERSION_VALID_FOR_AT: usize = 92;

/// The value of the read and write version that stands for WAL.
const WAL_VERSION: u8 = 2;

/// Reads a big-endian `u32` at `at`, which must lie within `bytes`.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

/// The fields of a database header that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// A power of two from 512 to 65536.
    pub(crate) page_size: u32,
    /// Whether the database is in WAL mode.
    pub(crate) wal: bool,
    /// Counts the transactions of rollback mode.
    pub(crate) change_counter: u32,
    /// The size of the database in pages, or nothing where a program older than SQLite 3.7.0 wrote last.
    pub(crate) page_count: Option<u32>,
}

impl Header {
    /// Reads a header, which must be whole.
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        if bytes[..MAGIC.len()] != MAGIC {
            return Err(Error::new(ErrorKind::Invalid, "not a SQLite database"));
        }
        let page_size = match u32::from(u16::from_be_bytes([bytes[PAGE_SIZE_AT], bytes[PAGE_SIZE_AT + 1]])) {
            1 => 65_536,
            size if size.is_power_of_two() && size >= 512 => size,
            size => {
                let message = format!("damaged SQLite header: a page size of {size} bytes");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        };
        let change_counter = be32(bytes, CHANGE_COUNTER_AT);
        let page_count = be32(bytes, PAGE_COUNT_AT);
        let counted = page_count > 0 && be32(bytes, VERSION_VALID_FOR_AT) == change_counter;
        Ok(Self {
            page_size,
            wal: bytes[WRITE_VERSION_AT] == WAL_VERSION,
            change_counter,
            page_count: counted.then_some(page_count),
        })
    }
}

/// The whole file of an empty database in WAL mode, as SQLite itself would leave it.
pub(crate) fn empty_database() -> [u8; PAGE_SIZE as usize] {
    const LEAF_TABLE: u8 = 0x0d;
    let mut page = [0; PAGE_SIZE as usize];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC);
    put(PAGE_SIZE_AT, &PAGE_SIZE.to_be_bytes());
    put(WRITE_VERSION_AT, &[WAL_VERSION, WAL_VERSION]);
    // The payload fractions, which are constants of the format.
    put(21, &[64, 32, 32]);
    put(CHANGE_COUNTER_AT, &1u32.to_be_bytes());
    put(PAGE_COUNT_AT, &1u32.to_be_bytes());
    // Schema format 4 and UTF-8 stand as 0 until the first table is made, so that the host may still choose.
    put(VERSION_VALID_FOR_AT, &1u32.to_be_bytes());
    // The version of SQLite that wrote last: 3.37.0, the oldest that this crate works with.
    put(96, &3_037_000u32.to_be_bytes());
    // The root page of the schema: an empty leaf whose cells would begin at the page's end.
    put(HEADER_LEN, &[LEAF_TABLE]);
    put(HEADER_LEN + 5, &PAGE_SIZE.to_be_bytes());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SQLite's own empty WAL database, but for the version of the SQLite that wrote it.
    #[test]
    fn an_empty_database_is_what_sqlite_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
        drop(connection);
        let mut theirs = std::fs::read(&path).unwrap();
        let ours = empty_database();
        theirs[96..100].copy_from_slice(&ours[96..100]);
        let differing: Vec<_> = (0..theirs.len()).filter(|at| ours[*at] != theirs[*at]).collect();
        assert_eq!(theirs.len(), ours.len());
        assert_eq!(differing, Vec::<usize>::new(), "{:?}", &theirs[..112]);
    }

    #[test]
    fn headers_are_read() {
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(&empty_database()[..HEADER_LEN]);
        let header = Header { page_size: 4096, wal: true, change_counter: 1, page_count: Some(1) };
        assert_eq!(Header::parse(&bytes).unwrap(), header);
        bytes[PAGE_SIZE_AT..PAGE_SIZE_AT + 2].copy_from_slice(&[0, 1]);
        assert_eq!(Header::parse(&bytes).unwrap().page_size, 65_536);
        bytes[CHANGE_COUNTER_AT + 3] = 9;
        assert_eq!(Header::parse(&bytes).unwrap().page_count, None);
        bytes[PAGE_SIZE_AT..PAGE_SIZE_AT + 2].copy_from_slice(&[3, 0]);
        assert_eq!(Header::parse(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        bytes[0] = b's';
        assert_eq!(Header::parse(&bytes).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
