//! Where every file of a root lies. Pure paths: nothing here touches the disk.

use std::path::{Path, PathBuf};

use crate::name::{DatabaseName, GroupDir};

/// The directory of a control plane and the places in it.
///
/// ```text
/// <root>/control.db            the catalog
/// <root>/.changes              counters, by which open connections see changes of their configuration
/// <root>/.reserve-<n>          room that is given up when the disk is full, so that something can be destroyed
/// <root>/.http/                tokens of the API over HTTP, which keeps them itself
/// <root>/.staging/<id>/        a database that is being built, locked by the process that builds it
/// <root>/.trash/<id>/          a database or a group that is being deleted
/// <root>/<group>/group.json    the description of the group
/// <root>/<group>/<database>/   data.db, data.db-wal and data.db-shm while it is in use, unwritten or archive/, and
///                              description.json
/// ```
///
/// `<group>` is the [`GroupDir`] in the group's row, and is its name only as long as it was never renamed.
///
/// Names cannot begin with a dot or hold one, and no group's directory is `control.` and a suffix of that file, so they
/// never meet the plane's own files.
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

    /// A piece of the reserve.
    pub(crate) fn reserve(&self, piece: u32) -> PathBuf {
        self.root.join(format!(".reserve-{piece}"))
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

    pub(crate) fn group(&self, group: &GroupDir) -> PathBuf {
        self.root.join(group.as_str())
    }

    pub(crate) fn database(&self, group: &GroupDir, database: &DatabaseName) -> PathBuf {
        self.group(group).join(database.as_str())
    }
}

/// The database file in the directory of a database.
pub(crate) fn data(dir: &Path) -> PathBuf {
    dir.join("data.db")
}

/// The description of a database, in its directory.
pub(crate) fn description(dir: &Path) -> PathBuf {
    dir.join("description.json")
}

/// The description of a group, in its directory. No database has a name with a dot in it.
pub(crate) fn group_description(dir: &Path) -> PathBuf {
    dir.join("group.json")
}

/// A file beside a database that nobody has ever written to: what it is now it has been since it was created. Where
/// neither this is there nor an archive, the history is lost.
pub(crate) fn unwritten(data: &Path) -> PathBuf {
    data.with_file_name("unwritten")
}

/// Where the archive of another database is put that stood in the place of a database's own.
pub(crate) fn archive_aside(data: &Path, number: u32) -> PathBuf {
    data.with_file_name(format!("archive.foreign-{number}"))
}

/// The file that SQLite keeps beside a database under the same name with a suffix: `-wal` or `-journal`.
pub(crate) fn beside(data: &Path, suffix: &str) -> PathBuf {
    let mut path = data.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// The files that SQLite reads together with the database file `data` if they exist: log, journal, and the index of the log.
pub(crate) fn companions(data: &Path) -> [PathBuf; 3] {
    ["-wal", "-journal", "-shm"].map(|suffix| beside(data, suffix))
}

/// The files of a database's history, in the directory of the database.
///
/// ```text
/// archive/live.stamps           the stamps of the generation that the WAL is in, or was in last
/// archive/wanted                asks for a snapshot where the next generation begins
/// archive/retained              from which generation on the history is retained
/// archive/000000000042.wal      the segment: the WAL of generation 42, when it had ended
/// archive/000000000042.wal.zst  the same, compressed
/// archive/000000000042.stamps   its stamps
/// archive/000000000042.db       a snapshot: the database before the first commit of generation 42
/// archive/000000000042.sum      the checksums of that snapshot's pages
/// archive/000000000042.index    what stands in the segment, which follows from it
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArchivePaths {
    dir: PathBuf,
}

/// What a file of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ArchiveFile {
    Segment,
    Compressed,
    Stamps,
    Snapshot,
    Sum,
    Index,
}

impl ArchiveFile {
    const ALL: [Self; 6] =
        [Self::Segment, Self::Compressed, Self::Stamps, Self::Snapshot, Self::Sum, Self::Index];

    fn extension(self) -> &'static str {
        match self {
            Self::Segment => "wal",
            Self::Compressed => "wal.zst",
            Self::Stamps => "stamps",
            Self::Snapshot => "db",
            Self::Sum => "sum",
            Self::Index => "index",
        }
    }
}

impl ArchivePaths {
    /// Of the database in the file `data`.
    pub(crate) fn of(data: &Path) -> Self {
        Self { dir: data.with_file_name("archive") }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The database file, whose owner and mode the files of its history have.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.with_file_name("data.db")
    }

    pub(crate) fn live_stamps(&self) -> PathBuf {
        self.dir.join("live.stamps")
    }

    pub(crate) fn retained(&self) -> PathBuf {
        self.dir.join("retained")
    }

    /// What asks whoever begins the next generation for a snapshot before it.
    pub(crate) fn wanted(&self) -> PathBuf {
        self.dir.join("wanted")
    }

    /// A file of a generation.
    pub(crate) fn file(&self, sequence: u64, file: ArchiveFile) -> PathBuf {
        self.dir.join(format!("{sequence:012}.{}", file.extension()))
    }

    /// Which generation's file has this name, and which it is.
    pub(crate) fn parse(name: &str) -> Option<(u64, ArchiveFile)> {
        let (sequence, extension) = name.split_once('.')?;
        let file = ArchiveFile::ALL.into_iter().find(|file| file.extension() == extension)?;
        // No history gets as far as more digits than these.
        let digits =
            (12..=15).contains(&sequence.len()) && sequence.bytes().all(|byte| byte.is_ascii_digit());
        Some((sequence.parse().ok().filter(|_| digits)?, file))
    }
}
