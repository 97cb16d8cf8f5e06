//! The sealing of one database file, as one connection uses it.

use std::{
    ffi::c_int,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use rusqlite::ffi::{SQLITE_IOERR_SHORT_READ, SQLITE_OK};

use super::{
    Sealing, VfsError,
    raw_file::{Buffer, RawFile},
    readahead::Readahead,
};
use crate::{
    cipher::Nonces,
    error::ErrorKind,
    page::{self, HEADER_LEN, PageCodec, PageFault, PageFormat, Seal},
};

/// Files in this process that are sealed or will be.
static SEALED: AtomicUsize = AtomicUsize::new(0);

/// Whether some database in this process is sealed. If so, files without a name are sealed too: nobody tells whose rows
/// are sorted in them.
pub(super) fn is_any_sealed() -> bool {
    SEALED.load(Relaxed) > 0
}

/// Stands for one of them.
#[derive(Debug)]
pub(super) struct Counted(());

impl Counted {
    pub(super) fn new() -> Self {
        SEALED.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        SEALED.fetch_sub(1, Relaxed);
    }
}

/// What the sealed files of one connection to one database share: its pages, WAL and journal.
pub(super) struct Sealed {
    path: PathBuf,
    sealing: Sealing,
    /// Not there as long as a new file has no page.
    codec: OnceLock<PageCodec>,
    writer: Mutex<Writer>,
    /// Whether a page was opened once, so that the key is known to be right.
    authentic: AtomicBool,
    /// A length that the file had lately: writes up to it leave no gap.
    known_len: AtomicU64,
    ahead: Mutex<Readahead>,
    moving: Mutex<Moving>,
    _counted: Counted,
}

/// What it takes to seal pages.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) nonces: Nonces,
    pub(super) page: Buffer,
}

