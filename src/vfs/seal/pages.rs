//! The encrypted pages of one database file, as one connection reads and writes them.

use std::{
    ffi::c_int,
    fmt,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use rusqlite::ffi::{SQLITE_IOERR_SHORT_READ, SQLITE_OK};

use super::readahead::Readahead;
use crate::{
    cipher::Nonces,
    error::{Error, ErrorKind},
    page::{self, HEADER_LEN, PageCodec, PageFault, PageFormat, Seal},
    sync::{Guard, Latched, Mutex, Rank},
    sys::read_buf::ReadBuf,
    vfs::{
        error::VfsError,
        policy::Sealing,
        raw_file::{Buffer, RawFile},
    },
};

/// The number of open encrypted files in this process.
static SEALED: AtomicUsize = AtomicUsize::new(0);

/// Whether a database in this process is encrypted. Unnamed files are then encrypted too: SQLite does not say whose rows they
/// hold.
pub(in crate::vfs) fn is_any_sealed() -> bool {
    SEALED.load(Relaxed) > 0
}

/// Counts as an open encrypted file while it exists.
#[derive(Debug)]
pub(in crate::vfs) struct Counted(());

impl Counted {
    pub(in crate::vfs) fn new() -> Self {
        SEALED.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        SEALED.fetch_sub(1, Relaxed);
    }
}

/// The encryption of one database, which the database file, WAL and journal of one connection share.
///
/// SQLite uses a connection from one thread at a time. The atomics order nothing.
pub(in crate::vfs) struct Sealed {
    path: PathBuf,
    sealing: Sealing,
    /// Empty until a new file has a page.
    codec: OnceLock<PageCodec>,
    writer: Mutex<Writer>,
    /// Whether a page was decrypted, so that the key is known to be right.
    authentic: AtomicBool,
    /// A lower bound of the length of the file. Writes up to it leave no gap.
    known_len: AtomicU64,
    readahead: Mutex<Readahead>,
    moving: Mutex<Moving>,
    _counted: Counted,
}

/// The state that is needed to encrypt a page.
#[derive(Debug)]
pub(in crate::vfs) struct Writer {
    pub(in crate::vfs) nonces: Nonces,
    pub(in crate::vfs) page: Buffer,
}

/// An encrypted page that a checkpoint has read from the WAL and will write to the database file.
#[derive(Debug, Default)]
struct Moving {
    /// The number of the page; 0 if there is none.
    page: u32,
    sealed: Buffer,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("path", &self.path).field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl Sealed {
    /// Opens an encrypted file, which must be encrypted with the cipher and the key of `sealing`. An empty file becomes an
    /// encrypted one if [`Sealing::may_create`].
    pub(in crate::vfs) fn open(path: &Path, sealing: Sealing, raw: &dyn RawFile) -> Result<Self, VfsError> {
        let nonces = Nonces::new().map_err(|error| VfsError::Unreadable(error.message()))?;
        let len = raw.len().map_err(VfsError::unreadable)?;
        let sealed = |sealing, codec| Self {
            path: path.to_owned(),
            sealing,
            codec,
            writer: Mutex::new(Rank::Seal, Writer { nonces, page: Buffer::default() }),
            authentic: AtomicBool::new(false),
            known_len: AtomicU64::new(0),
            readahead: Mutex::new(Rank::Readahead, Readahead::default()),
            moving: Mutex::new(Rank::Move, Moving::default()),
            _counted: Counted::new(),
        };
        if len == 0 {
            if !sealing.may_create {
                return Err(VfsError::NotSealed("it is empty".into()));
            }
            return Ok(sealed(sealing, OnceLock::new()));
        }
        let mut header = [0; HEADER_LEN];
        match raw.read(&mut header, 0) {
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
            // Checked before the key: under another salt, the right key would look like a wrong one.
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

    pub(in crate::vfs) fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    /// Encrypts and decrypts pages. `None` until a new file has a page.
    pub(in crate::vfs) fn codec(&self) -> Option<&PageCodec> {
        self.codec.get()
    }

    /// The codec for a write of `len` bytes. The first page of a new file determines the page size.
    fn codec_to_write(&self, len: usize) -> Result<&PageCodec, VfsError> {
        if let Some(codec) = self.codec.get() {
            return Ok(codec);
        }
        let damaged = |error: Error| VfsError::NotSealed(error.to_string());
        let Sealing { key, cipher, format, .. } = &self.sealing;
        let seal = Seal::new(*format, *cipher, key).map_err(damaged)?;
        let page_size = u32::try_from(len).unwrap_or(0);
        if !page_size.is_power_of_two() {
            return Err(VfsError::Layout);
        }
        let codec = PageCodec::new(seal, page_size, key).map_err(damaged)?;
        Ok(self.codec.get_or_init(|| codec))
    }

    /// Locks the state that is needed to encrypt a page.
    pub(in crate::vfs) fn writer(&self) -> Result<Guard<'_, Writer>, Latched> {
        self.writer.lock()
    }

    /// Discards the cached state of the file, because other connections may write to the file from now on.
    pub(in crate::vfs) fn forget(&self) {
        self.known_len.store(0, Relaxed);
        self.readahead().forget();
    }

    fn readahead(&self) -> Guard<'_, Readahead> {
        self.readahead.lock_or_clear()
    }

    /// Decrypts the page at `at` of the database file into `into`, if readahead has it. Returns `None` if it does not.
    pub(in crate::vfs) fn read_ahead(
        &self,
        into: &mut ReadBuf<'_>,
        at: u64,
        raw: &dyn RawFile,
    ) -> Option<Result<(), VfsError>> {
        let codec = self.codec()?;
        let page_size = codec.page_size();
        if into.len() != page_size || !at.is_multiple_of(page_size as u64) {
            return None;
        }
        let number = number_of(at, codec);
        let opened = codec.open_page_into(number, self.readahead().page(at, page_size, raw)?, into);
        Some(self.check_opened(opened, codec, number, ""))
    }

    /// Records a page that a checkpoint has read from the WAL. The tag of the page does not depend on the file, so the page is
    /// written to the database file as it is stored.
    pub(in crate::vfs) fn begin_move(&self, page: u32, sealed: &[u8]) {
        let mut moving = self.moving.lock_or_clear();
        moving.sealed.of(sealed.len()).copy_from_slice(sealed);
        moving.page = page;
    }

    /// Discards the page that a checkpoint has read last, so that it is not written as it is stored.
    pub(in crate::vfs) fn end_move(&self) {
        self.moving.lock_or_clear().page = 0;
    }

    /// Decrypts a page of the database file or, if `place` is the suffix of another file, of the file beside it.
    pub(in crate::vfs) fn open_page(
        &self,
        codec: &PageCodec,
        number: u32,
        page: &mut [u8],
        place: &'static str,
    ) -> Result<(), VfsError> {
        self.check_opened(codec.open_page(number, page), codec, number, place)
    }

    /// Notes that a page was decrypted, or names the fault of one that was not.
    fn check_opened(
        &self,
        opened: Result<(), PageFault>,
        codec: &PageCodec,
        number: u32,
        place: &'static str,
    ) -> Result<(), VfsError> {
        match opened {
            Ok(()) => {
                self.authentic.store(true, Relaxed);
                Ok(())
            }
            // In Turso's format only a tag shows a wrong key.
            Err(PageFault::Unauthentic)
                if codec.seal().format == PageFormat::Turso && !self.authentic.load(Relaxed) =>
            {
                Err(VfsError::WrongKey)
            }
            Err(PageFault::Unauthentic | PageFault::NoNonce) => {
                Err(VfsError::Damaged { path: self.path.clone(), place, page: number })
            }
            // The writer had the key.
            Err(PageFault::Layout) => Err(self.inconsistent(
                place,
                "a page says another page size or number of reserved bytes than the file has",
            )),
        }
    }

    /// The error of a file whose content contradicts the database. `place` is the suffix of the file beside the database file.
    pub(in crate::vfs) fn inconsistent(&self, place: &'static str, why: &'static str) -> VfsError {
        VfsError::Inconsistent { path: self.path.clone(), place, why }
    }

    /// Converts the bytes that were read at `at` of the database file with the result `code` into those that SQLite receives.
    /// `must_have` returns whether a page must exist in the file.
    pub(in crate::vfs) fn after_read(
        &self,
        bytes: &mut [u8],
        at: u64,
        code: c_int,
        must_have: impl FnOnce(u32) -> bool,
    ) -> Result<c_int, VfsError> {
        let Some(codec) = self.codec() else { return Ok(code) };
        let page_size = codec.page_size() as u64;
        if bytes.len() == codec.page_size() && at.is_multiple_of(page_size) {
            let number = number_of(at, codec);
            return match code {
                SQLITE_OK => self.open_page(codec, number, bytes, "").map(|()| SQLITE_OK),
                // SQLite reads a page beyond the end of the file as zeros. The file was truncated if the page must exist or
                // exists in part.
                SQLITE_IOERR_SHORT_READ if bytes.iter().any(|byte| *byte != 0) || must_have(number) => {
                    bytes.fill(0);
                    Err(VfsError::Damaged { path: self.path.clone(), place: "", page: number })
                }
                code => Ok(code),
            };
        }
        // Header fields, which SQLite reads before the first page. They are not encrypted.
        if at + bytes.len() as u64 <= HEADER_LEN as u64 {
            if code == SQLITE_OK {
                codec.unstamp(bytes, usize::try_from(at).unwrap_or(0));
            }
            return Ok(code);
        }
        bytes.fill(0);
        Err(VfsError::Layout)
    }

    /// Writes a page to the database file.
    pub(in crate::vfs) fn write(
        &self,
        bytes: &[u8],
        at: u64,
        is_checkpoint: bool,
        raw: &dyn RawFile,
    ) -> Result<c_int, VfsError> {
        let codec = self.codec_to_write(bytes.len())?;
        let page_size = codec.page_size() as u64;
        if bytes.len() != codec.page_size() || !at.is_multiple_of(page_size) {
            return Err(VfsError::Layout);
        }
        self.readahead().forget();
        let mut writer = self.writer()?;
        // In WAL mode every page of a gap is in the WAL, and a checkpoint writes it.
        if self.sealing.may_create && at > self.known_len.load(Relaxed) {
            let len = match raw.len() {
                Ok(len) => len,
                Err(code) => return Ok(code),
            };
            let mut end = len - len % page_size;
            // A hole would read as zeros, which no tag authenticates. So a gap is filled with encrypted pages of zeros, except
            // for the page of SQLite's lock bytes. The first page of a new file is left out as well: it is never all zeros, and a
            // file without it cannot be opened. SQLite writes it last if the other pages fill its cache.
            let zeros = if end < at { vec![0; codec.page_size()] } else { Vec::new() };
            while end < at {
                if end > 0 && !(end..end + page_size).contains(&page::PENDING_BYTE) {
                    let code = Self::write_page(codec, &mut writer, &zeros, end, raw)?;
                    if code != SQLITE_OK {
                        return Ok(code);
                    }
                }
                end += page_size;
            }
        }
        let mut moving = self.moving.lock_or_clear();
        // A checkpoint writes the page that it has read last.
        let code = if u64::from(moving.page) == at / page_size + 1 {
            moving.page = 0;
            raw.write(moving.sealed.of(codec.page_size()), at)
        } else if is_checkpoint {
            // The wal-index changed between the read and the write. The page would authenticate under the wrong number.
            return Err(
                self.inconsistent("-shm", "it does not say any more which page a frame of the log holds")
            );
        } else {
            Self::write_page(codec, &mut writer, bytes, at, raw)?
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
        raw: &dyn RawFile,
    ) -> Result<c_int, VfsError> {
        let number = number_of(at, codec);
        let Writer { nonces, page } = writer;
        let page = page.of(codec.page_size());
        codec.seal_page(number, plain, page, nonces).map_err(VfsError::from)?;
        Ok(raw.write(page, at))
    }
}

/// The number of the page at an offset of the database file.
fn number_of(at: u64, codec: &PageCodec) -> u32 {
    u32::try_from(at / codec.page_size() as u64 + 1).unwrap_or(u32::MAX)
}
