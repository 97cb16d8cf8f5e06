//! The state of the files that may change while a database is verified.

use std::{collections::BTreeSet, path::PathBuf};

use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    history::{
        archive::NumberedFile,
        retention::RetentionMark,
        stamp_file::{check_version, previous_stamps, read_ended, state_of},
        timeline::Origin,
    },
    layout::ArchiveFile,
    stamps::{FileState, Stamps},
    units::GenerationNumber,
    wal::{self, Header},
};

/// The state of a database and its history at one time.
#[derive(Debug)]
pub(super) struct Observation {
    /// The numbered files, without indexes, which any reader may add.
    pub(super) files: BTreeSet<NumberedFile>,
    /// The contents of the live stamps, or `None` if they do not exist.
    pub(super) live: Option<Vec<u8>>,
    pub(super) current: Option<CurrentFile>,
    /// The header of the WAL, as far as it exists.
    pub(super) wal: Vec<u8>,
    /// Whether the newest stamps carry the id of another database.
    pub(super) is_foreign: bool,
    /// The first generation that is retained, if the history was pruned.
    pub(super) retained_from: Option<GenerationNumber>,
    pub(super) is_retention_mark_damaged: bool,
    data: Option<FileState>,
}

/// The stamps of the current WAL. They are not the live stamps if these belong to a WAL whose header was not written.
#[derive(Debug)]
pub(super) struct CurrentFile {
    pub(super) path: PathBuf,
    pub(super) stamps: Stamps,
}

impl Observation {
    pub(super) fn take(origin: &Origin) -> Result<Self> {
        let Origin { data, paths, birth, ended, .. } = origin;
        let database = birth.database;
        // Read the live stamps first: if they are renamed concurrently, the numbered file is listed.
        let live = Disk::read(&paths.live_stamps())?;
        check_version(&paths.live_stamps(), live.as_deref().unwrap_or_default())?;
        let files = ended.list()?;
        let path = origin.wal();
        let mut header = vec![0; wal::HEADER_LEN];
        let len = match Disk::open_regular(&path)? {
            Some(file) => Disk::read_up_to(&file, &path, &mut header, 0)?,
            None => 0,
        };
        header.truncate(len);
        let current = live.as_deref().and_then(Stamps::parse).map(|live| {
            let salts = header.first_chunk().and_then(Header::parse).map(|header| header.salts());
            match salts.and_then(|salts| previous_stamps(ended, &live, salts)) {
                Some(stamps) => {
                    let path = ended.path(stamps.generation.number, ArchiveFile::Stamps);
                    CurrentFile { path, stamps }
                }
                None => CurrentFile { path: paths.live_stamps(), stamps: live },
            }
        });
        let (retained, is_retention_mark_damaged) = match RetentionMark::read(paths, database) {
            Err(error) if error.kind() == ErrorKind::Corrupt => (None, true),
            retained => (retained?, false),
        };
        // The files of earlier generations are pruned.
        let retained_from = retained.map(|retained| retained.from);
        let from = retained_from.unwrap_or(GenerationNumber::new(0));
        // Pruning keeps the live stamps, from which the next writer reads the instant of the last commit.
        let current = current.filter(|current| current.stamps.generation.number >= from);
        // Listing a directory is not atomic: the list may have some of the files that are added concurrently.
        let newest = current.as_ref().map(|current| current.stamps.generation.number);
        let files: BTreeSet<_> = files
            .into_iter()
            .filter(|(number, file)| {
                *file != ArchiveFile::Index
                    && *number >= from
                    && newest.is_none_or(|newest| *number <= newest)
            })
            .collect();
        let is_foreign = match &current {
            Some(current) => current.stamps.generation.database != database,
            None if live.is_some() => false,
            None => {
                let newest = files.iter().rev().find(|(_, file)| *file == ArchiveFile::Stamps);
                let newest = newest.and_then(|(number, _)| read_ended(ended, *number).ok().flatten());
                newest.is_some_and(|newest| newest.generation.database != database)
            }
        };
        let data = state_of(data)?;
        Ok(Self {
            files,
            live,
            current,
            wal: header,
            is_foreign,
            retained_from,
            is_retention_mark_damaged,
            data,
        })
    }

    pub(super) fn has(&self, number: GenerationNumber, file: ArchiveFile) -> bool {
        self.files.contains(&(number, file))
    }

    /// The generations that have a file of this kind.
    pub(super) fn numbers(&self, kind: ArchiveFile) -> impl Iterator<Item = GenerationNumber> {
        self.files.iter().filter(move |(_, file)| *file == kind).map(|(number, _)| *number)
    }

    /// Whether nothing has changed between two observations.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.files, &self.live, &self.wal, self.data) == (&other.files, &other.live, &other.wal, other.data)
    }
}
