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
    sync::Arc,
};

use rustix::{
    fs::{self as unix, CWD, Mode, OFlags},
    io::Errno,
};

use super::{Disk, Entry, Metadata, failed, identity, if_exists, storage};
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

impl Disk {
    /// Confines the paths in `root` to the directory that is there now.
    pub(crate) fn within(self, root: &Path) -> Result<Self> {
        self.confined(root, false)
    }

    /// Confines the paths in `root` as [`within`](Self::within) does, and refuses every step that changes something there.
    pub(crate) fn within_read_only(self, root: &Path) -> Result<Self> {
        self.confined(root, true)
    }

    fn confined(self, root: &Path, read_only: bool) -> Result<Self> {
        let opening = |error: Errno| failed("opening", root, error.into());
        let held = unix::open(root, DIRECTORY, Mode::empty()).map_err(opening)?;
        let inode = Metadata::from(unix::fstat(&held).map_err(opening)?).inode;
        let root = Root { path: root.to_owned(), inode, read_only, _held: held };
        Ok(Self { root: Some(Arc::new(root)), ..self })
    }

    /// Fails with [`ErrorKind::ReadOnly`] if the path is in a read-only root.
    pub(super) fn check_writable(&self, path: &Path) -> Result<()> {
        match &self.root {
            Some(root) if root.read_only && path.starts_with(&root.path) => Err(Error::read_only(&root.path)),
            _ => Ok(()),
        }
    }

    /// Fails with [`ErrorKind::Replaced`] if another directory, or none, is at the path of the root.
    pub(crate) fn check_root(&self) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        match identity(&root.path) {
            Ok(Some(found)) if found == root.inode => Ok(()),
            Ok(_) => Err(Error::replaced(&root.path)),
            Err(error) => Err(failed("reading the metadata of", &root.path, error)),
        }
    }

    /// Fails if a path inside the root leads through or to a symbolic link. A path that does not exist passes.
    pub(crate) fn check_own(&self, path: &Path) -> Result<()> {
        let found =
            if_exists(self.place(path).and_then(|place| storage::at(path).metadata(place.entry().itself())));
        match found {
            Ok(Some(found)) if found.is_link => Err(failed("opening", path, link(path))),
            Ok(_) => Ok(()),
            Err(error) => Err(failed("reading the metadata of", path, error)),
        }
    }

    /// The metadata of a regular file. Returns `None` if there is none at the path.
    pub(super) fn file_metadata(&self, path: &Path) -> io::Result<Option<Metadata>> {
        let found = if_exists(storage::at(path).metadata(self.place(path)?.entry().itself()))?;
        Ok(found.filter(|found| found.is_file))
    }

    /// Resolves the directory of a path. The system resolves a path outside of the root.
    pub(super) fn place<'p>(&self, path: &'p Path) -> io::Result<Place<'p>> {
        let outside = Place { dir: None, name: path.as_os_str(), path };
        let Some(root) = &self.root else { return Ok(outside) };
        let Ok(inside) = path.strip_prefix(&root.path) else { return Ok(outside) };
        let Some(name) = inside.file_name() else { return Ok(outside) };
        let mut dir = match unix::open(&root.path, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(io::Error::other(Error::replaced(&root.path)));
            }
            opened => opened?,
        };
        if Metadata::from(unix::fstat(&dir)?).inode != root.inode {
            return Err(io::Error::other(Error::replaced(&root.path)));
        }
        let mut at = root.path.clone();
        for part in inside.parent().into_iter().flat_map(Path::components) {
            // The paths of a fleet have no `..`.
            let Component::Normal(part) = part else { return Err(Errno::INVAL.into()) };
            at.push(part);
            dir = match unix::openat(&dir, part, DIRECTORY, Mode::empty()) {
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_a_directory(&at)),
                opened => opened?,
            };
        }
        Ok(Place { dir: Some(dir), name, path })
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
