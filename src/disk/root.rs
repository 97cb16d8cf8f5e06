//! The root of a fleet. No symbolic link leads a path below it elsewhere.
//!
//! A path inside the root is resolved from a descriptor of the root, one directory at a time, without following symbolic links.
//! A link in the place of a directory of the fleet therefore never makes a step change a file outside of the root, and a root
//! that was replaced is not mistaken for the one that was opened.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{self as unix, CWD, Mode, OFlags},
    io::Errno,
};

use super::storage::{Entry, Metadata};
use crate::{
    error::{Error, ErrorKind, Result},
    sys,
};

/// A directory, opened to resolve names in it.
const DIRECTORY: OFlags =
    sys::fs::SEARCH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory of a fleet.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    inode: (u64, u64),
    /// Whether nothing inside may be changed.
    read_only: bool,
    /// Keeps the system from reusing the inode while it is compared.
    _held: OwnedFd,
}

/// A name, and the directory that it is resolved in.
pub(super) struct Place<'p> {
    /// `None` outside of the root.
    dir: Option<OwnedFd>,
    name: &'p OsStr,
    pub(super) path: &'p Path,
}

impl Place<'_> {
    /// A path that the system resolves.
    pub(super) fn outside(path: &Path) -> Place<'_> {
        Place { dir: None, name: path.as_os_str(), path }
    }

    fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_ref().map_or(CWD, AsFd::as_fd)
    }

    /// The entry of the directory. A symbolic link is followed outside of the root only.
    pub(super) fn entry(&self) -> Entry<'_> {
        Entry { dir: self.dir(), name: self.name, path: self.path, follows_link: self.is_outside() }
    }

    pub(super) fn is_outside(&self) -> bool {
        self.dir.is_none()
    }

    /// The metadata of the directory, if it is inside a root.
    pub(super) fn parent(&self) -> io::Result<Option<Metadata>> {
        Ok(self.dir.as_ref().map(unix::fstat).transpose()?.map(Metadata::from))
    }
}

impl Root {
    /// Opens the directory at `path`.
    pub(super) fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let held = unix::open(path, DIRECTORY, Mode::empty())?;
        let inode = Metadata::from(unix::fstat(&held)?).inode;
        Ok(Self { path: path.to_owned(), inode, read_only, _held: held })
    }

    /// Fails with [`ErrorKind::ReadOnly`] if the path is in the root and the root is read-only.
    pub(super) fn check_writable(&self, path: &Path) -> Result<()> {
        if self.read_only && path.starts_with(&self.path) {
            return Err(Error::read_only(&self.path));
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The device and the inode of the directory.
    pub(super) fn inode(&self) -> (u64, u64) {
        self.inode
    }

    /// Resolves the directory of a path inside the root. `None` if the path is outside.
    pub(super) fn place<'p>(&self, path: &'p Path) -> io::Result<Option<Place<'p>>> {
        let Ok(inside) = path.strip_prefix(&self.path) else { return Ok(None) };
        let Some(name) = inside.file_name() else { return Ok(None) };
        let mut dir = match unix::open(&self.path, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => {
                return Err(io::Error::other(Error::replaced(&self.path)));
            }
            opened => opened?,
        };
        if Metadata::from(unix::fstat(&dir)?).inode != self.inode {
            return Err(io::Error::other(Error::replaced(&self.path)));
        }
        let mut at = self.path.clone();
        for part in inside.parent().into_iter().flat_map(Path::components) {
            // The paths of a fleet have no `..`.
            let Component::Normal(part) = part else { return Err(Errno::INVAL.into()) };
            at.push(part);
            dir = match unix::openat(&dir, part, DIRECTORY, Mode::empty()) {
                Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => return Err(not_a_directory(&at)),
                opened => opened?,
            };
        }
        Ok(Some(Place { dir: Some(dir), name, path }))
    }
}

#[cold]
pub(super) fn not_a_directory(path: &Path) -> io::Error {
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
