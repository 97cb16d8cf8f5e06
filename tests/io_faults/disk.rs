//! A VFS beneath the crate's, which is registered over whatever is the default: it sees every byte that goes to the disk,
//! and may answer in the disk's place.
//!
//! All that is C is here. What is done with what is seen is up to the [`Watcher`]s.

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

/// An open file, as the watchers know it.
pub(crate) struct Opened {
    /// Nothing for a file without a name.
    pub(crate) path: Option<PathBuf>,
    /// The thread that opened it.
    pub(crate) thread: ThreadId,
}

/// What a file is to SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Data,
    Wal,
    Journal,
    Nameless,
}

impl Opened {
    pub(crate) fn kind(&self) -> Kind {
        match self.path.as_ref().map(|path| path.to_string_lossy()) {
            None => Kind::Nameless,
            Some(path) if path.ends_with("-wal") => Kind::Wal,
            Some(path) if path.ends_with("-journal") => Kind::Journal,
            Some(_) => Kind::Data,
        }
    }
}

/// What SQLite, through the crate, asks of the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call<'a> {
    /// A file was opened that is made where it is not there.
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
    /// With whether the directory is to be flushed.
    Delete {
        sync: bool,
    },
    /// A region of the shared memory is mapped.
    ShmMap,
    /// Locks of the shared memory are taken or given back, from this one on.
    ShmLock {
        first: c_int,
        take: bool,
        shared: bool,
    },
    /// A lock of the file is taken.
    Lock {
        level: c_int,
    },
}

impl Call<'_> {
    /// Whether something may be changed on the disk.
    pub(crate) fn is_a_change(&self) -> bool {
        !matches!(self, Self::Read | Self::ShmMap | Self::ShmLock { .. } | Self::Lock { .. })
    }
}

/// What is to come of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// It fails with this result code.
    Fail(c_int),
    /// It fails so, and half of what was to be written is written; or, where nothing is, it was done.
    Tear(c_int),
}

/// Who sees the calls, before they are passed on. It must not panic: C called it.
pub(crate) trait Watcher: Send + Sync {
    fn covers(&self, file: &Opened) -> bool;

    fn see(&self, file: &Opened, call: Call<'_>) -> Verdict;
}

static WATCHERS: RwLock<Vec<Arc<dyn Watcher>>> = RwLock::new(Vec::new());

/// A watcher sees calls as long as this lives.
pub(crate) struct ProgressFn(Arc<dyn Watcher>);

/// Lets a watcher see what is asked of the disk from here on.
pub(crate) fn watch(watcher: Arc<dyn Watcher>) -> ProgressFn {
    WATCHERS.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&watcher));
    ProgressFn(watcher)
}

impl Drop for ProgressFn {
    fn drop(&mut self) {
        let mut watchers = WATCHERS.write().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| !Arc::ptr_eq(watcher, &self.0));
    }
}

fn shown(file: &Opened, call: Call<'_>) -> Verdict {
    let watchers = WATCHERS.read().unwrap_or_else(PoisonError::into_inner);
    let verdicts =
        watchers.iter().filter(|watcher| watcher.covers(file)).map(|watcher| watcher.see(file, call));
    verdicts.fold(Verdict::Pass, |all, verdict| if verdict == Verdict::Pass { all } else { verdict })
}

/// What SQLite, or the crate's VFS, holds for an open file: this, and behind it the real file.
#[repr(C)]
struct File {
    base: sqlite3_file,
    opened: *mut Opened,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // No memory mapping, which would not come through here.
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

/// Makes this VFS the default one. It must be called before the first database is opened.
pub(crate) fn slide_beneath() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a null name asks for the default VFS, which is the system's own, and is never unregistered.
        let real = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        assert!(!real.is_null());
        // SAFETY: it points to a registered VFS. The functions that are copied look at neither the VFS nor a file.
        let mut vfs = unsafe { *real };
        vfs.szOsFile += c_int::try_from(size_of::<File>()).unwrap();
        vfs.zName = c"beneath".as_ptr();
        vfs.pNext = ptr::null_mut();
        vfs.pAppData = real.cast();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        // SAFETY: the structure is leaked, and SQLite alone changes it from here on.
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
    // SAFETY: `szOsFile` has room for both, and the real VFS filled in its part, whose functions are static.
    unsafe {
        let real: *mut sqlite3_file = file.cast::<File>().add(1).cast();
        (real, &*(*real).pMethods)
    }
}

