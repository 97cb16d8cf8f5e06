//! Primitives for publishing a database file outside of a root, where other programs and other users may be at work.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{self as unix, AtFlags, FlockOperation, Mode};

use super::{Disk, DiskOp, failed, root::READ_DIR};
use crate::error::Result;

impl Disk {
    /// The first of these paths that has an entry of any kind, a dangling symbolic link included.
    pub(crate) fn first_present(paths: impl IntoIterator<Item = PathBuf>) -> Result<Option<PathBuf>> {
        for path in paths {
            match path.symlink_metadata() {
                Ok(_) => return Ok(Some(path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("looking at", &path, error)),
            }
        }
        Ok(None)
    }

    /// Keeps SQLite's connections out of a database file until the file is closed: they find it locked by a writer.
    ///
    /// Call it [with isolated descriptors](crate::sys::isolated_fds), which also keeps out the connections
    /// of this process. Where the file system has no such locks, SQLite has none there either.
    pub(crate) fn keep_connections_out(file: &File) {
        let _unsupported = unix::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive);
    }

    /// Removes `files` from a directory and then the directory itself, unless somebody holds its lock. A symbolic link in
    /// its place is not followed, and a directory that holds anything else keeps that and stays.
    pub(crate) fn remove_abandoned_dir(&self, path: &Path, files: &[&str]) -> Result<()> {
        let removed = self.step(DiskOp::Remove, path, || {
            let place = self.place(path)?;
            let dir = unix::openat(place.dir(), place.name, READ_DIR, Mode::empty())?;
            unix::flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
            for file in files {
                match unix::unlinkat(&dir, *file, AtFlags::empty()) {
                    Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(unix::unlinkat(place.dir(), place.name, AtFlags::REMOVEDIR)?)
        });
        removed.map_err(|error| failed("removing", path, error))
    }
}
