//! Maintenance of a history. It takes new snapshots, which bound the cost of a restore. It prunes what the retention window does
//! not need. It [compresses](super::compress) logs that few restores read.
//!
//! # Concurrency
//!
//! Connections of any process write to the database, and begin and end generations. Readers (restores, views, lists of recovery
//! points) and processes that add to the archive hold a shared lock of the archive directory. Maintenance holds the exclusive
//! lock of the database's directory, so that only one process maintains a database at a time. It prunes, and deletes the logs
//! that it has compressed, under the exclusive lock of the archive. If it cannot get that lock soon, the next maintenance does
//! these steps.
//!
//! # Crashes
//!
//! | crash | the archive | instants |
//! |---|---|---|
//! | while a snapshot is written | `maintained.new`, deleted by the next maintenance | unchanged |
//! | between the snapshot and its checksums | a snapshot without checksums, which is ignored and deleted by the next maintenance | unchanged |
//! | after the checksums | the snapshot; if the power failed it may be torn: then a checksum does not match, and an older snapshot is used | unchanged: an older snapshot exists until the new one is durable and was read back |
//! | before `retained` is renamed into its place | `retained.new`, deleted by the next maintenance | unchanged |
//! | after that, whatever files were deleted | files of generations that no reader sees, deleted by the next maintenance | those before the first retained generation are refused with the instant at which it begins; all others are unchanged |
//! | while a log is compressed | `compressed.new`, deleted by the next maintenance | unchanged |
//! | after the compressed log was renamed into its place | both files, of which readers use the log; the next maintenance compares them and deletes the log, or replaces the compressed file | unchanged |
//! | after the log was deleted | the compressed log, which is durable and was read back | unchanged |
//!
//! If a damaged log prevents a due snapshot, a file `wanted` requests a snapshot of the database itself when the next generation
//! begins. That snapshot contains all commits of the logs.
//!
//! Only a generation whose header does not change gets a snapshot or becomes the first retained one: one that has ended, or the
//! newest one if it has commits, which are flushed first. The header of a generation without commits is rewritten if its WAL is
//! restarted. A requested snapshot before that generation is then taken again.

use std::{collections::BTreeSet, ops::Bound, path::Path};

use super::{
    archive::Archive,
    compress::Compression,
    damaged_log::{first_damaged, no_snapshot},
    delta::bases_of,
    dir_lock::exclusive,
    ended::EndedName,
    errors::foreign,
    generation_log::GenerationLog,
    limit::{Beginning, Extents},
    maintained_snapshot::{self, Form},
    packing::Packing,
    plan,
    points::points,
    retention::RetentionMark,
    snapshot::{NewSnapshot, Snapshot},
    stamp_file::{live_stamps, read_ended},
    timeline::{Birth, Origin, Timeline},
};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::ArchiveFile,
    point::{MaintenanceReport, PruneReason, RestorableRange},
    progress::ProgressFn,
    retention::RetentionPolicy,
    stamps::{Generation, Stamps},
    time::Timestamp,
    units::{GenerationNumber, Micros, Nanos},
};

/// Maximum total length of the logs for which no snapshot is due, however small the database is.
const LOGS_MIN: u64 = 1 << 20;

/// Age in nanoseconds (one hour) after which the operating system has written a change to the disk. The default is half a minute.
const WRITTEN_AFTER: i64 = 60 * 60 * 1_000_000_000;

/// The maintenance of one database's history.
#[derive(Debug)]
pub(crate) struct Maintenance<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) data: &'a Path,
    pub(crate) birth: Birth,
    /// Whether the pages of the database are not sealed.
    pub(crate) is_plain: bool,
    pub(crate) now: Timestamp,
}

/// One run of maintenance.
struct Run<'a> {
    disk: &'a Disk,
    origin: Origin,
    is_plain: bool,
    now: Micros,
}

/// The generations to prune.
#[derive(Clone, Copy)]
enum Pruning {
    None,
    /// Those before a generation.
    Before(GenerationNumber, PruneReason),
    All,
}

/// What a limit requires.
struct Limited {
    /// The first generation to retain, or `None` if the limit prunes nothing.
    from: Option<GenerationNumber>,
    /// The number of snapshots that were taken.
    snapshots: u32,
    /// Why a snapshot was not taken.
    failed: Result<()>,
}

/// A snapshot that is due.
struct DueSnapshot {
    /// The generation before which it is due.
    generation: Generation,
    /// The generation before which the newest snapshot before that one is.
    newest: GenerationNumber,
}

