//! The VFS named `litefleet`: the operating system's own VFS, with rules for each database laid over it.
//!
//! It delegates every call to the default VFS, and adds two things for the databases that are handed to it: rules (the
//! size limit, and the blocks on reads and writes) and sealing. The rules are kept below SQLite, so that no pragma lifts
//! them, and they hold for connections that are already open when they change. A sealed database is ciphertext in every
//! file that SQLite makes of it. The rest of the host's SQLite is untouched: connections that do not name this VFS never
//! meet it.
//!
//! A database is handed over by [`open`], [`open_fenced`] or [`hand_over`], not by its file name: the next `xOpen` of a main
//! database on this thread takes the [`PolicySource`] that waits for it.
//!
//! It is registered under two names. Through the one that hosts' connections have, SQL opens no file by its path except the
//! target of `VACUUM INTO` (see [`fence`]). Through the other, a file that SQL attaches by its path is governed as it is
//! elsewhere in the process if it is open there, refused if it lies in a fleet's directory otherwise, and the host's own
//! business if it does not. Under both names, a new file that a connection to a sealed database makes is sealed like that
//! one, and none is made in a fleet's directory.

mod capture;
mod closing;
mod database;
mod fence;
#[expect(unsafe_code, reason = "SQLite's VFS interface is C")]
mod ffi;
mod history_view;
mod journal;
mod limits;
mod peers;
mod raw_file;
mod readahead;
mod rechecksum;
mod scratch;
mod sealed;
mod temp;
mod wal;

use std::{cell::RefCell, ffi::c_int, fmt, path::PathBuf, sync::Arc};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

pub(crate) use capture::History;
pub(crate) use fence::Action;
pub(crate) use ffi::{drop_modules, reserve_in_vacuum};
pub(crate) use scratch::{Scratch, ScratchFile};

use fence::Fenced;

use crate::{
    cipher::{Cipher, EncryptionKey},
    error::{Error, ErrorKind, Message, Result},
    history::ResilientImage,
    layout::beside,
    page::{Identity, PageFault, PageFormat, Seal},
    result_codes,
    size::SizeLimit,
};

/// The name that the VFS is registered under for connections whose SQL is fenced.
pub(crate) const NAME: &std::ffi::CStr = c"litefleet";

/// The name that it is registered under for the others.
pub(crate) const UNFENCED: &std::ffi::CStr = c"litefleet-unfenced";

/// What may be done to a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// What the database may grow to.
    pub(crate) size_limit: Option<SizeLimit>,
    /// No transaction may read.
    pub(crate) block_reads: bool,
    /// No transaction may write.
    pub(crate) block_writes: bool,
    /// No transaction of this connection may write.
    pub(crate) read_only: bool,
    /// Whether commits are kept.
    pub(crate) history: Keeping,
}

/// Whether every commit is kept as a point that the database can be restored to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keeping {
    #[default]
    No,
    /// Every one since the database was born.
    SinceBirth,
    /// Those that are made from now on: its history was off before.
    Again,
}

/// Who knows the [`Policy`] of one database.
pub(crate) trait PolicySource: fmt::Debug + Send + Sync {
    /// A number that changes whenever the rules may have changed. Nothing while a change is under way: then the
    /// rules are asked for each time. It is asked at the start of every transaction, and so must cost nothing.
    fn stamp(&self) -> Option<u64>;

    /// The rules as they are now; nothing when the database was destroyed.
    fn rules(&self) -> Result<Option<Policy>>;

    /// Policy that were read already, and a stamp that was taken before that.
    fn first_rules(&self) -> Option<(u64, Policy)>;

    /// What the database is sealed under; nothing for a plain one.
    fn sealing(&self) -> Option<Sealing> {
        None
    }

    /// Where the history of the database is kept, for as long as [the rules](Policy::history) say so.
    fn history(&self) -> Option<History> {
        None
    }

    /// The pages that the database had at an instant, if it is to be read as it was then.
    fn past(&self) -> Option<Arc<ResilientImage>> {
        None
    }

    /// The scratch that the database is in, if it is in one.
    fn scratch(&self) -> Option<Arc<temp::Temp>> {
        None
    }
}

/// Hands over a file of one call, with nobody else at it, for which there are no rules.
#[derive(Debug)]
pub(crate) struct NoPolicy {
    sealing: Option<Sealing>,
    scratch: Option<Arc<temp::Temp>>,
    past: Option<Arc<ResilientImage>>,
}

