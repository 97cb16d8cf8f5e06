//! Historical views: a database as of an instant, read from its history without being written out.
//!
//! SQLite treats a view as an immutable file, so it uses no locks, no WAL and no shared memory.

use std::{
    ffi::c_int,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rusqlite::ffi::{SQLITE_IOERR_SHORT_READ, SQLITE_OK};

use super::{error::VfsError, policy::Sealing, raw_file::RawFile, seal::pages::Sealed};
use crate::{
    error::{ErrorKind, Result},
    history::ResilientImage,
    page::Seal,
    sync::{Mutex, Rank},
    units::PageNumber,
};

/// An open view.
#[derive(Debug)]
pub(super) struct View {
    file: ImageFile,
    /// `None` for a plain database.
    sealed: Option<Sealed>,
    /// The address of SQLite's connection; 0 until it is known.
    connection: AtomicUsize,
    refusal: Mutex<Option<VfsError>>,
}

/// The stored pages of an image as a file.
#[derive(Debug)]
struct ImageFile {
    image: Arc<ResilientImage>,
    /// Why the last read failed.
    refusal: Mutex<Option<VfsError>>,
}

impl View {
    /// Opens a view of an image. `sealing` is `None` for a plain database. Errors name `path`.
    pub(super) fn new(
        image: Arc<ResilientImage>,
        path: &Path,
        sealing: Option<Sealing>,
    ) -> Result<Self, VfsError> {
        let file = ImageFile { image, refusal: Mutex::new(Rank::Refusal, None) };
        let sealed = sealing.map(|sealing| Sealed::open(path, sealing, &file));
        let sealed = sealed.transpose().map_err(|refusal| file.take_refusal().unwrap_or(refusal))?;
        Ok(Self { file, sealed, connection: AtomicUsize::new(0), refusal: Mutex::new(Rank::Refusal, None) })
    }

    pub(super) fn read(&self, into: &mut [u8], at: u64) -> c_int {
        let code = self.file.read(into, at);
        let refused = |refusal: VfsError| {
            let code = refusal.result();
            self.note_refusal(refusal);
            code
        };
        if let Some(refusal) = self.file.take_refusal() {
            into.fill(0);
            return refused(refusal);
        }
        match &self.sealed {
            Some(sealed) => {
                let has = |page| u64::from(page) <= u64::from(self.file.image.page_count().get());
                sealed.after_read(into, at, code, has).unwrap_or_else(refused)
            }
            None => code,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.file.image.len()
    }

    pub(super) fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }

    pub(super) fn connection(&self) -> usize {
        self.connection.load(Relaxed)
    }

    /// Sets the address of the `sqlite3` handle that this view belongs to.
    pub(super) fn belongs_to(&self, connection: usize) {
        self.connection.store(connection, Relaxed);
    }

    pub(super) fn seal(&self) -> Option<Seal> {
        self.sealed.as_ref().and_then(Sealed::codec).map(|codec| *codec.seal())
    }

    /// Notes why a call or a statement of the connection was refused.
    pub(super) fn note_refusal(&self, refusal: VfsError) {
        *self.refusal.lock_or_recover() = Some(refusal);
    }

    /// Takes the error of the call that was refused with `code`.
    pub(super) fn take_refusal(&self, code: c_int) -> Option<VfsError> {
        let mut refusal = self.refusal.lock_or_recover();
        refusal.take_if(|refusal| refusal.code() == code & 0xff)
    }
}

impl ImageFile {
    fn take_refusal(&self) -> Option<VfsError> {
        self.refusal.lock_or_recover().take()
    }

    /// Fills `into` from the offset `inside` of a page.
    fn read_part(&self, page: PageNumber, into: &mut [u8], inside: usize) -> Result<()> {
        if into.len() == self.image.page_size() as usize {
            return self.image.read_page(page, into);
        }
        let mut whole = vec![0; self.image.page_size() as usize];
        self.image.read_page(page, &mut whole)?;
        into.copy_from_slice(&whole[inside..inside + into.len()]);
        Ok(())
    }
}

impl RawFile for ImageFile {
    fn read(&self, into: &mut [u8], at: u64) -> c_int {
        let page_size = u64::from(self.image.page_size());
        let there = self.image.len().saturating_sub(at).min(into.len() as u64);
        let (mut at, mut left) = (at, &mut into[..]);
        let end = at + there;
        while at < end {
            let inside = at % page_size;
            let count = (page_size - inside).min(end - at);
            let (Ok(inside), Ok(count)) = (usize::try_from(inside), usize::try_from(count)) else {
                break;
            };
            let page = PageNumber::at_offset(at, self.image.page_size());
            let (part, rest) = left.split_at_mut(count);
            if let Err(error) = self.read_part(page, part, inside) {
                let refusal = match error.kind() {
                    ErrorKind::Corrupt => VfsError::HistoryDamaged(error.message()),
                    _ => VfsError::Unreadable(error.message()),
                };
                let code = refusal.result();
                *self.refusal.lock_or_recover() = Some(refusal);
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
        Ok(self.image.len())
    }
}
