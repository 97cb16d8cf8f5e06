//! A database from a SQLite file that came from outside: taken with what stands beside it, checked, and made fit
//! for the fleet. The file it came from is only read.
//!
//! A file from outside may be made to do harm. Nothing in it is run: it is opened in SQLite's defensive mode, with
//! its schema untrusted, triggers and views off and nothing to attach, and only the integrity check looks at it.

use std::{fs::File, io::Read, path::Path};

use rusqlite::{Connection, OpenFlags, config::DbConfig, functions::FunctionFlags, limits::Limit};
use zeroize::Zeroizing;

use super::{
    Target,
    reseal::{self, Pages},
};
use crate::{
    cipher::EncryptionKey,
    disk::Disk,
    error::{Error, ErrorKind, Result},
    image::Copy,
    layout,
    page::{self, PageCodec, PageFormat},
    progress::{self, Phase, Watch},
    size::SizeLimit,
    sqlite,
    vfs::{Scratch, ScratchFile},
};

/// How SQL dumps begin that the `sqlite3` shell writes.
const DUMP: &[u8] = b"PRAGMA foreign_keys=OFF;";

/// Pages that are opened between two looks at whether to go on.
const UNSEAL_TICK: u32 = 4096;

/// Functions that are stood in for in one file.
const FUNCTIONS_MAX: usize = 100;

