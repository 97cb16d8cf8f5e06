//! One look at what moves on while a database is verified.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    history,
    layout::{self, ArchiveFile, ArchivePaths},
    stamps::Stamps,
    wal::{self, Header},
};

/// What tells whether a database and its history have moved on.
#[derive(Debug)]
pub(super) struct Observation {
    /// The files that belong to a generation, without indexes, which come and go.
    pub(super) files: BTreeSet<(u64, ArchiveFile)>,
    /// The live stamps; nothing if there are none.
    pub(super) live: Option<Vec<u8>>,
    /// The stamps of the generation that the WAL is in, and their file. They are not the live ones where these are of
    /// a WAL that was not begun.
    pub(super) current: Option<(PathBuf, Stamps)>,
    /// The header of the WAL, as far as it goes.
    pub(super) wal: Vec<u8>,
    /// Whether the newest stamps carry the id of another database.
    pub(super) is_foreign: bool,
    /// The first generation that is retained, if the history was pruned.
    pub(super) retained_from: Option<u64>,
    /// Whether that cannot be told.
    pub(super) is_retained_damaged: bool,
    /// The length and time of the database file.
    data: Option<(u64, i64)>,
}

impl Observation {
    pub(super) fn take(data: &Path, paths: &ArchivePaths, database: u128) -> Result<Self> {
        // Stamps that are given their number meanwhile are found under that.
        let live = Disk::read(&paths.live_stamps())?;
        history::check_version(&paths.live_stamps(), live.as_deref().unwrap_or_default())?;
        let names = if Disk::exists(paths.dir())? { Disk::list(paths.dir())? } else { Vec::new() };
        let wal = layout::beside(data, "-wal");
        let mut header = vec![0; wal::HEADER_LEN];
        let len = match Disk::open_regular(&wal)? {
            Some(file) => Disk::read_up_to(&file, &wal, &mut header, 0)?,
            None => 0,
        };
        header.truncate(len);
        let current = live.as_deref().and_then(Stamps::parse).map(|live| {
            let salts = header.first_chunk().and_then(Header::parse).map(|header| header.salts());
            match salts.and_then(|salts| history::before(paths, &live, salts)) {
                Some(before) => (paths.file(before.generation.sequence, ArchiveFile::Stamps), before),
                None => (paths.live_stamps(), live),
            }
        });
        // What comes before is being removed.
        let (retained, is_retained_damaged) = match history::RetentionMark::read(paths, database) {
            Err(error) if error.kind() == ErrorKind::Corrupt => (None, true),
            retained => (retained?, false),
        };
        let retained_from = retained.map(|retained| retained.from);
        let from = retained_from.unwrap_or(0);
        // Pruning leaves the newest stamps in their place, where the next writer finds the instant of the last commit.
        let current = current.filter(|(_, live)| live.generation.sequence >= from);
        // A list is not of one instant: what comes about while it is made may be in it, or a part of that.
        let newest = current.as_ref().map(|(_, live)| live.generation.sequence);
        let files = names.iter().filter_map(|name| ArchivePaths::parse(name));
        let files = files.filter(|(sequence, file)| {
            *file != ArchiveFile::Index
                && *sequence >= from
                && newest.is_none_or(|newest| *sequence <= newest)
        });
        let files: BTreeSet<_> = files.collect();
        let is_foreign = match &current {
            Some((_, live)) => live.generation.database != database,
            None if live.is_some() => false,
            None => {
                let stamps = files.iter().rev().find(|(_, file)| *file == ArchiveFile::Stamps);
                let newest =
                    stamps.map(|(sequence, file)| history::read_stamps(&paths.file(*sequence, *file)));
                let newest = newest.and_then(|newest| newest.ok().flatten());
                newest.is_some_and(|newest| newest.generation.database != database)
            }
        };
        let data = Disk::last_change(data)?;
        Ok(Self { files, live, current, wal: header, is_foreign, retained_from, is_retained_damaged, data })
    }

    pub(super) fn has(&self, sequence: u64, file: ArchiveFile) -> bool {
        self.files.contains(&(sequence, file))
    }

    /// Whether nothing has moved on between this look and another one.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        (&self.files, &self.live, &self.wal, self.data) == (&other.files, &other.live, &other.wal, other.data)
    }
}