impl NoPolicy {
    /// A file that is to be made: sealed, or plain.
    pub(crate) fn making(sealing: Option<Sealing>) -> Self {
        let sealing = sealing.map(|sealing| Sealing { may_create: true, ..sealing });
        Self { sealing, scratch: None, past: None }
    }

    /// A database as it was at an instant.
    pub(crate) fn viewing(past: Arc<ResilientImage>, sealing: Option<Sealing>) -> Self {
        Self { sealing, scratch: None, past: Some(past) }
    }

    /// A file that is there.
    pub(crate) fn reading(sealing: Option<Sealing>) -> Self {
        Self { sealing, scratch: None, past: None }
    }
}

impl PolicySource for NoPolicy {
    fn stamp(&self) -> Option<u64> {
        Some(0)
    }

    fn rules(&self) -> Result<Option<Policy>> {
        Ok(Some(Policy::default()))
    }

    fn first_rules(&self) -> Option<(u64, Policy)> {
        Some((0, Policy::default()))
    }

    fn sealing(&self) -> Option<Sealing> {
        self.sealing.clone()
    }

    fn past(&self) -> Option<Arc<ResilientImage>> {
        self.past.clone()
    }

    fn scratch(&self) -> Option<Arc<temp::Temp>> {
        self.scratch.clone()
    }
}

/// What a database is sealed under.
#[derive(Clone, Debug)]
pub(crate) struct Sealing {
    pub(crate) key: EncryptionKey,
    pub(crate) cipher: Cipher,
    /// The format of a new file. One that is there says which it has.
    pub(crate) format: PageFormat,
    /// What the file is told from others by under the same key; nothing where any will do.
    identity: Option<Identity>,
    /// Whether an empty file is to become a sealed one.
    may_create: bool,
}

impl Sealing {
    /// Of a file that is there.
    pub(crate) fn new(key: EncryptionKey, cipher: Cipher) -> Self {
        Self { key, cipher, format: PageFormat::Native, identity: None, may_create: false }
    }

    /// The same for one file alone.
    pub(crate) fn of(self, identity: Option<Identity>) -> Self {
        Self { identity, ..self }
    }

    /// Whether both are one key and one cipher.
    fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.cipher == other.cipher
    }

    /// The same for a new file in this format.
    pub(crate) fn in_format(self, format: PageFormat) -> Self {
        Self { format, ..self }
    }
}

/// Why the VFS refused a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VfsError {
    ReadsBlocked,
    WritesBlocked,
    ReadOnly,
    OverLimit(SizeLimit),
    Destroyed,
    /// The connection's lock of the file, which it gave up for a moment, could not be taken again.
    LostLock,
    /// The VFS beneath has no shared memory, which WAL mode needs.
    NoSharedMemory,
    /// The rules could not be read, for the reason that stands here.
    NoRules(Message),
    /// The key is not the one that the file is sealed under.
    WrongKey,
    /// The file is not sealed as it should be, as the reason says.
    NotSealed(String),
    /// The tag of a page does not fit: in the database file, or in the file beside it whose suffix stands here.
    Damaged {
        path: PathBuf,
        place: &'static str,
        page: u32,
    },
    /// What stands in the database file, or in the file beside it whose suffix stands here, does not fit the database, as the
    /// reason says.
    Unfit {
        path: PathBuf,
        place: &'static str,
        why: &'static str,
    },
    /// A page that is to be sealed has another size or another number of reserved bytes than the file.
    Layout,
    /// It could not be read what is needed, for the reason that stands here.
    Unreadable(Message),
    /// The VFS beneath failed with this result code where something else was to be read first.
    Failed(c_int),
    /// A file of the history is damaged, as the reason says.
    PastDamaged(Message),
    /// What was to be kept for the history could not be, for the reason that stands here. Where a call of the VFS beneath failed,
    /// its result code stands here too.
    NotKept(ErrorKind, Option<c_int>, Message),
    /// SQL is fenced, and a statement reached beyond.
    Fenced(Fenced),
}

impl VfsError {
    /// The VFS beneath could not read what is needed, and says so by `code`.
    ///
    /// The host is given that code, but for the one by which SQLite takes what it read to be beyond the end of a file.
    fn unreadable(code: c_int) -> Self {
        match code {
            rusqlite::ffi::SQLITE_IOERR_SHORT_READ => Self::Failed(rusqlite::ffi::SQLITE_IOERR_READ),
            code => Self::Failed(code),
        }
    }

