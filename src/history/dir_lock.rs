//! The exclusive lock of an archive directory, under which files are deleted.

use std::{thread, time::Duration};

use crate::{
    disk::{DirLock, Disk},
    error::Result,
    layout::ArchivePaths,
};

/// Maximum number of attempts, and how much longer each attempt waits than the one before.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(1);

/// Locks the archive exclusively. Returns `None` while it is in use.
///
/// A process that lists recovery points or begins a generation holds a shared lock for a moment, and so does a program that this
/// process is starting. This function waits for these, but not for a restore.
pub(super) fn exclusive(paths: &ArchivePaths) -> Result<Option<DirLock>> {
    for attempt in 0..ATTEMPTS {
        thread::sleep(PAUSE * attempt);
        if let Some(lock) = Disk::lock_dir(paths.dir())? {
            return Ok(Some(lock));
        }
    }
    Ok(None)
}
