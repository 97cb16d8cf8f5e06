//! Where an export is written before it has its name, and how it gets it.
//!
//! | step | on the disk | after a crash |
//! |---|---|---|
//! | 1 | `litefleet-<id>.partial/` is made beside the target and locked | removed by the next export to any file there |
//! | 2 | the database is written there and flushed | likewise |
//! | 3 | it is renamed to the target and the directory above is flushed, while connections are kept out of it | the target is there and whole |
//! | 4 | `litefleet-<id>.partial/` is removed | likewise |
//!
//! A `-wal` or `-journal` of the target's name belongs to a database that was there before. SQLite would read it as that of
//! the export, so the export is refused. Such a file may hold somebody's only copy of some rows, so it is not removed.

use std::path::{Path, PathBuf};

use crate::{
    disk::{DirLock, Disk},
    error::{Error, ErrorKind, Result},
    id, layout,
    sys::isolated_fds,
    time::Timestamp,
};

const PREFIX: &str = "litefleet-";
const SUFFIX: &str = ".partial";

/// The file that is written, and all that may stand beside it meanwhile.
const FILES: [&str; 7] = [
    "data.db",
    "data.db-journal",
    "data.db-wal",
    "data.db-shm",
    "data.db-source",
    "data.db-source-journal",
    "data.db-source-wal",
];

/// How often a directory is made anew that another export takes for an abandoned one before it is locked.
const ATTEMPTS: u32 = 100;

/// A directory for a file that is being exported, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Partial {
    dir: PathBuf,
    lock: DirLock,
}

impl Partial {
    /// Makes the directory for an export to `target`, and removes the directories that dead processes left beside it.
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
                // Nobody else is to read what is not finished, or to put anything beside it.
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

    /// The file to be written.
    pub(super) fn data(&self) -> PathBuf {
        layout::data(&self.dir)
    }

    /// Gives the file, which is whole and flushed, the name `target`.
    pub(super) fn publish(&self, disk: &Disk, target: &Path) -> Result<()> {
        let staged = self.data();
        let rename = || {
            // From here to the end no connection can read the file or make a log of its own for it. What stands beside it on the
            // second look was there before it, and until then it can be withdrawn.
            let file = disk.open_to_write(&staged)?;
            Disk::keep_connections_out(&file);
            refuse(target)?;
            disk.rename_new(&staged, target)?;
            refuse_companions(target).and_then(|()| disk.sync_dir(&directory(target))).or_else(|error| {
                disk.remove(target)?;
                Err(error)
            })
        };
        isolated_fds::run(rename)?
    }

    /// Removes the directory with all that is in it. What cannot be removed now is left to the next export.
    pub(super) fn remove(self, disk: &Disk) {
        let Self { dir, lock } = self;
        drop(lock);
        let _swept_later = disk.remove_abandoned_dir(&dir, &FILES);
    }
}

/// Removes the directories that no export works in any more.
fn sweep(disk: &Disk, above: &Path) {
    // A directory that cannot be listed may still be written to.
    let names = Disk::canonical(above).and_then(|above| Disk::list(&above));
    for name in names.unwrap_or_default().iter().filter(|name| is_partial(name)) {
        let _in_use = disk.remove_abandoned_dir(&above.join(name), &FILES);
    }
}

fn is_partial(name: &str) -> bool {
    let id = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    id.is_some_and(|id| id::number(id).is_ok())
}

/// Fails if there is a file at `target`, or one that SQLite would take for a part of it.
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

/// The directory of a file.
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
    fn only_directories_of_exports_are_swept() {
        assert!(is_partial(&format!("{PREFIX}{}{SUFFIX}", id::new_id(Timestamp::now()))));
        for other in ["litefleet-.partial", "litefleet-x.partial", "out.db.partial", ".partial", "litefleet-"]
        {
            assert!(!is_partial(other), "{other}");
        }
    }
}
