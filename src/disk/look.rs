//! What can be known of a file without changing it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self as unix, Access, AtFlags},
    io::Errno,
    process::{Flock, FlockType, fcntl_getlk},
};

use super::{Disk, failed};
use crate::error::Result;

/// The largest file that SQLite makes beside a database without having been asked to write: the memory shared between
/// the readers of a log.
const SMALL_FILE: u64 = 32 << 10;

impl Disk {
    /// The length of a file and the time of its last change in nanoseconds since 1970, found without opening it; nothing
    /// if it is not there.
    pub(crate) fn last_change(path: &Path) -> Result<Option<(u64, i64)>> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("looking at", path, error)),
            Ok(found) => {
                let nanos = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
                Ok(Some((found.len(), nanos)))
            }
        }
    }

    /// The size of an open file.
    pub(crate) fn len_of(file: &File, path: &Path) -> Result<u64> {
        file.metadata().map(|found| found.len()).map_err(|error| failed("looking at", path, error))
    }

    /// The size of a file, found without opening it; nothing if it is not there.
    pub(crate) fn len(path: &Path) -> Result<Option<u64>> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(|found| Some(found.len())).map_err(|error| failed("looking at", path, error)),
        }
    }

    pub(crate) fn exists(path: &Path) -> Result<bool> {
        path.try_exists().map_err(|error| failed("looking for", path, error))
    }

    /// Whether a directory is at a path, and not a link to one.
    pub(crate) fn is_dir(path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
    }

    /// What tells a file from all others, whatever its name; nothing if it is not there.
    pub(crate) fn inode(path: &Path) -> Option<(u64, u64)> {
        fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
    }

    /// Whether a file that was found to be this one is still at a path.
    pub(crate) fn is_at(path: &Path, inode: Option<(u64, u64)>) -> bool {
        inode.is_some() && Self::inode(path) == inode
    }

    /// Whether the file system of a directory has no room for a small file, or no name left for one. What cannot be
    /// asked is not full.
    pub(crate) fn is_full(dir: &Path) -> bool {
        unix::statvfs(dir).is_ok_and(|found| {
            // Some file systems do not count names.
            let no_names = found.f_files > 0 && found.f_favail == 0;
            no_names || found.f_bavail.saturating_mul(found.f_frsize) < SMALL_FILE
        })
    }

    /// Whether the file system of a directory has this many bytes free. What cannot be asked has not.
    pub(crate) fn has_free(dir: &Path, bytes: u64) -> bool {
        unix::statvfs(dir).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= bytes)
    }

    /// Why a file or a directory cannot be written to, if that is known without trying. What is not there can.
    pub(crate) fn not_writable(path: &Path) -> Option<io::Error> {
        let asked = unix::accessat(unix::CWD, path, Access::WRITE_OK, AtFlags::EACCESS);
        asked
            .err()
            .filter(|error| matches!(*error, Errno::ACCESS | Errno::PERM | Errno::ROFS))
            .map(Into::into)
    }

    /// Whether somebody holds a write lock (of POSIX's kind) on `len` bytes of a file from `start` on.
    pub(crate) fn is_write_locked(file: &File, start: u64, len: u64) -> io::Result<bool> {
        // A read lock is what only a write lock stands against.
        let mut probe = Flock::from(FlockType::ReadLock);
        (probe.start, probe.length) = (start, len);
        Ok(fcntl_getlk(file, &probe)?.is_some())
    }

    /// The same of a lock of either kind.
    pub(crate) fn is_locked(file: &File, start: u64, len: u64) -> io::Result<bool> {
        let mut probe = Flock::from(FlockType::WriteLock);
        (probe.start, probe.length) = (start, len);
        Ok(fcntl_getlk(file, &probe)?.is_some())
    }

    /// The path with every symbolic link resolved, as SQLite will see it.
    pub(crate) fn canonical(path: &Path) -> Result<PathBuf> {
        fs::canonicalize(path).map_err(|error| failed("opening", path, error))
    }
}

/// What tells a file apart from every other one: its device and its inode.
pub(crate) fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(|found| Some((found.dev(), found.ino()))),
    }
}
