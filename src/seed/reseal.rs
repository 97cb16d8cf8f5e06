//! Sealing a database anew: under another key, cipher or format, or for the first time, or not at all.
//!
//! Where the pages leave the same number of bytes free at their end, they are sealed one by one. Otherwise SQLite lays the
//! rows out anew (`VACUUM INTO`). Neither writes plaintext to the disk on the way to a sealed file.

use std::{ffi::c_int, fs::File, path::Path, sync::Arc};

use rusqlite::{Connection, limits::Limit};

use super::{Target, bounds::Bounds, watched};
use crate::{
    cipher::Nonces,
    connect,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    live_copy,
    page::{self, Header, PageCodec, PageFault},
    progress::{self, Phase, ProgressFn},
    size::SizeLimit,
    sqlite,
    vfs::{self, NoPolicy, NotOpened, Sealing, VfsError},
};

/// Pages that are sealed between two looks at whether to go on.
const PAGES_A_TICK: u32 = 4096;

/// Writes all rows of the database of `len` bytes that `source` is open on into a new file, sealed as `target` says or plain.
///
/// SQLite copies the entries of indexes, and evaluates no expression of the schema for that. Should a version of it do so, the
/// [bounds](super::bounds) hold: another party may have written them.
pub(crate) fn vacuum_into(
    disk: &Disk,
    mut source: Connection,
    len: u64,
    path: &Path,
    target: Option<&Target>,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    let reserved = target.map_or(0, |target| target.cipher.reserved_bytes());
    let sealing = target.map(|target| {
        Sealing::new(target.key.clone(), target.cipher).in_format(target.format.unwrap_or_default())
    });
    // SQLite before 3.53 ignores `reserve`.
    let uri = sqlite::uri(path, format_args!("reserve={reserved}"))?;
    // SQLite writes into an empty file, and would leave one that it makes itself with root.
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
            // Functions and collations of the program that made the file.
            (None, rusqlite::Error::SqliteFailure(cause, _)) if cause.code == rusqlite::ErrorCode::Unknown => {
                let index = index_in_the_way(&source, &error).map_or_else(String::new, |index| format!("{index}: "));
                let message = format!(
                    "the database needs what SQLite does not have here, so its rows cannot be laid out anew \
                     ({index}{error}); give it {reserved} reserved bytes a page with the program that made it, and \
                     VACUUM it there"
                );
                Error::new(ErrorKind::Unsupported, message).caused_by(error)
            }
            (None, _) => connect::explain(&source, error),
        }
    })
}

/// Holds a connection that is about to lay rows out anew to `bounds`.
fn prepare(source: &mut Connection, bounds: &Bounds) -> rusqlite::Result<()> {
    /// The longest value where it cannot be found out how much a row takes.
    const LENGTH: i32 = 1 << 20;
    bounds.hold(source)?;
    source.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
    // The declarations of virtual tables are copied as they are.
    vfs::drop_modules(source);
    let length = bounds.measure(source);
    let length = if bounds.is_exceeded() { length? } else { length.unwrap_or(Some(LENGTH)) };
    bounds.limit(source, length)
}

/// The index that needs what SQLite says is missing, and its table.
fn index_in_the_way(source: &Connection, missing: &rusqlite::Error) -> Option<String> {
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

/// Where plain pages come from.
pub(crate) trait Pages {
    /// Fills `page` with the plain page `number`.
    fn read(&mut self, number: u32, page: &mut [u8]) -> Result<()>;
}

/// Pages of a sealed file.
pub(crate) struct SealedPages<'a> {
    pub(crate) file: &'a File,
    pub(crate) path: &'a Path,
    pub(crate) codec: &'a PageCodec,
}

impl Pages for SealedPages<'_> {
    fn read(&mut self, number: u32, page: &mut [u8]) -> Result<()> {
        Disk::read_at(self.file, self.path, page, u64::from(number - 1) * page.len() as u64)?;
        self.codec.open_page(number, page).map_err(|_| {
            let message = format!("page {number} is damaged or was tampered with: its tag does not fit");
            Error::new(ErrorKind::Corrupt, message)
        })
    }
}

/// Seals plain pages one by one into a new file.
pub(crate) fn seal_pages(
    disk: &Disk,
    pages: &mut impl Pages,
    page_count: u32,
    page_size: u32,
    path: &Path,
    target: &Target,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
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

/// Puts a file that is whole into WAL mode and on the disk, if it is within its limit.
pub(crate) fn finish(
    disk: &Disk,
    path: &Path,
    target: Option<&Target>,
    size_limit: Option<SizeLimit>,
    watch: &mut ProgressFn<'_>,
) -> Result<()> {
    let len = Disk::len(path)?.unwrap_or(0);
    if let Some(limit) = size_limit.filter(|limit| !limit.admits(len)) {
        return Err(live_copy::too_large(len, limit));
    }
    let file = disk.open_to_write(path)?;
    let mut head = [0; page::HEADER_LEN];
    Disk::read_at(&file, path, &mut head, 0)?;
    let header = Header::parse(&head)?;
    // What was to be sealed is never left plain, nor the other way round.
    if header.seal.is_some() != target.is_some() {
        return Err(Error::new(ErrorKind::Io, "the staged file is not sealed as it should be"));
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
