//! Publishing a database file outside of a root, where other programs and other users may use the same directory.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Disk, DiskOp, Entry, Lock, Open, failed, if_exists, storage};
use crate::error::Result;

impl Disk {
    /// The first of these paths that exists. A dangling symbolic link exists.
    pub(crate) fn first_present(paths: impl IntoIterator<Item = PathBuf>) -> Result<Option<PathBuf>> {
        for path in paths {
            let found = if_exists(storage::at(&path).metadata(Entry::path(&path).itself()));
            if found.map_err(|error| failed("reading the metadata of", &path, error))?.is_some() {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Removes `files` from a directory and then the directory, unless its lock is held. A symbolic link is not followed. A
    /// directory with other files in it is not removed, and neither are those files.
    pub(crate) fn remove_abandoned_dir(&self, path: &Path, files: &[&str]) -> Result<()> {
        let storage = storage::at(path);
        let removed = self.step(DiskOp::Remove, path, || {
            let place = self.place(path)?;
            let dir = storage.open(place.entry().itself(), Open::Dir)?;
            if !storage.lock(&dir, path, Lock::TryExclusive)? {
                return Err(Errno::WOULDBLOCK.into());
            }
            for file in files {
                if_exists(storage.remove_file(Entry::within(&dir, file, &path.join(file))))?;
            }
            storage.remove_dir(place.entry())
        });
        removed.map_err(|error| failed("removing", path, error))
    }
}
