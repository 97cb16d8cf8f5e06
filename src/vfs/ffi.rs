//! The C side: SQLite's tables of functions, and the two things that the operating system offers only through C.
//!
//! The functions below are a few lines each: they turn C's arguments
//! into Rust's, ask the safe code beside this file, and pass the call on to the real file, whose memory lies right behind
//! ours.
//!
//! A panic never crosses into C. The calls in which Rust code of ours runs are [`guard`]ed, and answer with an I/O
//! error if it panics; the others only pass their arguments on.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, OsStr, c_char, c_int, c_void},
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    ptr, slice,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use rusqlite::{
    Connection,
    ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs},
};

use super::{
    NAME, NOT_OPENED, PolicySource, UNFENCED, VfsError, WAITING,
    capture::Capture,
    database::Database,
    fence::{self, Action, Fenced},
    history_view::View,
    journal::Journal,
    limits::Limits,
    raw_file::{Exclusive, RawFile, ShmLock},
    sealed::{self, Sealed},
    temp::Temp,
    wal::Wal,
};
use crate::{
    cipher,
    page::{PageCodec, Seal},
};

/// The file-control by which [`ask`] reaches our file of a connection. SQLite passes what it does not know on to the
/// VFS, and asks that numbers below 100 be left alone.
const ASK_OP: c_int = 0x4c46_0001;

/// What SQLite holds for an open file: this, and behind it the real file that was opened first.
#[repr(C)]
struct File {
    base: sqlite3_file,
    handle: *mut Handle,
    /// The real file: the one behind this, or one that was opened since.
    real: *mut sqlite3_file,
    /// The memory of that, if it is not behind this. It is not boxed: a box that is moved claims what it points to for itself.
    memory: Vec<u64>,
    /// The real VFS, and the name that it opened the file under.
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
}

/// What a file of ours is.
enum Handle {
    /// A database file, and the address of its name.
    Data(Arc<Database>, usize),
    Wal(Box<Wal>),
    Journal(Journal),
    Temp(Arc<Temp>),
    View(Arc<View>),
}

/// The databases that are open, by the address of the name that SQLite opened them under. The WAL and the journal of a
/// database are opened under names that lead back to that address.
static OPEN: Mutex<BTreeMap<usize, Arc<Database>>> = Mutex::new(BTreeMap::new());

/// The views that are open, by the addresses of their files.
static VIEWS: Mutex<BTreeMap<usize, Arc<View>>> = Mutex::new(BTreeMap::new());

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Version 2: no memory mapping, so that every read and write comes through here.
    iVersion: 2,
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    ..METHODS_WITHOUT_SHM
};

/// The methods of a file over one that has no shared memory.
static VERSION_1: sqlite3_io_methods = METHODS_WITHOUT_SHM;

const METHODS_WITHOUT_SHM: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// What a VFS of ours has behind its `pAppData`.
struct Registered {
    /// The VFS beneath.
    real: *mut sqlite3_vfs,
    /// Whether SQL opens no file by its path.
    is_fenced: bool,
}

/// Registers the VFS over the default one, the first time it is called.
pub(crate) fn register() -> rusqlite::Result<()> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    let code = *REGISTERED.get_or_init(|| {
        // SAFETY: a null name asks for the default VFS, which is never unregistered while it is the default.
        let real = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        if real.is_null() {
            return ffi::SQLITE_ERROR;
        }
        // SAFETY: the function adds to a counter and does nothing else, which a child may do.
        if unsafe { libc::pthread_atfork(None, None, Some(cipher::forked)) } != 0 {
            return ffi::SQLITE_NOMEM;
        }
        // SAFETY: `real` points to a registered VFS. Copied are the functions that take no file of ours; those
        // that take the VFS itself are wrapped, since the real one expects its own address.
        let mut vfs = unsafe { *real };
        vfs.szOsFile += c_int::try_from(size_of::<File>()).unwrap_or(0);
        vfs.pNext = ptr::null_mut();
        vfs.iVersion = vfs.iVersion.min(2);
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        vfs.xAccess = Some(access);
        vfs.xFullPathname = Some(full_pathname);
        vfs.xDlOpen = Some(dl_open);
        vfs.xDlError = Some(dl_error);
        vfs.xDlSym = Some(dl_sym);
        vfs.xDlClose = Some(dl_close);
        vfs.xRandomness = Some(randomness);
        vfs.xSleep = Some(sleep);
        vfs.xCurrentTime = Some(current_time);
        vfs.xGetLastError = Some(get_last_error);
        vfs.xCurrentTimeInt64 = vfs.xCurrentTimeInt64.map(|_| current_time_int64 as _);
        for (name, is_fenced) in [(NAME, true), (UNFENCED, false)] {
            vfs.zName = name.as_ptr();
            vfs.pAppData = Box::into_raw(Box::new(Registered { real, is_fenced })).cast();
            // SAFETY: the structure is leaked, and so outlives every connection; SQLite alone changes it from here on.
            let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) };
            if code != ffi::SQLITE_OK {
                return code;
            }
        }
        ffi::SQLITE_OK
    });
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// What [`ask`] asks of a file of ours, and its answer.
pub(super) struct Asked {
    code: c_int,
    /// Why a call was refused with the code.
    pub(super) refusal: Option<VfsError>,
    pub(super) is_governed: bool,
    /// Whether the connection was opened to read only.
    pub(super) is_read_only: bool,
    pub(super) seal: Option<Seal>,
    /// The instant of the connection's last commit.
    pub(super) stamped_at: Option<i64>,
}

/// Asks our file of a schema of a connection what it is, and why it refused a call with `code`. SQLite's result code if
/// it is not ours.
pub(super) fn ask(connection: &Connection, schema: &str, code: c_int) -> Result<Asked, c_int> {
    let schema = CString::new(schema).map_err(|_| ffi::SQLITE_MISUSE)?;
    let mut asked =
        Asked { code, refusal: None, is_governed: false, is_read_only: false, seal: None, stamped_at: None };
    // SAFETY: the connection is open, and `file_control` below takes an `Asked` for this operation; no other VFS
    // knows it.
    let known = unsafe {
        ffi::sqlite3_file_control(connection.handle(), schema.as_ptr(), ASK_OP, (&raw mut asked).cast())
    };
    if known == ffi::SQLITE_OK { Ok(asked) } else { Err(known) }
}