/// What the watchers know the file as.
///
/// # Safety
///
/// As for [`real`].
unsafe fn opened<'a>(file: *mut sqlite3_file) -> &'a Opened {
    // SAFETY: `open` put it there, and `close` takes it away.
    unsafe { &*(*file.cast::<File>()).opened }
}

/// Calls a function of the real file.
macro_rules! pass {
    ($file:ident . $method:ident ( $($argument:expr),* )) => {{
        // SAFETY: this is called with a file that `open` opened, and with arguments that the real function takes.
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
    // SAFETY: this is called with the VFS that was registered above, a name that is null or a C string, and memory of
    // `szOsFile` bytes.
    unsafe {
        (*file).pMethods = ptr::null();
        let path = (!name.is_null())
            .then(|| Path::new(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())).to_owned());
        let real_vfs: *mut sqlite3_vfs = (*vfs).pAppData.cast();
        let Some(real_open) = (*real_vfs).xOpen else { return ffi::SQLITE_CANTOPEN };
        let beneath: *mut sqlite3_file = file.cast::<File>().add(1).cast();
        (*beneath).pMethods = ptr::null();
        let code = real_open(real_vfs, name, beneath, flags, out_flags);
        if code != ffi::SQLITE_OK {
            if let Some(close) = (*beneath).pMethods.as_ref().and_then(|methods| methods.xClose) {
                close(beneath);
            }
            return code;
        }
        let opened = Opened { path, thread: thread::current().id() };
        if flags & ffi::SQLITE_OPEN_CREATE != 0
            && let Verdict::Fail(code) | Verdict::Tear(code) = shown(&opened, Call::Create)
        {
            if let Some(close) = (*beneath).pMethods.as_ref().and_then(|methods| methods.xClose) {
                close(beneath);
            }
            return code;
        }
        (*file.cast::<File>()).opened = Box::into_raw(Box::new(opened));
        (*file).pMethods = &raw const METHODS;
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: this is called with the VFS that was registered above, and a C string.
    unsafe {
        let path = Path::new(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())).to_owned();
        let opened = Opened { path: Some(path), thread: thread::current().id() };
        match shown(&opened, Call::Delete { sync: sync_dir != 0 }) {
            Verdict::Pass => {}
            Verdict::Fail(code) | Verdict::Tear(code) => return code,
        }
        let real: *mut sqlite3_vfs = (*vfs).pAppData.cast();
        (*real).xDelete.map_or(ffi::SQLITE_IOERR_DELETE, |delete| delete(real, name, sync_dir))
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let code = pass!(file.xClose());
    // SAFETY: a file is closed once, and used no more.
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
    match shown(unsafe { opened(file) }, Call::Read) {
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
    match shown(opened, Call::Write { at, bytes }) {
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
    match shown(unsafe { opened(file) }, Call::Truncate { len: u64::try_from(size).unwrap_or(0) }) {
        Verdict::Pass => pass!(file.xTruncate(size)),
        Verdict::Fail(code) | Verdict::Tear(code) => code,
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    match shown(unsafe { opened(file) }, Call::Sync) {
        Verdict::Pass => pass!(file.xSync(flags)),
        Verdict::Fail(code) | Verdict::Tear(code) => code,
    }
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    pass!(file.xFileSize(size))
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    match shown(unsafe { opened(file) }, Call::Lock { level }) {
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
    match shown(unsafe { opened(file) }, Call::ShmMap) {
        Verdict::Pass => pass!(file.xShmMap(region, size, extend, memory)),
        Verdict::Fail(code) | Verdict::Tear(code) => {
            // SAFETY: SQLite gives a place to be set.
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
    match shown(unsafe { opened(file) }, call) {
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
