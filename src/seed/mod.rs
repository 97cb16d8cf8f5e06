//! The ways to begin a database. All of them end in one staged directory, whole and on the disk, which the plane
//! then moves to its place.

pub(crate) mod fork;
pub(crate) mod upload;

use std::path::{Path, PathBuf};

use crate::{
    disk::{DirLock, Disk},
    error::{Error, ErrorKind, Result},
    layout::{self, Layout},
    page,
};

/// A database that is being built: a directory in staging, locked for as long as this lives. The lock stays with
/// the directory when it is renamed.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    _lock: DirLock,
}

impl Staged {
    /// Makes and locks the staging directory for the database `id`.
    ///
    /// A directory of that name is left over if nobody has its lock, and is swept away.
    pub(crate) fn begin(disk: &Disk, layout: &Layout, id: &str) -> Result<Self> {
        let dir = layout.staged(id);
        for _ in 0..3 {
            if !disk.make_dir(&dir)? {
                match Disk::lock_dir(&dir)? {
                    Some(_nobodys) => disk.remove(&dir)?,
                    None if Disk::exists(&dir)? => break,
                    None => {}
                }
                continue;
            }
            // A sweep of another process may be faster, and takes the directory for a leftover.
            if let Some(lock) = Disk::lock_dir(&dir)? {
                return Ok(Self { id: id.to_owned(), dir, _lock: lock });
            }
        }
        Err(Error::new(ErrorKind::Busy, "another call is building this database; try again later"))
    }

    /// The database file.
    pub(crate) fn data(&self) -> PathBuf {
        layout::data(&self.dir)
    }

    /// Flushes the directory and its place in staging; the files in it are on the disk already.
    pub(crate) fn sync(&self, disk: &Disk, layout: &Layout) -> Result<()> {
        disk.sync_dir(&self.dir)?;
        disk.sync_dir(&layout.staging())
    }
}

/// Writes an empty database.
pub(crate) fn empty(disk: &Disk, data: &Path) -> Result<()> {
    let file = disk.create(data)?;
    disk.write_at(&file, data, &page::empty_database(), 0)?;
    disk.sync_file(&file, data)
}
