//! The commits of a generation, and which stamps belong to them.
//!
//! A stamp is written before its commit. If the commit fails, a foreign writer may later commit the same number of frames. The
//! checksum of the commit frame's page then shows that the stamp does not belong to that commit.

use super::{
    checksummed::page_checksum,
    errors::missing,
    generation_log::{GenerationLog, fixed_end, known_end},
    log::salts_of,
    log_file::LogFile,
    stamp_file::{read_ended, read_stamps},
    timeline::Timeline,
};
use crate::{
    disk::Disk,
    error::Result,
    layout::ArchiveFile,
    stamps::{Commit, CommitRecord, Generation, Lineage, Stamps},
    units::{Micros, PageChecksum},
    wal,
};

/// The commits of a generation in order. `next` is the next generation, if it is known.
///
/// All commits count as unstamped if the next generation continues stamps with another digest. This happens if stamps were lost
/// in a power failure, are damaged or are foreign.
pub(super) fn commits(
    timeline: &Timeline,
    stamps: &Stamps,
    next: Option<&Generation>,
) -> Result<Vec<CommitRecord>> {
    if let Some(Generation { lineage: Lineage::Continues { digest, end }, .. }) = next {
        return Ok(if *digest == stamps.digest {
            stamps.commits_up_to(end.frame)
        } else {
            end.frame.map(|frame| CommitRecord::Unstamped { frame }).into_iter().collect()
        });
    }
    // If the log is missing, the stamps list its commits. These cannot be restored, but earlier commits can.
    if let Some(end) = fixed_end(timeline, stamps)? {
        return Ok(stamps.commits_up_to(end.frame));
    }
    let end = known_end(timeline, stamps)?;
    let merged = |stamps: &Stamps| match end {
        Some(end) => stamps.commits_up_to(end.frame),
        None => stamps.commits(),
    };
    let generation = &stamps.generation;
    if timeline.live.as_ref().is_some_and(|live| live.generation == *generation) {
        // Commits may have been added since the stamps were read. Every captured commit in the log now has its stamp in the file.
        let live = read_stamps(&timeline.origin.paths.live_stamps())?;
        if let Some(now) = live.filter(|now| now.generation == *generation) {
            return Ok(merged(&now));
        }
        let archived = read_ended(timeline.ended(), generation.number)?;
        if let Some(now) = archived.filter(|now| now.generation == *generation) {
            return Ok(merged(&now));
        }
    }
    Ok(merged(stamps))
}

/// The commits of a generation in order, as [`commits`] returns them. The last commit that is stamped at or before an instant has
/// been verified against its stamp.
pub(super) fn checked_commits(
    timeline: &Timeline,
    stamps: &Stamps,
    next: Option<&Generation>,
    at: Micros,
) -> Result<Vec<CommitRecord>> {
    let mut commits = commits(timeline, stamps, next)?;
    for record in commits.iter_mut().rev() {
        match record {
            CommitRecord::Commit(commit) if commit.at > at => {}
            CommitRecord::Commit(commit) if matches_stamp(timeline, &stamps.generation, commit) => break,
            CommitRecord::Commit(Commit { frame, .. }) => *record = CommitRecord::Unstamped { frame: *frame },
            CommitRecord::Unstamped { .. } => {}
        }
    }
    Ok(commits)
}

/// Whether the commit frame is the one for which its stamp was written. A log that cannot be read counts as a match: the code
/// that reads it reports the error.
fn matches_stamp(timeline: &Timeline, generation: &Generation, commit: &Commit) -> bool {
    let Some(expected) = commit.checksum else { return true };
    let found = last_page_checksum(timeline, generation, commit).ok().flatten();
    if found.is_none_or(|found| found.short() == Some(expected)) {
        return true;
    }
    // The page may be damaged: the index has the checksum of the page that was written.
    let log = GenerationLog::open(timeline, generation, None).ok().flatten();
    let written = log.and_then(|found| found.log.page_checksums.get(commit.frame.index()).copied());
    written.is_none_or(|written| written.short() == Some(expected))
}

/// The checksum of the page in a commit frame. Returns `None` if the frame does not exist.
fn last_page_checksum(
    timeline: &Timeline,
    generation: &Generation,
    commit: &Commit,
) -> Result<Option<PageChecksum>> {
    let mut page = vec![0; generation.page_size as usize];
    let at = wal::page_offset(commit.frame, generation.page_size);
    let wal = timeline.origin.wal();
    let count = if let Some(log) = LogFile::open(timeline.ended(), generation.number)? {
        log.read_up_to(&mut page, at)?
    } else if salts_of(&wal)? == Some(generation.salts)
        && let Some(file) = Disk::open_regular(&wal)?
    {
        Disk::read_up_to(&file, &wal, &mut page, at)?
    } else {
        0
    };
    Ok((count == page.len()).then(|| page_checksum(&page)))
}

/// Whether the generation at `index` continues one that ends with unstamped commits.
pub(super) fn follows_unstamped(timeline: &Timeline, index: usize, generation: &Generation) -> Result<bool> {
    if generation.begins() || timeline.retained_from == Some(generation.number) {
        return Ok(false);
    }
    let Some(before) = index.checked_sub(1) else {
        let number = generation.number.previous().unwrap_or(generation.number);
        return Err(missing(&timeline.path(number, ArchiveFile::Stamps)));
    };
    timeline.check_next(before)?;
    let stamps = timeline.stamps(timeline.numbers[before])?;
    let commits = checked_commits(timeline, &stamps, Some(generation), Micros::MAX)?;
    Ok(matches!(commits.last(), Some(CommitRecord::Unstamped { .. })))
}
