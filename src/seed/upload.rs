//! A database from a SQLite file that came from outside: taken with what stands beside it, checked, and made fit
//! for the fleet. The file it came from is only read.
//!
//! A file from outside may be made to do harm. Nothing in it is run: it is opened in SQLite's defensive mode, with
//! its schema untrusted, triggers and views off and nothing to attach, and only the integrity check looks at it.

use std::{
    io::Read,
    os::unix::fs::FileExt,
    panic::resume_unwind,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig, limits::Limit};

use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    image::{self, Copy},
    layout, page,
    progress::{self, Phase, Watch},
    size::SizeLimit,
    sqlite,
};

/// How SQL dumps begin that the `sqlite3` shell writes.
const DUMP: &[u8] = b"PRAGMA foreign_keys=OFF;";

/// How often the caller is asked whether a check is to go on.
const CHECK_TICK: Duration = Duration::from_millis(100);

/// A SQLite file to make a database of.
pub enum Upload<'a> {
    /// A file on this machine. Committed rows in a `-wal` beside it are taken too, and an interrupted transaction
    /// in a `-journal` is rolled back in the copy. It may be in use.
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

/// Writes the database that `upload` holds to `target`, on the disk.
pub(crate) fn write(
    disk: &Disk,
    upload: Upload<'_>,
    target: &Path,
    size_limit: Option<SizeLimit>,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let name = match &upload {
        Upload::Path(path) => path.display().to_string(),
        Upload::Reader(_) => "the uploaded file".to_owned(),
    };
    let size = match upload {
        Upload::Path(source) => {
            let inspect = |bytes: &[u8], len| inspect(&name, bytes, len);
            // SQLite follows symbolic links before it names a log or a journal.
            if !Disk::exists(source)? {
                return Err(Error::new(ErrorKind::NotFound, format!("{name}: no such file")));
            }
            let source = &Disk::canonical(source)?;
            let copy = Copy { disk, source, target, size_limit, inspect: &inspect };
            super::copy_and(&copy, watch, |size, _| Ok(size))?
        }
        Upload::Reader(reader) => {
            let file = disk.create(target)?;
            let size = disk.fill(reader, &file, target, |done| {
                progress::tell(watch, Phase::Copy, done, None)?;
                Ok(size_limit.is_none_or(|limit| limit.admits(done)))
            })?;
            if let Some(limit) = size_limit.filter(|limit| !limit.admits(size)) {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!("{name} is larger than the size limit of {limit} bytes"),
                ));
            }
            let mut bytes = vec![0; page::HEADER_LEN.min(usize::try_from(size).unwrap_or(usize::MAX))];
            file.read_exact_at(&mut bytes, 0)
                .map_err(|error| Error::io(format_args!("reading {}", target.display()), error))?;
            inspect(&name, &bytes, size)?;
            size
        }
    };
    check_length(&name, target)?;
    check(&name, target, watch)?;
    if let Some(limit) = size_limit {
        let size = Disk::len(target)?.unwrap_or(0);
        if !limit.admits(size) {
            return Err(image::too_large(size, limit));
        }
    }
    progress::tell(watch, Phase::Sync, 0, Some(size))?;
    let file = Disk::open(target)?.ok_or_else(|| Error::new(ErrorKind::Io, "the staged file is gone"))?;
    disk.sync_file(&file, target)
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
    if !bytes.starts_with(&page::MAGIC) {
        return invalid(format!("{name} is not a sqlite3 database"));
    }
    let Some(header) = bytes.first_chunk() else {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{name} is truncated: {len} bytes are less than a header"),
        ));
    };
    page::Header::parse(header).map_err(|error| Error::new(error.kind(), format!("{name}: {error}")))
}

/// Says so if a staged file is shorter than its header says. SQLite's own check speaks of a malformed image then.
fn check_length(name: &str, target: &Path) -> Result<()> {
    let reading = |error| Error::io(format_args!("reading {}", target.display()), error);
    let Some(file) = Disk::open(target)? else { return Ok(()) };
    let mut header = [0; page::HEADER_LEN];
    file.read_exact_at(&mut header, 0).map_err(reading)?;
    let header = page::Header::parse(&header)?;
    let whole = u64::from(header.page_count.unwrap_or(1)) * u64::from(header.page_size);
    let len = file.metadata().map_err(reading)?.len();
    // What an interrupted transaction left is whole once it is rolled back.
    if len < whole && !Disk::exists(&layout::beside(target, "-journal"))? {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{name} is truncated: its header says {whole} bytes, and it has {len}"),
        ));
    }
    Ok(())
}

/// Checks a staged file's integrity, and leaves it alone and in WAL mode.
fn check(name: &str, target: &Path, watch: &mut Watch<'_>) -> Result<()> {
    progress::tell(watch, Phase::Check, 0, None)?;
    let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => Error::new(
            ErrorKind::Invalid,
            format!("{name} is not a sqlite3 database that this version can read"),
        )
        .caused_by(error),
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            Error::new(ErrorKind::Corrupt, format!("{name} is damaged: {error}")).caused_by(error)
        }
        _ => sqlite::failed(format_args!("checking {name}"), error),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(target, flags).map_err(failed)?;
    fence(&connection).map_err(failed)?;

    // The check runs on a thread of its own, so that the caller's can be asked meanwhile whether to go on.
    let interrupt = connection.get_interrupt_handle();
    let (connection, finding, stopped) = thread::scope(|scope| {
        let mut stopped = None;
        let (done, is_done) = mpsc::channel::<()>();
        let checking = scope.spawn(move || {
            let finding = first_finding(&connection);
            drop(done);
            (connection, finding)
        });
        while is_done.recv_timeout(CHECK_TICK) == Err(RecvTimeoutError::Timeout) {
            if stopped.is_none() {
                stopped = progress::tell(watch, Phase::Check, 0, None).err();
            }
            // Again each time: an interrupt that comes before SQLite begins is lost.
            if stopped.is_some() {
                interrupt.interrupt();
            }
        }
        let (connection, finding) = checking.join().unwrap_or_else(|panic| resume_unwind(panic));
        (connection, finding, stopped)
    });
    if let Some(cancelled) = stopped {
        return Err(cancelled);
    }
    if let Some(finding) = finding.map_err(failed)? {
        let finding = finding.trim_start_matches("*** in database main ***").trim();
        return Err(Error::new(ErrorKind::Corrupt, format!("{name} is damaged: {finding}")));
    }
    let mode: String =
        connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(Error::new(ErrorKind::Invalid, format!("{name} cannot be put into WAL mode")));
    }
    // The last to close leaves no log and no journal beside the file.
    connection.close().map_err(|(_, error)| failed(error))
}

/// Makes sure that nothing in the file is run, and that checking it costs no more flushing than needed.
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
/// check stops at one, the rest is checked without the order of indexes.
fn first_finding(connection: &Connection) -> rusqlite::Result<Option<String>> {
    // A finding may quote a name that is not UTF-8.
    let ask = |pragma| {
        connection.query_row(pragma, [], |row| {
            Ok(String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned())
        })
    };
    let answer = match ask("PRAGMA integrity_check(1)") {
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::Unknown) => {
            connection.collation_needed(|connection, name| {
                connection.create_collation(name, |a: &str, b: &str| a.cmp(b))
            })?;
            ask("PRAGMA quick_check(1)")?
        }
        answer => answer?,
    };
    Ok((answer != "ok").then_some(answer))
}
