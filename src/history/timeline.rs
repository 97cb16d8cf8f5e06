//! The generations of a history in order, as they were at one observation.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    archive::Archive,
    errors::{damaged, foreign, keeps_changing, missing},
    frame_index::IndexWriter,
    retention::RetentionMark,
    stamp_file::{CurrentStamps, current_stamps_in, read_ended, read_generation, read_stamps},
};
use crate::{
    disk::{DirLock, Disk},
    error::{ErrorKind, Result},
    layout::{self, ArchiveFile, ArchivePaths},
    point::PruneReason,
    stamps::{FileState, Generation, Lineage, LogEnd, Stamps},
    time::Timestamp,
    units::{GenerationNumber, Micros},
};

/// Maximum number of observations of a history that keeps changing.
const ATTEMPTS: u32 = 100;

/// The database that a history must belong to, according to the catalog.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth {
    /// The id of the database.
    pub(crate) database: u128,
    /// When the database was created.
    pub(crate) at: Timestamp,
    /// Whether its history has been on without interruption since then.
    pub(crate) is_kept_since: bool,
}

/// Where a history is read from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The database file.
    pub(super) data: PathBuf,
    pub(super) paths: ArchivePaths,
    pub(super) birth: Birth,
    pub(super) ended: Archive,
    /// The disk to write indexes to, or `None` to write nothing.
    pub(super) disk: Option<Disk>,
}

/// The history of one database at one observation.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    pub(super) origin: Origin,
    /// Whether the database has the mark of one that is unchanged since its creation.
    pub(super) has_pristine_mark: bool,
    /// The first generation that is retained, if the history was pruned.
    pub(super) retained_from: Option<GenerationNumber>,
    /// The stamps of the newest generation.
    pub(super) live: Option<Stamps>,
    /// The state of the history, by which a change is detected.
    pub(super) observed: Option<Observed>,
    /// The generations that have stamps, in order.
    pub(super) numbers: Vec<GenerationNumber>,
    /// The generations that have a snapshot before them.
    pub(super) snapshots: BTreeSet<GenerationNumber>,
    /// The generations whose segments have an index.
    pub(super) indexed: BTreeSet<GenerationNumber>,
    /// A shared lock that prevents files of the history from being deleted.
    pub(super) held: Option<Arc<DirLock>>,
}

/// What changes when a generation begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    generation: Generation,
    newer_are_void: bool,
    end: Option<LogEnd>,
    checkpointed: Option<FileState>,
}

impl Observed {
    fn new(current: &CurrentStamps) -> Self {
        let CurrentStamps { stamps, newer_are_void } = current;
        Self {
            generation: stamps.generation,
            newer_are_void: *newer_are_void,
            end: stamps.end(),
            checkpointed: stamps.checkpointed(),
        }
    }
}

impl Origin {
    /// The history beside the database file `data`. `disk` is the disk to write indexes to, or `None` to write nothing.
    pub(crate) fn local(disk: Option<&Disk>, data: &Path, birth: Birth) -> Self {
        let paths = ArchivePaths::of(data);
        let ended = Archive::local(disk.cloned().unwrap_or_default(), paths.clone());
        Self { data: data.to_owned(), paths, birth, ended, disk: disk.cloned() }
    }

