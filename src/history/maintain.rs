//! Maintenance of a history: new snapshots, so that a restore is bounded, the pruning of what no window needs, and the
//! [compression](super::compress) of what few restores do.
//!
//! # Who may be at it meanwhile
//!
//! Connections of any process write to the database, and end and begin generations. Readers (restores, views, lists of
//! points) and those who add to the archive share the lock of its directory. Maintenance has the lock of the database's
//! directory, so that there is one at a time, and for the steps that prune and that remove a log which was compressed that
//! of the archive, alone and without waiting long: where it cannot have that, it leaves them for the next time.
//!
//! # What a crash leaves
//!
//! | it stops | the archive | instants |
//! |---|---|---|
//! | while a snapshot is written | `maintained.new`, removed by the next maintenance | as before |
//! | between the snapshot and its sum | a snapshot without a sum, which is none; removed by the next maintenance | as before |
//! | after the sum | the snapshot, which may be torn if the power failed: then its checksum does not fit, and an older one is taken | as before: an older one is there until the new one is on the disk, and was read back |
//! | before `retained` is renamed into its place | `retained.new`, removed by the next maintenance | as before |
//! | after that, whatever files were removed | files of generations that no reader looks at; removed by the next maintenance | those before the first generation that is retained are refused, and its beginning is named; all others as before |
//! | while a log is compressed | `compressed.new`, removed by the next maintenance | as before |
//! | after the compressed log was renamed into its place | both files, of which the log as it was is read; the next maintenance compares them and removes that, or replaces the compressed one | as before |
//! | after the log as it was is removed | the compressed one, which was on the disk and was read back | as before |
//!
//! Where the logs do not lead to where a snapshot is due, because one of them is damaged, a file `wanted` asks whoever begins
//! the next generation for a snapshot of the database itself, which has all that they would have led to.
//!
//! Only generations that have ended are given a snapshot or become the first one that is retained: their headers stay as
//! they are, while that of a generation in which nobody has committed is written anew if it is begun once more; the
//! snapshot that was wanted before it is taken anew then.

use std::{collections::BTreeSet, ops::Bound, path::Path};

use super::{
    Birth, HistoricalImage, RetentionMark, compress::alone, foreign, live_stamps, read_stamps,
    snapshot::Snapshot, timeline::Timeline,
};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::{ArchiveFile, ArchivePaths},
    point::{MaintenanceReport, RestorableRange},
    progress::ProgressFn,
    retention::Retention,
    stamps::Generation,
    time::Timestamp,
};

/// Logs that are together shorter than this are no reason for a snapshot, however small the database is.
const LOGS_MIN: u64 = 1 << 20;

/// How long ago the last change of a file is that is on the disk by now, in nanoseconds: an hour. The system writes what
/// was changed within half a minute, unless it is told otherwise.
const WRITTEN_AFTER: i64 = 60 * 60 * 1_000_000_000;

/// The maintenance of one database's history.
#[derive(Debug)]
pub(crate) struct Maintenance<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) data: &'a Path,
    pub(crate) birth: Birth,
    /// Whether its pages are in the clear.
    pub(crate) is_plain: bool,
    pub(crate) now: Timestamp,
}

