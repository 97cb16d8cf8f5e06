//! Imports: a database from a SQLite file of another program. The file is copied with its WAL or journal, checked, and converted.
//! The source is only read.
//!
//! The file may be malicious. It is opened in SQLite's defensive mode with an untrusted schema, without triggers, views and
//! attached databases, and only [the check](super::check) evaluates it.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};
use zeroize::Zeroizing;

use super::{
    Output,
    check::{self, failed},
    reseal::{self, Extent, Pages},
};
use crate::{
    cipher::EncryptionKey,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout,
    live_copy::LiveCopy,
    page::{self, PageCodec, PageFormat},
    progress::{self, Phase, ProgressFn},
    vfs::{Scratch, ScratchFile},
};

/// The first bytes of an SQL dump of the `sqlite3` shell.
const DUMP: &[u8] = b"PRAGMA foreign_keys=OFF;";

/// The number of pages that are opened between two calls of the progress callback.
const UNSEAL_TICK: u32 = 4096;

/// The first bytes of the log of Turso's engine in journal mode `mvcc`, and the size of its header.
const MVCC_LOG: &[u8] = b"2LML";
const MVCC_HEADER_LEN: u64 = 56;

/// A SQLite file to create a database from.
///
/// A reference to a path and a mutable reference to a reader convert into it.
pub enum Upload<'a> {
    /// A file on this machine, which may be in use.
    ///
    /// Commits in its `-wal` are imported. An interrupted transaction in its `-journal` is rolled back in the copy, or
    /// refused if the new database is encrypted.
    Path(&'a Path),
    /// A stream of the bytes of the file.
    Reader(&'a mut dyn Read),
}

impl std::fmt::Debug for Upload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Reader(_) => f.write_str("Reader(..)"),
        }
    }
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for Upload<'a> {
    fn from(path: &'a P) -> Self {
        Self::Path(path.as_ref())
    }
}

impl<'a, R: Read> From<&'a mut R> for Upload<'a> {
    fn from(reader: &'a mut R) -> Self {
        Self::Reader(reader)
    }
}

