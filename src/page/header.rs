//! The database header of plain and sealed files, and the page of an empty database.
//!
//! Offsets are those of <https://www.sqlite.org/fileformat2.html#the_database_header>.

use super::{
    be32,
    offsets::{EXPANSION, HEADER_LEN, MAGIC, PAGE_SIZE_AT, RESERVED_AT},
    seal::{SALT_LEN, Seal},
};
use crate::error::{Error, ErrorKind, Result};

/// The page size of new databases.
pub(crate) const PAGE_SIZE: u16 = 4096;

const WRITE_VERSION_AT: usize = 18;
const READ_VERSION_AT: usize = 19;
const CHANGE_COUNTER_AT: usize = 24;
const PAGE_COUNT_AT: usize = 28;
const SCHEMA_FORMAT_AT: usize = 44;
const ENCODING_AT: usize = 56;
const VERSION_VALID_FOR_AT: usize = 92;

const _: () = assert!(EXPANSION.start + SALT_LEN <= EXPANSION.end);

/// The read and write versions of rollback mode and of WAL mode.
const ROLLBACK_VERSION: u8 = 1;
const WAL_VERSION: u8 = 2;

/// The read and write version of the journal mode `mvcc` of Turso's engine.
const MVCC_VERSION: u8 = 255;

/// The fields of a database header that this crate uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// A power of two from 512 to 65536.
    pub(crate) page_size: u32,
    /// Whether the database is in WAL mode.
    pub(crate) wal: bool,
    /// The format versions that a program must support to write and to read the file. SQLite supports up to [`WAL_VERSION`].
    pub(crate) versions: Versions,
    /// The number of transactions in rollback mode.
    pub(crate) change_counter: u32,
    /// The size of the database in pages. `None` if the last writer was older than SQLite 3.7.0.
    pub(crate) page_count: Option<u32>,
    /// The reserved bytes at the end of each page.
    pub(crate) reserved: u8,
    /// The seal of the file. `None` for a plain file.
    pub(crate) seal: Option<Seal>,
}

impl Header {
    /// Parses a header. Fails with [`ErrorKind::Invalid`] if it is not one of SQLite or of a sealed file, and with
    /// [`ErrorKind::Corrupt`] if a field is invalid.
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        let seal = Seal::parse(bytes)?;
        if seal.is_none() && bytes[..MAGIC.len()] != MAGIC {
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
            versions: Versions { write: bytes[WRITE_VERSION_AT], read: bytes[READ_VERSION_AT] },
            change_counter,
            page_count: counted.then_some(page_count),
            reserved: bytes[RESERVED_AT],
            seal,
        })
    }

    /// The size in bytes of the database in a file of `file_len` bytes without a WAL.
    ///
    /// SQLite uses the page count in the header if the change counter shows that it is valid, and the size of the file, rounded up
    /// to a whole page, otherwise. Bytes after that do not belong to the database. The result exceeds `file_len` for a truncated
    /// file.
    pub(crate) fn database_len(&self, file_len: u64) -> u64 {
        let page_size = u64::from(self.page_size);
        match self.page_count {
            Some(count) => u64::from(count) * page_size,
            None => file_len.next_multiple_of(page_size),
        }
    }
}

/// The format versions in a database header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) write: u8,
    pub(crate) read: u8,
}

impl Versions {
    /// Whether SQLite reads the file.
    pub(crate) fn is_readable(self) -> bool {
        self.read <= WAL_VERSION
    }

    /// Whether SQLite writes to the file.
    pub(crate) fn is_writable(self) -> bool {
        self.write <= WAL_VERSION
    }

    /// Whether the file is in the journal mode `mvcc` of Turso's engine.
    pub(crate) fn is_mvcc(self) -> bool {
        self.write == MVCC_VERSION || self.read == MVCC_VERSION
    }
}

/// The file of an empty plain database in WAL mode with `reserved` bytes at the end of each page, as SQLite writes it.
pub(crate) fn empty_database(reserved: u8) -> [u8; PAGE_SIZE as usize] {
    const LEAF_TABLE: u8 = 0x0d;
    let mut page = [0; PAGE_SIZE as usize];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC);
    put(PAGE_SIZE_AT, &PAGE_SIZE.to_be_bytes());
    put(RESERVED_AT, &[reserved]);
    // The payload fractions, which are constants of the format.
    put(21, &[64, 32, 32]);
    put(CHANGE_COUNTER_AT, &1u32.to_be_bytes());
    put(PAGE_COUNT_AT, &1u32.to_be_bytes());
    // The schema format and the encoding are 0 until the first table is created, so that the application can choose them.
    put(VERSION_VALID_FOR_AT, &1u32.to_be_bytes());
    // The version of the last writer: SQLite 3.37.0, which introduced STRICT tables.
    put(96, &3_037_000u32.to_be_bytes());
    // The root page of the schema: an empty leaf, whose cell area starts at the end of the usable bytes.
    put(HEADER_LEN, &[LEAF_TABLE]);
    put(HEADER_LEN + 5, &(PAGE_SIZE - u16::from(reserved)).to_be_bytes());
    enter_wal(&mut page);
    page
}

/// Sets WAL mode in a header.
pub(crate) fn enter_wal(header: &mut [u8]) {
    header[WRITE_VERSION_AT..WRITE_VERSION_AT + 2].copy_from_slice(&[WAL_VERSION; 2]);
}

/// Sets rollback mode in a header.
pub(crate) fn leave_wal(header: &mut [u8]) {
    header[WRITE_VERSION_AT..WRITE_VERSION_AT + 2].copy_from_slice(&[ROLLBACK_VERSION; 2]);
}

/// Sets schema format 4 and UTF-8 in the header of an empty database, as the first table would. Turso's engine opens no database
/// without them.
pub(crate) fn choose_utf8(header: &mut [u8]) {
    header[SCHEMA_FORMAT_AT..SCHEMA_FORMAT_AT + 4].copy_from_slice(&4u32.to_be_bytes());
    header[ENCODING_AT..ENCODING_AT + 4].copy_from_slice(&1u32.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with the file that SQLite writes, except for the version of SQLite in it.
    #[test]
    fn empty_database_equals_that_of_sqlite() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
        drop(connection);
        let mut theirs = std::fs::read(&path).unwrap();
        let ours = empty_database(0);
        theirs[96..100].copy_from_slice(&ours[96..100]);
        let differing: Vec<_> = (0..theirs.len()).filter(|at| ours[*at] != theirs[*at]).collect();
        assert_eq!(theirs.len(), ours.len());
        assert_eq!(differing, Vec::<usize>::new(), "{:?}", &theirs[..112]);
    }

    #[test]
    fn headers_are_parsed() {
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(&empty_database(0)[..HEADER_LEN]);
        let header = Header {
            page_size: 4096,
            wal: true,
            versions: Versions { write: 2, read: 2 },
            change_counter: 1,
            page_count: Some(1),
            reserved: 0,
            seal: None,
        };
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