    /// Observes the history. None of its files is deleted while the result lives.
    pub(crate) fn read(&self) -> Result<Timeline> {
        // Check for the mark before reading stamps, because the mark is removed after the first stamps are written.
        let has_pristine_mark = Disk::exists(&layout::unwritten(&self.data))?;
        let held = Disk::share_dir(self.paths.dir())?.map(Arc::new);
        let retained = RetentionMark::read(&self.paths, self.birth.database)?;
        let retained_from = retained.map(|retained| retained.from);
        let from = retained_from.unwrap_or(GenerationNumber::new(0));
        for attempt in 1..=ATTEMPTS {
            let (mut current, mut is_live_damaged) = match self.current_stamps() {
                Err(error) if error.kind() == ErrorKind::Corrupt => (None, true),
                current => (current?, false),
            };
            let files = self.ended.list()?;
            let of = |kind| {
                files
                    .iter()
                    .filter(move |(number, file)| *file == kind && *number >= from)
                    .map(|(number, _)| *number)
            };
            let mut numbers: Vec<GenerationNumber> = of(ArchiveFile::Stamps).collect();
            // The live stamps may be renamed to a numbered file concurrently. If newer live stamps are void, the current stamps
            // are already in a numbered file.
            let has_changed = match &current {
                Some(current) => {
                    let number = current.stamps.generation.number;
                    files.contains(&(number, ArchiveFile::Stamps)) != current.newer_are_void
                }
                None => Disk::exists(&self.paths.live_stamps())? != is_live_damaged,
            };
            let observed = current.as_ref().map(Observed::new);
            if has_changed && attempt < ATTEMPTS {
                continue;
            }
            if has_changed {
                // The conflict is permanent: older stamps replaced the newest.
                (current, is_live_damaged) = (None, true);
            }
            let live = current.map(|current| current.stamps);
            if let Some(live) = &live {
                if live.generation.database != self.birth.database {
                    return Err(foreign(self.paths.dir()));
                }
                let newest = live.generation.number;
                numbers.retain(|number| *number < newest);
                numbers.push(newest);
                numbers.retain(|number| *number >= from);
            }
            if is_live_damaged {
                let newest = files
                    .iter()
                    .filter(|(_, file)| *file == ArchiveFile::Stamps)
                    .map(|(number, _)| *number)
                    .max();
                numbers.push(newest.map_or(GenerationNumber::FIRST, GenerationNumber::next).max(from));
            }
            if live.is_none()
                && let Some(newest) = numbers.last()
                && let Ok(Some(newest)) = read_ended(&self.ended, *newest)
                && newest.generation.database != self.birth.database
            {
                return Err(foreign(self.paths.dir()));
            }
            let (snapshots, indexed) = (of(ArchiveFile::Sum).collect(), of(ArchiveFile::Index).collect());
            return Ok(Timeline {
                origin: self.clone(),
                has_pristine_mark,
                retained_from,
                live: live.filter(|live| live.generation.number >= from),
                observed,
                numbers,
                snapshots,
                indexed,
                held,
            });
        }
        Err(keeps_changing(&self.data))
    }

    /// Observes the history and calls `question` with it. Repeats both as long as `question` fails and the history changes.
    pub(crate) fn ask<T>(&self, mut question: impl FnMut(&Timeline) -> Result<T>) -> Result<T> {
        for _ in 0..ATTEMPTS {
            let timeline = self.read()?;
            match question(&timeline) {
                Err(_) if timeline.has_changed()? => {}
                answer => return answer,
            }
        }
        Err(keeps_changing(&self.data))
    }

    fn current_stamps(&self) -> Result<Option<CurrentStamps>> {
        current_stamps_in(&self.ended, &self.paths, &self.data)
    }

    /// The path of the WAL.
    pub(super) fn wal(&self) -> PathBuf {
        layout::beside(&self.data, "-wal")
    }

    pub(super) fn index_writer(&self) -> Option<IndexWriter<'_>> {
        self.disk.as_ref().map(|disk| IndexWriter { disk, paths: &self.paths })
    }
}

impl Timeline {
    /// This observation for a thread with its own descriptors.
    pub(super) fn reopened(&self) -> Self {
        let mut timeline = self.clone();
        timeline.origin.ended = self.origin.ended.reopened();
        timeline
    }

    /// Whether no generation has stamps.
    pub(crate) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    pub(super) fn ended(&self) -> &Archive {
        &self.origin.ended
    }

    /// The name of a numbered file in errors.
    pub(super) fn path(&self, number: GenerationNumber, file: ArchiveFile) -> PathBuf {
        self.origin.ended.path(number, file)
    }

