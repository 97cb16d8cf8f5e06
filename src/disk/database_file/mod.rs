//! Database files and their wal-indexes, opened by path while connections of this process may have them open.
//!
//! POSIX drops all locks of a process on a file when the process closes *any* descriptor of that file, whichever code opened it,
//! and SQLite relies on these locks. This module therefore opens no descriptor that this process closes while it may hold a lock:
//!
//! - `linux.rs` opens files on a thread with a descriptor table that it shares with no other thread. On Linux, POSIX locks belong
//!   to the table.
//! - `posix.rs` opens files through SQLite's own VFS, which closes the last descriptor of a file after the last lock of the
//!   process on it.
//!
//! Both treat a connection of this process as that of another process, whether it uses the VFS of this crate or not.

#[cfg(all(target_os = "linux", not(litefleet_posix)))]
#[path = "linux.rs"]
mod imp;
#[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
#[path = "posix.rs"]
mod imp;

use std::{io, path::Path};

pub(crate) use imp::{DatabaseFile, ExclusiveLock, WalIndexFile, run, run_while};

use super::failed;
use crate::error::Result;

impl DatabaseFile {
    /// Fills `into` from the file. Fails if the file ends before.
    pub(crate) fn read_at(&self, into: &mut [u8], offset: u64) -> Result<()> {
        match self.read_up_to(into, offset)? {
            count if count < into.len() => Err(unexpected_end(self.path())),
            _ => Ok(()),
        }
    }
}

#[cold]
fn unexpected_end(path: &Path) -> crate::error::Error {
    failed("reading", path, io::ErrorKind::UnexpectedEof.into())
}
