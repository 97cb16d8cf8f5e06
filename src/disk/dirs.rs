//! Directories: making, listing, flushing and locking them.

use std::{
    fmt::Display,
    fs::{self, File},
    io,
    path::Path,
};

use rustix::{
    fs::{self as unix, FlockOperation, Mode},
    io::Errno,
    process::geteuid,
};

use super::{
    Disk, DiskOp, Entry, Lock, NOT_A_DIRECTORY, Open, failed, identity, if_exists, is_any, owner,
    root::{Place, not_a_directory},
    storage,
};
use crate::error::{Error, ErrorKind, Result};

/// An exclusive or shared lock of a directory, released when this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    dir: File,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing the descriptor is not enough: a child process of the host has a copy until it calls exec.
        let _released_on_close = unix::flock(&self.dir, FlockOperation::Unlock);
    }
}

impl Disk {
    /// Makes a directory. Returns `false` if it exists. If root makes it, it gets the owner of its parent directory.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<bool> {
        self.make_dir_and(path, |place| {
            if let Some(parent) = place.parent()?.filter(|_| geteuid().is_root())
                && let Some(dir) = created_dir(place)?
            {
                owner::give(dir, &parent);
            }
            Ok(())
        })
    }

    /// Makes a directory for files like `model`, with the mode of its parent directory. Returns `false` if it exists. If root makes
    /// it, it gets the owner of `model`.
    pub(crate) fn make_dir_like(&self, path: &Path, model: &Path) -> Result<bool> {
        self.make_dir_and(path, |place| {
            if let Some(parent) = place.parent()?
                && let Some(dir) = created_dir(place)?
            {
                owner::set_mode(&dir, &parent);
                owner::give(dir, &self.file_metadata(model)?.unwrap_or(parent));
            }
            Ok(())
        })
    }

    fn make_dir_and(&self, path: &Path, then: impl FnOnce(&Place<'_>) -> io::Result<()>) -> Result<bool> {
        let made = self.step(DiskOp::MakeDir, path, || {
            let place = self.place(path)?;
            storage::at(path).make_dir(place.entry())?;
            then(&place)
        });
        match made {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(not_made(path, error)),
        }
    }

    /// Denies other users access to a directory.
    pub(crate) fn make_private(&self, path: &Path) -> Result<()> {
        self.step(DiskOp::MakeDir, path, || {
            let dir = self.open_dir(path)?;
            Ok(unix::fchmod(dir, Mode::from_raw_mode(0o700))?)
        })
        .map_err(|error| failed("denying other users access to", path, error))
    }

    /// Makes a directory and its missing ancestors.
    pub(crate) fn make_dirs(&self, path: &Path) -> Result<()> {
        self.step(DiskOp::MakeDir, path, || fs::create_dir_all(path)).map_err(|error| not_made(path, error))
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> Result<()> {
        self.step(DiskOp::SyncDir, path, || storage::at(path).sync(&self.open_dir(path)?, path))
            .map_err(|error| failed("flushing the directory", path, error))
    }

    /// Opens a directory for reading. A symbolic link inside the root is not followed.
    fn open_dir(&self, path: &Path) -> io::Result<File> {
        storage::at(path).open(self.place(path)?.entry(), Open::Dir)
    }

    /// The names in a directory that are valid UTF-8. A symbolic link is not followed.
    pub(crate) fn list(path: &Path) -> Result<Vec<String>> {
        let listed = open_dir(path).and_then(|dir| storage::at(path).list(&dir, path));
        let names = listed.map_err(|error| failed("listing", path, error))?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Takes the exclusive lock of a directory. Returns `None` if the lock is held or the directory does not exist.
    pub(crate) fn lock_dir(path: &Path) -> Result<Option<DirLock>> {
        let locked = || {
            let Some(dir) = if_exists(open_dir(path))? else { return Ok(None) };
            let storage = storage::at(path);
            if !storage.lock(&dir, path, Lock::TryExclusive)? {
                return Ok(None);
            }
            // It may have been moved or removed before it was locked.
            let is_same = identity(path)? == Some(storage.metadata_of(&dir, path)?.inode);
            Ok(is_same.then_some(DirLock { dir }))
        };
        locked().map_err(|error| failed("locking the directory", path, error))
    }

    /// Takes the exclusive lock of a directory, and waits until it is free.
    pub(crate) fn wait_for_dir(path: &Path) -> Result<DirLock> {
        let locked = || {
            let dir = open_dir(path)?;
            storage::at(path).lock(&dir, path, Lock::Exclusive)?;
            Ok(DirLock { dir })
        };
        locked().map_err(|error| failed("locking the directory", path, error))
    }

    /// Takes the shared lock of a directory, and waits until no exclusive lock is held. Returns `None` if there is no directory.
    pub(crate) fn share_dir(path: &Path) -> Result<Option<DirLock>> {
        let locked = || {
            let Some(dir) = if_exists(open_dir(path))? else { return Ok(None) };
            storage::at(path).lock(&dir, path, Lock::Shared)?;
            Ok(Some(DirLock { dir }))
        };
        locked().map_err(|error| failed("locking the directory", path, error))
    }
}

/// Opens a directory for reading or locking. A symbolic link is not followed.
fn open_dir(path: &Path) -> io::Result<File> {
    match storage::at(path).open(Entry::path(path).itself(), Open::Dir) {
        Err(error) if is_any(&error, NOT_A_DIRECTORY) => Err(not_a_directory(path)),
        opened => opened,
    }
}

/// Returns the directory that this process has just created. `None` if it was removed, or replaced by the owner of the parent
/// directory.
fn created_dir(place: &Place<'_>) -> io::Result<Option<File>> {
    let storage = storage::at(place.path);
    let dir = match storage.open(place.entry(), Open::Dir) {
        // A sweep removes a staging directory that is not locked yet.
        Err(error) if is_any(&error, &[Errno::NOENT]) || is_any(&error, NOT_A_DIRECTORY) => return Ok(None),
        opened => opened?,
    };
    let (owner, _) = storage.metadata_of(&dir, place.path)?.owner;
    let is_own = owner == geteuid().as_raw() && storage.list(&dir, place.path)?.is_empty();
    Ok(is_own.then_some(dir))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_lock_is_free_while_a_forked_process_has_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Disk::lock_dir(dir.path()).unwrap().unwrap();
        let inherited = lock.dir.try_clone().unwrap();
        assert!(Disk::lock_dir(dir.path()).unwrap().is_none());
        drop(lock);
        assert!(Disk::lock_dir(dir.path()).unwrap().is_some());
        drop(inherited);
    }
}
