//! A default VFS whose files have `sqlite3_io_methods` of version 1, without shared memory: a WAL database is refused, and no
//! method beyond the table of version 1 is called.
//!
//! The test runs its own binary as a child process, because a process has one default VFS.

#![expect(unsafe_code, reason = "SQLite's VFS interface is C")]

use std::{
    env,
    ffi::{c_char, c_int, c_void},
    process::{self, Command},
    ptr,
};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, ErrorKind,
    rusqlite::{
        Connection, OpenFlags,
        ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs},
    },
};

const ROLE: &str = "LITEFLEET_VERSION_1_CHILD";

/// Methods beyond the table of version 1 must not be called.
unsafe extern "C" fn no_map(
    _: *mut sqlite3_file,
    _: c_int,
    _: c_int,
    _: c_int,
    _: *mut *mut c_void,
) -> c_int {
    process::abort();
}

unsafe extern "C" fn no_lock(_: *mut sqlite3_file, _: c_int, _: c_int, _: c_int) -> c_int {
    process::abort();
}

unsafe extern "C" fn no_barrier(_: *mut sqlite3_file) {
    process::abort();
}

unsafe extern "C" fn no_unmap(_: *mut sqlite3_file, _: c_int) -> c_int {
    process::abort();
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes the VFS registered below and valid arguments of `xOpen`; an open file has methods.
    unsafe {
        let real: *mut sqlite3_vfs = (*vfs).pAppData.cast();
        let code =
            ((*real).xOpen).map_or(ffi::SQLITE_CANTOPEN, |open| open(real, name, file, flags, out_flags));
        if code == ffi::SQLITE_OK {
            // Leaked, because the process ends soon.
            (*file).pMethods = Box::leak(Box::new(sqlite3_io_methods {
                iVersion: 1,
                xShmMap: Some(no_map),
                xShmLock: Some(no_lock),
                xShmBarrier: Some(no_barrier),
                xShmUnmap: Some(no_unmap),
                ..*(*file).pMethods
            }));
        }
        code
    }
}

/// Registers a VFS with files of version 1 as the default.
fn register() {
    // SAFETY: a null name requests the default VFS, whose structure is copied, and the copy is leaked.
    unsafe {
        let real = ffi::sqlite3_vfs_find(ptr::null());
        let vfs = sqlite3_vfs {
            zName: c"version-1".as_ptr(),
            pNext: ptr::null_mut(),
            pAppData: real.cast(),
            xOpen: Some(open),
            ..*real
        };
        assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 1), ffi::SQLITE_OK);
    }
}

/// The child: a database that needs shared memory is refused, and the process survives.
fn run_child(root: &str) {
    let plane = ControlPlane::open(root).unwrap();
    plane.create_group("default").unwrap();
    plane.create_database(CreateDatabaseInput::new("a", "default")).unwrap();
    register();
    let error = plane.connect("a", ConnectOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("shared memory"), "{error}");
    // A new root has a catalog without WAL, or is refused.
    let _may_fail = ControlPlane::open(format!("{root}-new")).and_then(|plane| plane.create_group("default"));
    // A file of the host opened through litefleet's VFS works without shared memory.
    let copy = format!("{root}-copy.db");
    let own =
        Connection::open_with_flags_and_vfs(&copy, OpenFlags::default(), c"litefleet-unfenced").unwrap();
    own.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1); VACUUM").unwrap();
    let mode: String = own.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    println!("done");
}

#[test]
fn default_vfs_without_shared_memory_is_refused() {
    if let Ok(root) = env::var(ROLE) {
        return run_child(&root);
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "io_methods_version_1::default_vfs_without_shared_memory_is_refused",
            "--nocapture",
        ])
        .env(ROLE, dir.path().join("root"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("done"), "{}: {text}{failed}", output.status);
}
