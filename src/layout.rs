//! Where every file of a root lies. Pure paths: nothing here touches the disk.

use std::path::{Path, PathBuf};

use crate::name::{DatabaseName, GroupName};

/// The directory of a control plane and the places in it.
///
/// ```text
/// <root>/control.db            the catalog
/// <root>/.changes              counters, by which open connections see changes of their configuration
/// <root>/.staging/<id>/        a database that is being built, locked by the process that builds it
/// <root>/.trash/<id>/          a database or a group that is being deleted
/// <root>/<group>/<database>/   data.db, and data.db-wal and data.db-shm while it is in use
/// ```
///
/// Names cannot begin with a dot or hold one, so they never meet the plane's own files.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.root.join("control.db")
    }

    pub(crate) fn changes(&self) -> PathBuf {
        self.root.join(".changes")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join(".staging")
    }

    pub(crate) fn staged(&self, id: &str) -> PathBuf {
        self.staging().join(id)
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join(".trash")
    }

    pub(crate) fn trashed(&self, id: &str) -> PathBuf {
        self.trash().join(id)
    }

    pub(crate) fn group(&self, group: &GroupName) -> PathBuf {
        self.root.join(group.as_str())
    }

    pub(crate) fn database(&self, group: &GroupName, database: &DatabaseName) -> PathBuf {
        self.group(group).join(database.as_str())
    }
}

/// The database file in the directory of a database.
pub(crate) fn data(dir: &Path) -> PathBuf {
    dir.join("data.db")
}

/// The file that SQLite keeps beside a database under the same name with a suffix: `-wal` or `-journal`.
pub(crate) fn beside(data: &Path, suffix: &str) -> PathBuf {
    let mut path = data.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