impl Maintenance<'_> {
    /// Runs the maintenance that is due. `policy` returns what is retained. It is called again while no other process can begin a
    /// history.
    pub(crate) fn run(
        &self,
        policy: &dyn Fn() -> Result<RetentionPolicy>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<MaintenanceReport> {
        self.run_on(Origin::local(Some(self.disk), self.data, self.birth), policy, watch)
    }

    /// Runs the maintenance that is due in the history that `origin` describes.
    pub(super) fn run_on(
        &self,
        origin: Origin,
        policy: &dyn Fn() -> Result<RetentionPolicy>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<MaintenanceReport> {
        let run = Run { disk: self.disk, origin, is_plain: self.is_plain, now: self.now.into() };
        let mut report = MaintenanceReport::default();
        if Disk::exists(run.origin.paths.dir())? {
            match Disk::lock_dir(self.data.parent().unwrap_or(self.data))? {
                Some(_lock) => run.maintain(policy, &mut report, watch)?,
                None => report.deferred = true,
            }
        }
        report.windows = run.restorable_ranges()?;
        Ok(report)
    }
}

impl Run<'_> {
    fn restorable_ranges(&self) -> Result<Vec<RestorableRange>> {
        let no_points = (Bound::Excluded(Timestamp::from_micros(i64::MAX / 1_000_000)?), Bound::Unbounded);
        self.origin.ask(|timeline| Ok(points(timeline, no_points)?.windows))
    }

    fn maintain(
        &self,
        policy: &dyn Fn() -> Result<RetentionPolicy>,
        report: &mut MaintenanceReport,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        // Fails for the history of another database. Nothing in it may be deleted.
        self.origin.ask(|_| Ok(()))?;
        let at_first = policy()?;
        let mut pruning = Pruning::All;
        let mut failed = Ok(());
        if !at_first.window.is_off() {
            match self.take_due_snapshot(watch) {
                Ok(taken) => report.snapshots += u32::from(taken),
                Err(error) if prunes_after(&error) => failed = Err(error),
                Err(error) => return Err(error),
            }
            self.flush()?;
            let micros =
                i64::try_from(at_first.window.seconds()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            let cutoff = self.now.minus(micros);
            let needed = self.origin.ask(|timeline| oldest_needed(timeline, cutoff))?;
            pruning = needed.map_or(Pruning::None, |from| Pruning::Before(from, PruneReason::Window));
            if let Some(limit) = at_first.limit.bytes() {
                let limited = self.within(limit, needed, watch)?;
                report.snapshots += limited.snapshots;
                failed = failed.and(limited.failed);
                pruning = limited.from.map_or(pruning, |from| Pruning::Before(from, PruneReason::Limit));
            }
        }
        match exclusive(&self.origin.paths)? {
            // If the policy was changed concurrently, different maintenance may be due.
            Some(_lock) if policy()? == at_first => {
                self.prune(pruning)?;
                self.remove_leftovers(report)?;
            }
            _ => report.deferred = true,
        }
        self.remove_pruned(report)?;
        if !at_first.window.is_off() {
            let is_plain = self.is_plain;
            let limit = at_first.limit.bytes();
            Packing { origin: &self.origin, disk: self.disk, is_plain, limit }.run(report, watch)?;
        }
        if self.is_plain && !at_first.window.is_off() {
            let compression = Compression { origin: &self.origin, disk: self.disk, now: self.now };
            compression.run(report, watch)?;
        }
        failed
    }

    /// Takes a snapshot if the logs since the newest one are long. Returns whether it did.
    fn take_due_snapshot(&self, watch: &mut ProgressFn<'_>) -> Result<bool> {
        let Some(due) = self.origin.ask(|timeline| self.due(timeline))? else { return Ok(false) };
        self.take_snapshot(&due, Form::Shared, watch)?;
        let request = self.origin.paths.snapshot_request();
        if Disk::exists(&request)? {
            self.disk.remove(&request)?;
        }
        Ok(true)
    }

    /// Takes a snapshot.
    fn take_snapshot(&self, due: &DueSnapshot, form: Form, watch: &mut ProgressFn<'_>) -> Result<()> {
        let DueSnapshot { generation, newest } = due;
        let Origin { paths, ended, .. } = &self.origin;
        let staged = paths.dir().join("maintained.new");
        let new = NewSnapshot { disk: self.disk, paths, ended, generation, staged };
        let written = self
            .origin
            .ask(|timeline| plan::image_before(timeline, generation))
            .and_then(|image| maintained_snapshot::write(&new, &image, form, watch));
        match written {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let from = self.origin.ask(|timeline| first_damaged(timeline, *newest, generation, watch))?;
                let request = self.origin.paths.snapshot_request();
                // Once a log has ended, the database itself contains the commits that the damaged logs cannot reproduce.
                if !Disk::exists(&request)? {
                    self.disk.create_like(&request, &self.origin.data)?;
                }
                Err(no_snapshot(&error, from.timestamp()?))
            }
            written => written,
        }
    }

    /// Finds where the history begins so that its size does not exceed `limit`, and takes the snapshot that this requires.
    /// `needed` is the first generation that the window needs, or `None` if that is the oldest one.
    fn within(
        &self,
        limit: u64,
        needed: Option<GenerationNumber>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<Limited> {
        let mut limited = Limited { from: None, snapshots: 0, failed: Ok(()) };
        let exceeding = self.origin.ask(|timeline| Extents::exceeding(timeline, needed, limit))?;
        let Some(mut extents) = exceeding else { return Ok(limited) };
        while let Some(beginning) = extents.beginning(limit) {
            let number = match beginning {
                Beginning::Taken(number) => number,
                Beginning::Untaken(number) => {
                    let due = self.origin.ask(|timeline| due_before(timeline, number))?;
                    // A delta would keep its base, which precedes the generations that are pruned.
                    match self.take_snapshot(&due, Form::Full, watch) {
                        Ok(()) => limited.snapshots += 1,
                        Err(error) if prunes_after(&error) => {
                            limited.failed = Err(error);
                            extents.exclude_untaken();
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                    number
                }
            };
            if self.origin.ask(|timeline| self.can_begin(timeline, number))? {
                self.flush()?;
                limited.from = Some(number);
                break;
            }
            extents.exclude(number);
        }
        Ok(limited)
    }

    /// Whether the snapshot before a generation is complete and intact. Makes the commits of the generation durable if they are
    /// in the WAL: if they were lost in a power failure, the next generation would replace this one.
    fn can_begin(&self, timeline: &Timeline, number: GenerationNumber) -> Result<bool> {
        let generation = timeline.stamps(number)?.generation;
        if timeline.is_live(number)
            && let Some(GenerationLog { path, live: Some(wal), .. }) =
                GenerationLog::open(timeline, &generation, None)?
        {
            self.disk.sync_file(&wal, &path)?;
        }
        Snapshot::is_intact(timeline.ended(), &generation)
    }

    /// The snapshot that is due, if the segments after the newest snapshot are together longer than the database.
    fn due(&self, timeline: &Timeline) -> Result<Option<DueSnapshot>> {
        // The snapshot is taken between the two newest generations that have ended.
        let Some(live) = &timeline.live else { return Ok(None) };
        let ended = timeline.numbers.strip_suffix(&[live.generation.number]).unwrap_or_default();
        let [.., before, last] = *ended else { return Ok(None) };
        let Some(newest) = timeline.snapshots.range(..=last).next_back().copied() else { return Ok(None) };
        let mut logs = 0;
        let numbers = std::iter::successors(Some(newest), |number| Some(number.next()));
        for number in numbers.take_while(|number| *number < last) {
            let len = |file| timeline.ended().len(number, file);
            logs += len(ArchiveFile::Segment)?.or(len(ArchiveFile::Compressed)?).unwrap_or(0);
        }
        if newest == last || logs <= Disk::len(&self.origin.data)?.unwrap_or(0).max(LOGS_MIN) {
            return Ok(None);
        }
        let generation = timeline.stamps(last)?.generation;
        // If the history begins again at a generation, the logs before it do not reproduce the database at that generation.
        let continues = !generation.begins() && generation.number == before.next();
        Ok(continues.then_some(DueSnapshot { generation, newest }))
    }

    /// Makes durable the files that were added to the history.
    fn flush(&self) -> Result<()> {
        let now = Timestamp::now().as_micros().saturating_mul(1000);
        let since = Nanos::new(now.saturating_sub(WRITTEN_AFTER));
        let live = self.origin.paths.live_stamps();
        if Disk::last_change(&live)?.is_some_and(|(_, changed_at)| Nanos::new(changed_at) >= since)
            && let Some(file) = Disk::open(&live)?
        {
            self.disk.sync_file(&file, &live)?;
            self.disk.sync_dir(self.origin.paths.dir())?;
        }
        self.origin.ended.flush_added_since(since)
    }

    /// Prunes generations. The caller holds the exclusive lock of the archive.
    fn prune(&self, pruning: Pruning) -> Result<()> {
        let Origin { paths, birth, ended, .. } = &self.origin;
        let newest = match live_stamps(paths)? {
            Some(live) => Some(live),
            None => newest_numbered(ended)?,
        };
        let Some(newest) = newest.map(|newest| newest.generation) else { return Ok(()) };
        let (from, reason) = match pruning {
            Pruning::None => return Ok(()),
            Pruning::Before(from, reason) => (from, reason),
            Pruning::All => (newest.number.next(), PruneReason::Window),
        };
        let database = birth.database;
        if newest.database != database {
            return Err(foreign(paths.dir()));
        }
        if RetentionMark::read(paths, database)?.is_some_and(|retained| retained.from >= from) {
            return Ok(());
        }
        RetentionMark { from, database }.write(reason, self.disk, paths)
    }

    /// Deletes the files that incomplete calls have left. The caller holds the exclusive lock of the archive.
    fn remove_leftovers(&self, report: &mut MaintenanceReport) -> Result<()> {
        let Origin { paths, birth, ended, .. } = &self.origin;
        let files = ended.list()?;
        for (number, file) in &files {
            // The first snapshot of a history is not a leftover: if its checksums are missing, it is damaged. The base of a delta is
            // used without its checksums.
            if [ArchiveFile::Snapshot, ArchiveFile::Delta].contains(file)
                && !files.contains(&(*number, ArchiveFile::Sum))
                && let Some(stamps) = read_ended(ended, *number)?
                && !stamps.generation.begins()
                && RetentionMark::read(paths, birth.database)?.is_none_or(|retained| retained.from < *number)
                && (*file == ArchiveFile::Delta
                    || bases_of(ended, &files, *number)?.is_some_and(|bases| !bases.contains(number)))
            {
                self.delete(*number, *file, report)?;
            }
        }
        // Last, because staged checksums show that a snapshot is incomplete and not damaged.
        for name in Disk::list(paths.dir())? {
            if name.split_once('.').is_some_and(|(_, kind)| ["new", "new-sum"].contains(&kind)) {
                let path = paths.dir().join(name);
                report.bytes_freed += Disk::len(&path)?.unwrap_or(0);
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Deletes the files of pruned generations, which no reader sees, except the bases of snapshots that are retained.
    fn remove_pruned(&self, report: &mut MaintenanceReport) -> Result<()> {
        let Origin { paths, birth, ended, .. } = &self.origin;
        let Some(retained) = RetentionMark::read(paths, birth.database)? else { return Ok(()) };
        let mut pruned = BTreeSet::new();
        let files = ended.list_loose()?;
        let old = || files.range(..(retained.from, ArchiveFile::Segment));
        // The sums are read only if a snapshot may be deleted.
        let has_snapshot = old().any(|(_, file)| *file == ArchiveFile::Snapshot);
        let bases = if has_snapshot { bases_of(ended, &files, retained.from)? } else { None };
        for (number, file) in old() {
            if *file != ArchiveFile::Snapshot {
                pruned.insert(*number);
            } else if bases.as_ref().is_none_or(|bases| bases.contains(number)) {
                continue;
            }
            self.delete(*number, *file, report)?;
        }
        for (span, len) in ended.pack_lens()? {
            if span.last < retained.from {
                ended.store().delete(EndedName::Pack(span))?;
                report.bytes_freed += len;
                pruned.extend(span.numbers());
            }
        }
        report.generations += pruned.len() as u64;
        Ok(())
    }

    fn delete(
        &self,
        number: GenerationNumber,
        file: ArchiveFile,
        report: &mut MaintenanceReport,
    ) -> Result<()> {
        let len = self.origin.ended.len(number, file)?.unwrap_or(0);
        self.origin.ended.delete(number, file)?;
        report.bytes_freed += len;
        Ok(())
    }
}

/// The newest stamps of ended generations. Returns `None` if there are none.
fn newest_numbered(ended: &Archive) -> Result<Option<Stamps>> {
    let files = ended.list()?;
    let newest = files.iter().rev().find(|(_, file)| *file == ArchiveFile::Stamps);
    newest.map_or(Ok(None), |(number, _)| read_ended(ended, *number))
}

/// The first generation that is needed to restore instants at or after `cutoff`. Returns `None` if that is the oldest one. The
/// snapshot before the generation is complete, and was verified by reading it.
fn oldest_needed(timeline: &Timeline, cutoff: Micros) -> Result<Option<GenerationNumber>> {
    let Some((first, _)) = timeline.numbers.split_first() else { return Ok(None) };
    for number in timeline.snapshots.iter().rev().copied().filter(|number| number > first) {
        if timeline.live.as_ref().is_none_or(|live| live.generation.number == number) {
            continue;
        }
        let is_usable = || {
            let stamps = timeline.stamps(number)?;
            if stamps.generation.begun_at > cutoff || stamps.commits().is_empty() {
                return Ok(false);
            }
            Snapshot::is_intact(timeline.ended(), &stamps.generation)
        };
        match is_usable() {
            Ok(true) => return Ok(Some(number)),
            // An older snapshot is used, which needs more generations.
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The snapshot before a generation, as one that is due.
fn due_before(timeline: &Timeline, number: GenerationNumber) -> Result<DueSnapshot> {
    let generation = timeline.stamps(number)?.generation;
    let newest = timeline.snapshots.range(..number).next_back().or(timeline.numbers.first()).copied();
    Ok(DueSnapshot { generation, newest: newest.unwrap_or(number) })
}

/// Whether old generations are pruned although a snapshot could not be taken. Those before the newest snapshot are not needed,
/// even if newer logs are damaged. On a full disk, pruning frees space.
fn prunes_after(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::DiskFull)
}
