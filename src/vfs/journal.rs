//! The rollback journal of a sealed database: its pages are sealed as in the database file, and the checksums that SQLite
//! keeps of them, which are sums of plaintext, are masked.
//!
//! In WAL mode there is none. SQLite makes one where it writes a database before that: in `VACUUM INTO`, and when it
//! switches a database into WAL mode.

use std::{
    ffi::c_int,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::ffi::{SQLITE_IOERR_SHORT_READ, SQLITE_OK};

use super::{
    VfsError,
    database::Database,
    raw_file::{Buffer, RawFile},
};
use crate::page::{self, PageCodec};

/// The count of records in a header that stands for "as many as fit into the file": nothing after it was flushed, and
/// what follows may be torn.
const UNCOUNTED: u32 = u32::MAX;

/// The bytes of a header that hold something.
const FIELDS_LEN: usize = 28;

#[derive(Debug)]
pub(super) struct Journal {
    database: Arc<Database>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    before: Before,
    /// Whether the header that was read last says that nothing after it was flushed, so that it may be torn.
    torn: bool,
    page: Buffer,
}

/// What was read or written right before, and ended where the next begins. SQLite goes through a record from its start
/// to its end: page number, page, checksum.
#[derive(Clone, Copy, Debug, Default)]
enum Before {
    #[default]
    Nothing,
    Magic {
        end: u64,
    },
    Number {
        end: u64,
        number: u32,
    },
    Page {
        end: u64,
        mask: [u8; 4],
    },
}

impl Journal {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database, state: Mutex::default() }
    }

    pub(super) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Writes what SQLite gives to be written.
    pub(super) fn write(&self, bytes: &[u8], at: u64, beneath: &impl RawFile) -> Result<c_int, VfsError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut state.before);
        // The record of a super-journal ends with it. What stands before it there is a checksum, and no page number.
        if *bytes == page::JOURNAL_MAGIC {
            return Ok(beneath.write(bytes, at));
        }
        let codec = self.database.sealed().and_then(|sealed| Some((sealed, sealed.codec()?)));
        let end = at + bytes.len() as u64;
        match (before, <[u8; 4]>::try_from(bytes)) {
            (Before::Page { end: here, mask }, Ok(checksum)) if here == at => {
                return Ok(beneath.write(&masked(checksum, mask), at));
            }
            (_, Ok(word)) => {
                let code = beneath.write(&word, at);
                if code == SQLITE_OK {
                    state.before = Before::Number { end, number: u32::from_be_bytes(word) };
                }
                return Ok(code);
            }
            _ => {}
        }
        if let (Before::Number { end: here, number }, Some((sealed, codec))) = (before, codec)
            && here == at
            && !begins_super_journal(number, Some(codec))
        {
            if bytes.len() != codec.page_size() {
                return Err(VfsError::Layout);
            }
            let page = state.page.of(codec.page_size());
            codec.seal_page(number, bytes, page, &mut sealed.writer().nonces)?;
            let mask = codec.journal_mask(page);
            let code = beneath.write(page, at);
            if code == SQLITE_OK {
                state.before = Before::Page { end, mask };
            }
            return Ok(code);
        }
        // Headers, their fields, and the name of a super-journal hold no rows.
        let codec = codec.map(|(_, codec)| codec);
        let is_name = matches!(before,
            Before::Number { end: here, number } if here == at && begins_super_journal(number, codec));
        let is_header = bytes.iter().skip(FIELDS_LEN).all(|byte| *byte == 0);
        if is_name || is_header { Ok(beneath.write(bytes, at)) } else { Err(VfsError::Layout) }
    }

    /// Turns what was read at `at` into what SQLite is handed.
    pub(super) fn after_read(&self, bytes: &mut [u8], at: u64, code: c_int) -> Result<c_int, VfsError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut state.before);
        if code != SQLITE_OK {
            return Ok(code);
        }
        let end = at + bytes.len() as u64;
        if let Ok(word) = <[u8; 4]>::try_from(&*bytes) {
            match before {
                Before::Page { end: here, mask } if here == at => bytes.copy_from_slice(&masked(word, mask)),
                Before::Magic { end: here } if here == at => {
                    state.torn = u32::from_be_bytes(word) == UNCOUNTED;
                }
                _ => state.before = Before::Number { end, number: u32::from_be_bytes(word) },
            }
            return Ok(code);
        }
        if *bytes == page::JOURNAL_MAGIC {
            state.before = Before::Magic { end };
            return Ok(code);
        }
        let sealed = self.database.sealed().and_then(|sealed| Some((sealed, sealed.codec()?)));
        if let (Before::Number { end: here, number }, Some((sealed, codec))) = (before, sealed)
            && here == at
            && bytes.len() == codec.page_size()
            // SQLite reads as much as a page before it looks at the number.
            && !begins_super_journal(number, Some(codec))
        {
            let mask = codec.journal_mask(bytes);
            state.before = Before::Page { end, mask };
            match sealed.open_page(codec, number, bytes, "-journal") {
                // What was never flushed may be torn: SQLite takes the journal to end there.
                Err(VfsError::Damaged { .. }) if state.torn => return Ok(SQLITE_IOERR_SHORT_READ),
                opened => opened?,
            }
        }
        Ok(code)
    }
}

/// Whether a page number begins the record of a super-journal, which holds the name of that file: it is the number of the page
/// with SQLite's lock bytes, which has no record of its own.
///
/// A file without a page has no codec yet, and so no page size. It has no page that could be journaled either.
fn begins_super_journal(number: u32, codec: Option<&PageCodec>) -> bool {
    match codec {
        Some(codec) => number == page::lock_page(codec.page_size()),
        None => (9..=16).any(|log| number == page::lock_page(1 << log)),
    }
}

fn masked(checksum: [u8; 4], mask: [u8; 4]) -> [u8; 4] {
    (u32::from_be_bytes(checksum) ^ u32::from_be_bytes(mask)).to_be_bytes()
}
