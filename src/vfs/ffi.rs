//! The C side: SQLite's tables of functions, and the two things that the operating system offers only through C.
//!
//! All of the crate's `unsafe` is in this file. The functions below are a few lines each: they turn C's arguments
//! into Rust's, ask `file`, and pass the call on to the real file, whose memory lies right behind ours.
//!
//! A panic never crosses into C. The calls in which Rust code of ours runs are [`guard`]ed, and answer with an I/O
//! error if it panics; the others only pass their arguments on.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, OsStr, c_char, c_int, c_void},
    io,
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    ptr,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicU64},
    thread,
};

use memmap2::MmapRaw;
use rusqlite::{
    Connection,
    ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs},
};

use super::{
    NAME, Refusal,
    file::{Governed, GovernedWal, ShmLock, Waiting},
};

/// The file-control by which [`take_refusal`] reaches the governed file of a connection. SQLite passes what it does not
/// know on to the VFS, and asks that numbers below 100 be left alone.
const REFUSAL_OP: c_int = 0x4c46_0001;

/// What SQLite holds for an open file: this, and behind it the real file.
#[repr(C)]
struct File {
    base: sqlite3_file,
    handle: *mut Handle,
}

/// What a file of ours is to the rules.
enum Handle {
    Data { governed: Arc<Governed>, name: usize },
    Wal(GovernedWal),
}

/// The governed databases that are open, by the address of the name that SQLite opened them under. The WAL of a
/// database is opened under a name that leads back to that address.
static OPEN: Mutex<BTreeMap<usize, Arc<Governed>>> = Mutex::new(BTreeMap::new());

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Version 2: no memory mapping, so that every read and write comes through here.
    iVersion: 2,
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
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Registers the VFS over the default one, the first time it is called.
pub(crate) fn register() -> rusqlite::Result<()> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    let code = *REGISTERED.get_or_init(|| {
        // SAFETY: a null name asks for the default VFS, which is never unregistered while it is the default.
        let real = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        if real.is_null() {
            return ffi::SQLITE_ERROR;
        }
        // SAFETY: `real` points to a registered VFS. Copied are the functions that take no file of ours; those
        // that take the VFS itself are wrapped, since the real one expects its own address.
        let mut vfs = unsafe { *real };
        vfs.szOsFile += c_int::try_from(size_of::<File>()).unwrap_or(0);
        vfs.zName = NAME.as_ptr();
        vfs.pNext = ptr::null_mut();
        vfs.pAppData = real.cast();
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
        // SAFETY: the structure is leaked, and so outlives every connection; SQLite alone changes it from here on.
        unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) }
    });
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// What [`take_refusal`] asks of a governed file.
struct Asked {
    code: c_int,
    answer: Option<Refusal>,
}

/// Why the VFS refused a call for this schema of a connection with `code`; SQLite's result code if the schema's file
/// is not governed.
pub(crate) fn take_refusal(
    connection: &Connection,
    schema: &str,
    code: c_int,
) -> Result<Option<Refusal>, c_int> {
    let schema = CString::new(schema).map_err(|_| ffi::SQLITE_MISUSE)?;
    let mut asked = Asked { code, answer: None };
    // SAFETY: the connection is open, and `file_control` below takes an `Asked` for this operation; no other VFS
    // knows it.
    let known = unsafe {
        ffi::sqlite3_file_control(connection.handle(), schema.as_ptr(), REFUSAL_OP, (&raw mut asked).cast())
    };
    if known == ffi::SQLITE_OK { Ok(asked.answer) } else { Err(known) }
}

/// The words of a shared mapping, which other processes count in too.
pub(crate) fn words(map: &MmapRaw) -> &[AtomicU64] {
    // SAFETY: a mapping begins at a page and so is aligned, is as long as it says, lives as long as it is borrowed,
    // and nobody reads or writes this memory but through atomics.
    unsafe {
        std::slice::from_raw_parts(map.as_mut_ptr().cast_const().cast(), map.len() / size_of::<AtomicU64>())
    }
}

