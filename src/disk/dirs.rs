//! Directories: making, listing, flushing and locking them.

use std::{
    fmt::Display,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use super::{Disk, Step, failed, identity};
use crate::error::{Error, ErrorKind, Result};

/// A directory of this process alone, or shared with others that want nobody alone there: the lock goes when the value is
/// dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    _dir: File,
}

impl Disk {
    /// Makes a directory and says whether it was not there before.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<bool> {
        match self.step(Step::MakeDir, path, || fs::create_dir(path)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(not_made(path, error)),
        }
    }

    /// Keeps other users of the machine out of a directory.
    pub(crate) fn make_private(&self, path: &Path) -> Result<()> {
        self.step(Step::MakeDir, path, || fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
            .map_err(|error| failed("keeping others out of", path, error))
    }

    /// Makes a directory and all those above it.
    pub(crate) fn make_dirs(&self, path: &Path) -> Result<()> {
        self.step(Step::MakeDir, path, || fs::create_dir_all(path)).map_err(|error| not_made(path, error))
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> Result<()> {
        self.step(Step::SyncDir, path, || File::open(path)?.sync_all())
            .map_err(|error| failed("flushing the directory", path, error))
    }

    /// The names in a directory.
    pub(crate) fn list(path: &Path) -> Result<Vec<String>> {
        let listing = |error| failed("listing", path, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(listing)? {
            names.extend(entry.map_err(listing)?.file_name().into_string());
        }
        Ok(names)
    }

    /// Takes the lock of a directory, if nobody has it and the directory is still in its place.
    pub(crate) fn lock_dir(path: &Path) -> Result<Option<DirLock>> {
        let locking = |error| failed("locking the directory", path, error);
        let dir = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(locking)?,
        };
        match dir.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(locking(error)),
        }
        // It may have been moved or removed between the opening and the locking.
        let there = identity(path).map_err(locking)?;
        let same =
            there.is_some_and(|there| dir.metadata().is_ok_and(|ours| there == (ours.dev(), ours.ino())));
        Ok(same.then_some(DirLock { _dir: dir }))
    }

    /// Takes the lock of a directory, and waits for whoever has it.
    pub(crate) fn wait_for_dir(path: &Path) -> Result<DirLock> {
        let open = || {
            let dir = File::open(path)?;
            dir.lock()?;
            Ok(DirLock { _dir: dir })
        };
        open().map_err(|error| failed("locking the directory", path, error))
    }

    /// Shares the lock of a directory, and waits for whoever has it alone; nothing if the directory is not there.
    pub(crate) fn share_dir(path: &Path) -> Result<Option<DirLock>> {
        let locking = |error| failed("locking the directory", path, error);
        let dir = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(locking)?,
        };
        while let Err(error) = dir.lock_shared() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(locking(error));
            }
        }
        Ok(Some(DirLock { _dir: dir }))
    }
}

#[cold]
fn not_made(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            let sentence = |dir: &dyn Display| {
                format!("making the directory {dir}: {error}; the directory above it must be writable")
            };
            Error::naming(ErrorKind::Io, path, sentence).caused_by(error)
        }
        _ => failed("making the directory", path, error),
    }
}
