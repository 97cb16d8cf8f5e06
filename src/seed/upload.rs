//! A database from a SQLite file that came from outside: taken with what stands beside it, checked, and made fit
//! for the fleet. The file it came from is only read.
//!
//! A file from outside may be made to do harm. It is opened in SQLite's defensive mode, with its schema untrusted, triggers
//! and views off and nothing to attach, and only [the check](super::check) looks at it.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};
use zeroize::Zeroizing;

use super::{
    Target,
    check::{self, failed},
    reseal::{self, Pages},
};
use crate::{
    cipher::EncryptionKey,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout,
    live_copy::LiveCopy,
    page::{self, PageCodec, PageFormat},
    progress::{self, Phase, ProgressFn},
    size::SizeLimit,
    vfs::{Scratch, ScratchFile},
};

/// How SQL dumps begin that the `sqlite3` shell writes.
const DUMP: &[u8] = b"PRAGMA foreign_keys=OFF;";

/// Pages that are opened between two looks at whether to go on.
const UNSEAL_TICK: u32 = 4096;

/// How the log of Turso's engine in journal mode `mvcc` begins, and the size of its header.
const MVCC_LOG: &[u8] = b"2LML";
const MVCC_HEADER_LEN: u64 = 56;

/// A SQLite file to create a database from.
///
/// A reference to anything that is a path, and a mutable reference to any reader, convert into it.
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

/// Keys of an upload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keys<'a> {
    /// What the database is to be sealed under.
    pub(crate) target: Option<&'a Target>,
    /// The key of a file that is encrypted, where it is not that of the target.
    pub(crate) file: Option<&'a EncryptionKey>,
}

