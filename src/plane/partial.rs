//! The temporary directory of an export, and the protocol that publishes the file.
//!
//! | step | on the disk | after a crash |
//! |---|---|---|
//! | 1 | `litefleet-<id>.partial/` is created beside the target and locked | removed by the next export into that directory |
//! | 2 | the database is written there and flushed | removed by the next export into that directory |
//! | 3 | the file is renamed to the target and its directory flushed, while connections are kept out | the target is complete |
//! | 4 | `litefleet-<id>.partial/` is removed | removed by the next export into that directory |
//!
//! A `-wal` or `-journal` with the name of the target belongs to an earlier database. SQLite would read it as part of the
//! export, so the export is refused. The file may contain the only copy of some rows, so it is not removed.

use std::path::{Path, PathBuf};

use crate::{
    disk::{DirLock, Disk, ExclusiveLock, open_databases},
    error::{Error, ErrorKind, Result},
    id, layout,
    time::Timestamp,
};

const PREFIX: &str = "litefleet-";
const SUFFIX: &str = ".partial";

/// The exported file and every file that may be beside it.
const FILES: [&str; 7] = [
    "data.db",
    "data.db-journal",
    "data.db-wal",
    "data.db-shm",
    "data.db-source",
    "data.db-source-journal",
    "data.db-source-wal",
];

/// The maximum number of directories to create. Another export may remove one as abandoned before it is locked.
const ATTEMPTS: u32 = 100;

/// The locked directory of a running export.
#[derive(Debug)]
pub(super) struct Partial {
    dir: PathBuf,
    lock: DirLock,
}

impl Partial {
    /// Creates the directory for an export to `target`, and removes the directories of killed processes beside it.
    pub(super) fn begin(disk: &Disk, target: &Path) -> Result<Self> {
        refuse(target)?;
        let above = directory(target);
        sweep(disk, &above);
        for _ in 0..ATTEMPTS {
            let dir = above.join(format!("{PREFIX}{}{SUFFIX}", id::new_id(Timestamp::now())));
            if disk.make_dir(&dir)?
                && let Some(lock) = Disk::lock_dir(&dir)?
            {
                let partial = Self { dir, lock };
                // No other user may read the incomplete file or create a file beside it.
                return match disk.make_private(&partial.dir) {
                    Ok(()) => Ok(partial),
                    Err(error) => {
                        partial.remove(disk);
                        Err(error)
                    }
                };
            }
        }
        Err(Error::naming(ErrorKind::Busy, &above, |dir| {
            format!("another export to {dir} is starting; try again")
        }))
    }

    /// Returns the path of the file to write.
    pub(super) fn data(&self) -> PathBuf {
        layout::data(&self.dir)
    }

    /// Renames the complete and flushed file to `target`.
    pub(super) fn publish(&self, disk: &Disk, target: &Path) -> Result<()> {
        let staged = self.data();
        let rename = || {
            // Until this closure returns, no connection can read the file or create a WAL for it. A companion that the second
            // check finds therefore belongs to an earlier database, and the file can still be removed.
            let _lock = ExclusiveLock::take(disk, &staged)?;
            refuse(target)?;
            disk.rename_new(&staged, target)?;
            refuse_companions(target).and_then(|()| disk.sync_dir(&directory(target))).or_else(|error| {
                disk.remove(target)?;
                Err(error)
            })
        };
        open_databases(rename)?
    }

    /// Removes the directory and its files. The next export removes those that cannot be removed now.
    pub(super) fn remove(self, disk: &Disk) {
        let Self { dir, lock } = self;
        drop(lock);
        let _swept_later = disk.remove_abandoned_dir(&dir, &FILES);
    }
}

/// Removes abandoned directories.
fn sweep(disk: &Disk, above: &Path) {
    // A directory that cannot be listed may still be writable.
    let names = Disk::canonical(above).and_then(|above| Disk::list(&above));
    for name in names.unwrap_or_default().iter().filter(|name| is_partial(name)) {
        let _in_use = disk.remove_abandoned_dir(&above.join(name), &FILES);
    }
}

fn is_partial(name: &str) -> bool {
    let id = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    id.is_some_and(|id| id::number(id).is_ok())
}

/// Fails if `target` exists, or a file that SQLite would read as part of it.
fn refuse(target: &Path) -> Result<()> {
    if Disk::first_present([target.to_owned()])?.is_some() {
        return Err(Error::naming(ErrorKind::AlreadyExists, target, |file| {
            format!("{file} is there already; export to another file")
        }));
    }
    refuse_companions(target)
}

fn refuse_companions(target: &Path) -> Result<()> {
    let Some(found) = Disk::first_present(layout::companions(target))? else { return Ok(()) };
    Err(Error::naming(ErrorKind::AlreadyExists, &found, |file| {
        format!(
            "{file} is left over from another database, and SQLite would read it as a part of the export; move it away, or \
             export to another file"
        )
    }))
}

/// Returns the directory that contains a file.
fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => ".".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweep_removes_export_directories_only() {
        assert!(is_partial(&format!("{PREFIX}{}{SUFFIX}", id::new_id(Timestamp::now()))));
        for other in ["litefleet-.partial", "litefleet-x.partial", "out.db.partial", ".partial", "litefleet-"]
        {
            assert!(!is_partial(other), "{other}");
        }
    }
}
