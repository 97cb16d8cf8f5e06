//! The rollback journal of an encrypted database. Its pages are encrypted as in the database file. Its checksums are sums of
//! plaintext, and are masked.
//!
//! A database in WAL mode has no rollback journal. SQLite creates one when it writes a database that is not in WAL mode: in
//! `VACUUM INTO`, and when it switches a database to WAL mode.

use std::{ffi::c_int, sync::Arc};

use rusqlite::ffi::{SQLITE_IOERR_SHORT_READ, SQLITE_OK};

use crate::{
    page::{self, PageCodec},
    sync::{Mutex, Rank},
    sys::read_buf::ReadBuf,
    vfs::{
        connection::DbConnection,
        error::VfsError,
        file::{VfsFile, whole_pages},
        raw_file::{Buffer, RawFile},
    },
};

/// The record count of a header that means "up to the end of the file". No record after such a header was flushed, so records may
/// be torn.
const UNCOUNTED: u32 = u32::MAX;

/// The length of the fields of a header. Zeros follow.
const FIELDS_LEN: usize = 28;

#[derive(Debug)]
pub(in crate::vfs) struct Journal {
    connection: Arc<DbConnection>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    before: Before,
    /// Whether records may be torn, by the header that was read last.
    torn: bool,
    page: Buffer,
}

/// The part of a record that was read or written last, and its end offset. SQLite reads and writes a record in order: page
/// number, page, checksum.
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
    pub(in crate::vfs) fn new(connection: Arc<DbConnection>) -> Self {
        Self { connection, state: Mutex::new(Rank::Journal, State::default()) }
    }

    /// Writes the bytes that SQLite passes at `at`.
    fn put(&self, bytes: &[u8], at: u64, raw: &dyn RawFile) -> Result<c_int, VfsError> {
        self.connection.latch().check()?;
        let mut state = self.state.lock()?;
        let before = std::mem::take(&mut state.before);
        // The magic number also ends the record of a super-journal. There, a checksum precedes it and not a page number.
        if *bytes == page::JOURNAL_MAGIC {
            return Ok(raw.write(bytes, at));
        }
        let codec = self.connection.sealed().and_then(|sealed| Some((sealed, sealed.codec()?)));
        let end = at + bytes.len() as u64;
        match (before, <[u8; 4]>::try_from(bytes)) {
            (Before::Page { end: here, mask }, Ok(checksum)) if here == at => {
                return Ok(raw.write(&masked(checksum, mask), at));
            }
            (_, Ok(word)) => {
                let code = raw.write(&word, at);
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
            codec.seal_page(number, bytes, page, &mut sealed.writer()?.nonces)?;
            let mask = codec.journal_mask(page);
            let code = raw.write(page, at);
            if code == SQLITE_OK {
                state.before = Before::Page { end, mask };
            }
            return Ok(code);
        }
        // Headers and the name of a super-journal hold no rows.
        let codec = codec.map(|(_, codec)| codec);
        let is_name = matches!(before,
            Before::Number { end: here, number } if here == at && begins_super_journal(number, codec));
        let is_header = bytes.iter().skip(FIELDS_LEN).all(|byte| *byte == 0);
        if is_name || is_header { Ok(raw.write(bytes, at)) } else { Err(VfsError::Layout) }
    }

    /// Converts the bytes that were read at `at` with the result `code` into those that SQLite receives.
    fn after_read(&self, bytes: &mut [u8], at: u64, code: c_int) -> Result<c_int, VfsError> {
        let mut state = self.state.lock()?;
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
        let sealed = self.connection.sealed().and_then(|sealed| Some((sealed, sealed.codec()?)));
        if let (Before::Number { end: here, number }, Some((sealed, codec))) = (before, sealed)
            && here == at
            && bytes.len() == codec.page_size()
            // SQLite reads a whole page before it checks the number.
            && !begins_super_journal(number, Some(codec))
        {
            let mask = codec.journal_mask(bytes);
            state.before = Before::Page { end, mask };
            match sealed.open_page(codec, number, bytes, "-journal") {
                // A record that was not flushed may be torn. SQLite treats a short read as the end of the journal.
                Err(VfsError::Damaged { .. }) if state.torn => return Ok(SQLITE_IOERR_SHORT_READ),
                opened => opened?,
            }
        }
        Ok(code)
    }
}

impl VfsFile for Journal {
    fn read(&self, into: &mut ReadBuf<'_>, at: u64, raw: &dyn RawFile) -> c_int {
        match raw.read_buf(into, at) {
            code @ (SQLITE_OK | SQLITE_IOERR_SHORT_READ) => {
                self.connection.answer(self.after_read(into.bytes(), at, code))
            }
            code => code,
        }
    }

    fn write(&self, bytes: &[u8], at: u64, raw: &dyn RawFile) -> c_int {
        self.connection.answer(self.put(bytes, at, raw))
    }

    fn sync(&self, flags: c_int, raw: &dyn RawFile) -> c_int {
        self.connection.answer(self.connection.latch().check().map(|()| raw.sync(flags)))
    }

    fn device_characteristics(&self, raw: c_int) -> c_int {
        whole_pages(raw)
    }

    fn panicked(&self) {
        self.connection.latch().panicked();
    }
}

/// Whether a page number starts the record of a super-journal, which holds the name of that file. It is the number of the page
/// with SQLite's lock bytes, which is never journaled.
///
/// A file without pages has no codec and so no page size. None of its pages is journaled.
fn begins_super_journal(number: u32, codec: Option<&PageCodec>) -> bool {
    match codec {
        Some(codec) => number == page::lock_page(codec.page_size()),
        None => (9..=16).any(|log| number == page::lock_page(1 << log)),
    }
}

fn masked(checksum: [u8; 4], mask: [u8; 4]) -> [u8; 4] {
    (u32::from_be_bytes(checksum) ^ u32::from_be_bytes(mask)).to_be_bytes()
}
