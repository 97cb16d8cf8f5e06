//! Databases without a commit. They have no history. They are unchanged since their creation unless a foreign writer wrote to
//! them.
//!
//! A mark beside the database records the length, the modification time and the checksum of the database file at its creation. A
//! difference shows a write. The modification time also changes when a fleet is copied. A short database is then recognized by
//! its checksum, and a longer one counts as changed.

use std::path::Path;

use super::{
    checksummed::{self, page_checksum},
    errors::{changed, damaged, lost, not_kept, outside},
    log::Log,
    stamp_file::state_of,
    timeline::Timeline,
};
use crate::{
    disk::{DatabaseFile, Disk, open_databases},
    error::{ErrorKind, Result},
    layout,
    stamps::{FileState, Word},
    time::Timestamp,
    units::Nanos,
};

const MAGIC: Word = Word::from_le_bytes(*b"LFbegins");

/// Maximum size in bytes of a database that is recognized by its contents.
const READ_MAX: u64 = 16 << 20;

/// Marks a complete database that only its creator has written to. The mark is durable when this returns.
pub(crate) fn mark(disk: &Disk, data: &Path) -> Result<()> {
    let path = layout::unwritten(data);
    let state = state_of(data)?.unwrap_or(FileState::MISSING);
    let changed_at = state.changed_at.get().cast_unsigned();
    let words = [MAGIC, state.len, changed_at, checksum_of(data, state.len)?];
    let file = checksummed::create(disk, &path, &words, data)?;
    disk.sync_file(&file, &path)
}

/// Whether the database in the file `data` is unchanged since its creation. Returns `None` if it has no mark.
pub(crate) fn is_unchanged(data: &Path) -> Result<Option<bool>> {
    let path = layout::unwritten(data);
    match Disk::len(&path)? {
        None => return Ok(None),
        // Old marks are empty and record nothing.
        Some(0) => return Ok(Some(true)),
        Some(_) => {}
    }
    let words = match checksummed::read(&path) {
        Err(error) if error.kind() == ErrorKind::Corrupt => None,
        words => words?,
    };
    let Some(&[MAGIC, len, changed_at, checksum]) = words.as_deref() else {
        let fault =
            "it does not record the state of the new database; write to the database to begin its history";
        return Err(damaged(&path, fault));
    };
    // A foreign writer committed to the WAL.
    if Log::open(&layout::beside(data, "-wal"))?.is_some_and(|(_, log)| !log.frames.is_empty()) {
        return Ok(Some(false));
    }
    let marked = FileState { len, changed_at: Nanos::new(changed_at.cast_signed()) };
    let state = state_of(data)?;
    if state == Some(marked) || state.is_none_or(|state| state.len != len) || len > READ_MAX {
        return Ok(Some(state == Some(marked)));
    }
    Ok(Some(open_databases(|| checksum_of(data, len))?? == checksum))
}

/// The checksum of a database file of this length, or 0 if it is too long.
fn checksum_of(data: &Path, len: u64) -> Result<Word> {
    if len > READ_MAX {
        return Ok(0);
    }
    // One more byte shows that the file has grown.
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0) + 1];
    let count = DatabaseFile::open(data)?.map_or(Ok(0), |file| file.read_up_to(&mut bytes, 0))?;
    Ok(page_checksum(&bytes[..count]).get())
}

/// Whether a database without a history is unchanged since its creation.
pub(super) fn is_born(timeline: &Timeline) -> Result<bool> {
    let origin = &timeline.origin;
    Ok(origin.birth.is_kept_since
        && timeline.retained_from.is_none()
        && is_unchanged(&origin.data)? == Some(true))
}

/// Fails unless a database without a history had its current contents at an instant.
pub(super) fn check_instant(timeline: &Timeline, at: Timestamp) -> Result<()> {
    let birth = timeline.origin.birth;
    let is_pruned = timeline.retained_from.is_some();
    if timeline.has_pristine_mark && birth.is_kept_since && !is_pruned {
        return if at < birth.at {
            Err(outside(at, birth.at.into(), None))
        } else if is_born(timeline)? {
            Ok(())
        } else {
            Err(changed(at, birth.at.into(), None))
        };
    }
    if timeline.has_pristine_mark || is_pruned {
        Err(not_kept(at))
    } else {
        Err(lost(at, timeline.origin.paths.dir()))
    }
}