/// Runs `run` on a thread with a table of file descriptors of its own, in which none but the standard ones are open,
/// and `meanwhile` on this one.
///
/// POSIX takes all of a process's locks on a file away when the process closes *any* descriptor of it, whoever
/// opened that one, and with its locks SQLite loses its safety. On Linux such locks belong to the descriptor
/// table. So this is the way to open, copy and close a database by its path while connections of this process have
/// it open. No descriptor may leave `run`, nor come into it; code of the host's therefore runs in `meanwhile`.
pub(crate) fn with_private_descriptors<T: Send>(
    run: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce(),
) -> io::Result<T> {
    const FIRST: libc::c_uint = 3;
    let private = || {
        // SAFETY: the call takes three integers. It unshares the table of this new thread alone before it closes
        // anything, and nothing that this thread can reach owns a descriptor of the old table.
        let code = unsafe {
            libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)
        };
        if code == 0 { Ok(run()) } else { Err(io::Error::last_os_error()) }
    };
    thread::scope(|scope| {
        let running = thread::Builder::new().name("litefleet-copy".into()).spawn_scoped(scope, private)?;
        meanwhile();
        running.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Runs Rust code on behalf of C, and answers with `SQLITE_IOERR` if it panics.
fn guard(run: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(ffi::SQLITE_IOERR)
}

fn code(result: Result<(), Refusal>) -> c_int {
    result.map_or_else(|refusal| refusal.code(), |()| ffi::SQLITE_OK)
}

/// The VFS beneath.
///
/// # Safety
///
/// `vfs` is the one that [`register`] made.
unsafe fn real_vfs(vfs: *mut sqlite3_vfs) -> *mut sqlite3_vfs {
    // SAFETY: `register` put it there.
    unsafe { (*vfs).pAppData.cast() }
}

/// The real file, and its functions.
///
/// # Safety
///
/// `file` was opened by [`open`] with [`METHODS`] and is not closed.
unsafe fn real(file: *mut sqlite3_file) -> (*mut sqlite3_file, &'static sqlite3_io_methods) {
    // SAFETY: `szOsFile` has room for both, and the real VFS filled in its part, whose functions are static.
    unsafe {
        let real: *mut sqlite3_file = file.cast::<File>().add(1).cast();
        (real, &*(*real).pMethods)
    }
}

/// What the file is to the rules.
///
/// # Safety
///
/// As for [`real`].
unsafe fn handle<'a>(file: *mut sqlite3_file) -> &'a Handle {
    // SAFETY: `open` put a boxed handle there, which `close` takes away.
    unsafe { &*(*file.cast::<File>()).handle }
}

/// Calls a function of the real file, which has it: a VFS in WAL mode has all functions of version 2.
macro_rules! pass {
    ($file:ident . $method:ident ( $($argument:expr),* )) => {{
        // SAFETY: SQLite calls this with a file that `open` opened, and with arguments that the real function takes.
        unsafe {
            let (real, methods) = real($file);
            match methods.$method {
                Some(method) => method(real, $($argument),*),
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
        let mut made = None;
        let code = guard(|| match handle_for(name, flags) {
            Ok(handle) => {
                made = handle;
                ffi::SQLITE_OK
            }
            Err(code) => code,
        });
        (*file).pMethods = ptr::null();
        if code != ffi::SQLITE_OK {
            return code;
        }
        // What no rule concerns is the real VFS's own file, from its first byte.
        let Some(made) = made else { return real_open(real_vfs, name, file, flags, out_flags) };
        let real: *mut sqlite3_file = file.cast::<File>().add(1).cast();
        (*real).pMethods = ptr::null();
        let code = real_open(real_vfs, name, real, flags, out_flags);
        if code != ffi::SQLITE_OK {
            // A failed open that leaves functions behind wants to be closed.
            if let Some(close) = (*real).pMethods.as_ref().and_then(|methods| methods.xClose) {
                close(real);
            }
            return code;
        }
        if let Handle::Data { governed, name } = &made {
            OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(*name, Arc::clone(governed));
        }
        (*file.cast::<File>()).handle = Box::into_raw(Box::new(made));
        (*file).pMethods = &raw const METHODS;
        ffi::SQLITE_OK
    }
}

/// What a file that is being opened is to the rules: nothing if it is nothing to them, and a result code if it must
/// not be opened.
///
/// # Safety
///
/// `name` is null or one that SQLite gave to `xOpen` together with `flags`.
unsafe fn handle_for(name: *const c_char, flags: c_int) -> Result<Option<Handle>, c_int> {
    if name.is_null() {
        return Ok(None);
    }
    if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        // SAFETY: a name is a C string.
        let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
        let governed = if let Some(governor) = Waiting::take() {
            Some(Governed::new(governor, path.to_owned()))
        } else {
            let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            let same = open.values().find(|governed| governed.path() == path);
            let in_a_fleet =
                |governed: &Arc<Governed>| governed.root().is_some_and(|root| path.starts_with(root));
            if same.is_none() && open.values().any(in_a_fleet) {
                return Err(ffi::SQLITE_CANTOPEN);
            }
            same.map(|governed| governed.another())
        };
        let handle = |governed| Handle::Data { governed: Arc::new(governed), name: name as usize };
        return Ok(governed.map(handle));
    }
    if flags & ffi::SQLITE_OPEN_WAL != 0 {
        // SAFETY: with this flag the name comes from a pager, and leads back to the name of its database.
        let database = unsafe { ffi::sqlite3_filename_database(name) } as usize;
        let governed = OPEN.lock().unwrap_or_else(PoisonError::into_inner).get(&database).cloned();
        return Ok(governed.map(GovernedWal::new).map(Handle::Wal));
    }
    Ok(None)
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let code = pass!(file.xClose());
    // SAFETY: SQLite closes a file once, and uses it no more.
    let handle = unsafe {
        (*file).pMethods = ptr::null();
        Box::from_raw((*file.cast::<File>()).handle)
    };
    if let Handle::Data { name, .. } = &*handle {
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
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
    pass!(file.xRead(buffer, len, offset))
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    buffer: *const c_void,
    len: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open.
    if let Handle::Wal(wal) = unsafe { handle(file) } {
        let admitted = guard(|| {
            let (Ok(size), Ok(at)) = (usize::try_from(len), u64::try_from(offset)) else {
                return ffi::SQLITE_IOERR;
            };
            // SAFETY: SQLite gives `len` bytes at `buffer`.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), size) };
            code(wal.before_write(bytes, at, |into, from| {
                let (Ok(size), Ok(at)) = (c_int::try_from(into.len()), sqlite3_int64::try_from(from)) else {
                    return false;
                };
                pass!(file.xRead(into.as_mut_ptr().cast(), size, at)) == ffi::SQLITE_OK
            }))
        });
        if admitted != ffi::SQLITE_OK {
            return admitted;
        }
    }
    pass!(file.xWrite(buffer, len, offset))
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    pass!(file.xTruncate(size))
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    pass!(file.xSync(flags))
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    pass!(file.xFileSize(size))
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    if let Handle::Data { governed, .. } = unsafe { handle(file) } {
        let admitted = guard(|| match level {
            ffi::SQLITE_LOCK_SHARED => code(governed.begin_read()),
            // In WAL mode these are the lock of the last to close. Outside of it they are the switch into it, which
            // every connection makes first of all, whether or not writes are blocked.
            _ => ffi::SQLITE_OK,
        });
        if admitted != ffi::SQLITE_OK {
            return admitted;
        }
    }
    pass!(file.xLock(level))
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    pass!(file.xUnlock(level))
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, held: *mut c_int) -> c_int {
    pass!(file.xCheckReservedLock(held))
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: the file is open.
    match (op, unsafe { handle(file) }) {
        (REFUSAL_OP, Handle::Data { governed, .. }) => guard(|| {
            // SAFETY: the argument of this operation is `take_refusal`'s, above.
            let asked = unsafe { &mut *argument.cast::<Asked>() };
            asked.answer = governed.take_refusal(asked.code);
            ffi::SQLITE_OK
        }),
        (ffi::SQLITE_FCNTL_PRAGMA, Handle::Data { .. }) => {
            // SAFETY: the argument is what SQLite documents for this operation.
            match guard(|| unsafe { refuse_pragma(argument.cast()) }) {
                ffi::SQLITE_OK => pass!(file.xFileControl(op, argument)),
                refused => refused,
            }
        }
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
unsafe fn refuse_pragma(argument: *mut *mut c_char) -> c_int {
    // SAFETY: the caller vouches for three pointers, the last of which may be null.
    unsafe {
        let text = |at: usize| {
            let text: *mut c_char = *argument.add(at);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
        };
        let refused = text(1).and_then(|name| Governed::refused_pragma(&name, text(2).as_deref()));
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
    pass!(file.xDeviceCharacteristics())
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    memory: *mut *mut c_void,
) -> c_int {
    pass!(file.xShmMap(region, size, extend, memory))
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    let Handle::Data { governed, .. } = (unsafe { handle(file) }) else {
        return pass!(file.xShmLock(offset, n, flags));
    };
    let lock = ShmLock {
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
        take: flags & ffi::SQLITE_SHM_LOCK != 0,
        shared: flags & ffi::SQLITE_SHM_SHARED != 0,
    };
    let admitted = guard(|| code(governed.before_shm_lock(lock)));
    if admitted != ffi::SQLITE_OK {
        return admitted;
    }
    let taken = pass!(file.xShmLock(offset, n, flags));
    if taken == ffi::SQLITE_OK {
        governed.after_shm_lock(lock);
    }
    taken
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: the file is open.
    unsafe {
        let (real, methods) = real(file);
        if let Some(barrier) = methods.xShmBarrier {
            barrier(real);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    pass!(file.xShmUnmap(delete))
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
    fn delete = xDelete(name: *const c_char, sync_dir: c_int) -> c_int, else ffi::SQLITE_IOERR_DELETE;
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
