//! A database as it was at an instant, to be read: nothing is written out for it, and nothing can be written to it.
//!
//! SQLite takes it for a file that cannot change, so there are no locks, no log and no shared memory.

use std::{
    ffi::c_int,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rusqlite::ffi::{SQLITE_IOERR_SHORT_READ, SQLITE_OK};

use super::{Sealing, VfsError, raw_file::RawFile, sealed::Sealed};
use crate::{error::ErrorKind, history::ResilientImage, page::Seal, units::PageNumber};

#[derive(Debug)]
pub(super) struct View {
    file: PastFile,
    /// Nothing for a plain database.
    sealed: Option<Sealed>,
    /// The address of the connection, by which a file that it opens is told to be its own.
    connection: AtomicUsize,
    refusal: Mutex<Option<VfsError>>,
}

/// The pages as a file.
#[derive(Debug)]
struct PastFile {
    past: Arc<ResilientImage>,
    refusal: Mutex<Option<VfsError>>,
}

impl View {
    /// Of a database that is sealed so, or plain; `path` is told of in errors.
    pub(super) fn new(
        past: Arc<ResilientImage>,
        path: &Path,
        sealing: Option<Sealing>,
    ) -> Result<Self, VfsError> {
        let file = PastFile { past, refusal: Mutex::default() };
        let sealed = sealing.map(|sealing| Sealed::open(path, sealing, &file));
        let sealed = sealed.transpose().map_err(|refusal| file.take_refusal().unwrap_or(refusal))?;
        Ok(Self { file, sealed, connection: AtomicUsize::new(0), refusal: Mutex::default() })
    }

    pub(super) fn read(&self, into: &mut [u8], at: u64) -> c_int {
        let code = self.file.read(into, at);
        let refused = |refusal: VfsError| {
            let code = refusal.result();
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
            code
        };
        if let Some(refusal) = self.file.take_refusal() {
            into.fill(0);
            return refused(refusal);
        }
        match &self.sealed {
            Some(sealed) => {
                let has = |page| u64::from(page) <= u64::from(self.file.past.page_count().get());
                sealed.after_read(into, at, code, has).unwrap_or_else(refused)
            }
            None => code,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.file.past.len()
    }

    pub(super) fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }

    pub(super) fn connection(&self) -> usize {
        self.connection.load(Relaxed)
    }

    /// The connection of this file is known from here on.
    pub(super) fn belongs_to(&self, connection: usize) {
        self.connection.store(connection, Relaxed);
    }

    pub(super) fn seal(&self) -> Option<Seal> {
        self.sealed.as_ref().and_then(Sealed::codec).map(|codec| *codec.seal())
    }

    /// Why the call was refused that answered with `code`.
    pub(super) fn take_refusal(&self, code: c_int) -> Option<VfsError> {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.take_if(|refusal| refusal.code() == code & 0xff)
    }
}

impl PastFile {
    fn take_refusal(&self) -> Option<VfsError> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Fills `into` from a page.
    fn read_part(&self, page: PageNumber, into: &mut [u8], inside: usize) -> crate::error::Result<()> {
        if into.len() == self.past.page_size() as usize {
            return self.past.read_page(page, into);
        }
        let mut whole = vec![0; self.past.page_size() as usize];
        self.past.read_page(page, &mut whole)?;
        into.copy_from_slice(&whole[inside..inside + into.len()]);
        Ok(())
    }
}

impl RawFile for PastFile {
    fn read(&self, into: &mut [u8], at: u64) -> c_int {
        let page_size = u64::from(self.past.page_size());
        let there = self.past.len().saturating_sub(at).min(into.len() as u64);
        let (mut at, mut left) = (at, &mut into[..]);
        let end = at + there;
        while at < end {
            let inside = at % page_size;
            let count = (page_size - inside).min(end - at);
            let (Ok(inside), Ok(count)) = (usize::try_from(inside), usize::try_from(count)) else {
                break;
            };
            let page = PageNumber::at_offset(at, self.past.page_size());
            let (part, rest) = left.split_at_mut(count);
            if let Err(error) = self.read_part(page, part, inside) {
                let refusal = match error.kind() {
                    ErrorKind::Corrupt => VfsError::PastDamaged(error.message()),
                    _ => VfsError::Unreadable(error.message()),
                };
                let code = refusal.result();
                *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
                return code;
            }
            left = rest;
            at += count as u64;
        }
        if left.is_empty() {
            return SQLITE_OK;
        }
        left.fill(0);
        SQLITE_IOERR_SHORT_READ
    }

    fn write(&self, _: &[u8], _: u64) -> c_int {
        rusqlite::ffi::SQLITE_READONLY
    }

    fn len(&self) -> Result<u64, c_int> {
        Ok(self.past.len())
    }
}
