//! A VFS below litefleet's, registered as the default: it observes every call to the disk, and can fail calls.
//!
//! This file contains the interface to C. [`Watcher`]s decide what to do with a call.

#![expect(unsafe_code, reason = "SQLite's VFS interface is C")]

use std::{
    ffi::{CStr, OsStr, c_char, c_int, c_void},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    ptr, slice,
    sync::{Arc, Once, PoisonError, RwLock},
    thread::{self, ThreadId},
};

use litefleet::rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

/// An open file, as watchers see it.
pub(crate) struct Opened {
    /// `None` for an unnamed file.
    pub(crate) path: Option<PathBuf>,
    /// The thread that opened it.
    pub(crate) thread: ThreadId,
}

/// The role of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Data,
    Wal,
    Journal,
    Unnamed,
}

impl Opened {
    pub(crate) fn kind(&self) -> Kind {
        match self.path.as_ref().map(|path| path.to_string_lossy()) {
            None => Kind::Unnamed,
            Some(path) if path.ends_with("-wal") => Kind::Wal,
            Some(path) if path.ends_with("-journal") => Kind::Journal,
            Some(_) => Kind::Data,
        }
    }
}

/// A call of SQLite or litefleet to the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call<'a> {
    /// A file was opened with `SQLITE_OPEN_CREATE`.
    Create,
    Read,
    Write {
        at: u64,
        bytes: &'a [u8],
    },
    Truncate {
        len: u64,
    },
    Sync,
    /// `sync`: whether the directory is to be flushed.
    Delete {
        sync: bool,
    },
    /// Maps a region of shared memory.
    ShmMap,
    /// Takes or releases shared-memory locks, starting with `first`.
    ShmLock {
        first: c_int,
        take: bool,
        shared: bool,
    },
    /// Takes a lock of the file.
    Lock {
        level: c_int,
    },
}

impl Call<'_> {
    /// Whether the call may change data on disk.
    pub(crate) fn is_change(&self) -> bool {
        !matches!(self, Self::Read | Self::ShmMap | Self::ShmLock { .. } | Self::Lock { .. })
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// The call fails with this result code.
    Fail(c_int),
    /// The call takes effect, a write only by half, but fails with this result code.
    Tear(c_int),
}

/// Observes calls before they are executed. Must not panic, because C is the caller.
pub(crate) trait Watcher: Send + Sync {
    fn covers(&self, file: &Opened) -> bool;

    fn see(&self, file: &Opened, call: Call<'_>) -> Verdict;
}

static WATCHERS: RwLock<Vec<Arc<dyn Watcher>>> = RwLock::new(Vec::new());

/// Unregisters its watcher when dropped.
pub(crate) struct WatchGuard(Arc<dyn Watcher>);

/// Registers a watcher for all calls from now on.
pub(crate) fn watch(watcher: Arc<dyn Watcher>) -> WatchGuard {
    WATCHERS.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&watcher));
    WatchGuard(watcher)
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        let mut watchers = WATCHERS.write().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| !Arc::ptr_eq(watcher, &self.0));
    }
}

fn notify(file: &Opened, call: Call<'_>) -> Verdict {
    let watchers = WATCHERS.read().unwrap_or_else(PoisonError::into_inner);
    let verdicts =
        watchers.iter().filter(|watcher| watcher.covers(file)).map(|watcher| watcher.see(file, call));
    verdicts.fold(Verdict::Pass, |all, verdict| if verdict == Verdict::Pass { all } else { verdict })
}

/// Our part of an open file, which precedes the part of the real VFS.
#[repr(C)]
struct File {
    base: sqlite3_file,
    opened: *mut Opened,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // No memory mapping, which would bypass this VFS.
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

/// Registers this VFS as the default. Call it before the first database is opened.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a null name requests the default VFS, which is the system's and is never unregistered.
        let real = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        assert!(!real.is_null());
        // SAFETY: `real` points to a registered VFS. The copied functions access neither the VFS nor a file.
        let mut vfs = unsafe { *real };
        vfs.szOsFile += c_int::try_from(size_of::<File>()).unwrap();
        vfs.zName = c"fault".as_ptr();
        vfs.pNext = ptr::null_mut();
        vfs.pAppData = real.cast();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        // SAFETY: the structure is leaked, and only SQLite modifies it from now on.
        let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 1) };
        assert_eq!(code, ffi::SQLITE_OK);
    });
}

/// The real file behind one of ours.
///
/// # Safety
///
/// `file` was opened by [`open`] and is not closed.
unsafe fn real(file: *mut sqlite3_file) -> (*mut sqlite3_file, &'static sqlite3_io_methods) {
    // SAFETY: `szOsFile` includes both parts, and the real VFS initialized its part with static functions.
    unsafe {
        let real: *mut sqlite3_file = file.cast::<File>().add(1).cast();
        (real, &*(*real).pMethods)
    }
}

/// The watchers' view of the file.
///
/// # Safety
///
/// As for [`real`].
unsafe fn opened<'a>(file: *mut sqlite3_file) -> &'a Opened {
    // SAFETY: `open` stored a valid pointer, and `close` frees it.
    unsafe { &*(*file.cast::<File>()).opened }
}

