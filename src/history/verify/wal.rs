//! The WAL, against its stamps.

use super::{
    commits::{self, Committed},
    frames,
    observation::Observation,
    run::{KnownStamps, Run, file_name},
};
use crate::{
    disk::{DatabaseFile, Disk, WalIndexFile},
    error::Result,
    finding::Finding,
    history::{checksummed::page_checksum, log::Log, stamp_file::state_of},
    layout::{self, ArchiveFile},
    stamps::{CommitRecord, FileState, Record, Slot, Stamps},
    units::{FrameNumber, Salts},
    wal::{self, Header},
};

/// Checks the WAL of the generation of these stamps, and returns its committed frames. Returns `None` if the WAL does not exist,
/// or belongs to another generation.
pub(super) fn check(
    run: &mut Run<'_>,
    observation: &Observation,
    stamps: &Stamps,
) -> Result<Option<Committed>> {
    let path = run.origin.wal();
    let salts = stamps.generation.salts;
    // The committed frames are determined before the WAL is read up to there.
    let indexed = last_indexed(run, salts)?;
    let written_before = match stamps.slots.iter().rev().find(|slot| matches!(slot, Slot::Record(_))) {
        Some(Slot::Record(Record::Commit(commit))) => commit.before,
        _ => stamps.end().and_then(|end| end.frame),
    };
    let known = indexed.max(written_before);
    let (file, log) = match Log::open(&path)? {
        Some((file, log)) if log.salts == salts => (file, log),
        other => {
            let other = other.map(|(_, log)| log);
            check_replaced(run, observation, stamps, known, other.as_ref())?;
            return Ok(None);
        }
    };
    run.report.logs += 1;
    let last = log.end().frame.max(known);
    if let Some(header) = Header::parse(&log.start) {
        frames::check(run, &path, &header, last, |into, at| Disk::read_up_to(&file, &path, into, at))?;
    }
    commits::check(run, &path, stamps, &log, last);
    Ok(Some(Committed { last }))
}

/// Reports the WAL of the generation of these stamps as missing if it had commits that no other file has. `known` is the last
/// frame that is known to be committed, and `found` the log that replaces the WAL.
fn check_replaced(
    run: &mut Run<'_>,
    observation: &Observation,
    stamps: &Stamps,
    known: Option<FrameNumber>,
    found: Option<&Log>,
) -> Result<()> {
    let path = run.origin.wal();
    let len = Disk::len(&path)?.unwrap_or(0);
    let has_commits = known > stamps.generation.base_frame || !stamps.commits().is_empty();
    let is_archived = observation.has(stamps.generation.number, ArchiveFile::Segment);
    let is_gap = was_changed_unseen(run, stamps.checkpointed().unwrap_or(stamps.generation.data))?
        || !is_archived && has_commits && len == 0 && is_checkpointed(run, stamps)?;
    if is_gap {
        return Ok(());
    }
    if stamps.end().is_none() && has_commits && !(is_archived && len == 0) {
        let message = match found {
            None if len == 0 => "it is missing, and with it commits that are not in the database file",
            None => "it is damaged: invalid header",
            Some(_) => "another program restarted it, or it belongs to another database",
        };
        run.found(Finding::new(&path, message));
    } else if found.is_some_and(|log| !log.frames.is_empty())
        // A connection may have restarted the WAL while the history was off.
        && run.subject.birth.is_kept_since
    {
        let message = "another program restarted it: its commits are not part of the history yet";
        run.found(Finding::new(&path, message));
    }
    Ok(())
}

/// Reports a WAL with commits whose stamps do not exist.
pub(super) fn check_unstamped(run: &mut Run<'_>, known: &KnownStamps) -> Result<()> {
    let path = run.origin.wal();
    let Some((_, newest)) = known.last_key_value() else { return Ok(()) };
    // A process that is killed while it restarts a WAL leaves the previous one.
    if let Some((_, log)) = Log::open(&path)?
        && log.salts != newest.generation.salts
        && !log.frames.is_empty()
    {
        let message = format!("it is missing, or another program restarted {}", file_name(&path));
        run.found(Finding::new(run.origin.paths.live_stamps(), message));
    }
    Ok(())
}

/// The last committed frame of the WAL with these salts, according to the wal-index.
fn last_indexed(run: &Run<'_>, salts: Salts) -> Result<Option<FrameNumber>> {
    let path = layout::beside(run.subject.data, "-shm");
    let Some(index) = WalIndexFile::open(run.subject.data, &path)? else { return Ok(None) };
    let mut head = [0; 2 * wal::INDEX_HEADER_LEN];
    if index.read_start(&mut head)? < head.len() {
        return Ok(None);
    }
    Ok(wal::last_commit(&head).filter(|last| last.salts == salts).and_then(|last| last.frame))
}

/// Whether the database file may have been written to while its history was off, after it was in a state. Such a write is not
/// damage.
pub(super) fn was_changed_unseen(run: &Run<'_>, since: FileState) -> Result<bool> {
    Ok(!run.subject.birth.is_kept_since && state_of(run.subject.data)? != Some(since))
}

/// Whether the last page of the last commit is in the database file: another program checkpointed and deleted the WAL, and no
/// commit is lost.
fn is_checkpointed(run: &mut Run<'_>, stamps: &Stamps) -> Result<bool> {
    let data = run.subject.data;
    let last = stamps.commits().into_iter().rev().find_map(|record| match record {
        CommitRecord::Commit(commit) => Some(commit),
        CommitRecord::Unstamped { .. } => None,
    });
    let Some(checksum) = last.and_then(|commit| commit.checksum) else { return Ok(false) };
    let Some(file) = DatabaseFile::open(data)? else { return Ok(false) };
    let mut page = vec![0; stamps.generation.page_size as usize];
    let mut at = 0;
    while file.read_up_to(&mut page, at)? == page.len() {
        if page_checksum(&page).short() == Some(checksum) {
            return Ok(true);
        }
        at += page.len() as u64;
        run.read(page.len() as u64)?;
    }
    Ok(false)
}
