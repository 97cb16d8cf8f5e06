//! Directories: making, listing, flushing and locking them.

use std::{
    fmt::Display,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::{
    fs::{self as unix, Mode},
    io::Errno,
    process::geteuid,
};

use super::{
    Disk, DiskOp, failed, identity, owner,
    root::{Place, READ_DIR, open_dir},
};
use crate::error::{Error, ErrorKind, Result};

/// A directory of this process alone, or shared with others that want nobody alone there: the lock goes when the value is
/// dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    _dir: File,
}

impl Disk {
    /// Makes a directory and says whether it was not there before. If root makes it, its owner is that of the directory
    /// that it is in.
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

    /// Makes a directory for files like `model`, and says whether it was not there before. Its mode is that of the directory
    /// that it is in. If root makes it, its owner is that of `model`.
    pub(crate) fn make_dir_like(&self, path: &Path, model: &Path) -> Result<bool> {
        self.make_dir_and(path, |place| {
            if let Some(parent) = place.parent()?
                && let Some(dir) = created_dir(place)?
            {
                owner::open_as(&dir, &parent);
                owner::give(dir, &self.stat_file(model)?.unwrap_or(parent));
            }
            Ok(())
        })
    }

    fn make_dir_and(&self, path: &Path, then: impl FnOnce(&Place<'_>) -> io::Result<()>) -> Result<bool> {
        let made = self.step(DiskOp::MakeDir, path, || {
            let place = self.place(path)?;
            unix::mkdirat(place.dir(), place.name, Mode::from_raw_mode(0o777))?;
            then(&place)
        });
        match made {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(not_made(path, error)),
        }
    }

    /// Keeps other users of the machine out of a directory.
    pub(crate) fn make_private(&self, path: &Path) -> Result<()> {
        self.step(DiskOp::MakeDir, path, || {
            let dir = self.open_dir(path)?;
            Ok(unix::fchmod(dir, Mode::from_raw_mode(0o700))?)
        })
        .map_err(|error| failed("keeping others out of", path, error))
    }

    /// Makes a directory and all those above it.
    pub(crate) fn make_dirs(&self, path: &Path) -> Result<()> {
        self.step(DiskOp::MakeDir, path, || fs::create_dir_all(path)).map_err(|error| not_made(path, error))
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> Result<()> {
        self.step(DiskOp::SyncDir, path, || self.open_dir(path)?.sync_all())
            .map_err(|error| failed("flushing the directory", path, error))
    }

    /// Opens a directory to be read. A symbolic link inside the root is not followed.
    fn open_dir(&self, path: &Path) -> io::Result<File> {
        let place = self.place(path)?;
        if place.is_outside() {
            return File::open(path);
        }
        Ok(unix::openat(place.dir(), place.name, READ_DIR, Mode::empty())?.into())
    }

    /// The names in a directory, which is not a symbolic link to one.
    pub(crate) fn list(path: &Path) -> Result<Vec<String>> {
        let list = || {
            let mut names = Vec::new();
            for entry in unix::Dir::new(open_dir(path)?)? {
                let entry = entry?;
                let name = entry.file_name().to_str().ok().filter(|name| ![".", ".."].contains(name));
                names.extend(name.map(str::to_owned));
            }
            Ok(names)
        };
        list().map_err(|error| failed("listing", path, error))
    }

    /// Takes the lock of a directory, if nobody has it and the directory is still in its place.
    pub(crate) fn lock_dir(path: &Path) -> Result<Option<DirLock>> {
        let locking = |error| failed("locking the directory", path, error);
        let dir = match open_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => File::from(opened.map_err(locking)?),
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

    /// Takes the lock of a directory, and waits until it is free.
    pub(crate) fn wait_for_dir(path: &Path) -> Result<DirLock> {
        let open = || {
            let dir = File::from(open_dir(path)?);
            while let Err(error) = dir.lock() {
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            Ok(DirLock { _dir: dir })
        };
        open().map_err(|error| failed("locking the directory", path, error))
    }

    /// Takes the shared lock of a directory, and waits until no exclusive lock is held. Returns `None` if there is no directory.
    pub(crate) fn share_dir(path: &Path) -> Result<Option<DirLock>> {
        let locking = |error| failed("locking the directory", path, error);
        let dir = match open_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => File::from(opened.map_err(locking)?),
        };
        while let Err(error) = dir.lock_shared() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(locking(error));
            }
        }
        Ok(Some(DirLock { _dir: dir }))
    }
}

/// The directory that this process has just made, or `None` if it is gone, or the owner of the directory above has put
/// something else in its place meanwhile.
fn created_dir(place: &Place<'_>) -> io::Result<Option<File>> {
    let dir = match unix::openat(place.dir(), place.name, READ_DIR, Mode::empty()) {
        // A sweep takes a new staging directory for a leftover until it is locked.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        opened => opened?,
    };
    let is_own = unix::fstat(&dir)?.st_uid == geteuid().as_raw();
    let entries = unix::Dir::read_from(&dir)?.collect::<Result<Vec<_>, Errno>>()?;
    let is_empty = entries.iter().all(|entry| [c".", c".."].contains(&entry.file_name()));
    Ok((is_own && is_empty).then(|| dir.into()))
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