    /// The name of the stamps of a generation in errors.
    pub(super) fn stamps_path(&self, number: GenerationNumber) -> PathBuf {
        if self.is_live(number) {
            self.origin.paths.live_stamps()
        } else {
            self.path(number, ArchiveFile::Stamps)
        }
    }

    /// Whether a generation is the newest one.
    pub(super) fn is_live(&self, number: GenerationNumber) -> bool {
        self.live.as_ref().is_some_and(|live| live.generation.number == number)
    }

    /// The stamps of a generation.
    pub(super) fn stamps(&self, number: GenerationNumber) -> Result<Stamps> {
        if let Some(live) = self.live.as_ref().filter(|live| live.generation.number == number) {
            return Ok(live.clone());
        }
        let mut path = self.path(number, ArchiveFile::Stamps);
        let mut stamps = read_ended(self.ended(), number)?;
        if stamps.is_none() && self.live.is_none() && self.numbers.last() == Some(&number) {
            path = self.origin.paths.live_stamps();
            stamps = read_stamps(&path)?;
        }
        let stamps = stamps.ok_or_else(|| missing(&path))?;
        self.check_identity(&stamps.generation, number, &path)?;
        Ok(stamps)
    }

    /// The header of the stamps of a generation. The stamps of an ended generation are not read.
    pub(super) fn generation(&self, number: GenerationNumber) -> Result<Generation> {
        if !self.is_live(number)
            && let Some(generation) = read_generation(self.ended(), number)?
        {
            self.check_identity(&generation, number, &self.path(number, ArchiveFile::Stamps))?;
            return Ok(generation);
        }
        Ok(self.stamps(number)?.generation)
    }

    /// Fails with [`ErrorKind::Corrupt`] unless a header that was read from `path` is that of the generation `number` of this
    /// history.
    fn check_identity(&self, header: &Generation, number: GenerationNumber, path: &Path) -> Result<()> {
        if header.number != number {
            return Err(damaged(path, "it belongs to another generation"));
        }
        if header.database != self.origin.birth.database {
            return Err(damaged(path, "it belongs to another database"));
        }
        Ok(())
    }

    /// The generation after this one. Returns `None` if there is none.
    pub(super) fn next(&self, number: GenerationNumber) -> Result<Option<Generation>> {
        let next = number.next();
        let exists = self.numbers.binary_search(&next).is_ok();
        exists.then(|| self.generation(next)).transpose()
    }

    /// The earliest instant that can belong to a generation.
    pub(super) fn starts_at(&self, generation: &Generation) -> Micros {
        match generation.lineage {
            // The generation before it, which records the instant of its last commit, is pruned.
            _ if self.retained_from == Some(generation.number) => generation.begun_at,
            Lineage::Born if generation.number == GenerationNumber::FIRST => self.origin.birth.at.into(),
            Lineage::Born | Lineage::AfterGap => generation.begun_at,
            Lineage::Continues { .. } => generation.not_before,
        }
    }

    /// Why the oldest generations were pruned. Returns `None` if none were.
    pub(super) fn pruned_by(&self) -> Result<Option<PruneReason>> {
        let Origin { paths, birth, .. } = &self.origin;
        let mark = self.retained_from.map(|from| RetentionMark { from, database: birth.database });
        mark.map(|mark| mark.reason(paths)).transpose()
    }

    /// Whether a generation has begun or ended since the observation. An inconsistency may then be absent from the next
    /// observation.
    pub(crate) fn has_changed(&self) -> Result<bool> {
        Ok(self.origin.current_stamps()?.as_ref().map(Observed::new) != self.observed)
    }

    /// Fails with [`ErrorKind::Corrupt`] if a generation is missing after the one at `index`.
    pub(super) fn check_next(&self, index: usize) -> Result<()> {
        match self.numbers.get(index..=index + 1) {
            Some(&[number, next]) if next != number.next() => {
                Err(missing(&self.path(number.next(), ArchiveFile::Stamps)))
            }
            _ => Ok(()),
        }
    }
}
