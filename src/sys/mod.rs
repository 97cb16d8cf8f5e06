//! The unsafe code outside of the VFS shim, behind safe interfaces.
//!
//! - [`fs`] has the file system calls that POSIX does not have, without unsafe code.
//! - `isolated_fds` gives a thread its own descriptor table, on Linux.
//! - [`libaegis`] calls the C library of the AEGIS ciphers.
//! - [`read_buf`] is memory that a caller in C passes to be filled.
//! - [`shared_words`] maps a file as atomic words.
//! - `sqlite_file` opens database files through SQLite's VFS, where `isolated_fds` does not exist.
//! - [`sqlite_log`] writes to SQLite's error log.

pub(crate) mod fs;
#[cfg(all(target_os = "linux", not(litefleet_posix)))]
pub(crate) mod isolated_fds;
pub(crate) mod libaegis;
pub(crate) mod read_buf;
pub(crate) mod shared_words;
#[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
#[cfg_attr(not(feature = "internals"), expect(unreachable_pub, reason = "tests replace the storage"))]
pub(crate) mod sqlite_file;
pub(crate) mod sqlite_log;
