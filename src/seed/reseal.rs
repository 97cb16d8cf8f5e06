//! Changes of the encryption of a database: to another key, cipher or page format, from plain to sealed, or back.
//!
//! If the number of reserved bytes does not change, pages are sealed one by one. Otherwise `VACUUM INTO` rebuilds the database.
//! Neither writes plaintext to the disk on the way to a sealed file.

use std::{ffi::c_int, fs::File, path::Path, sync::Arc};

use rusqlite::{Connection, limits::Limit};

use super::{Output, Target, bounds::Bounds, functions, watched};
use crate::{
    cipher::Nonces,
    connect,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    live_copy,
    page::{self, Header, PageCodec, PageFault},
    progress::{self, Phase, ProgressFn},
    sqlite,
    vfs::{self, NoPolicy, NotOpened, Sealing, VfsError},
};

/// The number of pages that are sealed between two calls of the progress callback.
const PAGES_A_TICK: u32 = 4096;

/// Rebuilds the database that `source` has open, of `len` bytes, into the output.
///
/// SQLite copies the entries of indexes and evaluates no expression of the schema. If a version of it does, the
/// [bounds](super::bounds) apply, because the schema may be untrusted.
pub(crate) fn vacuum_into(
    mut source: Connection,
    len: u64,
    output: Output<'_>,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    let Output { disk, path, target, .. } = output;
    let reserved = target.map_or(0, |target| target.cipher.reserved_bytes());
    let sealing = target.map(|target| {
        Sealing::new(target.key.clone(), target.cipher).in_format(target.format.unwrap_or_default())
    });
    // SQLite before 3.53 ignores `reserve`.
    let uri = sqlite::uri(path, format_args!("reserve={reserved}"))?;
    // SQLite accepts an empty file. A file that it creates itself would stay root's.
    disk.create(path)?;
    let bounds = Bounds::of(len);
    let (source, least, done) = watched(Phase::Copy, &bounds, watch, || {
        let mut least = 0;
        let done = prepare(&mut source, &bounds)
            .map_err(|error| NotOpened { error, refusal: None })
            .and_then(|()| {
                least = vfs::reserve_in_vacuum(&source, reserved);
                let making = Arc::new(NoPolicy::making(sealing));
                vfs::hand_over(making, || source.execute("VACUUM INTO ?1", [&uri]))
            });
        (source, least, done)
    })?;
    done.map(|_| ()).map_err(|NotOpened { error, refusal }| {
        if let Some(exceeded) = bounds.explain("the database", &source, &error) {
            return exceeded.caused_by(error);
        }
        match (refusal, &error) {
            (Some(VfsError::Layout), _) if least > c_int::from(reserved) => {
                let message = format!(
                    "the database reserves {least} bytes in each page, and SQLite {} cannot reduce them to {reserved}; use \
                     SQLite 3.53 or newer",
                    rusqlite::version()
                );
                Error::new(ErrorKind::Unsupported, message).caused_by(error)
            }
            (Some(refusal), _) => connect::explain_open(path, NotOpened { error, refusal: Some(refusal) }),
            // A function or collation of the program that wrote the file.
            (None, rusqlite::Error::SqliteFailure(cause, _)) if cause.code == rusqlite::ErrorCode::Unknown => {
                let index = index_that_needs(&source, &error).map_or_else(String::new, |index| format!("{index}: "));
                let message = format!(
                    "the database cannot be rebuilt, because it needs a function or collation that is not available \
                     ({index}{error}); set {reserved} reserved bytes per page and VACUUM it with the program that wrote it"
                );
                Error::new(ErrorKind::Unsupported, message).caused_by(error)
            }
            (None, _) => Error::from_sqlite(&source, error),
        }
    })
}

/// Applies `bounds` to a connection that is about to rebuild a database.
fn prepare(source: &mut Connection, bounds: &Bounds) -> rusqlite::Result<()> {
    /// The maximum length of a value if the cost of a row is unknown.
    const LENGTH: i32 = 1 << 20;
    bounds.hold(source)?;
    source.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
    // Virtual tables are copied by their declarations.
    vfs::drop_modules(source);
    let length = bounds.measure(source);
    let length = if bounds.is_exceeded() { length? } else { length.unwrap_or(Some(LENGTH)) };
    functions::limit(source, bounds, length)
}

/// The index that needs the function or collation that an error reports as missing, and its table.
fn index_that_needs(source: &Connection, missing: &rusqlite::Error) -> Option<String> {
    const OF_COLLATION: &str = "
        SELECT i.name, t.name FROM pragma_table_list AS t, pragma_index_list(t.name, t.schema) AS i,
               pragma_index_xinfo(i.name, t.schema) AS x
        WHERE t.schema = 'main' AND t.type IN ('table', 'shadow') AND x.key AND x.coll = ?1 COLLATE NOCASE";
    const OF_FUNCTION: &str = "
        SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index' AND instr(lower(sql), lower(?1)) > 0";
    let missing = missing.to_string();
    let name = missing.rsplit(": ").next()?.trim_end_matches("()");
    let find = |sql, name: &str| {
        let found = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
        source.query_row(sql, [name], found).ok()
    };
    let (index, table) = find(OF_COLLATION, name).or_else(|| find(OF_FUNCTION, name))?;
    Some(format!("index {index} of table {table}"))
}

