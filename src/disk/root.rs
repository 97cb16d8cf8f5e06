//! The root of a fleet, and paths below it that no symbolic link leads elsewhere.
//!
//! A path inside the root is resolved from a descriptor of the root, one directory at a time and without following
//! symbolic links. So a link in the place of a directory of the fleet never makes a step change something outside of the
//! root, and a root that was replaced is not taken for the one that was opened.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{self as unix, AtFlags, CWD, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{Disk, failed, identity};
use crate::error::{Error, ErrorKind, Result};

/// A directory, opened to resolve names in it.
pub(super) const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory, opened to be read, locked or flushed.
pub(super) const READ_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory of a fleet.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    identity: (u64, u64),
    /// Whether nothing inside may be changed.
    read_only: bool,
    /// Keeps the inode from being used again for as long as it is compared.
    _held: OwnedFd,
}

/// A name, and the directory that it is resolved in.
pub(super) struct Place<'p> {
    dir: Option<OwnedFd>,
    pub(super) name: &'p OsStr,
}

impl Place<'_> {
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_ref().map_or(CWD, AsFd::as_fd)
    }

    pub(super) fn is_outside(&self) -> bool {
        self.dir.is_none()
    }

    /// The owner and the mode of the directory, if it is inside a root.
    pub(super) fn parent(&self) -> io::Result<Option<Stat>> {
        Ok(self.dir.as_ref().map(unix::fstat).transpose()?)
    }
}

impl Disk {
    /// Confines the paths that lie in `root` to the directory that is there now.
    pub(crate) fn within(self, root: &Path) -> Result<Self> {
        self.confined(root, false)
    }

    /// Confines the paths that lie in `root` like [`within`](Self::within), and refuses every step that would change
    /// something there.
    pub(crate) fn within_read_only(self, root: &Path) -> Result<Self> {
        self.confined(root, true)
    }

    fn confined(self, root: &Path, read_only: bool) -> Result<Self> {
        let opening = |error: Errno| failed("opening", root, error.into());
        let held = unix::open(root, DIRECTORY, Mode::empty()).map_err(opening)?;
        let found = unix::fstat(&held).map_err(opening)?;
        let (path, identity) = (root.to_owned(), (found.st_dev, found.st_ino));
        let root = Root { path, identity, read_only, _held: held };
        Ok(Self { root: Some(Arc::new(root)), ..self })
    }

    /// Fails with [`ErrorKind::ReadOnly`] if nothing at a path may be changed.
    pub(super) fn check_writable(&self, path: &Path) -> Result<()> {
        match &self.root {
            Some(root) if root.read_only && path.starts_with(&root.path) => Err(Error::read_only(&root.path)),
            _ => Ok(()),
        }
    }

    /// Fails with [`ErrorKind::Replaced`] if the root is not the directory that it was.
    pub(crate) fn check_root(&self) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        match identity(&root.path) {
            Ok(Some(found)) if found == root.identity => Ok(()),
            Ok(_) => Err(Error::replaced(&root.path)),
            Err(error) => Err(failed("looking at", &root.path, error)),
        }
    }

    /// Makes sure that a path inside the root leads through directories to what is not a symbolic link. What is not there
    /// yet is none.
    pub(crate) fn check_own(&self, path: &Path) -> Result<()> {
        let look = || {
            let place = self.place(path)?;
            match unix::statat(place.dir(), place.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if FileType::from_raw_mode(found.st_mode).is_symlink() => Err(link(path)),
                Err(error) if error != Errno::NOENT => Err(error.into()),
                _ => Ok(()),
            }
        };
        match look() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            looked => looked.map_err(|error| failed("looking at", path, error)),
        }
    }

    /// What is known of a file, or `None` if there is no regular file at that path.
    pub(super) fn stat_file(&self, path: &Path) -> io::Result<Option<Stat>> {
        let place = self.place(path)?;
        match unix::statat(place.dir(), place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found).filter(|found| FileType::from_raw_mode(found.st_mode).is_file())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Resolves the directory of a path. One outside of the root is left to the system.
    pub(super) fn place<'p>(&self, path: &'p Path) -> io::Result<Place<'p>> {
        let outside = Place { dir: None, name: path.as_os_str() };
        let Some(root) = &self.root else { return Ok(outside) };
        let Ok(inside) = path.strip_prefix(&root.path) else { return Ok(outside) };
        let Some(name) = inside.file_name() else { return Ok(outside) };
        let mut dir = match unix::open(&root.path, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(io::Error::other(Error::replaced(&root.path)));
            }
            opened => opened?,
        };
        let found = unix::fstat(&dir)?;
        if (found.st_dev, found.st_ino) != root.identity {
            return Err(io::Error::other(Error::replaced(&root.path)));
        }
        let mut at = root.path.clone();
        for part in inside.parent().into_iter().flat_map(Path::components) {
            // A path of a fleet is made of names alone.
            let Component::Normal(part) = part else { return Err(Errno::INVAL.into()) };
            at.push(part);
            dir = match unix::openat(&dir, part, DIRECTORY, Mode::empty()) {
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_a_directory(&at)),
                opened => opened?,
            };
        }
        Ok(Place { dir: Some(dir), name })
    }
}

/// Opens a directory to be read or locked, and follows no symbolic link to it.
pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    match unix::open(path, READ_DIR, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => Err(not_a_directory(path)),
        opened => Ok(opened?),
    }
}

#[cold]
fn not_a_directory(path: &Path) -> io::Error {
    io::Error::other(Error::naming(ErrorKind::Io, path, |dir| {
        format!("{dir} is not a directory; symbolic links are not followed there: move it elsewhere")
    }))
}

#[cold]
pub(super) fn link(path: &Path) -> io::Error {
    io::Error::other(Error::naming(ErrorKind::Io, path, |file| {
        format!("{file} is a symbolic link, which is not followed there; put the file itself in its place")
    }))
}
