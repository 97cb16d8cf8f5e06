//! Detection of a root whose catalog is lost.

use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::{self, Layout},
    name::{DatabaseName, GroupDir},
};

/// Fails with [`ErrorKind::Corrupt`] if the root has databases and no catalog. A new catalog would hide them.
pub(super) fn check_not_lost(layout: &Layout) -> Result<()> {
    if Disk::exists(&layout.control())? {
        return Ok(());
    }
    for name in Disk::list(layout.root())? {
        let dir = layout.root().join(&name);
        if name.parse::<GroupDir>().is_err() || !Disk::is_dir(&dir) {
            continue;
        }
        for database in Disk::list(&dir)? {
            let is_name = database.parse::<DatabaseName>().is_ok();
            let database = dir.join(&database);
            if is_name && Disk::is_dir(&database) && Disk::exists(&layout::data(&database))? {
                return Err(Error::naming(ErrorKind::Corrupt, &layout.control(), |file| {
                    format!(
                        "{file} is missing, but the root contains databases; restore the file, or create a new one with `litefleet recover`"
                    )
                }));
            }
        }
    }
    Ok(())
}