/// Has SQLite ask [`authorize`] about every statement of a connection, and loads no extensions on it.
pub(super) fn set_authorizer(connection: &Connection) -> rusqlite::Result<()> {
    // SAFETY: the connection is open. The first operation takes an integer and a pointer that may be null; a SQLite that was
    // built without it answers with an error, and loads none. The authorizer is given the connection's address, which it
    // only compares.
    let code = unsafe {
        let db = connection.handle();
        let none: *mut c_int = ptr::null_mut();
        ffi::sqlite3_db_config(db, ffi::SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0 as c_int, none);
        ffi::sqlite3_set_authorizer(db, Some(authorize), db.cast())
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// The address of a connection, by which the fence tells it from others.
pub(super) fn address(connection: &Connection) -> usize {
    // SAFETY: the handle is not used, but for its address.
    unsafe { connection.handle() as usize }
}

/// SQLite's authorizer. Names are bytes here: a file of another program may have any in its schema.
unsafe extern "C" fn authorize(
    connection: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    _: *const c_char,
    _: *const c_char,
) -> c_int {
    // SAFETY: SQLite gives null or a C string, which outlives the call.
    let text = |text: *const c_char| unsafe { (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes()) };
    let asked = match action {
        ffi::SQLITE_ATTACH => Action::Attach(text(first)),
        ffi::SQLITE_PRAGMA => Action::Pragma { name: text(first).unwrap_or_default(), value: text(second) },
        ffi::SQLITE_FUNCTION => Action::Function(text(second).unwrap_or_default()),
        _ => return ffi::SQLITE_OK,
    };
    let is_admitted = catch_unwind(|| fence::authorize(asked, Some(connection as usize))).unwrap_or(false);
    if is_admitted { ffi::SQLITE_OK } else { ffi::SQLITE_DENY }
}

/// Tells the host's log, if it has one (`SQLITE_CONFIG_LOG`).
pub(super) fn log(code: c_int, message: &str) {
    if let Ok(message) = CString::new(message) {
        // SAFETY: the format takes one string.
        unsafe { ffi::sqlite3_log(code, c"%s".as_ptr(), message.as_ptr()) };
    }
}

/// The real file behind one of ours, as the safe code sees it.
#[derive(Clone, Copy)]
struct Real {
    ours: *mut File,
}

impl Real {
    /// The real file as it is now, and its functions: no more of them than its version has.
    fn parts(self) -> (*mut sqlite3_file, *const sqlite3_io_methods) {
        // SAFETY: our file is open as long as this lives, and so is the real one.
        unsafe {
            let file = (*self.ours).real;
            (file, (*file).pMethods)
        }
    }

    /// Whether the real file has shared memory, without which SQLite keeps a database out of WAL mode.
    fn has_shared_memory(self) -> bool {
        let (_, methods) = self.parts();
        // SAFETY: the file is open, and so has functions, which are static. Those of version 1 end before the others.
        unsafe {
            (*methods).iVersion >= 2
                && (*methods).xShmMap.is_some()
                && (*methods).xShmLock.is_some()
                && (*methods).xShmUnmap.is_some()
        }
    }

    /// The lock of a database file, in place of one that SQLite believes to hold.
    fn lock(self, level: c_int, unlock: bool) -> c_int {
        let (file, methods) = self.parts();
        // SAFETY: the file is open, and so has functions.
        unsafe {
            let change = if unlock { (*methods).xUnlock } else { (*methods).xLock };
            change.map_or(ffi::SQLITE_IOERR, |change| change(file, level))
        }
    }

    /// Takes the lock of a database file that is open, unless somebody else has it.
    fn share_again(self) -> bool {
        self.lock(ffi::SQLITE_LOCK_SHARED, false) == ffi::SQLITE_OK
    }

    /// The database of a WAL, and its file.
    fn data<'a>(self) -> Option<(&'a Arc<Database>, Self)> {
        // SAFETY: the file is open, and so has a handle. SQLite closes the database file after its WAL.
        let Handle::Wal(wal) = (unsafe { handle(self.ours.cast()) }) else { return None };
        let ours: *mut File = wal.database().file().cast();
        (!ours.is_null()).then_some((wal.database(), Self { ours }))
    }

    /// Goes on with the file that stands at the path of this WAL, if another connection moved away the one that is open.
    #[cold]
    fn follow_wal(self) -> c_int {
        let Some((database, _)) = self.data() else { return ffi::SQLITE_IOERR };
        let _open = database.neighbours().lock();
        // Where the database was destroyed, the WAL at that path may be another one's.
        if !database.is_in_place() {
            return database.answer(Err(VfsError::Destroyed));
        }
        let code = self.begin_anew();
        if code == ffi::SQLITE_OK && !database.is_in_place() {
            return database.answer(Err(VfsError::Destroyed));
        }
        if code == ffi::SQLITE_OK {
            database.has_wal();
        }
        code
    }
}

impl RawFile for Real {
    fn alone(&self, run: &mut dyn FnMut() -> bool) -> Exclusive {
        let Some((database, data)) = self.data() else { return Exclusive::No };
        let open = database.neighbours().lock();
        let others = || open.iter().filter(|other| !ptr::eq(Arc::as_ptr(other), Arc::as_ptr(database)));
        // Their files are open for as long as they are in the list, and nobody else calls for their locks meanwhile.
        let sharing: Vec<_> = others().filter(|other| other.is_shared()).collect();
        let file_of = |other: &Database| Self { ours: other.file().cast() };
        for other in &sharing {
            file_of(other).lock(ffi::SQLITE_LOCK_NONE, true);
        }
        let alone = data.lock(ffi::SQLITE_LOCK_EXCLUSIVE, false) == ffi::SQLITE_OK;
        // Whatever happens, everybody gets back what he had.
        let moved = if alone { catch_unwind(AssertUnwindSafe(run)) } else { Ok(false) };
        if matches!(moved, Ok(true)) {
            others().for_each(|other| other.wal_moves());
        }
        data.lock(ffi::SQLITE_LOCK_SHARED, true);
        let lost = sharing.iter().filter(|other| !file_of(other).share_again());
        let lost: Vec<_> = lost.map(|other| Arc::clone(other)).collect();
        for other in &lost {
            other.loses_lock();
        }
        let has_neighbours = !sharing.is_empty();
        drop(open);
        database.neighbours().regain(lost, |other| file_of(other).share_again());
        if let Err(panic) = moved {
            resume_unwind(panic);
        }
        match alone {
            false => Exclusive::No,
            true if has_neighbours => Exclusive::WithNeighbours,
            true => Exclusive::Yes,
        }
    }

    fn without_restarts(&self, run: &mut dyn FnMut(bool)) {
        const WRITE_LOCK: c_int = 0;
        const READ_LOCK: c_int = 4;
        const ATTEMPTS: u32 = 50;
        let (file, methods) = self.parts();
        let change = |lock: c_int, flags: c_int| {
            // SAFETY: the file is open, and its shared memory is mapped as long as SQLite did not leave it.
            unsafe { (*methods).xShmLock.map_or(ffi::SQLITE_IOERR, |change| change(file, lock, 1, flags)) }
        };
        let take = |lock, kind| {
            (0..ATTEMPTS).any(|attempt| {
                if attempt > 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                change(lock, ffi::SQLITE_SHM_LOCK | kind) == ffi::SQLITE_OK
            })
        };
        // SQLite begins a WAL anew under the write lock, when nobody has this read lock.
        let (lock, kind) = if take(WRITE_LOCK, ffi::SQLITE_SHM_EXCLUSIVE) {
            (WRITE_LOCK, ffi::SQLITE_SHM_EXCLUSIVE)
        } else if take(READ_LOCK, ffi::SQLITE_SHM_SHARED) {
            (READ_LOCK, ffi::SQLITE_SHM_SHARED)
        } else {
            return run(false);
        };
        let ran = catch_unwind(AssertUnwindSafe(|| run(lock == WRITE_LOCK)));
        change(lock, ffi::SQLITE_SHM_UNLOCK | kind);
        if let Err(panic) = ran {
            resume_unwind(panic);
        }
    }

    fn has_company(&self) -> bool {
        let is_alone = self.lock(ffi::SQLITE_LOCK_EXCLUSIVE, false) == ffi::SQLITE_OK;
        if is_alone {
            self.lock(ffi::SQLITE_LOCK_SHARED, true);
        }
        !is_alone
    }

    fn begin_anew(&self) -> c_int {
        const FLAGS: c_int = ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;
        let (before, methods) = self.parts();
        // SAFETY: our file is open. Its VFS and its name outlive it; the memory is as large as that VFS wants it, aligned
        // for anything, and stays where it is. The old real file is closed once, and only when the new one is open.
        unsafe {
            let ours = &mut *self.ours;
            let (Some(open), Ok(len)) = ((*ours.vfs).xOpen, usize::try_from((*ours.vfs).szOsFile)) else {
                return ffi::SQLITE_CANTOPEN;
            };
            let mut memory = vec![0_u64; len.div_ceil(size_of::<u64>())];
            let file: *mut sqlite3_file = memory.as_mut_ptr().cast();
            let mut out_flags = 0;
            let code = open(ours.vfs, ours.name, file, FLAGS, &raw mut out_flags);
            if code != ffi::SQLITE_OK {
                if let Some(close) = (*file).pMethods.as_ref().and_then(|methods| methods.xClose) {
                    close(file);
                }
                return code;
            }
            ours.real = file;
            // What SQLite wrote to it is in the archive by now, so nothing depends on how it is closed.
            let _closed = (*methods).xClose.map(|close| close(before));
            ours.memory = memory;
        }
        ffi::SQLITE_OK
    }

    fn read(&self, into: &mut [u8], at: u64) -> c_int {
        let (Ok(len), Ok(at)) = (c_int::try_from(into.len()), sqlite3_int64::try_from(at)) else {
            return ffi::SQLITE_IOERR;
        };
        let (file, methods) = self.parts();
        // SAFETY: the file is open as long as this lives, and `into` is as long as it says.
        unsafe {
            (*methods).xRead.map_or(ffi::SQLITE_IOERR, |read| read(file, into.as_mut_ptr().cast(), len, at))
        }
    }

    fn write(&self, bytes: &[u8], at: u64) -> c_int {
        let (Ok(len), Ok(at)) = (c_int::try_from(bytes.len()), sqlite3_int64::try_from(at)) else {
            return ffi::SQLITE_IOERR;
        };
        let (file, methods) = self.parts();
        // SAFETY: the file is open as long as this lives, and `bytes` is as long as it says.
        unsafe {
            (*methods).xWrite.map_or(ffi::SQLITE_IOERR, |write| write(file, bytes.as_ptr().cast(), len, at))
        }
    }

    fn len(&self) -> Result<u64, c_int> {
        let mut size = 0;
        let (file, methods) = self.parts();
        // SAFETY: the file is open as long as this lives, and the size is there to be set.
        let code = unsafe {
            (*methods).xFileSize.map_or(ffi::SQLITE_IOERR, |file_size| file_size(file, &raw mut size))
        };
        if code == ffi::SQLITE_OK { u64::try_from(size).map_err(|_| ffi::SQLITE_IOERR) } else { Err(code) }
    }
}

/// Runs Rust code on behalf of C, and answers with `SQLITE_IOERR` if it panics.
fn guard(run: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(ffi::SQLITE_IOERR)
}

/// What a VFS of ours was registered with.
///
/// # Safety
///
/// `vfs` is one that [`register`] made.
unsafe fn registered<'a>(vfs: *mut sqlite3_vfs) -> &'a Registered {
    // SAFETY: `register` put a leaked box there.
    unsafe { &*(*vfs).pAppData.cast::<Registered>() }
}

/// The VFS beneath.
///
/// # Safety
///
/// As for [`registered`].
unsafe fn real_vfs(vfs: *mut sqlite3_vfs) -> *mut sqlite3_vfs {
    // SAFETY: the caller vouches for it.
    unsafe { registered(vfs) }.real
}

/// The real file, and its functions.
///
/// # Safety
///
/// `file` was opened by [`open`] with [`METHODS`] and is not closed.
unsafe fn real(file: *mut sqlite3_file) -> Real {
    Real { ours: file.cast() }
}

/// What the file is.
///
/// # Safety
///
/// As for [`real`].
unsafe fn handle<'a>(file: *mut sqlite3_file) -> &'a Handle {
    // SAFETY: `open` put a boxed handle there, which `close` takes away.
    unsafe { &*(*file.cast::<File>()).handle }
}

/// Makes sure that the file is the one that stands at its path, if it is a WAL.
///
/// # Safety
///
/// As for [`real`].
unsafe fn follow(file: *mut sqlite3_file) -> c_int {
    // SAFETY: the caller vouches for it.
    match unsafe { (handle(file), real(file)) } {
        (Handle::Wal(wal), real) if wal.database().wal_was_moved() => guard(|| real.follow_wal()),
        _ => ffi::SQLITE_OK,
    }
}

/// Calls a function of the real file, which has it: a file of ours has functions for shared memory only over one that has them.
macro_rules! pass {
    ($file:ident . $method:ident ( $($argument:expr),* )) => {{
        // SAFETY: SQLite calls this with a file that `open` opened, and with arguments that the real function takes.
        unsafe {
            let (file, methods) = real($file).parts();
            match (*methods).$method {
                Some(method) => method(file, $($argument),*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite calls this with the VFS that `register` made, a name that is null or outlives the file, and
    // memory of `szOsFile` bytes.
    unsafe {
        let real_vfs = real_vfs(vfs);
        let Some(real_open) = (*real_vfs).xOpen else { return ffi::SQLITE_CANTOPEN };
        (*file).pMethods = ptr::null();
        let mut kind = Kind::Foreign;
        let is_fenced = registered(vfs).is_fenced;
        let code = guard(|| match kind_of(name, flags, is_fenced) {
            Ok(found) => {
                kind = found;
                ffi::SQLITE_OK
            }
            Err(code) => code,
        });
        if code != ffi::SQLITE_OK {
            return code;
        }
        // What is nothing to us is the real VFS's own file, from its first byte.
        if let Kind::Foreign = kind {
            return real_open(real_vfs, name, file, flags, out_flags);
        }
        let beneath: *mut sqlite3_file = file.cast::<File>().add(1).cast();
        (*beneath).pMethods = ptr::null();
        // No other connection moves a WAL away between its opening and what follows.
        let database = if let Kind::Wal(database) = &kind { Some(Arc::clone(database)) } else { None };
        let _open = database.as_ref().map(|database| database.neighbours().lock());
        let mut code = real_open(real_vfs, name, beneath, flags, out_flags);
        let ours = file.cast::<File>();
        (&raw mut (*ours).real).write(beneath);
        (&raw mut (*ours).memory).write(Vec::new());
        (&raw mut (*ours).vfs).write(real_vfs);
        (&raw mut (*ours).name).write(name);
        if code == ffi::SQLITE_OK {
            let real = real(file);
            code = guard(|| match kind.into_handle(real, name as usize) {
                Ok(handle) => {
                    if let Handle::Wal(wal) = &handle {
                        wal.database().has_wal();
                    }
                    if let Handle::Data(database, name) = &handle {
                        database.is_in(file.cast());
                        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
                        database.join(open.values());
                        open.insert(*name, Arc::clone(database));
                    }
                    if let Handle::View(view) = &handle {
                        let mut views = VIEWS.lock().unwrap_or_else(PoisonError::into_inner);
                        views.insert(file as usize, Arc::clone(view));
                    }
                    (*file.cast::<File>()).handle = Box::into_raw(Box::new(handle));
                    (*file).pMethods =
                        if real.has_shared_memory() { &raw const METHODS } else { &raw const VERSION_1 };
                    ffi::SQLITE_OK
                }
                Err(refusal) => {
                    let code = refusal.code();
                    NOT_OPENED.set(Some(refusal));
                    code
                }
            });
        }
        // A failed open that leaves functions behind wants to be closed.
        if code != ffi::SQLITE_OK
            && let Some(close) = (*beneath).pMethods.as_ref().and_then(|methods| methods.xClose)
        {
            close(beneath);
        }
        code
    }
}

/// What a file that is being opened is.
enum Kind {
    /// Nothing to us.
    Foreign,
    Data(std::path::PathBuf, Option<Arc<dyn PolicySource>>),
    /// The target of `VACUUM INTO`, on a connection whose SQL is fenced.
    Target(std::path::PathBuf),
    Wal(Arc<Database>),
    Journal(Arc<Database>),
    Temp,
}

impl Kind {
    /// The file, once the real one is open.
    fn into_handle(self, real: Real, name: usize) -> Result<Handle, VfsError> {
        Ok(match self {
            Self::Data(path, governor) => match governor
                .as_ref()
                .map(|it| (it.scratch(), it.past(), it.sealing()))
            {
                Some((Some(scratch), ..)) => Handle::Temp(scratch),
                Some((_, Some(past), sealing)) => Handle::View(Arc::new(View::new(past, &path, sealing)?)),
                _ if governor.as_ref().is_some_and(|it| it.history().is_some())
                    && !real.has_shared_memory() =>
                {
                    return Err(VfsError::NoSharedMemory);
                }
                _ => Handle::Data(Arc::new(Database::open(&path, governor, &real)?), name),
            },
            Self::Target(path) => Handle::Data(Arc::new(Database::target(&path, &real)?), name),
            Self::Wal(database) => Handle::Wal(Box::new(Wal::new(database))),
            Self::Journal(database) => Handle::Journal(Journal::new(database)),
            Self::Temp | Self::Foreign => {
                let temp = Temp::new().map_err(|error| VfsError::Unreadable(error.message()))?;
                Handle::Temp(Arc::new(temp))
            }
        })
    }
}

/// What a file that is being opened is, or a result code if it must not be opened.
///
/// # Safety
///
/// `name` is null or one that SQLite gave to `xOpen` together with `flags`.
unsafe fn kind_of(name: *const c_char, flags: c_int, is_fenced: bool) -> Result<Kind, c_int> {
    if name.is_null() {
        return Ok(if sealed::is_any_sealed() { Kind::Temp } else { Kind::Foreign });
    }
    if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        // SAFETY: a name is a C string.
        let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
        if let Some(governor) = WAITING.take() {
            return Ok(Kind::Data(path.to_owned(), Some(governor)));
        }
        let creates = flags & ffi::SQLITE_OPEN_CREATE != 0;
        if is_fenced && !creates {
            return Err(fence::deny_open(Fenced::Attach));
        }
        let (governor, is_near) = {
            let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            let mut same = open.values().filter(|database| database.path() == path);
            let governor = same.find_map(|database| database.rules()).map(Limits::governor).cloned();
            let mut roots = open.values().filter_map(|database| database.root());
            (governor, roots.any(|root| path.starts_with(root)))
        };
        // A key is handed over with its database each time, and never lent by a connection that has it.
        let is_refused = match &governor {
            Some(governor) => is_fenced || governor.sealing().is_some(),
            None => is_near || fence::is_in_a_fleet(path),
        };
        if is_refused {
            return Err(fence::deny_open(Fenced::FleetFile));
        }
        if is_fenced {
            return Ok(Kind::Target(path.to_owned()));
        }
        return Ok(Kind::Data(path.to_owned(), governor));
    }
    if flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL) != 0 {
        // SAFETY: with these flags the name comes from a pager, and leads back to the name of its database.
        let database = unsafe { ffi::sqlite3_filename_database(name) } as usize;
        let database = OPEN.lock().unwrap_or_else(PoisonError::into_inner).get(&database).cloned();
        return Ok(match database {
            Some(database) if flags & ffi::SQLITE_OPEN_WAL != 0 => Kind::Wal(database),
            Some(database) if database.sealed().is_some() => {
                match database.admit_journal() {
                    ffi::SQLITE_OK => {}
                    refused => return Err(refused),
                }
                Kind::Journal(database)
            }
            _ => Kind::Foreign,
        });
    }
    Ok(Kind::Foreign)
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: the file is open.
    if let Handle::Data(database, _) = unsafe { handle(file) } {
        database.leave();
    }
    let code = pass!(file.xClose());
    // SAFETY: SQLite closes a file once, and uses it no more.
    let handle = unsafe {
        (*file).pMethods = ptr::null();
        (*file.cast::<File>()).memory = Vec::new();
        Box::from_raw((*file.cast::<File>()).handle)
    };
    match &*handle {
        Handle::Data(_, name) => {
            OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        Handle::View(_) => {
            VIEWS.lock().unwrap_or_else(PoisonError::into_inner).remove(&(file as usize));
        }
        _ => {}
    }
    // The governor is the crate's own, but what it holds may do anything when dropped.
    guard(|| {
        drop(handle);
        code
    })
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    len: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open.
    let followed = unsafe { follow(file) };
    if followed != ffi::SQLITE_OK {
        return followed;
    }
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    let plain = match handle {
        Handle::Data(database, _) => database.sealed().is_none(),
        Handle::Wal(wal) => wal.database().sealed().is_none() && !wal.is_recounted(),
        Handle::Journal(_) | Handle::Temp(_) | Handle::View(_) => false,
    };
    if plain {
        return pass!(file.xRead(buffer, len, offset));
    }
    let (Ok(size), Ok(at)) = (usize::try_from(len), u64::try_from(offset)) else { return ffi::SQLITE_IOERR };
    if let Handle::Temp(temp) = handle {
        return guard(|| {
            // SAFETY: SQLite gives room for `len` bytes at `buffer`, which are written before they are read.
            let (real, into) = unsafe {
                ptr::write_bytes(buffer.cast::<u8>(), 0, size);
                (real(file), slice::from_raw_parts_mut(buffer.cast::<u8>(), size))
            };
            temp.read(into, at, &real)
        });
    }
    if let Handle::View(view) = handle {
        return guard(|| {
            // SAFETY: SQLite gives room for `len` bytes at `buffer`, which are written before they are read.
            let into = unsafe {
                ptr::write_bytes(buffer.cast::<u8>(), 0, size);
                slice::from_raw_parts_mut(buffer.cast::<u8>(), size)
            };
            view.read(into, at)
        });
    }
    let ahead = match handle {
        Handle::Data(database, _) => guard(|| {
            let Some(sealed) = database.sealed() else { return ffi::SQLITE_NOTFOUND };
            // SAFETY: the file is open.
            let real = unsafe { real(file) };
            let taken = sealed.read_ahead(at, size, &real, |page| {
                // SAFETY: SQLite gives room for `len` bytes at `buffer`, as many as a page has.
                unsafe { ptr::copy_nonoverlapping(page.as_ptr(), buffer.cast::<u8>(), page.len()) };
            });
            taken.map_or(ffi::SQLITE_NOTFOUND, |()| ffi::SQLITE_OK)
        }),
        _ => ffi::SQLITE_NOTFOUND,
    };
    let code = if ahead == ffi::SQLITE_OK { ahead } else { pass!(file.xRead(buffer, len, offset)) };
    if code != ffi::SQLITE_OK && code != ffi::SQLITE_IOERR_SHORT_READ {
        return code;
    }
    guard(|| {
        // SAFETY: the real file has written `len` bytes at `buffer`: with this answer, zeros where it had none.
        let (real, bytes) = unsafe { (real(file), slice::from_raw_parts_mut(buffer.cast::<u8>(), size)) };
        match handle {
            Handle::Data(database, _) => database.answer(match database.sealed() {
                Some(sealed) => sealed.after_read(bytes, at, code, |page| database.must_have(page)),
                None => Ok(code),
            }),
            Handle::Wal(wal) => wal.database().answer(wal.after_read(bytes, at, code, &real)),
            Handle::Journal(journal) => journal.database().answer(journal.after_read(bytes, at, code)),
            Handle::Temp(_) | Handle::View(_) => ffi::SQLITE_IOERR,
        }
    })
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    buffer: *const c_void,
    len: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open.
    let followed = unsafe { follow(file) };
    if followed != ffi::SQLITE_OK {
        return followed;
    }
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    if let Handle::Data(database, _) = handle
        && database.is_plain()
    {
        return pass!(file.xWrite(buffer, len, offset));
    }
    guard(|| {
        let (Ok(size), Ok(at)) = (usize::try_from(len), u64::try_from(offset)) else {
            return ffi::SQLITE_IOERR;
        };
        // SAFETY: SQLite gives `len` bytes at `buffer`.
        let (real, bytes) = unsafe { (real(file), slice::from_raw_parts(buffer.cast::<u8>(), size)) };
        match handle {
            Handle::Data(database, _) => database.answer(match database.sealed() {
                Some(sealed) => sealed.write(bytes, at, database.is_checkpointing(), &real),
                // It was to be sealed, and could not be.
                None => Err(VfsError::Layout),
            }),
            Handle::Wal(wal) => wal.database().answer(wal.write(bytes, at, &real)),
            Handle::Journal(journal) => journal.database().answer(journal.write(bytes, at, &real)),
            Handle::Temp(temp) => temp.write(bytes, at, &real),
            Handle::View(_) => ffi::SQLITE_READONLY,
        }
    })
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    let followed = unsafe { follow(file) };
    if followed != ffi::SQLITE_OK {
        return followed;
    }
    // SAFETY: the file is open.
    match unsafe { (handle(file), real(file), u64::try_from(size)) } {
        (Handle::Temp(temp), real, Ok(size)) => guard(|| temp.truncate(size, &real)),
        (Handle::View(_), ..) => ffi::SQLITE_READONLY,
        (Handle::Data(database, _), ..) => {
            database.forget();
            pass!(file.xTruncate(size))
        }
        (Handle::Wal(wal), _, Ok(to)) => match guard(|| wal.database().answer(wal.before_truncate(to))) {
            ffi::SQLITE_OK => pass!(file.xTruncate(size)),
            refused => refused,
        },
        _ => pass!(file.xTruncate(size)),
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    let followed = unsafe { follow(file) };
    if followed != ffi::SQLITE_OK {
        return followed;
    }
    // SAFETY: the file is open.
    match unsafe { handle(file) } {
        // One ends with its handle, the other is never written.
        Handle::Temp(_) | Handle::View(_) => ffi::SQLITE_OK,
        Handle::Wal(wal) => match guard(|| wal.database().answer(wal.before_sync())) {
            ffi::SQLITE_OK => pass!(file.xSync(flags)),
            ffi::SQLITE_NOTFOUND => ffi::SQLITE_OK,
            refused => refused,
        },
        _ => pass!(file.xSync(flags)),
    }
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    let followed = unsafe { follow(file) };
    if followed != ffi::SQLITE_OK {
        return followed;
    }
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    let len = match handle {
        Handle::Temp(temp) => Some(temp.len()),
        Handle::View(view) => Some(view.len()),
        _ => None,
    };
    if let Some(len) = len {
        // SAFETY: SQLite gives a size to be set.
        unsafe { *size = sqlite3_int64::try_from(len).unwrap_or(sqlite3_int64::MAX) };
        return ffi::SQLITE_OK;
    }
    let code = pass!(file.xFileSize(size));
    match handle {
        // SAFETY: the real file has set the size.
        Handle::Data(database, _) if code == ffi::SQLITE_OK && unsafe { *size } == 0 => {
            guard(|| database.admit_empty())
        }
        _ => code,
    }
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    if let Handle::Data(database, _) = unsafe { handle(file) } {
        let admitted = guard(|| database.before_lock(level));
        if admitted != ffi::SQLITE_OK {
            return admitted;
        }
        let _open = database.neighbours().lock();
        let taken = pass!(file.xLock(level));
        if taken == ffi::SQLITE_OK {
            database.after_lock(level);
        } else {
            database.after_refused_lock(level);
        }
        return taken;
    }
    pass!(file.xLock(level))
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    if let Handle::Data(database, _) = unsafe { handle(file) } {
        let _open = database.neighbours().lock();
        let given = pass!(file.xUnlock(level));
        if given == ffi::SQLITE_OK {
            database.after_unlock(level);
        }
        return given;
    }
    pass!(file.xUnlock(level))
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, held: *mut c_int) -> c_int {
    pass!(file.xCheckReservedLock(held))
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: the file is open.
    match (op, unsafe { handle(file) }) {
        (ASK_OP, Handle::Data(database, _)) => guard(|| {
            // SAFETY: the argument of this operation is `ask`'s, above.
            let asked = unsafe { &mut *argument.cast::<Asked>() };
            asked.refusal = database.take_refusal(asked.code);
            asked.is_governed = database.rules().is_some();
            asked.is_read_only = database.rules().is_some_and(Limits::is_read_only);
            asked.stamped_at = database.capture().and_then(Capture::stamped_at);
            asked.seal = database.sealed().and_then(Sealed::codec).map(PageCodec::seal).copied();
            ffi::SQLITE_OK
        }),
        (ASK_OP, Handle::View(view)) => guard(|| {
            // SAFETY: as above.
            let asked = unsafe { &mut *argument.cast::<Asked>() };
            asked.refusal = view.take_refusal(asked.code);
            asked.seal = view.seal();
            ffi::SQLITE_OK
        }),
        (ffi::SQLITE_FCNTL_PDB, Handle::Data(database, _)) => {
            // SAFETY: the argument of this operation is the place of the connection's address; the file is open.
            let (connection, real) = unsafe { (*argument.cast::<usize>(), real(file)) };
            guard(|| {
                database.belongs_to(connection);
                let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
                let views = VIEWS.lock().unwrap_or_else(PoisonError::into_inner);
                let own = open.values().filter(|other| other.connection() == connection);
                let governed = own.filter(|own| own.rules().is_some()).filter_map(|own| own.sealed());
                let viewed = views.values().filter(|view| view.connection() == connection);
                let sealings: Vec<_> = governed.chain(viewed.filter_map(|view| view.sealed())).collect();
                database.adopt(&sealings, &real);
                ffi::SQLITE_OK
            });
            pass!(file.xFileControl(op, argument))
        }
        (ffi::SQLITE_FCNTL_PDB, Handle::View(view)) => {
            // SAFETY: as above.
            view.belongs_to(unsafe { *argument.cast::<usize>() });
            pass!(file.xFileControl(op, argument))
        }
        (ffi::SQLITE_FCNTL_PRAGMA, Handle::Data(database, _)) if database.refuses_pragmas() => {
            // SAFETY: the argument is what SQLite documents for this operation.
            match guard(|| unsafe { refuse_pragma(argument.cast(), database.rules().is_some()) }) {
                ffi::SQLITE_OK => pass!(file.xFileControl(op, argument)),
                refused => refused,
            }
        }
        (ffi::SQLITE_FCNTL_PRAGMA, Handle::View(_)) => {
            // SAFETY: as above.
            match guard(|| unsafe { refuse_pragma(argument.cast(), false) }) {
                ffi::SQLITE_OK => pass!(file.xFileControl(op, argument)),
                refused => refused,
            }
        }
        (_, Handle::Data(database, _)) if database.swallows(op) => ffi::SQLITE_OK,
        (ffi::SQLITE_FCNTL_CHUNK_SIZE | ffi::SQLITE_FCNTL_SIZE_HINT, Handle::Temp(_)) => ffi::SQLITE_OK,
        // Not mapped here, so neither beneath: the real file would extend and map itself otherwise.
        (ffi::SQLITE_FCNTL_MMAP_SIZE, _) => {
            // SAFETY: the argument of this operation is a number of bytes to be read and set.
            unsafe { *argument.cast::<sqlite3_int64>() = 0 };
            ffi::SQLITE_OK
        }
        (ffi::SQLITE_FCNTL_VFSNAME, _) => {
            let code = pass!(file.xFileControl(op, argument));
            if code == ffi::SQLITE_OK {
                // SAFETY: the argument of this operation is a string of SQLite's memory to be set.
                unsafe { prefix_name(argument.cast()) };
            }
            code
        }
        _ => pass!(file.xFileControl(op, argument)),
    }
}

/// Puts our name before that of the VFS beneath.
///
/// # Safety
///
/// `name` points to null or to a string that `sqlite3_malloc` gave.
unsafe fn prefix_name(name: *mut *mut c_char) {
    // SAFETY: the caller vouches for it.
    unsafe {
        let beneath = *name;
        if !beneath.is_null() {
            *name = ffi::sqlite3_mprintf(c"litefleet/%s".as_ptr(), beneath);
            ffi::sqlite3_free(beneath.cast());
        }
    }
}

/// Answers a pragma with an error, if it is one that is refused.
///
/// # Safety
///
/// `argument` is what SQLite documents for `SQLITE_FCNTL_PRAGMA`: an answer to be set, the name, and the value.
unsafe fn refuse_pragma(argument: *mut *mut c_char, is_governed: bool) -> c_int {
    // SAFETY: the caller vouches for three pointers, the last of which may be null.
    unsafe {
        let text = |at: usize| {
            let text: *mut c_char = *argument.add(at);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
        };
        let refused = text(1).and_then(|name| Limits::refused_pragma(&name, text(2).as_deref(), is_governed));
        let Some(message) = refused.and_then(|refused| CString::new(refused).ok()) else {
            return ffi::SQLITE_OK;
        };
        *argument = ffi::sqlite3_mprintf(c"%s".as_ptr(), message.as_ptr());
        ffi::SQLITE_ERROR
    }
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    pass!(file.xSectorSize())
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    /// `SQLITE_IOCAP_SUBPAGE_READ`, which older headers do not name.
    const SUBPAGE_READ: c_int = 0x8000;
    const MASKED: c_int = SUBPAGE_READ
        | ffi::SQLITE_IOCAP_BATCH_ATOMIC
        | ffi::SQLITE_IOCAP_SAFE_APPEND
        | ffi::SQLITE_IOCAP_SEQUENTIAL
        | ffi::SQLITE_IOCAP_ATOMIC
        | ffi::SQLITE_IOCAP_ATOMIC512
        | ffi::SQLITE_IOCAP_ATOMIC1K
        | ffi::SQLITE_IOCAP_ATOMIC2K
        | ffi::SQLITE_IOCAP_ATOMIC4K
        | ffi::SQLITE_IOCAP_ATOMIC8K
        | ffi::SQLITE_IOCAP_ATOMIC16K
        | ffi::SQLITE_IOCAP_ATOMIC32K
        | ffi::SQLITE_IOCAP_ATOMIC64K;
    let beneath = pass!(file.xDeviceCharacteristics());
    // SAFETY: the file is open.
    match unsafe { handle(file) } {
        Handle::View(_) => ffi::SQLITE_IOCAP_IMMUTABLE,
        Handle::Data(database, _) if database.sealed().is_none() => beneath,
        // Pages are read and written whole, and a frame is never written in two pieces.
        _ => beneath & !MASKED | ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE,
    }
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    memory: *mut *mut c_void,
) -> c_int {
    let code = pass!(file.xShmMap(region, size, extend, memory));
    // SAFETY: the file is open, and the real file has set `memory` to null or to a region of `size` bytes. SQLite accesses
    // the wal-index word by word, and unmaps a region in `xShmUnmap` only, before which `shm_unmap` calls `unmap`.
    unsafe {
        if let Handle::Data(database, _) = handle(file)
            && code == ffi::SQLITE_OK
            && let (Ok(region), Ok(size)) = (usize::try_from(region), usize::try_from(size))
        {
            database.wal_index().map(region, size, *memory);
        }
    }
    code
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    let Handle::Data(database, _) = (unsafe { handle(file) }) else {
        return pass!(file.xShmLock(offset, n, flags));
    };
    let lock = ShmLock {
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
        take: flags & ffi::SQLITE_SHM_LOCK != 0,
        shared: flags & ffi::SQLITE_SHM_SHARED != 0,
    };
    let admitted = guard(|| database.before_shm_lock(lock));
    if admitted != ffi::SQLITE_OK {
        return admitted;
    }
    let taken = pass!(file.xShmLock(offset, n, flags));
    // SQLite does not look at the answer to a lock that it gives back: it takes none for held from here on.
    if taken == ffi::SQLITE_OK || !lock.take {
        database.after_shm_lock(lock);
    }
    taken
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: the file is open.
    unsafe {
        let (file, methods) = real(file).parts();
        if let Some(barrier) = (*methods).xShmBarrier {
            barrier(file);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: the file is open.
    if let Handle::Data(database, _) = unsafe { handle(file) } {
        if delete == 0 {
            guard(|| {
                // SAFETY: the file is open.
                database.keep_log(&unsafe { real(file) });
                ffi::SQLITE_OK
            });
        }
        database.before_shm_unmap();
    }
    pass!(file.xShmUnmap(delete))
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    let kept = guard(|| {
        // SAFETY: a name is a C string.
        let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
        let Some(data) = path.as_os_str().as_bytes().strip_suffix(b"-wal") else {
            return ffi::SQLITE_NOTFOUND;
        };
        // The rules are asked for below, through a database that may be about to be opened.
        let same: Vec<_> = {
            let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            open.values().filter(|database| database.path().as_os_str().as_bytes() == data).cloned().collect()
        };
        for database in &same {
            let ended = database.capture_now().and_then(|capture| {
                let last_frame = |salts| database.last_frame(salts);
                Ok(capture.map(|capture| capture.end(&last_frame)).transpose()?)
            });
            match ended {
                Ok(None) => {}
                Ok(Some(true)) => return ffi::SQLITE_OK,
                Ok(Some(false)) => break,
                Err(refusal) => return database.answer(Err(refusal)),
            }
        }
        ffi::SQLITE_NOTFOUND
    });
    if kept != ffi::SQLITE_NOTFOUND {
        return kept;
    }
    // SAFETY: SQLite calls this with the VFS that `register` made, and with arguments for that function.
    unsafe {
        let real = real_vfs(vfs);
        (*real).xDelete.map_or(ffi::SQLITE_IOERR_DELETE, |delete| delete(real, name, sync_dir))
    }
}

/// Passes a call of the VFS on to the one beneath; `else` is the answer where that one lacks the function.
macro_rules! pass_vfs {
    ($(fn $name:ident = $method:ident($($argument:ident: $type:ty),*) -> $answer:ty, else $none:expr;)*) => {$(
        unsafe extern "C" fn $name(vfs: *mut sqlite3_vfs, $($argument: $type),*) -> $answer {
            // SAFETY: SQLite calls this with the VFS that `register` made, and with arguments for that function.
            unsafe {
                let real = real_vfs(vfs);
                match (*real).$method {
                    Some(method) => method(real, $($argument),*),
                    None => $none,
                }
            }
        }
    )*};
}

/// A function of a loaded library, as SQLite has it.
type Symbol = Option<unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char)>;

pass_vfs! {
    fn access = xAccess(name: *const c_char, flags: c_int, out: *mut c_int) -> c_int, else ffi::SQLITE_IOERR_ACCESS;
    fn full_pathname = xFullPathname(name: *const c_char, len: c_int, out: *mut c_char) -> c_int,
        else ffi::SQLITE_CANTOPEN;
    fn dl_open = xDlOpen(name: *const c_char) -> *mut c_void, else ptr::null_mut();
    fn dl_error = xDlError(len: c_int, message: *mut c_char) -> (), else ();
    fn dl_sym = xDlSym(library: *mut c_void, symbol: *const c_char) -> Symbol, else None;
    fn dl_close = xDlClose(library: *mut c_void) -> (), else ();
    fn randomness = xRandomness(len: c_int, out: *mut c_char) -> c_int, else 0;
    fn sleep = xSleep(micros: c_int) -> c_int, else 0;
    fn current_time = xCurrentTime(out: *mut f64) -> c_int, else ffi::SQLITE_ERROR;
    fn get_last_error = xGetLastError(len: c_int, message: *mut c_char) -> c_int, else 0;
    fn current_time_int64 = xCurrentTimeInt64(out: *mut sqlite3_int64) -> c_int, else ffi::SQLITE_ERROR;
}

/// Has `VACUUM INTO` reserve `bytes` at the end of each page that it writes. Returns how many it will reserve: never fewer than
/// the main database has.
pub(crate) fn reserve_in_vacuum(connection: &Connection, bytes: u8) -> c_int {
    // A negative number changes nothing, and is replaced by the number in force.
    let (mut wanted, mut in_force) = (c_int::from(bytes), -1);
    for argument in [&raw mut wanted, &raw mut in_force] {
        let op = ffi::SQLITE_FCNTL_RESERVE_BYTES;
        // SAFETY: the handle is that of a connection that is open for as long as this borrows it. The operation reads and
        // writes one `int`, which outlives the call.
        unsafe { ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), op, argument.cast()) };
    }
    in_force
}

/// Removes the modules of virtual tables from a connection: a table of one is then passed over, as one of an unknown module is.
pub(crate) fn drop_modules(connection: &Connection) {
    // SAFETY: the handle is that of a connection that is open for as long as this borrows it. SQLite documents the null
    // pointer as a list of modules to keep that is empty.
    unsafe { ffi::sqlite3_drop_modules(connection.handle(), ptr::null_mut()) };
}
