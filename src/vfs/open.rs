//! Opens and deletes files: selects the layers of each file.

use std::{
    ffi::c_int,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::ffi::{
    SQLITE_OPEN_CREATE, SQLITE_OPEN_MAIN_DB, SQLITE_OPEN_MAIN_JOURNAL, SQLITE_OPEN_READONLY,
    SQLITE_OPEN_READWRITE, SQLITE_OPEN_WAL,
};

use super::{
    connection::DbConnection,
    data_file::DataFile,
    error::VfsError,
    fence,
    fenced::Fenced,
    file::VfsFile,
    hand_over,
    history_view::View,
    lease::{self, Access, Claim, Fencing, Leased, Terms},
    peers::Peer,
    policy::PolicySource,
    raw_file::{FileLocks, RawFile},
    registry,
    seal::{
        journal::Journal,
        pages::is_any_sealed,
        temp::{Temp, TempFile},
    },
    view_file::ViewFile,
    wal_file::WalFile,
};
use crate::sync::Guard;

/// A file that SQLite opens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// `None` for an unnamed file.
    pub(super) path: Option<&'a Path>,
    /// The address of the name that the database file was opened under, for a WAL and a journal.
    pub(super) database: usize,
    pub(super) flags: c_int,
    /// The lease that a URI names for a main database file.
    pub(super) claim: Option<Claim<'a>>,
    /// Whether SQL opens no file by its path.
    pub(super) is_fenced: bool,
}

/// The kind of a file, which selects its layers.
pub(super) enum Kind {
    /// A file of the default VFS.
    PassedOn,
    Database(PathBuf, Option<Arc<dyn PolicySource>>),
    /// A database that another library opens.
    Leased(Arc<Terms>),
    /// The target of `VACUUM INTO` on a fenced connection.
    VacuumTarget(PathBuf),
    Wal(Arc<DbConnection>),
    Journal(Arc<DbConnection>),
    Temp,
}

/// The raw file of a file that is opened, and what it can do.
pub(super) struct Opened<'a> {
    pub(super) raw: &'a dyn RawFile,
    /// The locks of the file, for its peers.
    pub(super) locks: Arc<dyn FileLocks>,
    /// The address of the name of the file.
    pub(super) name: usize,
    pub(super) has_shared_memory: bool,
}

/// Determines what a file is. Fails with a result code if the file must not be opened.
pub(super) fn kind_of(request: Request<'_>) -> Result<Kind, c_int> {
    let Request { path: Some(path), flags, .. } = request else {
        return Ok(if is_any_sealed() { Kind::Temp } else { Kind::PassedOn });
    };
    if flags & SQLITE_OPEN_MAIN_DB != 0 {
        return match (hand_over::take(), request.claim) {
            (Some(source), _) => Ok(Kind::Database(path.to_owned(), Some(source))),
            (None, Some(claim)) => kind_by_lease(claim, path, request),
            (None, None) => kind_by_path(path, request),
        };
    }
    if flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL) == 0 {
        return Ok(Kind::PassedOn);
    }
    Ok(match registry::database(request.database) {
        Some(connection) if flags & SQLITE_OPEN_WAL != 0 => Kind::Wal(connection),
        Some(connection) if connection.sealed().is_some() => {
            admit_journal(&connection).map_err(|refusal| connection.answer(Err(refusal)))?;
            Kind::Journal(connection)
        }
        _ => Kind::PassedOn,
    })
}

/// Determines what a main database file is that another library opens under a lease.
fn kind_by_lease(claim: Claim<'_>, path: &Path, request: Request<'_>) -> Result<Kind, c_int> {
    let fence = if request.is_fenced { Fencing::Fenced } else { Fencing::Unfenced };
    lease::claim(claim, path, fence).map(Kind::Leased).map_err(|refusal| {
        let code = refusal.result();
        hand_over::note_refusal(refusal);
        code
    })
}

/// Determines what a main database file is that SQL opens by its path.
fn kind_by_path(path: &Path, request: Request<'_>) -> Result<Kind, c_int> {
    // A fenced connection is opened without this flag, so only `VACUUM INTO` sets it.
    if request.is_fenced && request.flags & SQLITE_OPEN_CREATE == 0 {
        return Err(fence::deny_open(Fenced::Attach));
    }
    let source = registry::policy_at(path);
    // A key is handed over with its database each time; a connection that has it does not lend it.
    let is_refused = match &source {
        Some(source) => request.is_fenced || source.sealing().is_some(),
        None => registry::is_in_open_fleet(path) || fence::is_in_a_fleet(path),
    };
    if is_refused {
        return Err(fence::deny_open(Fenced::FleetFile));
    }
    let path = path.to_owned();
    Ok(if request.is_fenced { Kind::VacuumTarget(path) } else { Kind::Database(path, source) })
}