    /// The sentence for a person.
    pub(crate) fn message(&self) -> Message {
        match self {
            Self::Damaged { path, place, page } => Message::naming(&beside(path, place), |file| {
                format!("page {page} in {file} is damaged or was tampered with: its tag does not fit")
            }),
            Self::Unfit { path, place, why } => Message::naming(&beside(path, place), |file| {
                format!("{file} is damaged or was tampered with: {why}")
            }),
            Self::NoRules(why) => {
                why.clone().map(|why| format!("the database's configuration could not be read: {why}"))
            }
            Self::Unreadable(why) => {
                why.clone().map(|why| format!("what sealing needs could not be read: {why}"))
            }
            Self::PastDamaged(why) => why.clone(),
            Self::NotKept(.., why) => {
                why.clone().map(|why| format!("the history of the database could not be kept: {why}"))
            }
            named => named.to_string().into(),
        }
    }

    /// The primary result code that SQLite, and so the host, is given.
    pub(crate) fn code(&self) -> c_int {
        self.result() & 0xff
    }

    /// The extended result code, which identifies the reason.
    fn result(&self) -> c_int {
        use rusqlite::ffi;
        match self {
            Self::Fenced(_) => ffi::SQLITE_AUTH,
            Self::ReadsBlocked => result_codes::READS_BLOCKED,
            Self::WritesBlocked => result_codes::WRITES_BLOCKED,
            Self::ReadOnly => result_codes::READ_ONLY,
            Self::OverLimit(_) => result_codes::OVER_LIMIT,
            Self::Destroyed => result_codes::DESTROYED,
            Self::NoSharedMemory => result_codes::NO_SHARED_MEMORY,
            Self::WrongKey => result_codes::WRONG_KEY,
            Self::NotSealed(_) => result_codes::NOT_SEALED,
            Self::Failed(code) | Self::NotKept(_, Some(code), _) => *code,
            Self::NotKept(ErrorKind::DiskFull, ..) => result_codes::HISTORY_DISK_FULL,
            Self::NotKept(ErrorKind::Corrupt, ..) => result_codes::HISTORY_DAMAGED,
            Self::NotKept(..) => result_codes::HISTORY_FAILED,
            Self::LostLock => ffi::SQLITE_IOERR_RDLOCK,
            Self::Damaged { .. } | Self::Unfit { .. } | Self::PastDamaged(_) => ffi::SQLITE_IOERR_DATA,
            Self::NoRules(_) => result_codes::NO_RULES,
            Self::Layout => result_codes::LAYOUT,
            Self::Unreadable(_) => result_codes::UNREADABLE,
        }
    }
}

impl fmt::Display for VfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadsBlocked => {
                f.write_str("Operation was blocked: SQL read operations are forbidden (reads are blocked)")
            }
            Self::WritesBlocked => {
                f.write_str("Operation was blocked: SQL write operations are forbidden (writes are blocked)")
            }
            Self::ReadOnly => f.write_str("this connection was opened read-only"),
            Self::OverLimit(limit) => {
                write!(f, "database or disk is full: the size limit is {limit} bytes")
            }
            Self::Destroyed => f.write_str("the database was destroyed"),
            Self::LostLock => f.write_str(
                "the lock of the database file was lost to a program that kept it to itself: close the connection and open it again",
            ),
            Self::NoSharedMemory => f.write_str(
                "the default VFS of this process has no shared memory, which a database in WAL mode needs: make one with shared \
                 memory the default before the first database is opened",
            ),
            Self::Failed(code) => write!(f, "a file of the database could not be read (SQLite's result code {code})"),
            Self::WrongKey => f.write_str("this is not the key that the database is encrypted under"),
            Self::NotSealed(why) => {
                write!(f, "the file is not encrypted as it should be: {why}; put back the one that was here")
            }
            Self::Damaged { .. }
            | Self::Unfit { .. }
            | Self::NoRules(_)
            | Self::Unreadable(_)
            | Self::PastDamaged(_)
            | Self::NotKept(..) => self.message().fmt(f),
            Self::Layout => f.write_str(
                "a page with another size or number of reserved bytes cannot be sealed here; create the database through the control plane",
            ),
            Self::Fenced(fenced) => fenced.fmt(f),
        }
    }
}

impl From<Error> for VfsError {
    fn from(error: Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rusqlite::Error>());
        let code = cause.and_then(rusqlite::Error::sqlite_error).map(|error| error.extended_code);
        Self::NotKept(error.kind(), code, error.message())
    }
}

impl From<PageFault> for VfsError {
    fn from(fault: PageFault) -> Self {
        match fault {
            PageFault::NoNonce => Self::Unreadable("the system has no random bytes to give".into()),
            PageFault::Layout | PageFault::Unauthentic => Self::Layout,
        }
    }
}