/// Writes the database in `upload` to the output, and flushes it. Returns the parts that could not be checked.
///
/// `file_key` is the key of an encrypted upload. `None` uses the key of the output.
pub(crate) fn write(
    upload: Upload<'_>,
    file_key: Option<&EncryptionKey>,
    output: Output<'_>,
    watch: &mut ProgressFn<'_>,
) -> Result<Vec<String>> {
    let Output { disk, path, .. } = output;
    let name = match &upload {
        Upload::Path(path) => path.display().to_string(),
        Upload::Reader(_) => "the uploaded file".to_owned(),
    };
    let Some(target) = output.target else {
        let (header, _) = receive(upload, &name, None, output, watch)?;
        if let Some(seal) = header.seal {
            let remedy = match file_key {
                None => "import it with its encryption key, as an encrypted database",
                Some(_) => "besides its key, the database needs a cipher and an encryption key of its own",
            };
            let message = format!("{name} is encrypted under {}: {remedy}", seal.cipher);
            return Err(Error::new(ErrorKind::KeyRequired, message));
        }
        let len = Disk::len(path)?.unwrap_or(0);
        check_length(&name, &header, len, path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || Connection::open_with_flags(path, flags).map_err(|error| failed(&name, error));
        let unchecked = check::check(&name, len, &open, watch)?;
        enter_wal(&name, fenced(&name, open()?)?)?;
        trim(disk, path)?;
        reseal::finish(output, watch)?;
        return Ok(unchecked);
    };
    // Until its pages are sealed with the key of the database, the upload is sealed with a temporary one.
    let staged = layout::beside(path, "-source");
    let scratch = Scratch::new()?;
    let (header, file) = receive(upload, &name, Some(&scratch), output.at(&staged), watch)?;
    check_length(&name, &header, scratch.len(), &staged)?;
    let extent = Extent::of(scratch.len(), header.page_size);
    let mut pages = ScratchPages { scratch: &scratch, on: ScratchFile::new(disk, &file, &staged) };
    if let Some(seal) = header.seal {
        let key = file_key.unwrap_or(&target.key);
        let codec = PageCodec::new(seal, header.page_size, key)
            .map_err(|error| Error::new(error.kind(), format!("{name}: {error}")))?;
        pages.unseal(&codec, extent.page_count, &name, watch)?;
    }
    pages.leave_wal()?;
    let open = || scratch.open(&staged).map_err(|not_opened| failed(&name, not_opened.error));
    let unchecked = check::check(&name, scratch.len(), &open, watch)?;
    // The page format of an encrypted upload is kept only on request.
    if header.reserved == target.cipher.reserved_bytes() {
        reseal::seal_pages(&mut pages, extent, target, output, watch)?;
    } else {
        reseal::vacuum_into(fenced(&name, open()?)?, scratch.len(), output, watch)?;
    }
    drop(pages);
    drop(file);
    disk.remove(&staged)?;
    reseal::finish(output, watch)?;
    Ok(unchecked)
}

/// Writes an upload unchanged to the output, sealed by `scratch` or plain. Fails if its header is not that of a SQLite file.
fn receive(
    upload: Upload<'_>,
    name: &str,
    scratch: Option<&Scratch>,
    output: Output<'_>,
    watch: &mut ProgressFn<'_>,
) -> Result<(page::Header, File)> {
    let Output { disk, path: staged, size_limit, .. } = output;
    let file = match upload {
        Upload::Path(source) => {
            // SQLite resolves symbolic links before it derives the names of the WAL and the journal.
            if !Disk::exists(source)? {
                return Err(Error::new(ErrorKind::NotFound, format!("{name}: no such file")));
            }
            let source = &Disk::canonical(source)?;
            let inspect = |bytes: &[u8], len| inspect(name, Some(source), bytes, len);
            let copy = LiveCopy { disk, source, target: staged, scratch, size_limit, inspect: &inspect };
            super::copy_and(&copy, watch, |_, _| Ok(()))?;
            disk.open_to_write(staged)?
        }
        Upload::Reader(reader) => {
            let file = disk.create(staged)?;
            let on = ScratchFile::new(disk, &file, staged);
            let mut extent = StreamExtent::default();
            let write = |bytes: &[u8], at: u64| {
                let bytes = extent.of(bytes, at);
                let end = at + bytes.len() as u64;
                if let Some(limit) = size_limit.filter(|limit| !limit.admits(end) && !bytes.is_empty()) {
                    return Err(Error::new(
                        ErrorKind::TooLarge,
                        format!("{name} is larger than the size limit of {limit} bytes"),
                    ));
                }
                progress::tell(watch, Phase::Copy, at, None)?;
                match scratch {
                    _ if bytes.is_empty() => Ok(()),
                    Some(scratch) => scratch.write_at(&on, bytes, at),
                    None => disk.write_at(&file, staged, bytes, at),
                }
            };
            Disk::drain(reader, write)?;
            file
        }
    };
    let on = ScratchFile::new(disk, &file, staged);
    let len =
        scratch.map_or_else(|| Disk::len(staged).map(|len| len.unwrap_or(0)), |scratch| Ok(scratch.len()))?;
    let mut bytes = vec![0; page::HEADER_LEN.min(usize::try_from(len).unwrap_or(usize::MAX))];
    match scratch {
        Some(scratch) => {
            scratch.read_at(&on, &mut bytes, 0)?;
            scratch.flush(&on)?;
        }
        None => Disk::read_at(&file, staged, &mut bytes, 0)?,
    }
    let header = inspect(name, None, &bytes, len)?;
    Ok((header, file))
}

/// The part of a stream that belongs to the database: the pages that its header counts.
#[derive(Default)]
struct StreamExtent {
    head: Vec<u8>,
    /// `None` before the header is complete, and if it has no page count.
    len: Option<u64>,
}

impl StreamExtent {
    /// The part of `bytes`, which are at offset `at` of the stream, that belongs to the database.
    fn of<'a>(&mut self, bytes: &'a [u8], at: u64) -> &'a [u8] {
        let missing = page::HEADER_LEN - self.head.len();
        if missing > 0 {
            self.head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
            let header = self.head.first_chunk().and_then(|head| page::Header::parse(head).ok());
            self.len = header.and_then(|header| {
                header.page_count.map(|count| u64::from(count) * u64::from(header.page_size))
            });
        }
        let left = self.len.map_or(u64::MAX, |len| len.saturating_sub(at));
        &bytes[..usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))]
    }
}

