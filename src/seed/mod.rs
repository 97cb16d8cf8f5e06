//! The ways to begin a database. All of them end in one staged directory, whole and on the disk, which the plane
//! then moves to its place.

pub(crate) mod fork;
pub(crate) mod upload;

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{
    disk::{DirLock, Disk},
    error::{Error, ErrorKind, Result},
    image::Copy,
    layout::{self, Layout},
    page,
    progress::{self, Watch},
    vfs::ffi,
};

/// How often a staging directory is made anew that is swept away before it can be locked.
const BEGIN_TRIES: u32 = 1000;

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
        let mut made = false;
        for _ in 0..BEGIN_TRIES {
            if disk.make_dir(&dir)? {
                made = true;
                if let Some(lock) = Disk::lock_dir(&dir)? {
                    return Ok(Self { id: id.to_owned(), dir, _lock: lock });
                }
            } else if let Some(_nobodys) = Disk::lock_dir(&dir)? {
                disk.remove(&dir)?;
                continue;
            } else if !made && Disk::exists(&dir)? {
                break;
            }
            // The sweep of another process was faster, and takes the directory for a leftover: it is gone soon.
            thread::sleep(Duration::from_millis(1));
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

/// Makes a copy where descriptors of the source do no harm, and then does `then` there.
fn copy_and<T: Send>(
    copy: &Copy<'_>,
    watch: &mut Watch<'_>,
    then: impl FnOnce(u64, &mut Watch<'_>) -> Result<T> + Send,
) -> Result<T> {
    let (teller, listener) = progress::line();
    let run = move || {
        let mut watch = |progress| teller.tell(progress);
        let size = copy.run(&mut watch)?;
        then(size, &mut watch)
    };
    ffi::with_private_descriptors(run, || listener.listen(watch))
        .map_err(|error| Error::io("starting a thread with descriptors of its own", error))?
}