/// Admits the rollback journal of an encrypted database. A database of a fleet is in WAL mode from its first page on and has no
/// journal. SQLite would roll a foreign one back into the database.
fn admit_journal(connection: &DbConnection) -> Result<(), VfsError> {
    match connection.sealed() {
        Some(sealed) if !sealed.sealing().may_create => {
            let why = "a rollback journal lies beside it, which it never has: remove that";
            Err(VfsError::NotSealed(why.into()))
        }
        _ => Ok(()),
    }
}

impl Kind {
    /// Whether the file belongs to the default VFS alone.
    pub(super) fn is_passed_on(&self) -> bool {
        matches!(self, Self::PassedOn)
    }

    /// The flags with which the default VFS opens the file.
    pub(super) fn flags(&self, flags: c_int) -> c_int {
        match self {
            // A missing file belongs to a destroyed database, which must not reappear empty.
            Self::Leased(terms) if terms.access == Access::Write => flags & !SQLITE_OPEN_CREATE,
            Self::Leased(_) => flags & !(SQLITE_OPEN_CREATE | SQLITE_OPEN_READWRITE) | SQLITE_OPEN_READONLY,
            _ => flags,
        }
    }

    /// Keeps peers from moving a WAL away while it is opened.
    pub(super) fn hold(&self) -> Option<Guard<'_, Vec<Arc<dyn Peer>>>> {
        if let Self::Wal(connection) = self { Some(connection.peers().lock()) } else { None }
    }

    /// Opens the layers of the file over its raw file.
    pub(super) fn open(&self, opened: Opened<'_>) -> Result<Box<dyn VfsFile>, VfsError> {
        let Opened { raw, locks, name, has_shared_memory } = opened;
        let database = |connection, lease| {
            let connection = Arc::new(connection);
            registry::add_database(name, &connection, locks);
            Ok(Box::new(DataFile::new(connection, name, lease)) as Box<dyn VfsFile>)
        };
        match self {
            Self::Database(path, source) => {
                if let Some(source) = source {
                    if let Some(scratch) = source.scratch() {
                        return Ok(Box::new(TempFile(scratch)));
                    }
                    if let Some(image) = source.image() {
                        return Ok(Box::new(ViewFile::new(View::new(image, path, source.sealing())?)));
                    }
                    if source.history().is_some() && !has_shared_memory {
                        return Err(VfsError::NoSharedMemory);
                    }
                }
                database(DbConnection::open(path, source.clone(), raw)?, None)
            }
            Self::Leased(terms) => {
                if terms.source.history().is_some() && !has_shared_memory {
                    return Err(VfsError::NoSharedMemory);
                }
                let connection = DbConnection::open(&terms.path, Some(Arc::clone(&terms.source)), raw)?;
                database(connection, Some(Arc::new(Leased::new(Arc::clone(terms)))))
            }
            Self::VacuumTarget(path) => database(DbConnection::open_vacuum_target(path, raw)?, None),
            Self::Wal(connection) => {
                connection.has_wal();
                Ok(Box::new(WalFile::new(Arc::clone(connection))))
            }
            Self::Journal(connection) => Ok(Box::new(Journal::new(Arc::clone(connection)))),
            Self::Temp | Self::PassedOn => {
                let temp = Temp::new().map_err(|error| VfsError::Unreadable(error.message()))?;
                Ok(Box::new(TempFile(Arc::new(temp))))
            }
        }
    }
}

/// Runs before a file is deleted. A WAL with a history is moved into the archive, which deletes it here. Returns the result code
/// of the call, or `None` if the file is to be deleted.
pub(super) fn before_delete(path: &Path) -> Option<c_int> {
    let data = path.as_os_str().as_bytes().strip_suffix(b"-wal")?;
    // The connections are used without the table locked: reading their policy may open a database.
    for connection in registry::at_path(Path::new(std::ffi::OsStr::from_bytes(data))) {
        let ended = connection.latch().check().and_then(|()| connection.capture_now()).and_then(|capture| {
            let end = capture.map(|capture| capture.end(&*connection)).transpose();
            end.map_err(|error| VfsError::not_kept(&error))
        });
        match ended {
            Ok(None) => {}
            Ok(Some(true)) => return Some(rusqlite::ffi::SQLITE_OK),
            Ok(Some(false)) => break,
            Err(refusal) => return Some(connection.answer(Err(refusal))),
        }
    }
    None
}