/// Writes the database that `upload` holds to `path`, on the disk. Returns the parts that could not be checked.
pub(crate) fn write(
    disk: &Disk,
    upload: Upload<'_>,
    path: &Path,
    keys: Keys<'_>,
    size_limit: Option<SizeLimit>,
    watch: &mut ProgressFn<'_>,
) -> Result<Vec<String>> {
    let name = match &upload {
        Upload::Path(path) => path.display().to_string(),
        Upload::Reader(_) => "the uploaded file".to_owned(),
    };
    let Some(target) = keys.target else {
        let (header, _) = receive(disk, upload, &name, path, None, size_limit, watch)?;
        if let Some(seal) = header.seal {
            let remedy = match keys.file {
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
        settle(&name, fenced(&name, open()?)?)?;
        trim(disk, path)?;
        reseal::finish(disk, path, None, size_limit, watch)?;
        return Ok(unchecked);
    };
    // What is uploaded stands here until it is sealed under its own key, sealed under one that nobody keeps.
    let staged = layout::beside(path, "-source");
    let scratch = Scratch::new()?;
    let (header, file) = receive(disk, upload, &name, &staged, Some(&scratch), size_limit, watch)?;
    check_length(&name, &header, scratch.len(), &staged)?;
    let page_count = u32::try_from(scratch.len() / u64::from(header.page_size)).unwrap_or(u32::MAX);
    let mut pages = ScratchPages { scratch: &scratch, on: ScratchFile::new(disk, &file, &staged) };
    if let Some(seal) = header.seal {
        let key = keys.file.unwrap_or(&target.key);
        let codec = PageCodec::new(seal, header.page_size, key)
            .map_err(|error| Error::new(error.kind(), format!("{name}: {error}")))?;
        pages.unseal(&codec, page_count, &name, watch)?;
    }
    pages.leave_wal()?;
    let open = || scratch.open(&staged).map_err(|not_opened| failed(&name, not_opened.error));
    let unchecked = check::check(&name, scratch.len(), &open, watch)?;
    // An uploaded file that is sealed already keeps no format of its own unless it is asked to.
    if header.reserved == target.cipher.reserved_bytes() {
        reseal::seal_pages(disk, &mut pages, page_count, header.page_size, path, target, watch)?;
    } else {
        reseal::vacuum_into(disk, fenced(&name, open()?)?, scratch.len(), path, Some(target), watch)?;
    }
    drop(pages);
    drop(file);
    disk.remove(&staged)?;
    reseal::finish(disk, path, Some(target), size_limit, watch)?;
    Ok(unchecked)
}

/// Writes an upload as it is to `staged`, if it looks like a SQLite file: through a scratch, or plain.
fn receive(
    disk: &Disk,
    upload: Upload<'_>,
    name: &str,
    staged: &Path,
    scratch: Option<&Scratch>,
    size_limit: Option<SizeLimit>,
    watch: &mut ProgressFn<'_>,
) -> Result<(page::Header, File)> {
    let file = match upload {
        Upload::Path(source) => {
            // SQLite follows symbolic links before it names a log or a journal.
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
            let mut kept = Kept::default();
            let write = |bytes: &[u8], at: u64| {
                let bytes = kept.of(bytes, at);
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

/// Which bytes of a stream belong to the database: those of the pages that its header counts.
#[derive(Default)]
struct Kept {
    head: Vec<u8>,
    /// `None` while the header is not there yet, or if it does not tell.
    len: Option<u64>,
}

impl Kept {
    /// The part of `bytes`, which follow `at` bytes of the stream, that belongs to the database.
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

/// The pages of an upload that stands in a scratch.
struct ScratchPages<'a> {
    scratch: &'a Scratch,
    on: ScratchFile<'a>,
}

impl ScratchPages<'_> {
    /// Opens every page of a file that is sealed already.
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
                // This format has nothing else to tell a wrong key by.
                (1, PageFormat::Turso) => {
                    let message = format!("{name}: this is not the key that it is encrypted under");
                    Error::new(ErrorKind::WrongKey, message)
                }
                _ => Error::new(
                    ErrorKind::Corrupt,
                    format!("{name} is damaged: page {number} does not fit its tag"),
                ),
            })?;
            self.scratch.write_at(&self.on, &page, at)?;
        }
        Ok(())
    }

    /// Takes the database out of WAL mode: it has no log any more.
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

/// Says what a file is, by its first bytes and its length, if it is not a SQLite database.
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

/// Refuses a file that SQLite would not open to read and write, or from which it would miss commits.
fn check_versions(name: &str, source: Option<&Path>, header: &page::Header) -> Result<()> {
    const REMEDY: &str = "run PRAGMA journal_mode=wal with that engine, then import it again";
    let versions = header.versions;
    let log = source.and_then(|source| mvcc_log(source, versions.is_mvcc()));
    let (kind, message) = if let Some(log) = log {
        let log = log.display();
        (
            ErrorKind::Unsupported,
            format!(
                "{log} has commits to {name} that Turso's engine made in journal mode mvcc, and SQLite cannot read \
                     them; {REMEDY}"
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
            "{name} has the write version {version}, with which SQLite opens it to be read only; VACUUM it INTO a file with \
             the sqlite3 shell, then import that"
        );
        (ErrorKind::Unsupported, message)
    } else {
        return Ok(());
    };
    Err(Error::new(kind, message))
}

/// The log that Turso's engine keeps beside a database in journal mode `mvcc`, if commits are in it. That engine replaces
/// the extension of the file's name; the log of another file may therefore have the name of one that is `in_mvcc`.
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

/// Says so if a staged file is shorter than its header says. SQLite's own check speaks of a malformed image then.
fn check_length(name: &str, header: &page::Header, len: u64, staged: &Path) -> Result<()> {
    let whole = u64::from(header.page_count.unwrap_or(1)) * u64::from(header.page_size);
    // What an interrupted transaction left is whole once it is rolled back.
    if len < whole && !Disk::exists(&layout::beside(staged, "-journal"))? {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{name} is truncated: its header says {whole} bytes, and it has {len}"),
        ));
    }
    Ok(())
}

/// Leaves a staged file alone and in WAL mode.
fn settle(name: &str, connection: Connection) -> Result<()> {
    let failed = |error| failed(name, error);
    let mode: String =
        connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(Error::new(ErrorKind::Invalid, format!("{name} cannot be put into WAL mode")));
    }
    // The last to close leaves no log and no journal beside the file.
    connection.close().map_err(|(_, error)| failed(error))
}

/// Cuts off what follows the last page: an interrupted transaction that was rolled back may have left something there.
fn trim(disk: &Disk, path: &Path) -> Result<()> {
    let file = disk.open_to_write(path)?;
    let mut head = [0; page::HEADER_LEN];
    Disk::read_at(&file, path, &mut head, 0)?;
    let file_len = Disk::len(path)?.unwrap_or(0);
    let len = page::Header::parse(&head)?.database_len(file_len);
    if len < file_len { disk.set_len(&file, path, len) } else { Ok(()) }
}

/// Keeps what the schema of a checked file says from being run.
fn fenced(name: &str, connection: Connection) -> Result<Connection> {
    check::fence(&connection).map_err(|error| failed(name, error))?;
    Ok(connection)
}
