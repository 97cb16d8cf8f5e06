//! The log of a generation, live or archived, and how it ended.
//!
//! An end record says how a log ended, and that its segment is complete. The log may continue nevertheless: it was copied while
//! another program had the database open. A later stamped commit supersedes the end record. An unstamped commit does not, and
//! neither does a commit that was copied by a process that was killed before it wrote the next end record. So while the log may
//! be longer, its frames decide where it ends, and the record is a lower bound.

use std::{fs::File, path::PathBuf};

use super::{
    errors::damaged,
    frame_index,
    log::{Log, salts_of},
    log_file::LogFile,
    stamp_file::state_of,
    timeline::Timeline,
};
use crate::{
    error::Result,
    layout::ArchiveFile,
    stamps::{Generation, LogEnd, Stamps},
    wal,
};

/// The log of a generation.
#[derive(Debug)]
pub(super) struct GenerationLog {
    /// The name of the log in errors.
    pub(super) path: PathBuf,
    pub(super) is_compressed: bool,
    pub(super) log: Log,
    /// The WAL, if the log is not archived.
    pub(super) live: Option<File>,
}

impl GenerationLog {
    /// Opens the log of a generation, with the end `end` if that is known. Returns `None` if it does not exist.
    pub(super) fn open(
        timeline: &Timeline,
        generation: &Generation,
        end: Option<LogEnd>,
    ) -> Result<Option<Self>> {
        // The WAL first: if it is archived meanwhile, it is found in the archive. If a crash left it in both places, the WAL may
        // have continued.
        let path = timeline.origin.wal();
        let is_live = timeline.live.as_ref().is_some_and(|live| live.generation == *generation);
        if is_live
            && let Some((file, log)) = Log::open_live(&timeline.origin.data, &path, generation.salts)?
            // A WAL that was restarted while it was read lost frames that are in the archive. So did a WAL whose next header was
            // lost with the power.
            && log.is_current(&file, &path)?
            && (!log.frames.is_empty() || !timeline.ended().exists(generation.number, ArchiveFile::Segment)?)
        {
            return Ok(Some(Self { path, is_compressed: false, live: Some(file), log }));
        }
        let Some(segment) = LogFile::open(timeline.ended(), generation.number)? else { return Ok(None) };
        let writer = timeline.origin.index_writer();
        match frame_index::log(timeline.ended(), writer, generation, end, &segment)? {
            Some(log) if log.salts == generation.salts => {
                let is_compressed = segment.is_compressed();
                Ok(Some(Self { path: segment.into_path(), is_compressed, live: None, log }))
            }
            Some(_) => Err(damaged(segment.path(), "it belongs to another generation")),
            None => Err(damaged(segment.path(), "invalid header")),
        }
    }
}

/// The end of the log of a generation according to its stamps. Returns `None` if they do not say, or if the log may have
/// continued.
pub(super) fn fixed_end(timeline: &Timeline, stamps: &Stamps) -> Result<Option<LogEnd>> {
    let Some(end) = stamps.end() else { return Ok(None) };
    Ok((!may_continue(timeline, stamps, &end)?).then_some(end))
}

/// The end of the log of a generation according to its stamps or its frames. Returns `None` if there are neither.
pub(super) fn known_end(timeline: &Timeline, stamps: &Stamps) -> Result<Option<LogEnd>> {
    let recorded = stamps.end();
    if let Some(end) = fixed_end(timeline, stamps)? {
        return Ok(Some(end));
    }
    let found = GenerationLog::open(timeline, &stamps.generation, None)?.map(|found| found.log.end());
    Ok(match (recorded, found) {
        (Some(recorded), Some(found)) if found.frame <= recorded.frame => Some(recorded),
        (recorded, found) => found.or(recorded),
    })
}

/// Whether the log of a generation may have frames after its end record.
fn may_continue(timeline: &Timeline, stamps: &Stamps, end: &LogEnd) -> Result<bool> {
    if end.frame.is_none() {
        return Ok(false);
    }
    let generation = &stamps.generation;
    let len = wal::len_up_to(end.frame, generation.page_size);
    let segment_len = || timeline.ended().len(generation.number, ArchiveFile::Segment);
    Ok(is_current_wal(timeline, stamps)? || segment_len()?.is_some_and(|found| found > len))
}

fn is_newest(timeline: &Timeline, stamps: &Stamps) -> bool {
    timeline.live.as_ref().is_some_and(|live| live.generation == stamps.generation)
}

/// Whether the current WAL of the database belongs to a generation, which is the newest one.
fn is_current_wal(timeline: &Timeline, stamps: &Stamps) -> Result<bool> {
    Ok(is_newest(timeline, stamps) && salts_of(&timeline.origin.wal())? == Some(stamps.generation.salts))
}

/// Whether the log of a generation without a successor was not archived, so that its commits are a gap.
///
/// A segment that was removed later is damage and not a gap. While the database file is in the state of the checkpoint record, no
/// program has written to it since the log was archived, and a missing segment is damage. Otherwise that is not known until the
/// next generation begins and records whether the segment exists.
pub(super) fn was_not_archived(timeline: &Timeline, stamps: &Stamps) -> Result<bool> {
    if has_segment(timeline, stamps)? || is_current_wal(timeline, stamps)? {
        return Ok(false);
    }
    let Some(end) = stamps.end() else { return Ok(true) };
    if end.frame.is_none() {
        return Ok(false);
    }
    Ok(stamps.is_log_lost()
        || is_newest(timeline, stamps) && stamps.checkpointed() != state_of(&timeline.origin.data)?)
}

/// Whether the segment of a generation exists.
pub(super) fn has_segment(timeline: &Timeline, stamps: &Stamps) -> Result<bool> {
    let (ended, number) = (timeline.ended(), stamps.generation.number);
    Ok(ended.exists(number, ArchiveFile::Segment)? || ended.exists(number, ArchiveFile::Compressed)?)
}