impl Maintenance<'_> {
    /// Does what is due under the window that `window` says, which is asked again when nobody else can begin a history.
    pub(crate) fn run(
        &self,
        window: &dyn Fn() -> Result<Retention>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<MaintenanceReport> {
        let mut done = MaintenanceReport::default();
        let mut result = Ok(());
        if Disk::exists(ArchivePaths::of(self.data).dir())? {
            match Disk::lock_dir(self.data.parent().unwrap_or(self.data))? {
                Some(_alone) => result = self.maintain(window, &mut done, watch),
                None => done.deferred = true,
            }
        }
        result?;
        done.windows = self.windows()?;
        Ok(done)
    }

    pub(super) fn ask<T>(&self, question: impl FnMut(&Timeline) -> Result<T>) -> Result<T> {
        Timeline::ask(Some(self.disk), self.data, self.birth, question)
    }

    /// The spans of time that can be restored.
    fn windows(&self) -> Result<Vec<RestorableRange>> {
        let none = (Bound::Excluded(Timestamp::from_micros(i64::MAX / 1_000_000)?), Bound::Unbounded);
        self.ask(|timeline| Ok(timeline.points(none)?.windows))
    }

    fn maintain(
        &self,
        window: &dyn Fn() -> Result<Retention>,
        done: &mut MaintenanceReport,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        let paths = ArchivePaths::of(self.data);
        // Fails for the history of another database, of which nothing may be removed.
        self.ask(|_| Ok(()))?;
        let at_first = window()?;
        let mut from = None;
        let mut failed = Ok(());
        if !at_first.is_off() {
            // Damage in the newest logs does not keep the oldest from being pruned, and on a full disk pruning makes room.
            match self.take_snapshot(watch) {
                Ok(taken) => done.snapshots += u32::from(taken),
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::DiskFull) => {
                    failed = Err(error);
                }
                Err(error) => return Err(error),
            }
            self.flush(&paths)?;
            let micros = i64::try_from(at_first.seconds()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            let cutoff = self.now.as_micros().saturating_sub(micros);
            from = self.ask(|timeline| oldest_needed(timeline, cutoff))?;
        }
        match alone(&paths)? {
            // With a window that was changed meanwhile, something else may be due.
            Some(_alone) if window()? == at_first => {
                self.prune(&paths, from, at_first.is_off())?;
                self.remove_leftovers(&paths, done)?;
            }
            _ => done.deferred = true,
        }
        self.remove_pruned(&paths, done)?;
        if self.is_plain && !at_first.is_off() {
            self.compress(&paths, done, watch)?;
        }
        failed
    }

    /// Makes a snapshot if one is due, and says whether it was.
    fn take_snapshot(&self, watch: &mut ProgressFn<'_>) -> Result<bool> {
        let Some((last, generation)) = self.ask(|timeline| self.due(timeline))? else { return Ok(false) };
        let written = self.ask(|timeline| HistoricalImage::before(timeline, &generation));
        match written.and_then(|past| self.write_snapshot(&past, &generation, watch)) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let from = self.ask(|timeline| first_damaged(timeline, last, &generation, watch))?;
                // The database itself has what the logs do not lead to, whenever a log has ended.
                let wanted = ArchivePaths::of(self.data).wanted();
                if !Disk::exists(&wanted)? {
                    self.disk.create_like(&wanted, self.data)?;
                }
                Err(no_snapshot(&error, Timestamp::from_micros(from)?))
            }
            written => {
                written?;
                let wanted = ArchivePaths::of(self.data).wanted();
                if Disk::exists(&wanted)? {
                    self.disk.remove(&wanted)?;
                }
                Ok(true)
            }
        }
    }

    /// The generation before which a snapshot is due, where the segments since the newest one are longer together than the
    /// database; and the generation before which that is.
    fn due(&self, timeline: &Timeline) -> Result<Option<(u64, Generation)>> {
        // The newest generation that has ended, and the one before it: the snapshot comes between the two.
        let Some(live) = &timeline.live else { return Ok(None) };
        let ended = timeline.sequences.strip_suffix(&[live.generation.sequence]).unwrap_or_default();
        let [.., before, newest] = *ended else { return Ok(None) };
        let Some(last) = timeline.snapshots.range(..=newest).next_back().copied() else { return Ok(None) };
        let mut logs = 0;
        for sequence in last..newest {
            let len = |file| Disk::len(&timeline.paths.file(sequence, file));
            logs += len(ArchiveFile::Segment)?.or(len(ArchiveFile::Compressed)?).unwrap_or(0);
        }
        if last == newest || logs <= Disk::len(self.data)?.unwrap_or(0).max(LOGS_MIN) {
            return Ok(None);
        }
        let generation = timeline.stamps(newest)?.generation;
        // What begins anew does not go on from what is before it.
        let goes_on = !generation.begins && generation.sequence == before + 1;
        Ok(goes_on.then_some((last, generation)))
    }

    /// Writes the pages before a generation out as a snapshot. Each is checked when it is read.
    fn write_snapshot(
        &self,
        past: &HistoricalImage,
        generation: &Generation,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        let paths = ArchivePaths::of(self.data);
        let beside = paths.dir().join("maintained.new");
        self.disk.remove(&beside)?;
        let file = self.disk.create_like(&beside, self.data)?;
        let written = past.read_all(watch, |bytes, at| self.disk.write_at(&file, &beside, bytes, at));
        if let Err(error) = written.and_then(|()| self.disk.sync_file(&file, &beside)) {
            let _removed_next_time = self.disk.remove(&beside);
            return Err(error);
        }
        let of = (generation.sequence, generation.seed(), generation.page_size);
        Snapshot::publish(self.disk, &paths, of, (&beside, &file))
    }

    /// Flushes what was added to the archive.
    fn flush(&self, paths: &ArchivePaths) -> Result<()> {
        let written_before = Timestamp::now().as_micros().saturating_mul(1000).saturating_sub(WRITTEN_AFTER);
        let mut flushed = false;
        let numbered =
            Disk::list(paths.dir())?.into_iter().filter(|name| ArchivePaths::parse(name).is_some());
        for path in numbered.map(|name| paths.dir().join(name)).chain([paths.live_stamps()]) {
            if Disk::last_change(&path)?.is_some_and(|(_, changed_at)| changed_at >= written_before)
                && let Some(file) = Disk::open(&path)?
            {
                self.disk.sync_file(&file, &path)?;
                flushed = true;
            }
        }
        if flushed { self.disk.sync_dir(paths.dir()) } else { Ok(()) }
    }

    /// Prunes what is before a generation, or all that there is. Nobody else reads the archive, or adds to it.
    fn prune(&self, paths: &ArchivePaths, from: Option<u64>, all: bool) -> Result<()> {
        let files = files(paths)?;
        let stamps = files.iter().filter(|(_, file)| *file == ArchiveFile::Stamps);
        let newest = match live_stamps(paths)? {
            Some(live) => Some(live),
            None => match stamps.map(|(sequence, _)| *sequence).max() {
                Some(newest) => read_stamps(&paths.file(newest, ArchiveFile::Stamps))?,
                None => None,
            },
        };
        let Some(newest) = newest.map(|newest| newest.generation) else { return Ok(()) };
        let Some(from) = from.or(all.then_some(newest.sequence + 1)) else { return Ok(()) };
        let database = self.birth.database;
        if newest.database != database {
            return Err(foreign(paths.dir()));
        }
        if RetentionMark::read(paths, database)?.is_some_and(|retained| retained.from >= from) {
            return Ok(());
        }
        RetentionMark { from, database }.write(self.disk, paths)
    }

    /// Removes what calls left that went no further. Nobody else reads the archive, or adds to it.
    fn remove_leftovers(&self, paths: &ArchivePaths, done: &mut MaintenanceReport) -> Result<()> {
        for name in Disk::list(paths.dir())? {
            if name.split_once('.').is_some_and(|(_, kind)| ["new", "new-sum"].contains(&kind)) {
                self.remove(&paths.dir().join(name), done)?;
            }
        }
        let files = files(paths)?;
        for (sequence, file) in &files {
            // Where a history begins, it is no leftover: its sum is missing.
            if *file == ArchiveFile::Snapshot
                && !files.contains(&(*sequence, ArchiveFile::Sum))
                && let Some(stamps) = read_stamps(&paths.file(*sequence, ArchiveFile::Stamps))?
                && !stamps.generation.begins
                && RetentionMark::read(paths, self.birth.database)?
                    .is_none_or(|retained| retained.from != *sequence)
            {
                self.remove(&paths.file(*sequence, ArchiveFile::Snapshot), done)?;
            }
        }
        Ok(())
    }

    /// Removes the files of generations that are pruned, which nobody looks at.
    fn remove_pruned(&self, paths: &ArchivePaths, done: &mut MaintenanceReport) -> Result<()> {
        let Some(retained) = RetentionMark::read(paths, self.birth.database)? else { return Ok(()) };
        let mut pruned = BTreeSet::new();
        for (sequence, file) in files(paths)?.range(..(retained.from, ArchiveFile::Segment)) {
            self.remove(&paths.file(*sequence, *file), done)?;
            pruned.insert(*sequence);
        }
        done.generations += pruned.len() as u64;
        Ok(())
    }

    fn remove(&self, path: &Path, done: &mut MaintenanceReport) -> Result<()> {
        let len = Disk::len(path)?.unwrap_or(0);
        self.disk.remove(path)?;
        done.bytes_freed += len;
        Ok(())
    }
}