/// Calls a function of the real file.
macro_rules! pass {
    ($file:ident . $method:ident ( $($argument:expr),* )) => {{
        // SAFETY: callers pass a file opened by `open`, and arguments of the real method's types.
        unsafe {
            let (file, methods) = real($file);
            match methods.$method {
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
    // SAFETY: SQLite passes the VFS registered above, a name that is null or a C string, and `szOsFile` bytes of
    // memory.
    unsafe {
        (*file).pMethods = ptr::null();
        let path = (!name.is_null())
            .then(|| Path::new(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())).to_owned());
        let real_vfs: *mut sqlite3_vfs = (*vfs).pAppData.cast();
        let Some(real_open) = (*real_vfs).xOpen else { return ffi::SQLITE_CANTOPEN };
        let inner: *mut sqlite3_file = file.cast::<File>().add(1).cast();
        (*inner).pMethods = ptr::null();
        let code = real_open(real_vfs, name, inner, flags, out_flags);
        if code != ffi::SQLITE_OK {
            if let Some(close) = (*inner).pMethods.as_ref().and_then(|methods| methods.xClose) {
                close(inner);
            }
            return code;
        }
        let opened = Opened { path, thread: thread::current().id() };
        if flags & ffi::SQLITE_OPEN_CREATE != 0
            && let Verdict::Fail(code) | Verdict::Tear(code) = notify(&opened, Call::Create)
        {
            if let Some(close) = (*inner).pMethods.as_ref().and_then(|methods| methods.xClose) {
                close(inner);
            }
            return code;
        }
        (*file.cast::<File>()).opened = Box::into_raw(Box::new(opened));
        (*file).pMethods = &raw const METHODS;
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: SQLite passes the VFS registered above and a C string.
    unsafe {
        let path = Path::new(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())).to_owned();
        let opened = Opened { path: Some(path), thread: thread::current().id() };
        match notify(&opened, Call::Delete { sync: sync_dir != 0 }) {
            Verdict::Pass => {}
            Verdict::Fail(code) | Verdict::Tear(code) => return code,
        }
        let real: *mut sqlite3_vfs = (*vfs).pAppData.cast();
        (*real).xDelete.map_or(ffi::SQLITE_IOERR_DELETE, |delete| delete(real, name, sync_dir))
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let code = pass!(file.xClose());
    // SAFETY: SQLite closes a file once and does not use it afterwards, so `opened` is freed once.
    unsafe {
        (*file).pMethods = ptr::null();
        drop(Box::from_raw((*file.cast::<File>()).opened));
    }
    code
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    len: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open.
    match notify(unsafe { opened(file) }, Call::Read) {
        Verdict::Pass => pass!(file.xRead(buffer, len, offset)),
        Verdict::Fail(code) | Verdict::Tear(code) => code,
    }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    buffer: *const c_void,
    len: c_int,
    offset: sqlite3_int64,
) -> c_int {
    let (Ok(size), Ok(at)) = (usize::try_from(len), u64::try_from(offset)) else { return ffi::SQLITE_IOERR };
    // SAFETY: the file is open, and there are `len` bytes at `buffer`.
    let (opened, bytes) = unsafe { (opened(file), slice::from_raw_parts(buffer.cast::<u8>(), size)) };
    match notify(opened, Call::Write { at, bytes }) {
        Verdict::Pass => pass!(file.xWrite(buffer, len, offset)),
        Verdict::Fail(code) => code,
        Verdict::Tear(code) => {
            pass!(file.xWrite(buffer, len / 2, offset));
            code
        }
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    match notify(unsafe { opened(file) }, Call::Truncate { len: u64::try_from(size).unwrap_or(0) }) {
        Verdict::Pass => pass!(file.xTruncate(size)),
        Verdict::Fail(code) | Verdict::Tear(code) => code,
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    match notify(unsafe { opened(file) }, Call::Sync) {
        Verdict::Pass => pass!(file.xSync(flags)),
        Verdict::Fail(code) | Verdict::Tear(code) => code,
    }
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    pass!(file.xFileSize(size))
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    match notify(unsafe { opened(file) }, Call::Lock { level }) {
        Verdict::Pass => pass!(file.xLock(level)),
        Verdict::Fail(code) | Verdict::Tear(code) => code,
    }
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    pass!(file.xUnlock(level))
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, held: *mut c_int) -> c_int {
    pass!(file.xCheckReservedLock(held))
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    pass!(file.xFileControl(op, argument))
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
    // SAFETY: the file is open.
    match notify(unsafe { opened(file) }, Call::ShmMap) {
        Verdict::Pass => pass!(file.xShmMap(region, size, extend, memory)),
        Verdict::Fail(code) | Verdict::Tear(code) => {
            // SAFETY: SQLite passes a valid pointer for the result.
            unsafe { *memory = ptr::null_mut() };
            code
        }
    }
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    let call = Call::ShmLock {
        first: offset,
        take: flags & ffi::SQLITE_SHM_LOCK != 0,
        shared: flags & ffi::SQLITE_SHM_SHARED != 0,
    };
    // SAFETY: the file is open.
    match notify(unsafe { opened(file) }, call) {
        Verdict::Pass => pass!(file.xShmLock(offset, n, flags)),
        Verdict::Fail(code) => code,
        Verdict::Tear(code) => {
            pass!(file.xShmLock(offset, n, flags));
            code
        }
    }
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: the file is open.
    unsafe {
        let (file, methods) = real(file);
        if let Some(barrier) = methods.xShmBarrier {
            barrier(file);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    pass!(file.xShmUnmap(delete))
}
