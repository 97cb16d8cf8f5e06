//! The directory of the API's own files, `<root>/.http/`: nobody but its owner writes there.
//!
//! It is opened without following symbolic links. What is made in it belongs to the owner of the fleet, also if root runs
//! the server once.

use std::{
    fs::{File, Metadata},
    io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, fchown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self as unix, AtFlags, Mode, OFlags},
    io::Errno,
    process::geteuid,
};

use crate::{Error, ErrorKind, Result};

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Permissions of others that let them replace what is in a directory.
const OTHERS_WRITE: u32 = 0o022;

/// A directory in which nobody but its owner can write.
#[derive(Debug)]
pub(super) struct PrivateDir {
    pub(super) path: PathBuf,
    file: File,
}

impl PrivateDir {
    /// The directory `.http` of the fleet in `root`, which is made if it is not there. The root is not.
    pub(super) fn of(root: &Path) -> Result<Self> {
        let file = File::open(root).map_err(|error| failed(root, error))?;
        Self { path: root.to_owned(), file }.inner(".http")
    }

    /// A directory in this one, which is made if it is not there.
    pub(super) fn inner(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        let failed = |error: io::Error| failed(&path, error);
        let made = match unix::mkdirat(&self.file, name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => false,
            made => made.map(|()| true).map_err(|error| failed(error.into()))?,
        };
        let file = match unix::openat(&self.file, name, FLAGS, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(Error::naming(ErrorKind::Io, &path, |dir| {
                    format!("{dir} is not a directory; symbolic links are not followed there: remove it")
                }));
            }
            opened => File::from(opened.map_err(|error| failed(error.into()))?),
        };
        let dir = Self { path: path.clone(), file };
        let owner = self.file.metadata().map_err(failed)?;
        let found = dir.file.metadata().map_err(failed)?;
        let is_known = [0, owner.uid(), geteuid().as_raw()].contains(&found.uid());
        if !is_known || found.mode() & OTHERS_WRITE != 0 {
            return Err(Error::naming(ErrorKind::Io, &path, |dir| {
                format!(
                    "{dir} can be written to by other users, who may know the secret in it: remove it, and a new one \
                     is made"
                )
            }));
        }
        if made {
            give(&dir.file, &owner);
        }
        Ok(dir)
    }

    /// Gives a file that this process has just made here to the owner of the directory.
    pub(super) fn give(&self, file: &File) -> io::Result<()> {
        give(file, &self.file.metadata()?);
        Ok(())
    }

    /// Runs `make` while no other process makes what the directory lacks.
    pub(super) fn locked<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        self.file.lock().map_err(|error| failed(&self.path, error))?;
        let result = make();
        self.file.unlock().map_err(|error| failed(&self.path, error))?;
        result
    }

    /// Holds the directory for one who writes there, together with all others who do. The only holder removes what is in it
    /// first.
    pub(super) fn hold(&self) -> io::Result<()> {
        if self.file.try_lock().is_ok() {
            clear(&self.file)?;
            self.file.unlock()?;
        }
        self.file.lock_shared()
    }
}

/// Removes all that is in a directory. An export that was not finished is a directory itself.
fn clear(dir: impl AsFd) -> io::Result<()> {
    for left in unix::Dir::read_from(&dir)? {
        let left = left?;
        let name = left.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        match unix::unlinkat(&dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                clear(unix::openat(&dir, name, FLAGS, Mode::empty())?)?;
                unix::unlinkat(&dir, name, AtFlags::REMOVEDIR)?;
            }
            removed => removed?,
        }
    }
    Ok(())
}

/// Gives what root has just made to an owner, if the system lets it.
fn give(file: &File, owner: &Metadata) {
    if geteuid().is_root() && (owner.uid(), owner.gid()) != (0, 0) {
        let _stays_with_root = fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::naming(ErrorKind::Io, path, |dir| format!("{dir}: {error}")).caused_by(error)
}