/// The files of generations in an archive.
fn files(paths: &ArchivePaths) -> Result<BTreeSet<(u64, ArchiveFile)>> {
    Ok(Disk::list(paths.dir())?.iter().filter_map(|name| ArchivePaths::parse(name)).collect())
}

/// The generation from which on all is needed to restore instants at or after `cutoff`; nothing if nothing comes before
/// it. The snapshot that it begins with was read and is whole.
fn oldest_needed(timeline: &Timeline, cutoff: i64) -> Result<Option<u64>> {
    let Some((first, _)) = timeline.sequences.split_first() else { return Ok(None) };
    for sequence in timeline.snapshots.iter().rev().copied().filter(|sequence| sequence > first) {
        if timeline.live.as_ref().is_none_or(|live| live.generation.sequence == sequence) {
            continue;
        }
        let is_whole = || {
            let stamps = timeline.stamps(sequence)?;
            if stamps.generation.begun_at > cutoff || stamps.made(None).is_empty() {
                return Ok(false);
            }
            let Generation { page_size, .. } = stamps.generation;
            match Snapshot::find(&timeline.paths, sequence, stamps.generation.seed(), page_size)? {
                Some(snapshot) => snapshot.check_all(page_size).map(|()| true),
                None => Ok(false),
            }
        };
        match is_whole() {
            Ok(true) => return Ok(Some(sequence)),
            // An older one is taken, for which more is needed.
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// From when on instants may be refused, in microseconds of UTC: when the first generation began, from the one behind the
/// snapshot `last` on, whose end cannot be read. That of the generation before this one cannot.
fn first_damaged(
    timeline: &Timeline,
    last: u64,
    generation: &Generation,
    watch: &mut ProgressFn<'_>,
) -> Result<i64> {
    let mut is_damaged = |sequence: u64| {
        let read = timeline
            .stamps(sequence + 1)
            .and_then(|after| HistoricalImage::before(timeline, &after.generation))
            .and_then(|past| past.read_all(watch, |_, _| Ok(())));
        match read {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(true),
            read => read.map(|()| false),
        }
    };
    let (mut low, mut high) = (last, generation.sequence - 1);
    while low < high {
        let middle = low.midpoint(high);
        if is_damaged(middle)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    // Where its own stamps are damaged, the end of those before it is not known either.
    let known = (last..=low).rev().find_map(|sequence| timeline.stamps(sequence).ok());
    Ok(known.map_or(generation.begun_at, |stamps| timeline.starts_at(&stamps.generation)))
}

/// The logs do not lead to where the next snapshot would be.
#[cold]
fn no_snapshot(error: &Error, from: Timestamp) -> Error {
    let message = error.message().map(|error| {
        format!(
            "no new snapshot can be made, because {error}; the database itself can be read and written, but instants after \
             {from} may be refused until that file is put back, and up to where the next log is begun: a snapshot is taken \
             there"
        )
    });
    Error::with(ErrorKind::Corrupt, message)
}
