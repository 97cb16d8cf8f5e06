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
/// A process holds a shared lock briefly while it lists recovery points or begins a generation. A child process briefly holds the
/// locks of this process, between fork and exec. This function waits for these locks, but not for that of a restore.
pub(super) fn exclusive(paths: &ArchivePaths) -> Result<Option<DirLock>> {
    for attempt in 0..ATTEMPTS {
        thread::sleep(PAUSE * attempt);
        if let Some(lock) = Disk::lock_dir(paths.dir())? {
            return Ok(Some(lock));
        }
    }
    Ok(None)
}
