//! The directory of the API's own files, `<root>/.http/`, in which only its owner can write.
//!
//! It is opened without following symbolic links. Files created in it belong to the owner of the fleet, even if root runs the
//! server.

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

/// The mode bits that let other users replace files in a directory.
const OTHERS_WRITE: u32 = 0o022;

/// A directory in which only its owner can write.
#[derive(Debug)]
pub(super) struct PrivateDir {
    pub(super) path: PathBuf,
    file: File,
}

impl PrivateDir {
    /// Opens the directory `.http` of the fleet in `root`, and creates it if it does not exist. The root must exist.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let file = File::open(root).map_err(|error| io_failed(root, error))?;
        Self { path: root.to_owned(), file }.subdir(".http")
    }

    /// Opens a subdirectory, and creates it if it does not exist.
    pub(super) fn subdir(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        let failed = |error: io::Error| io_failed(&path, error);
        let is_new = match unix::mkdirat(&self.file, name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => false,
            created => created.map(|()| true).map_err(|error| failed(error.into()))?,
        };
        let file = match unix::openat(&self.file, name, FLAGS, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => {
                return Err(Error::naming(ErrorKind::Io, &path, |dir| {
                    format!("{dir} is not a directory (symbolic links are not followed); remove it")
                }));
            }
            opened => File::from(opened.map_err(|error| failed(error.into()))?),
        };
        let dir = Self { path: path.clone(), file };
        let owner = self.file.metadata().map_err(failed)?;
        let metadata = dir.file.metadata().map_err(failed)?;
        let is_trusted = [0, owner.uid(), geteuid().as_raw()].contains(&metadata.uid());
        if !is_trusted || metadata.mode() & OTHERS_WRITE != 0 {
            return Err(Error::naming(ErrorKind::Io, &path, |dir| {
                format!(
                    "{dir} is writable by other users, who may know the secret in it; remove it to create a new one"
                )
            }));
        }
        if is_new {
            chown_to(&dir.file, &owner);
        }
        Ok(dir)
    }

    /// Gives a file that this process has created in the directory to the directory's owner.
    pub(super) fn adopt(&self, file: &File) -> io::Result<()> {
        chown_to(file, &self.file.metadata()?);
        Ok(())
    }

    /// Runs `create` under the exclusive lock of the directory, so that processes that start together create each file once.
    pub(super) fn with_lock<T>(&self, create: impl FnOnce() -> Result<T>) -> Result<T> {
        self.file.lock().map_err(|error| io_failed(&self.path, error))?;
        let result = create();
        self.file.unlock().map_err(|error| io_failed(&self.path, error))?;
        result
    }

    /// Takes the shared lock of the directory, for a process that writes temporary files in it. If no other process holds the
    /// lock, the files of processes that died are removed first.
    pub(super) fn lock_shared(&self) -> io::Result<()> {
        if self.file.try_lock().is_ok() {
            clear(&self.file)?;
            self.file.unlock()?;
        }
        self.file.lock_shared()
    }
}

/// Removes the contents of a directory. An incomplete export is a directory itself.
fn clear(dir: impl AsFd) -> io::Result<()> {
    for entry in unix::Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
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

/// Changes the owner of a file that root has created. A failure leaves the file with root.
fn chown_to(file: &File, owner: &Metadata) {
    if geteuid().is_root() && (owner.uid(), owner.gid()) != (0, 0) {
        let _stays_with_root = fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
}

fn io_failed(path: &Path, error: io::Error) -> Error {
    Error::naming(ErrorKind::Io, path, |dir| format!("{dir}: {error}")).caused_by(error)
}