/// The pages of an upload in a scratch file.
struct ScratchPages<'a> {
    scratch: &'a Scratch,
    on: ScratchFile<'a>,
}

impl ScratchPages<'_> {
    /// Opens every page of an encrypted upload.
    fn unseal(
        &self,
        codec: &PageCodec,
        page_count: u32,
        name: &str,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        let mut page = Zeroizing::new(vec![0; codec.page_size()]);
        for number in 1..=page_count {
            let at = u64::from(number - 1) * page.len() as u64;
            if number % UNSEAL_TICK == 1 {
                progress::tell(watch, Phase::Check, at, None)?;
            }
            if number == page::lock_page(page.len()) {
                continue;
            }
            self.scratch.read_at(&self.on, &mut page, at)?;
            codec.open_page(number, &mut page).map_err(|_| match (number, codec.seal().format) {
                // This format has no key check.
                (1, PageFormat::Turso) => {
                    let message = format!("{name}: this is not the key that it is encrypted under");
                    Error::new(ErrorKind::WrongKey, message)
                }
                _ => Error::new(
                    ErrorKind::Corrupt,
                    format!("{name} is damaged: authentication of page {number} failed"),
                ),
            })?;
            self.scratch.write_at(&self.on, &page, at)?;
        }
        Ok(())
    }

    /// Sets rollback mode: the copy has no WAL.
    fn leave_wal(&self) -> Result<()> {
        let mut header = Zeroizing::new([0; page::HEADER_LEN]);
        self.scratch.read_at(&self.on, header.as_mut(), 0)?;
        page::leave_wal(header.as_mut());
        self.scratch.write_at(&self.on, header.as_ref(), 0)?;
        self.scratch.flush(&self.on)
    }
}

impl Pages for ScratchPages<'_> {
    fn read(&mut self, number: u32, page: &mut [u8]) -> Result<()> {
        self.scratch.read_at(&self.on, page, u64::from(number - 1) * page.len() as u64)
    }
}

/// Parses the header of an upload. Fails with [`ErrorKind::Invalid`] if it is not a SQLite database, and with
/// [`ErrorKind::Corrupt`] if it is truncated.
fn inspect(name: &str, source: Option<&Path>, bytes: &[u8], len: u64) -> Result<page::Header> {
    let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, message));
    if len == 0 {
        return invalid(format!("{name} is empty, not a sqlite3 database"));
    }
    if bytes.starts_with(DUMP) || bytes.starts_with(b"BEGIN TRANSACTION;") {
        return invalid(format!(
            "{name} is a sqlite3 dump, not a sqlite3 database. Please import a sqlite database"
        ));
    }
    let not_one = || invalid(format!("{name} is not a sqlite3 database"));
    let Some(header) = bytes.first_chunk() else {
        if !bytes.starts_with(&page::MAGIC) {
            return not_one();
        }
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{name} is truncated: {len} bytes are less than a header"),
        ));
    };
    match page::Header::parse(header) {
        Err(error) if error.kind() == ErrorKind::Invalid => not_one(),
        parsed => {
            let header = parsed.map_err(|error| Error::new(error.kind(), format!("{name}: {error}")))?;
            check_versions(name, source, &header)?;
            Ok(header)
        }
    }
}

