//! The log of a generation, live or archived, and how it ended.
//!
//! An end record states how a log ended, and that its segment is complete. If the log was archived while another program had the
//! database open, that program may append frames after the end record. A later stamped commit supersedes the end record. An
//! unstamped commit does not supersede it. A commit does not supersede it either if the process that archived it was killed
//! before it wrote the next end record. As long as the log may be longer than its end record, the frames of the log determine its
//! end, and the record is a lower bound.

use std::{fs::File, path::PathBuf};

use super::{
    errors::damaged,
    frame_index,
    log::{Log, salts_of},
    log_file::{LogFile, LogFileInfo},
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
    /// Opens the log of a generation. `end` is its end, if known. Returns `None` if the log does not exist.
    pub(super) fn open(
        timeline: &Timeline,
        generation: &Generation,
        end: Option<LogEnd>,
    ) -> Result<Option<Self>> {
        // Open the WAL first: if it is archived concurrently, the archive has it. If a crash left the log in both places, the WAL
        // may have more frames.
        let path = timeline.origin.wal();
        let is_live = timeline.live.as_ref().is_some_and(|live| live.generation == *generation);
        if is_live
            && let Some((file, log)) = Log::open_live(&timeline.origin.data, &path, generation.salts)?
            // A WAL that was restarted during the read has lost frames that are in the archive, and so has a WAL whose next
            // header was lost in a power failure.
            && log.is_current(&file, &path)?
            && (!log.frames.is_empty() || !timeline.ended().exists(generation.number, ArchiveFile::Segment)?)
        {
            return Ok(Some(Self { path, is_compressed: false, live: Some(file), log }));
        }
        let (ended, number) = (timeline.ended(), generation.number);
        let Some(LogFileInfo { path, len, is_compressed }) = LogFile::info(ended, number)? else {
            return Ok(None);
        };
        if let Some(log) = frame_index::indexed(ended, generation, end, len) {
            return Ok(Some(Self { path, is_compressed, live: None, log }));
        }
        let Some(segment) = LogFile::open(ended, number)? else { return Ok(None) };
        match frame_index::log(ended, timeline.origin.index_writer(), generation, &segment)? {
            Some(log) if log.salts == generation.salts => {
                let is_compressed = segment.is_compressed();
                Ok(Some(Self { path: segment.into_path(), is_compressed, live: None, log }))
            }
            Some(_) => Err(damaged(segment.path(), "it belongs to another generation")),
            None => Err(damaged(segment.path(), "invalid header")),
        }
    }
}

/// The end of the log of a generation according to its stamps. Returns `None` if the stamps do not record it, or if the log may
/// have later frames.
pub(super) fn fixed_end(timeline: &Timeline, stamps: &Stamps) -> Result<Option<LogEnd>> {
    let Some(end) = stamps.end() else { return Ok(None) };
    Ok((!may_continue(timeline, stamps, &end)?).then_some(end))
}

/// The end of the log of a generation according to its stamps or its frames. Returns `None` if neither exists.
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

/// Whether the current WAL of the database belongs to a generation. Only the newest generation can have it.
fn is_current_wal(timeline: &Timeline, stamps: &Stamps) -> Result<bool> {
    Ok(is_newest(timeline, stamps) && salts_of(&timeline.origin.wal())? == Some(stamps.generation.salts))
}

/// Whether the log of a generation without a successor was not archived. Its commits are then a gap.
///
/// A segment that was archived and then removed is damage, not a gap. While the database file is in the state of the checkpoint
/// record, no program has written to it since the log was archived, and a missing segment is damage. Otherwise the two cases
/// cannot be distinguished until the next generation begins and records whether the segment exists.
pub(super) fn was_not_archived(timeline: &Timeline, stamps: &Stamps) -> Result<bool> {
    // The WAL first: if it is archived concurrently, the archive has it.
    if is_current_wal(timeline, stamps)? || has_segment(timeline, stamps)? {
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