/// A SQLite file to make a database of.
pub enum Upload<'a> {
    /// A file on this machine. Committed rows in a `-wal` beside it are taken too, and an interrupted transaction
    /// in a `-journal` is rolled back in the copy; where the database is to be encrypted, it is refused. It may be in use.
    Path(&'a Path),
    /// The bytes of a file, from anywhere.
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

impl<'a> From<&'a Path> for Upload<'a> {
    fn from(path: &'a Path) -> Self {
        Self::Path(path)
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

/// Writes the database that `upload` holds to `path`, on the disk.
pub(crate) fn write(
    disk: &Disk,
    upload: Upload<'_>,
    path: &Path,
    keys: Keys<'_>,
    size_limit: Option<SizeLimit>,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let name = match &upload {
        Upload::Path(path) => path.display().to_string(),
        Upload::Reader(_) => "the uploaded file".to_owned(),
    };
    let Some(target) = keys.target else {
        let (header, _) = receive(disk, upload, &name, path, None, size_limit, watch)?;
        if let Some(seal) = header.seal {
            let message = format!(
                "{name} is encrypted under {}: import it with its encryption key, as an encrypted database",
                seal.cipher
            );
            return Err(Error::new(ErrorKind::KeyRequired, message));
        }
        check_length(&name, &header, Disk::len(path)?.unwrap_or(0), path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|error| failed(&name, error))?;
        settle(&name, check(&name, fenced(&name, connection)?, watch)?)?;
        return reseal::finish(disk, path, None, size_limit, watch);
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
    let open = || {
        let connection = scratch.open(&staged).map_err(|not_opened| failed(&name, not_opened.error))?;
        fenced(&name, connection)
    };
    let checked = check(&name, open()?, watch)?;
    checked.close().map_err(|(_, error)| failed(&name, error))?;
    // An uploaded file that is sealed already keeps no format of its own unless it is asked to.
    if header.reserved == target.cipher.reserved_bytes() {
        reseal::seal_pages(disk, &mut pages, page_count, header.page_size, path, target, watch)?;
    } else {
        // Another connection: the check may have taught the first to take any collation for a plain one, and what would
        // be sorted by that is lost.
        reseal::vacuum_into(disk, open()?, path, Some(target), watch)?;
    }
    drop(pages);
    drop(file);
    disk.remove(&staged)?;
    reseal::finish(disk, path, Some(target), size_limit, watch)
}

/// Writes an upload as it is to `staged`, if it looks like a SQLite file: through a scratch, or plain.
fn receive(
    disk: &Disk,
    upload: Upload<'_>,
    name: &str,
    staged: &Path,
    scratch: Option<&Scratch>,
    size_limit: Option<SizeLimit>,
    watch: &mut Watch<'_>,
) -> Result<(page::Header, File)> {
    let file = match upload {
        Upload::Path(source) => {
            let inspect = |bytes: &[u8], len| inspect(name, bytes, len);
            // SQLite follows symbolic links before it names a log or a journal.
            if !Disk::exists(source)? {
                return Err(Error::new(ErrorKind::NotFound, format!("{name}: no such file")));
            }
            let source = &Disk::canonical(source)?;
            let copy = Copy { disk, source, target: staged, scratch, size_limit, inspect: &inspect };
            super::copy_and(&copy, watch, |_, _| Ok(()))?;
            disk.open_to_write(staged)?
        }
        Upload::Reader(reader) => {
            let file = disk.create(staged)?;
            let on = ScratchFile::new(disk, &file, staged);
            let write = |bytes: &[u8], at: u64| {
                if let Some(limit) = size_limit.filter(|limit| !limit.admits(at + bytes.len() as u64)) {
                    return Err(Error::new(
                        ErrorKind::TooLarge,
                        format!("{name} is larger than the size limit of {limit} bytes"),
                    ));
                }
                progress::tell(watch, Phase::Copy, at, None)?;
                match scratch {
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
    let header = inspect(name, &bytes, len)?;
    Ok((header, file))
}

/// The pages of an upload that stands in a scratch.
struct ScratchPages<'a> {
    scratch: &'a Scratch,
    on: ScratchFile<'a>,
}

impl ScratchPages<'_> {
    /// Opens every page of a file that is sealed already.
    fn unseal(&self, codec: &PageCodec, page_count: u32, name: &str, watch: &mut Watch<'_>) -> Result<()> {
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
fn inspect(name: &str, bytes: &[u8], len: u64) -> Result<page::Header> {
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
        parsed => parsed.map_err(|error| Error::new(error.kind(), format!("{name}: {error}"))),
    }
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

/// An error of SQLite in the middle of a check.
fn failed(name: &str, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => Error::new(
            ErrorKind::Invalid,
            format!("{name} is not a sqlite3 database that this version can read"),
        )
        .caused_by(error),
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            Error::new(ErrorKind::Corrupt, format!("{name} is damaged: {error}")).caused_by(error)
        }
        _ => sqlite::failed(format_args!("checking {name}"), error),
    }
}

/// Checks the integrity of a staged database, on a fenced connection.
fn check(name: &str, connection: Connection, watch: &mut Watch<'_>) -> Result<Connection> {
    let (connection, finding) = super::watched(connection, Phase::Check, watch, first_finding)?;
    if let Some(finding) = finding.map_err(|error| failed(name, error))? {
        let finding = finding.trim_start_matches("*** in database main ***").trim();
        return Err(Error::new(ErrorKind::Corrupt, format!("{name} is damaged: {finding}")));
    }
    Ok(connection)
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

/// Makes sure that nothing in the file is run, and that checking it costs no more flushing than needed.
fn fenced(name: &str, connection: Connection) -> Result<Connection> {
    fence(&connection).map_err(|error| failed(name, error))?;
    Ok(connection)
}

fn fence(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.execute_batch("PRAGMA synchronous=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0")
}

/// The first thing that SQLite finds wrong, if anything.
///
/// Users' files have collations and functions of their programs, which SQLite does not know here. Where the whole
/// check stops at one, all is checked but the entries of indexes and CHECK constraints.
fn first_finding(connection: &Connection) -> rusqlite::Result<Option<String>> {
    // A finding may quote a name that is not UTF-8.
    let ask = |pragma| {
        connection.query_row(pragma, [], |row| {
            Ok(String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned())
        })
    };
    let mut answer = ask("PRAGMA integrity_check(1)");
    if answer.as_ref().is_err_and(is_refused) {
        connection.collation_needed(|connection, name| {
            connection.create_collation(name, |a: &str, b: &str| a.cmp(b))
        })?;
        connection.execute_batch("PRAGMA ignore_check_constraints=ON")?;
        answer = ask("PRAGMA quick_check(1)");
    }
    // Generated columns that are not stored call their functions even now.
    for _ in 0..FUNCTIONS_MAX {
        let Err(error) = &answer else { break };
        let Some(name) = unknown_function(error) else { break };
        let flags = FunctionFlags::SQLITE_UTF8
            | FunctionFlags::SQLITE_DETERMINISTIC
            | FunctionFlags::SQLITE_INNOCUOUS;
        // Zero fits a column of any type but BLOB, and one that is NOT NULL.
        connection.create_scalar_function(name, -1, flags, |_| Ok(0))?;
        answer = ask("PRAGMA quick_check(1)");
    }
    Ok(Some(answer?).filter(|answer| answer != "ok"))
}

/// Whether SQLite could not prepare a statement, which says nothing about the file's bytes.
fn is_refused(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqlInputError { .. })
        || error.sqlite_error_code() == Some(rusqlite::ErrorCode::Unknown)
}

/// The name of the function that SQLite does not know, if that is what it says.
fn unknown_function(error: &rusqlite::Error) -> Option<&str> {
    let (rusqlite::Error::SqlInputError { msg, .. } | rusqlite::Error::SqliteFailure(_, Some(msg))) = error
    else {
        return None;
    };
    msg.strip_prefix("unknown function: ")?.strip_suffix("()")
}