thread_local! {
    /// The governor that waits for the next main database to be opened on this thread.
    static WAITING: RefCell<Option<Arc<dyn PolicySource>>> = const { RefCell::new(None) };
    /// Why that database was not opened.
    static NOT_OPENED: RefCell<Option<VfsError>> = const { RefCell::new(None) };
}

/// Why a database that was handed over was not opened.
#[derive(Debug)]
pub(crate) struct NotOpened {
    pub(crate) error: rusqlite::Error,
    /// The VFS's own reason, if it was the one that refused.
    pub(crate) refusal: Option<VfsError>,
}

/// Opens a database of the fleet for statements of this crate's own, or of a host that wants no fence.
pub(crate) fn open(
    path: &std::path::Path,
    flags: OpenFlags,
    governor: Arc<dyn PolicySource>,
) -> Result<Connection, NotOpened> {
    hand_over(governor, || Connection::open_with_flags_and_vfs(path, flags, UNFENCED))
}

/// Opens a database of the fleet for SQL that is fenced. [`raise_fence`] completes that.
///
/// `flags` must not have `SQLITE_OPEN_CREATE`: SQLite then asks to create a file for `VACUUM INTO` alone, which is how its
/// target is told from a file that SQL attaches.
pub(crate) fn open_fenced(
    path: &std::path::Path,
    flags: OpenFlags,
    governor: Arc<dyn PolicySource>,
) -> Result<Connection, NotOpened> {
    debug_assert!(!flags.contains(OpenFlags::SQLITE_OPEN_CREATE), "the target of VACUUM INTO is told by it");
    hand_over(governor, || Connection::open_with_flags_and_vfs(path, flags, NAME))
}

/// Fences the SQL of a connection that [`open_fenced`] opened, from its next statement on.
pub(crate) fn raise_fence(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false)?;
    ffi::set_authorizer(connection)
}

/// Whether the fence admits an action that a host's own authorizer was asked about.
pub(crate) fn admits(action: Action<'_>) -> bool {
    fence::authorize(action, None)
}

/// Whether a governor waits for a database to be opened on this thread.
fn is_handed_over() -> bool {
    WAITING.with_borrow(Option::is_some)
}

/// Runs `open`, in which the next database to be opened through this VFS on this thread is `governor`'s.
pub(crate) fn hand_over<T>(
    governor: Arc<dyn PolicySource>,
    open: impl FnOnce() -> rusqlite::Result<T>,
) -> Result<T, NotOpened> {
    /// Whatever happens, nothing waits any longer than the call.
    struct Waiting;
    impl Drop for Waiting {
        fn drop(&mut self) {
            WAITING.set(None);
        }
    }
    ffi::register().map_err(|error| NotOpened { error, refusal: None })?;
    NOT_OPENED.set(None);
    WAITING.set(Some(governor));
    let _waiting = Waiting;
    open().map_err(|error| NotOpened { error, refusal: NOT_OPENED.take() })
}

/// Returns why the VFS refused the call of this connection that returned the extended result code `code`.
///
/// A code of [`result_codes`] identifies its refusal for as long as the connection is open, unless another call is refused. For
/// any other code the refusal is known until the next transaction begins.
pub(crate) fn take_refusal(connection: &Connection, code: c_int) -> Option<VfsError> {
    let mut schemas = (0..).map_while(|at| connection.db_name(at).ok());
    schemas.find_map(|schema| ffi::ask(connection, &schema, code).ok()?.refusal).or_else(|| {
        fence::take_denied(ffi::address(connection), code).filter(|_| !result_codes::is_own(code))
    })
}

/// What a connection's main database is to this VFS; nothing if it was not handed over.
pub(crate) fn main_database(connection: &Connection) -> Option<Main> {
    let answer = ffi::ask(connection, "main", rusqlite::ffi::SQLITE_OK).ok()?;
    answer.is_governed.then_some(Main { seal: answer.seal, is_read_only: answer.is_read_only })
}

/// What a connection's main database is sealed under, be it handed over or as it was at an instant; nothing for a plain one.
pub(crate) fn main_seal(connection: &Connection) -> Option<Seal> {
    ffi::ask(connection, "main", rusqlite::ffi::SQLITE_OK).ok()?.seal
}

/// The instant of the last commit that a connection made to its main database, in microseconds of UTC.
pub(crate) fn last_commit_at(connection: &Connection) -> Option<i64> {
    ffi::ask(connection, "main", rusqlite::ffi::SQLITE_OK).ok()?.stamped_at
}

/// A main database that was handed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Main {
    /// Nothing for a plain one.
    pub(crate) seal: Option<Seal>,
    pub(crate) is_read_only: bool,
}
