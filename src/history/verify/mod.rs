//! Verification: whether every file of a history, and the database itself, has the contents that were written to it.
//!
//! Verification reads all files, writes none, and opens no file through SQLite. Archived files do not change and are checked
//! once. Files that SQLite writes to may change during the verification: a finding in such a file is checked again. A commit that
//! was never captured, because of a foreign writer or a power failure, is a gap and not a finding.

mod commits;
mod data;
mod frames;
mod observation;
mod packs;
mod run;
mod segment;
mod snapshot;
mod stamps;
mod wal;

use std::{collections::BTreeSet, thread};

pub(crate) use run::{Subject, Tag};

use self::{
    observation::Observation,
    run::{ATTEMPTS, PAUSE, Run},
};
use super::{
    errors::{FOREIGN, keeps_changing},
    timeline::{Birth, Origin, Timeline},
};
use crate::{
    disk::Disk,
    error::Result,
    finding::{Finding, VerifyReport},
    layout::{self, ArchiveFile},
    progress::ProgressFn,
    stamps::CommitRecord,
};

/// Verifies a database and its history.
///
/// Must run within [`open_databases`](crate::disk::open_databases).
pub(crate) fn verify(subject: &Subject<'_>, watch: &mut ProgressFn<'_>) -> Result<VerifyReport> {
    let birth = Birth { is_kept_since: true, ..subject.birth };
    let origin = Origin::local(None, subject.data, birth);
    // No file of the history is deleted while this lock is held.
    let _held = Disk::share_dir(origin.paths.dir())?;
    let mut run = Run::new(subject, &origin, watch);
    for attempt in 0..ATTEMPTS {
        thread::sleep(PAUSE * attempt);
        let observation = Observation::take(&origin)?;
        run.report = VerifyReport { tags: subject.tag.is_some(), ..VerifyReport::default() };
        check_all(&mut run, &observation)?;
        if run.report.findings.is_empty() || Observation::take(&origin)?.is_same(&observation) {
            return Ok(run.finish());
        }
    }
    // Findings in files that do not change are final.
    let changing = [origin.paths.live_stamps(), subject.data.to_owned(), origin.wal()];
    run.report.findings.retain(|finding| !changing.contains(&finding.file));
    if run.report.findings.is_empty() {
        return Err(keeps_changing(subject.data));
    }
    Ok(run.finish())
}

fn check_all(run: &mut Run<'_>, observation: &Observation) -> Result<()> {
    let paths = &run.origin.paths;
    if observation.is_foreign {
        // The history belongs to another database.
        run.found(Finding::new(paths.dir(), FOREIGN));
        return data::check_tags(run);
    }
    if observation.is_retention_mark_damaged {
        run.found(Finding::new(paths.retention_mark(), "it is damaged, or belongs to another database"));
    }
    // Files that change are read first.
    stamps::check_live(run, observation);
    let current = observation.current.as_ref();
    let wal = match current {
        Some(current) => wal::check(run, observation, &current.stamps)?,
        None => None,
    };
    packs::check(run)?;
    let known = stamps::check_all(run, observation)?;
    let timeline = Timeline {
        origin: run.origin.clone(),
        has_pristine_mark: Disk::exists(&layout::unwritten(run.subject.data))?,
        retained_from: observation.retained_from,
        live: current.map(|current| current.stamps.clone()),
        observed: None,
        numbers: known.keys().copied().collect(),
        snapshots: observation.numbers(ArchiveFile::Sum).collect::<BTreeSet<_>>(),
        indexed: observation.numbers(ArchiveFile::Index).collect(),
        held: None,
    };
    stamps::check_missing(run, observation, &known);
    stamps::check_links(run, observation, &known);
    for (number, stamps) in &known {
        let is_live = timeline.is_live(*number);
        let next = known.get(&number.next()).map(|next| &next.generation).filter(|next| !next.begins());
        let committed = match wal.filter(|_| is_live) {
            Some(committed) => Some(committed),
            None => segment::check(run, &timeline, stamps, next)?,
        };
        // Stamps that the history does not continue are ignored. They have their own finding.
        if next.is_none_or(|next| !next.lineage.contradicts(stamps.digest)) {
            let commits = commits::of(stamps, committed);
            let stamped = commits.iter().filter(|record| matches!(record, CommitRecord::Commit(_)));
            run.report.commits += stamped.count() as u64;
        }
        let is_first = known.first_key_value().is_some_and(|(first, _)| first == number);
        snapshot::check(run, observation, stamps, is_first)?;
    }
    if observation.live.is_none() {
        wal::check_unstamped(run, &known)?;
    }
    snapshot::check_chain(run, &timeline, &known)?;
    data::check(run, &timeline, observation, wal.is_some())
}
