//! The data that a VFS of this crate was registered with.

use rusqlite::ffi::sqlite3_vfs;

/// The data that `pAppData` of a VFS points to.
pub(super) struct Registered {
    /// The default VFS.
    pub(super) real: *mut sqlite3_vfs,
    /// Whether SQL opens no file by its path.
    pub(super) is_fenced: bool,
}

/// The data that a VFS was registered with.
///
/// # Safety
///
/// `vfs` is one that [`register`](super::register::register) has registered.
pub(super) unsafe fn registered<'a>(vfs: *mut sqlite3_vfs) -> &'a Registered {
    // SAFETY: `register` has set `pAppData` to a leaked box, which nothing changes.
    unsafe { &*(*vfs).pAppData.cast::<Registered>() }
}

/// The default VFS.
///
/// # Safety
///
/// As for [`registered`].
pub(super) unsafe fn real_vfs(vfs: *mut sqlite3_vfs) -> *mut sqlite3_vfs {
    // SAFETY: the caller upholds the contract.
    unsafe { registered(vfs) }.real
}
