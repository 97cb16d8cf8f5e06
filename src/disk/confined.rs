//! A [`Disk`] that is confined to the root of a fleet.

use std::{io, path::Path, sync::Arc};

use super::{
    Disk, failed, identity, if_exists,
    root::{Place, Root, link},
    storage::{self, Metadata},
};
use crate::error::{Error, Result};

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
        let root = Root::open(root, read_only).map_err(|error| failed("opening", root, error))?;
        Ok(Self { root: Some(Arc::new(root)), ..self })
    }

    /// Fails with [`Replaced`](crate::ErrorKind::Replaced) if another directory, or none, is at the path of the root.
    pub(crate) fn check_root(&self) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        match identity(root.path()) {
            Ok(Some(found)) if found == root.inode() => Ok(()),
            Ok(_) => Err(Error::replaced(root.path())),
            Err(error) => Err(failed("reading the metadata of", root.path(), error)),
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
        let inside = self.root.as_ref().map(|root| root.place(path)).transpose()?.flatten();
        Ok(inside.unwrap_or_else(|| Place::outside(path)))
    }
}