/// A source of plain pages.
pub(crate) trait Pages {
    /// Reads the plain page `number` into `page`.
    fn read(&mut self, number: u32, page: &mut [u8]) -> Result<()>;
}

/// The pages of a sealed file.
pub(crate) struct SealedPages<'a> {
    pub(crate) file: &'a File,
    pub(crate) path: &'a Path,
    pub(crate) codec: &'a PageCodec,
}

impl Pages for SealedPages<'_> {
    fn read(&mut self, number: u32, page: &mut [u8]) -> Result<()> {
        Disk::read_at(self.file, self.path, page, u64::from(number - 1) * page.len() as u64)?;
        self.codec.open_page(number, page).map_err(|_| {
            let message = format!("page {number} is damaged or was tampered with: authentication failed");
            Error::new(ErrorKind::Corrupt, message)
        })
    }
}

/// The size of a database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) page_count: u32,
    pub(crate) page_size: u32,
}

impl Extent {
    /// The extent of a file of `len` bytes.
    pub(crate) fn of(len: u64, page_size: u32) -> Self {
        Self { page_count: u32::try_from(len / u64::from(page_size)).unwrap_or(u32::MAX), page_size }
    }
}

/// Seals plain pages one by one into the output.
pub(crate) fn seal_pages(
    pages: &mut impl Pages,
    extent: Extent,
    target: &Target,
    output: Output<'_>,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    let Output { disk, path, .. } = output;
    let Extent { page_count, page_size } = extent;
    let codec = PageCodec::new(target.seal()?, page_size, &target.key)?;
    let mut nonces = Nonces::new()?;
    let file = disk.create(path)?;
    let (mut plain, mut sealed) =
        (zeroize::Zeroizing::new(vec![0; page_size as usize]), vec![0; page_size as usize]);
    let total = u64::from(page_count) * u64::from(page_size);
    for number in 1..=page_count {
        let at = u64::from(number - 1) * u64::from(page_size);
        if number % PAGES_A_TICK == 1 {
            progress::tell(watch, Phase::Copy, at, Some(total))?;
        }
        if number == page::lock_page(plain.len()) {
            continue;
        }
        pages.read(number, &mut plain)?;
        if number == 1 {
            page::enter_wal(&mut plain);
        }
        let used = plain.len() - usize::from(target.cipher.reserved_bytes());
        plain[used..].fill(0);
        codec.seal_page(number, &plain, &mut sealed, &mut nonces).map_err(failed)?;
        disk.write_at(&file, path, &sealed, at)?;
    }
    progress::tell(watch, Phase::Copy, total, Some(total))
}

/// Sets WAL mode in a complete output, and flushes it. Fails with [`ErrorKind::TooLarge`] if it exceeds its limit.
pub(crate) fn finish(output: Output<'_>, watch: &mut ProgressFn<'_>) -> Result<()> {
    let Output { disk, path, target, size_limit } = output;
    let len = Disk::len(path)?.unwrap_or(0);
    if let Some(limit) = size_limit.filter(|limit| !limit.admits(len)) {
        return Err(live_copy::too_large(len, limit));
    }
    let file = disk.open_to_write(path)?;
    let mut head = [0; page::HEADER_LEN];
    Disk::read_at(&file, path, &mut head, 0)?;
    let header = Header::parse(&head)?;
    // Never publish a plain file in place of a sealed one, or a sealed file in place of a plain one.
    if header.seal.is_some() != target.is_some() {
        return Err(Error::new(
            ErrorKind::Io,
            "the staged file is plain in place of encrypted, or the reverse",
        ));
    }
    if !header.wal {
        let mut first = zeroize::Zeroizing::new(vec![0; header.page_size as usize]);
        Disk::read_at(&file, path, &mut first, 0)?;
        if let (Some(seal), Some(target)) = (header.seal, target) {
            let codec = PageCodec::new(seal, header.page_size, &target.key)?;
            codec.open_page(1, &mut first).map_err(failed)?;
            page::enter_wal(&mut first);
            let mut sealed = vec![0; first.len()];
            codec.seal_page(1, &first, &mut sealed, &mut Nonces::new()?).map_err(failed)?;
            disk.write_at(&file, path, &sealed, 0)?;
        } else {
            page::enter_wal(&mut first);
            disk.write_at(&file, path, &first[..page::HEADER_LEN], 0)?;
        }
    }
    progress::tell(watch, Phase::Sync, 0, Some(len))?;
    disk.sync_file(&file, path)
}

fn failed(fault: PageFault) -> Error {
    Error::new(ErrorKind::Io, format!("sealing a page: {fault:?}"))
}
