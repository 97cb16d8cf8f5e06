//! Readahead: during a scan, one system call reads many pages.
//!
//! Decrypting a page takes a fraction of the time of a system call, so a scan of an encrypted database is as fast as one of a
//! plain database.
//!
//! The pages are used within one read transaction only. Until it ends, no connection writes a page to the file that SQLite
//! would read from there: a checkpoint writes only pages that this transaction reads from the WAL, and none if the transaction
//! reads nothing from the WAL (<https://www.sqlite.org/walformat.html#reader_marks>). Outside of WAL mode the shared lock keeps
//! writers out.

use std::ops::Range;

use rusqlite::ffi::SQLITE_OK;

use crate::vfs::raw_file::{Buffer, RawFile};

/// The most that is read ahead, in bytes.
const LEN_MAX: usize = 128 << 10;

/// The number of pages that a run may skip: inner pages of a b-tree are read earlier.
const GAP: u64 = 2;

/// The length of a run from which it is a scan.
const RUN_MIN: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Readahead {
    /// The offset after the page that was read last.
    next: u64,
    /// The number of pages that were read in a row.
    run: u32,
    /// The range of the file that the buffer holds.
    there: Range<u64>,
    buffer: Buffer,
}

impl Readahead {
    /// Discards the buffer: a transaction begins or ends, or the file is written.
    pub(super) fn forget(&mut self) {
        (self.run, self.there) = (0, 0..0);
    }

    /// The page at `at` as it is stored, if the buffer holds it or a scan fills the buffer with it. `None` otherwise.
    pub(super) fn page(&mut self, at: u64, len: usize, raw: &dyn RawFile) -> Option<&[u8]> {
        let page = len as u64;
        if at < self.next || at > self.next + GAP * page {
            self.forget();
        }
        self.next = at + page;
        if !(self.there.contains(&at) && at + page <= self.there.end) {
            self.run = self.run.saturating_add(1);
            if self.run < RUN_MIN {
                return None;
            }
            // The buffer doubles with each fill.
            let count = (LEN_MAX / len).min(1 << (self.run - RUN_MIN + 1).min(16));
            if count < 2 {
                return None;
            }
            self.there = 0..0;
            if raw.read(self.buffer.of(count * len), at) != SQLITE_OK {
                // Near the end of the file, or after a failed read, the page is read by itself.
                self.run = 0;
                return None;
            }
            self.there = at..at + (count * len) as u64;
        }
        let start = usize::try_from(at - self.there.start).ok()?;
        let all = usize::try_from(self.there.end - self.there.start).ok()?;
        self.buffer.of(all).get(start..start + len)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, ffi::c_int};

    use rusqlite::ffi::SQLITE_IOERR_SHORT_READ;

    use super::*;

    /// A file whose pages are filled with their number. It records the calls.
    struct Pages(u64, RefCell<Vec<(u64, usize)>>);

    impl RawFile for Pages {
        fn read(&self, into: &mut [u8], at: u64) -> c_int {
            self.1.borrow_mut().push((at / 512, into.len() / 512));
            for (byte, place) in into.iter_mut().zip(at..) {
                *byte = u8::try_from(place / 512 % 251).unwrap();
            }
            if at + into.len() as u64 > self.0 * 512 { SQLITE_IOERR_SHORT_READ } else { SQLITE_OK }
        }

        fn write(&self, _: &[u8], _: u64) -> c_int {
            unreachable!("it is only read")
        }

        fn len(&self) -> Result<u64, c_int> {
            Ok(self.0 * 512)
        }
    }

    #[test]
    fn scan_is_read_in_few_calls_and_other_reads_in_none() {
        let (file, mut ahead) = (Pages(1000, RefCell::default()), Readahead::default());
        let mut found = 0;
        for number in (0..1000).filter(|number| number % 50 != 7) {
            if let Some(page) = ahead.page(number * 512, 512, &file) {
                assert!(page.iter().all(|byte| u64::from(*byte) == number % 251), "{number}");
                found += 1;
            }
        }
        let calls = file.1.take();
        assert!(found > 850 && calls.len() < 40, "{found} of 980 with {calls:?}");

        for number in [5, 900, 17, 400, 401, 3, 500, 499, 498] {
            assert_eq!(ahead.page(number * 512, 512, &file), None);
        }
        assert!(file.1.borrow().is_empty());
        // A discarded buffer is not used.
        for number in 10..16 {
            ahead.page(number * 512, 512, &file);
        }
        ahead.forget();
        assert_eq!(ahead.page(16 * 512, 512, &file), None);
    }
}
