//! A temporary directory on the disk of a fleet.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use litefleet::{Error, ErrorKind, Result};

/// A directory that is removed when it is dropped.
#[derive(Debug)]
pub(super) struct TemporaryDir(PathBuf);

impl TemporaryDir {
    /// Creates a directory in `root` or, if there is none, in the nearest directory above it that exists. Its name begins with a
    /// dot, so that a fleet at `root` ignores it.
    pub(super) fn create_near(root: &Path) -> Result<Self> {
        let absolute = std::path::absolute(root).map_err(|error| failed("resolving", root, error))?;
        let Some(parent) = absolute.ancestors().find(|dir| dir.is_dir()) else {
            let message = format!("no directory at {} or above it", root.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let path = parent.join(format!(".litefleet-bench-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| failed("creating", &path, error))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes the directory and everything in it.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.0).map_err(|error| failed("removing", &self.0, error))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _may_be_removed_already = fs::remove_dir_all(&self.0);
    }
}

fn failed(action: &str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{action} {}: {error}", path.display())).caused_by(error)
}
