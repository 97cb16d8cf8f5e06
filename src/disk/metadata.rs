//! Queries that change nothing.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self as unix, Access, AtFlags},
    io::Errno,
};

use super::{Disk, Entry, Metadata, failed, if_exists, storage};
use crate::error::{Error, ErrorKind, Result};

/// The largest file that SQLite creates beside a database without a write of the application: the `-shm` file.
const SHM_LEN: u64 = 32 << 10;

impl Disk {
    /// The metadata of a file, found without opening it. Returns `None` if it does not exist.
    pub(crate) fn metadata(path: &Path) -> Result<Option<Metadata>> {
        if_exists(storage::at(path).metadata(Entry::path(path)))
            .map_err(|error| failed("reading the metadata of", path, error))
    }

    /// The metadata of an open file.
    pub(crate) fn metadata_of(file: &File, path: &Path) -> Result<Metadata> {
        storage::at(path)
            .metadata_of(file, path)
            .map_err(|error| failed("reading the metadata of", path, error))
    }

    /// The length of a file and the time of its last change in nanoseconds since 1970, found without opening it. Returns `None`
    /// if it does not exist.
    pub(crate) fn last_change(path: &Path) -> Result<Option<(u64, i64)>> {
        Ok(Self::metadata(path)?.map(|found| (found.len, found.modified)))
    }

    /// The length of an open file.
    pub(crate) fn len_of(file: &File, path: &Path) -> Result<u64> {
        Ok(Self::metadata_of(file, path)?.len)
    }

    /// The length of a file, found without opening it. Returns `None` if it does not exist.
    pub(crate) fn len(path: &Path) -> Result<Option<u64>> {
        Ok(Self::metadata(path)?.map(|found| found.len))
    }

    pub(crate) fn exists(path: &Path) -> Result<bool> {
        Ok(Self::metadata(path)?.is_some())
    }

    /// Whether a regular file is at a path. Fails with [`ErrorKind::Invalid`] for anything else, such as a pipe, which would block
    /// when it is opened.
    pub(super) fn is_regular(path: &Path) -> Result<bool> {
        match Self::metadata(path)? {
            None => Ok(false),
            Some(found) if found.is_file => Ok(true),
            Some(_) => {
                Err(Error::naming(ErrorKind::Invalid, path, |file| format!("{file}: not a regular file")))
            }
        }
    }

    /// Whether a path is a directory. A symbolic link is not followed.
    pub(crate) fn is_dir(path: &Path) -> bool {
        storage::at(path).metadata(Entry::path(path).itself()).is_ok_and(|found| found.is_dir)
    }

    /// The device and the inode of a file, which identify it under any name. Returns `None` if it does not exist.
    pub(crate) fn inode(path: &Path) -> Option<(u64, u64)> {
        identity(path).ok().flatten()
    }

    /// Whether the file with this [inode](Self::inode) is still at a path.
    pub(crate) fn is_at(path: &Path, inode: Option<(u64, u64)>) -> bool {
        inode.is_some() && Self::inode(path) == inode
    }

    /// Whether the file system of a directory has no space for a `-shm` file, or no inode. `false` if that is unknown.
    pub(crate) fn is_full(dir: &Path) -> bool {
        unix::statvfs(dir).is_ok_and(|found| {
            // Some file systems do not count inodes.
            let no_inodes = found.f_files > 0 && found.f_favail == 0;
            no_inodes || found.f_bavail.saturating_mul(found.f_frsize) < SHM_LEN
        })
    }

    /// Whether the file system of a directory has this many bytes free. `false` if that is unknown.
    pub(crate) fn has_free(dir: &Path, bytes: u64) -> bool {
        unix::statvfs(dir).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= bytes)
    }

    /// Returns why a file or a directory is not writable according to its mode and its file system. `None` if it is writable or
    /// does not exist.
    pub(crate) fn not_writable(path: &Path) -> Option<io::Error> {
        let asked = unix::accessat(unix::CWD, path, Access::WRITE_OK, AtFlags::EACCESS);
        asked
            .err()
            .filter(|error| matches!(*error, Errno::ACCESS | Errno::PERM | Errno::ROFS))
            .map(Into::into)
    }

    /// The path with every symbolic link resolved, as SQLite sees it.
    pub(crate) fn canonical(path: &Path) -> Result<PathBuf> {
        fs::canonicalize(path).map_err(|error| failed("opening", path, error))
    }
}

/// The device and the inode of a file, which identify it under any name. Returns `None` if it does not exist.
pub(crate) fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    Ok(if_exists(storage::at(path).metadata(Entry::path(path)))?.map(|found| found.inode))
}
