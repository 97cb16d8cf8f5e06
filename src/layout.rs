//! The path of every file of a fleet. This module does not access the disk.

use std::path::{Path, PathBuf};

use crate::{
    name::{DatabaseName, GroupDir},
    units::{GenerationNumber, GenerationSpan},
};

/// The directory of a control plane and the paths in it.
///
/// ```text
/// <root>/control.db            the catalog
/// <root>/.changes              counters that tell open connections about changes of their configuration
/// <root>/.reserve-<n>          space that is released when the disk is full, so that a database can be destroyed
/// <root>/.http/                tokens of the HTTP API, which manages them itself
/// <root>/.staging/<id>/        a database under construction, locked by the process that builds it
/// <root>/.trash/<id>/          a database or a group that is being deleted
/// <root>/<group>/group.json    the description of the group
/// <root>/<group>/<database>/   data.db, data.db-wal and data.db-shm while it is in use, unwritten or archive/, and
///                              description.json
/// ```
///
/// `<group>` is the [`GroupDir`] in the group's row, which equals the group's name unless the group was renamed.
///
/// Names contain no dot, and no group's directory is `control.` followed by a suffix of that file. Therefore no name collides
/// with the plane's files.
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

    /// One of the files that reserve space.
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

/// The description of a group, in its directory. No database has a name with a dot.
pub(crate) fn group_description(dir: &Path) -> PathBuf {
    dir.join("group.json")
}

/// A file that marks a database as unchanged since its creation. If neither it nor the archive exists, the history is lost.
pub(crate) fn unwritten(data: &Path) -> PathBuf {
    data.with_file_name("unwritten")
}

/// The directory to which an archive that belongs to another database is renamed.
pub(crate) fn archive_aside(data: &Path, number: u32) -> PathBuf {
    data.with_file_name(format!("archive.foreign-{number}"))
}

/// The file whose name is that of the database file with a suffix: `-wal`, `-shm` or `-journal`.
pub(crate) fn beside(data: &Path, suffix: &str) -> PathBuf {
    let mut path = data.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// The files that SQLite reads together with the database file `data`: the WAL, the rollback journal and the wal-index.
pub(crate) fn companions(data: &Path) -> [PathBuf; 3] {
    ["-wal", "-journal", "-shm"].map(|suffix| beside(data, suffix))
}

/// The files of a database's history, in the directory of the database.
///
/// ```text
/// archive/live.stamps           the stamps of the current WAL, or of the last one
/// archive/wanted                requests a snapshot when the next generation begins
/// archive/retained              the first generation that is retained
/// archive/limited               that generation, if a limit determined it
/// archive/000000000042.wal      the segment: the WAL of generation 42 after it ended
/// archive/000000000042.wal.zst  the compressed segment
/// archive/000000000042.stamps   the stamps of generation 42 after it ended
/// archive/000000000042.db       a snapshot: the database before the first commit of generation 42
/// archive/000000000042.delta    that snapshot, as a WAL of the pages that differ from an older one
/// archive/000000000042.sum      the checksums of the snapshot's pages
/// archive/000000000042.index    the frames of the segment, derived from it
/// archive/000000000001-000000000040.tar.zst   a pack: segments, stamps and indexes of generations 1 to 40
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArchivePaths {
    dir: PathBuf,
}

/// What a numbered file of an archive contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ArchiveFile {
    Segment,
    Compressed,
    Stamps,
    /// A full snapshot.
    Snapshot,
    /// A snapshot that has only the pages that differ from those of a full one.
    Delta,
    Sum,
    Index,
}

const PACK_EXTENSION: &str = "tar.zst";

impl ArchiveFile {
    const ALL: [Self; 7] =
        [Self::Segment, Self::Compressed, Self::Stamps, Self::Snapshot, Self::Delta, Self::Sum, Self::Index];

    /// The files that a snapshot can have.
    pub(crate) const OF_SNAPSHOT: [Self; 3] = [Self::Snapshot, Self::Delta, Self::Sum];

    pub(crate) fn is_of_snapshot(self) -> bool {
        Self::OF_SNAPSHOT.contains(&self)
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Segment => "wal",
            Self::Compressed => "wal.zst",
            Self::Stamps => "stamps",
            Self::Snapshot => "db",
            Self::Delta => "delta",
            Self::Sum => "sum",
            Self::Index => "index",
        }
    }
}

impl ArchivePaths {
    /// The paths for the database in the file `data`.
    pub(crate) fn of(data: &Path) -> Self {
        Self { dir: data.with_file_name("archive") }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The database file. The files of its history get its owner and mode.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.with_file_name("data.db")
    }

    pub(crate) fn live_stamps(&self) -> PathBuf {
        self.dir.join("live.stamps")
    }

    /// The file with the first generation that is retained.
    pub(crate) fn retention_mark(&self) -> PathBuf {
        self.dir.join("retained")
    }

    /// The file with the first generation that is retained because of a limit.
    pub(crate) fn limit_mark(&self) -> PathBuf {
        self.dir.join("limited")
    }

    /// The file that requests a snapshot when the next generation begins.
    pub(crate) fn snapshot_request(&self) -> PathBuf {
        self.dir.join("wanted")
    }

    /// A file of a generation.
    pub(crate) fn file(&self, number: GenerationNumber, file: ArchiveFile) -> PathBuf {
        self.dir.join(format!("{number:012}.{}", file.extension()))
    }

    /// Reads the name of a numbered file. Returns `None` for any other name.
    pub(crate) fn parse(name: &str) -> Option<(GenerationNumber, ArchiveFile)> {
        let (number, extension) = name.split_once('.')?;
        let file = ArchiveFile::ALL.into_iter().find(|file| file.extension() == extension)?;
        Some((parse_number(number)?, file))
    }

    /// The pack of the generations of a span.
    pub(crate) fn pack(&self, span: GenerationSpan) -> PathBuf {
        self.dir.join(format!("{:012}-{:012}.{PACK_EXTENSION}", span.first, span.last))
    }

    /// Reads the name of a pack. Returns `None` for any other name.
    pub(crate) fn parse_pack(name: &str) -> Option<GenerationSpan> {
        let (span, extension) = name.split_once('.')?;
        let (first, last) = span.split_once('-').filter(|_| extension == PACK_EXTENSION)?;
        let span = GenerationSpan { first: parse_number(first)?, last: parse_number(last)? };
        (span.first <= span.last).then_some(span)
    }
}

/// Reads the number of a generation, which has at least 12 digits and never more than 15.
fn parse_number(digits: &str) -> Option<GenerationNumber> {
    let is_number = (12..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(GenerationNumber::new)
}
