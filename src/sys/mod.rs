//! The unsafe code outside of the VFS shim, behind safe interfaces.
//!
//! - [`fs`] has the file system calls that POSIX does not have, without unsafe code.
//! - [`isolated_fds`] opens and closes a database file by its path without dropping the process's POSIX locks on it.
//! - [`read_buf`] is memory that a caller in C passes to be filled.
//! - [`shared_words`] maps a file as atomic words.
//! - [`sqlite_log`] writes to SQLite's error log.
//! - [`wal_index`] reads the wal-index that SQLite has mapped.

pub(crate) mod fs;
pub(crate) mod isolated_fds;
pub(crate) mod read_buf;
pub(crate) mod shared_words;
pub(crate) mod sqlite_log;
pub(crate) mod wal_index;
