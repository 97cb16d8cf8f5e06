//! An open file in the memory that SQLite allocates for it.

use std::ffi::c_char;

use rusqlite::ffi::{sqlite3_file, sqlite3_vfs};

use crate::vfs::file::VfsFile;

/// An open file, as SQLite holds it.
#[repr(C)]
pub(super) struct File {
    _base: sqlite3_file,
    /// The layers of the file. Set while the file is open.
    pub(super) layers: Option<Box<dyn VfsFile>>,
    /// The file of the default VFS: in the memory after this structure, or in `memory` if it was reopened.
    pub(super) real: *mut sqlite3_file,
    /// The memory of `real` if that is not after this structure. It is a vector and no box: moving a box asserts that no pointer
    /// to its content is used.
    pub(super) memory: Vec<u64>,
    /// The default VFS, and the name that it opened the file under.
    pub(super) vfs: *mut sqlite3_vfs,
    pub(super) name: *const c_char,
}