/// Refuses a file that SQLite does not open for reading and writing, and one with commits that SQLite does not see.
fn check_versions(name: &str, source: Option<&Path>, header: &page::Header) -> Result<()> {
    const REMEDY: &str = "run PRAGMA journal_mode=wal with that engine, then import it again";
    let versions = header.versions;
    let log = source.and_then(|source| mvcc_log(source, versions.is_mvcc()));
    let (kind, message) = if let Some(log) = log {
        let log = log.display();
        (
            ErrorKind::Unsupported,
            format!(
                "{log} has commits of {name} in journal mode mvcc of Turso's engine, which SQLite cannot read; {REMEDY}"
            ),
        )
    } else if versions.is_mvcc() {
        let message =
            format!("{name} is in journal mode mvcc of Turso's engine, which SQLite does not open; {REMEDY}");
        (ErrorKind::Unsupported, message)
    } else if !versions.is_readable() {
        let version = versions.read;
        let message = format!(
            "{name} is not a sqlite3 database that this version can read: it has the read version {version}"
        );
        (ErrorKind::Invalid, message)
    } else if !versions.is_writable() {
        let version = versions.write;
        let message = format!(
            "{name} has the write version {version}, which SQLite opens read-only; VACUUM it INTO a file with the sqlite3 \
             shell, then import that"
        );
        (ErrorKind::Unsupported, message)
    } else {
        return Ok(());
    };
    Err(Error::new(kind, message))
}

/// The log of Turso's engine beside a database in journal mode `mvcc`, if it has commits. If the database is `in_mvcc`, the extension
/// of its name may be replaced. For other databases that name may belong to another file.
fn mvcc_log(source: &Path, in_mvcc: bool) -> Option<PathBuf> {
    let replaced = in_mvcc.then(|| source.with_extension("db-log"));
    let mut logs = [layout::beside(source, "-log")].into_iter().chain(replaced);
    logs.find(|log| {
        let mut magic = [0; MVCC_LOG.len()];
        let is_log = Disk::open_regular(log)
            .ok()
            .flatten()
            .is_some_and(|file| Disk::read_up_to(&file, log, &mut magic, 0).is_ok() && magic == *MVCC_LOG);
        is_log && Disk::len(log).ok().flatten().is_some_and(|len| len > MVCC_HEADER_LEN)
    })
}

/// Fails with [`ErrorKind::Corrupt`] if a staged file is shorter than its header says. SQLite's check would report a malformed
/// image.
fn check_length(name: &str, header: &page::Header, len: u64, staged: &Path) -> Result<()> {
    let whole = u64::from(header.page_count.unwrap_or(1)) * u64::from(header.page_size);
    // The rollback of an interrupted transaction restores the length.
    if len < whole && !Disk::exists(&layout::beside(staged, "-journal"))? {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{name} is truncated: its header says {whole} bytes, and it has {len}"),
        ));
    }
    Ok(())
}

/// Sets WAL mode in a staged file, and leaves no file beside it.
fn enter_wal(name: &str, connection: Connection) -> Result<()> {
    let failed = |error| failed(name, error);
    let mode: String =
        connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(Error::new(ErrorKind::Invalid, format!("{name} cannot be set to WAL mode")));
    }
    // The last connection to close removes the WAL.
    connection.close().map_err(|(_, error)| failed(error))
}

/// Cuts off the bytes after the last page, which the rollback of an interrupted transaction may leave.
fn trim(disk: &Disk, path: &Path) -> Result<()> {
    let file = disk.open_to_write(path)?;
    let mut head = [0; page::HEADER_LEN];
    Disk::read_at(&file, path, &mut head, 0)?;
    let file_len = Disk::len(path)?.unwrap_or(0);
    let len = page::Header::parse(&head)?.database_len(file_len);
    if len < file_len { disk.set_len(&file, path, len) } else { Ok(()) }
}

/// Prevents triggers and views of the file from being executed.
fn fenced(name: &str, connection: Connection) -> Result<Connection> {
    check::fence(&connection).map_err(|error| failed(name, error))?;
    Ok(connection)
}