/// A sealed page that a checkpoint has read from the WAL, and is about to write to the database file.
#[derive(Debug, Default)]
struct Moving {
    /// Its number, or 0.
    page: u32,
    sealed: Buffer,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("path", &self.path).field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl Sealed {
    /// Takes up the sealing of a file. One without a byte is to become sealed; any other must be so already, under this
    /// cipher and this key.
    pub(super) fn open(path: &Path, sealing: Sealing, beneath: &impl RawFile) -> Result<Self, VfsError> {
        let nonces = Nonces::new().map_err(|error| VfsError::Unreadable(error.message()))?;
        let len = beneath.len().map_err(VfsError::unreadable)?;
        let sealed = |sealing, codec| Self {
            path: path.to_owned(),
            sealing,
            codec,
            writer: Mutex::new(Writer { nonces, page: Buffer::default() }),
            authentic: AtomicBool::new(false),
            known_len: AtomicU64::new(0),
            ahead: Mutex::default(),
            moving: Mutex::default(),
            _counted: Counted::new(),
        };
        if len == 0 {
            if !sealing.may_create {
                return Err(VfsError::NotSealed("it is empty".into()));
            }
            return Ok(sealed(sealing, OnceLock::new()));
        }
        let mut header = [0; HEADER_LEN];
        match beneath.read(&mut header, 0) {
            SQLITE_OK => {}
            SQLITE_IOERR_SHORT_READ => return Err(VfsError::NotSealed("it is shorter than a header".into())),
            code => return Err(VfsError::unreadable(code)),
        }
        let header = page::Header::parse(&header).map_err(|error| VfsError::NotSealed(error.to_string()))?;
        let seal = match header.seal {
            None => return Err(VfsError::NotSealed("it is a plain SQLite file".into())),
            Some(seal) if seal.cipher != sealing.cipher => {
                return Err(VfsError::NotSealed(format!("its header says {}", seal.cipher)));
            }
            // Before the key: under another salt the right one would be taken for a wrong one.
            Some(seal) if sealing.identity.is_some_and(|identity| identity != seal.identity()) => {
                let why = "it is not the file that this database was made with";
                return Err(VfsError::NotSealed(why.into()));
            }
            Some(seal) => seal,
        };
        let codec =
            PageCodec::new(seal, header.page_size, &sealing.key).map_err(|error| match error.kind() {
                ErrorKind::WrongKey => VfsError::WrongKey,
                _ => VfsError::NotSealed(error.to_string()),
            })?;
        Ok(sealed(sealing, OnceLock::from(codec)))
    }

    pub(super) fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    /// What seals and opens the pages; nothing as long as a new file has none.
    pub(super) fn codec(&self) -> Option<&PageCodec> {
        self.codec.get()
    }

    /// The same, for a write of `len` bytes: the first page of a new file tells the page size.
    fn codec_to_write(&self, len: usize) -> Result<&PageCodec, VfsError> {
        if let Some(codec) = self.codec.get() {
            return Ok(codec);
        }
        let damaged = |error: crate::error::Error| VfsError::NotSealed(error.to_string());
        let Sealing { key, cipher, format, .. } = &self.sealing;
        let seal = Seal::new(*format, *cipher, key).map_err(damaged)?;
        let page_size = u32::try_from(len).unwrap_or(0);
        if !page_size.is_power_of_two() {
            return Err(VfsError::Layout);
        }
        let codec = PageCodec::new(seal, page_size, key).map_err(damaged)?;
        Ok(self.codec.get_or_init(|| codec))
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets how the file was: others may write to it from here on.
    pub(super) fn forget(&self) {
        self.known_len.store(0, Relaxed);
        self.ahead().forget();
    }

    fn ahead(&self) -> MutexGuard<'_, Readahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a page of the database file, sealed as it stands there, to `take`, if it need not be read by a call of its
    /// own.
    pub(super) fn read_ahead<T>(
        &self,
        at: u64,
        len: usize,
        beneath: &impl RawFile,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let page_size = self.codec()?.page_size();
        if len != page_size || !at.is_multiple_of(page_size as u64) {
            return None;
        }
        self.ahead().page(at, len, beneath).map(take)
    }

    /// A checkpoint has read a page from the WAL. Its tag covers what it would in the database file, so that it is moved
    /// there as it is.
    pub(super) fn begin_move(&self, page: u32, sealed: &[u8]) {
        let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        moving.sealed.of(sealed.len()).copy_from_slice(sealed);
        moving.page = page;
    }

    /// Whatever a checkpoint has read is not to be moved any more.
    pub(super) fn end_move(&self) {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner).page = 0;
    }

    /// Opens a page that stands at `place` in the database file or beside it.
    pub(super) fn open_page(
        &self,
        codec: &PageCodec,
        number: u32,
        page: &mut [u8],
        place: &'static str,
    ) -> Result<(), VfsError> {
        match codec.open_page(number, page) {
            Ok(()) => {
                self.authentic.store(true, Relaxed);
                Ok(())
            }
            // Turso's format has nothing else to tell a wrong key by.
            Err(PageFault::Unauthentic)
                if codec.seal().format == PageFormat::Turso && !self.authentic.load(Relaxed) =>
            {
                Err(VfsError::WrongKey)
            }
            Err(PageFault::Unauthentic | PageFault::NoNonce) => {
                Err(VfsError::Damaged { path: self.path.clone(), place, page: number })
            }
            // Whoever wrote it had the key.
            Err(PageFault::Layout) => Err(self
                .unfit(place, "a page says another page size or number of reserved bytes than the file has")),
        }
    }

    /// What was read at `place`, in the database file or beside it, does not fit the database.
    pub(super) fn unfit(&self, place: &'static str, why: &'static str) -> VfsError {
        VfsError::Unfit { path: self.path.clone(), place, why }
    }

    /// Turns what was read at `at` of the database file into what SQLite is handed. `must_have` says whether a page that
    /// is not there was cut off.
    pub(super) fn after_read(
        &self,
        bytes: &mut [u8],
        at: u64,
        code: c_int,
        must_have: impl FnOnce(u32) -> bool,
    ) -> Result<c_int, VfsError> {
        let Some(codec) = self.codec() else { return Ok(code) };
        let page_size = codec.page_size() as u64;
        if bytes.len() == codec.page_size() && at.is_multiple_of(page_size) {
            let number = u32::try_from(at / page_size + 1).unwrap_or(u32::MAX);
            return match code {
                SQLITE_OK => self.open_page(codec, number, bytes, "").map(|()| SQLITE_OK),
                // Beyond the end of the file, where SQLite takes a page to be all zeros; or a page that is not whole.
                SQLITE_IOERR_SHORT_READ if bytes.iter().any(|byte| *byte != 0) || must_have(number) => {
                    bytes.fill(0);
                    Err(VfsError::Damaged { path: self.path.clone(), place: "", page: number })
                }
                code => Ok(code),
            };
        }
        // Fields of the header, which are no ciphertext: SQLite asks for them before it reads the first page.
        if at + bytes.len() as u64 <= HEADER_LEN as u64 {
            if code == SQLITE_OK {
                codec.unstamp(bytes, usize::try_from(at).unwrap_or(0));
            }
            return Ok(code);
        }
        bytes.fill(0);
        Err(VfsError::Layout)
    }

    /// Writes to the database file what SQLite gives to be written.
    pub(super) fn write(
        &self,
        bytes: &[u8],
        at: u64,
        checkpointing: bool,
        beneath: &impl RawFile,
    ) -> Result<c_int, VfsError> {
        let codec = self.codec_to_write(bytes.len())?;
        let page_size = codec.page_size() as u64;
        if bytes.len() != codec.page_size() || !at.is_multiple_of(page_size) {
            return Err(VfsError::Layout);
        }
        self.ahead().forget();
        let mut writer = self.writer();
        // In WAL mode every page of a gap is in the log, and is written from there.
        if self.sealing.may_create && at > self.known_len.load(Relaxed) {
            let len = match beneath.len() {
                Ok(len) => len,
                Err(code) => return Ok(code),
            };
            let mut end = len - len % page_size;
            // A page of zeros would be one that nobody sealed. So a gap is filled with sealed pages of zeros, but for the
            // page of SQLite's lock bytes. The first page of a new file is left out as well: it is never of zeros alone,
            // and a file without it is one that nobody opens. SQLite writes it last where the rest fills its cache.
            let zeros = if end < at { vec![0; codec.page_size()] } else { Vec::new() };
            while end < at {
                if end > 0 && !(end..end + page_size).contains(&page::PENDING_BYTE) {
                    let code = Self::write_page(codec, &mut writer, &zeros, end, beneath)?;
                    if code != SQLITE_OK {
                        return Ok(code);
                    }
                }
                end += page_size;
            }
        }
        let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        // What a checkpoint writes is what it has read right before.
        let code = if u64::from(moving.page) == at / page_size + 1 {
            moving.page = 0;
            beneath.write(moving.sealed.of(codec.page_size()), at)
        } else if checkpointing {
            // The wal-index was changed in between: sealed under another number it would be another page.
            return Err(self.unfit("-shm", "it does not say any more which page a frame of the log holds"));
        } else {
            Self::write_page(codec, &mut writer, bytes, at, beneath)?
        };
        if code == SQLITE_OK {
            self.known_len.fetch_max(at + page_size, Relaxed);
        }
        Ok(code)
    }

    fn write_page(
        codec: &PageCodec,
        writer: &mut Writer,
        plain: &[u8],
        at: u64,
        beneath: &impl RawFile,
    ) -> Result<c_int, VfsError> {
        let number = u32::try_from(at / codec.page_size() as u64 + 1).unwrap_or(u32::MAX);
        let Writer { nonces, page } = writer;
        let page = page.of(codec.page_size());
        codec.seal_page(number, plain, page, nonces).map_err(VfsError::from)?;
        Ok(beneath.write(page, at))
    }
}
