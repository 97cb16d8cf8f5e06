//! A database to which nobody of the fleet has committed yet: it has no history, and is as it began, unless another program
//! wrote to it.
//!
//! A file beside it says how it was when it was created. Its length and time of change tell of most that is written to it.
//! They also change when a fleet is copied elsewhere, and then a short database is told by its contents, which are as quickly
//! read; a longer one counts as changed.

use std::path::Path;

use super::{
    checksummed, damaged,
    errors::{changed, lost, not_kept, outside},
    log::Log,
    timeline::{Timeline, state_of},
};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    layout,
    stamps::{FileState, Word},
    sys::isolated_fds,
    time::Timestamp,
};

const MAGIC: Word = Word::from_le_bytes(*b"LFbegins");

/// The longest database that is known by its contents, in bytes.
const READ_MAX: u64 = 16 << 20;

/// Notes how a database is that is whole and was written by nobody but its maker. The note is on the disk when this returns.
pub(crate) fn mark(disk: &Disk, data: &Path) -> Result<()> {
    let path = layout::unwritten(data);
    let state = state_of(data)?.unwrap_or(FileState { len: 0, changed_at: 0 });
    let words = [MAGIC, state.len, state.changed_at.cast_unsigned(), sum_of(data, state.len)?];
    let file = checksummed::write_beside(disk, &path, &words, data)?;
    disk.sync_file(&file, &path)
}

/// Whether the database in the file `data` is as it was created; nothing where that is not noted.
pub(crate) fn is_as_it_began(data: &Path) -> Result<Option<bool>> {
    let path = layout::unwritten(data);
    match Disk::len(&path)? {
        None => return Ok(None),
        // Those of before tell no more than that they are there.
        Some(0) => return Ok(Some(true)),
        Some(_) => {}
    }
    let words = match checksummed::read(&path) {
        Err(error) if error.kind() == ErrorKind::Corrupt => None,
        words => words?,
    };
    let Some(&[MAGIC, len, changed_at, sum]) = words.as_deref() else {
        return Err(damaged(
            &path,
            "it does not say how the database began; write to the database to begin its history",
        ));
    };
    // What another program committed, and did not write to the database file yet.
    if Log::open(&layout::beside(data, "-wal"))?.is_some_and(|(_, log)| !log.frames.is_empty()) {
        return Ok(Some(false));
    }
    let began = FileState { len, changed_at: changed_at.cast_signed() };
    let state = state_of(data)?;
    if state == Some(began) || state.is_none_or(|state| state.len != len) || len > READ_MAX {
        return Ok(Some(state == Some(began)));
    }
    Ok(Some(isolated_fds::run(|| sum_of(data, len))?? == sum))
}

/// The checksum of a database that is so long; 0 where it is too long for that.
fn sum_of(data: &Path, len: u64) -> Result<Word> {
    Ok(if len > READ_MAX { 0 } else { checksummed::of(&Disk::read(data)?.unwrap_or_default()) })
}

impl Timeline {
    /// Whether a database without a history is what it was when it was created.
    pub(super) fn is_as_it_was_born(&self) -> Result<bool> {
        Ok(self.birth.is_kept_since
            && self.retained_from.is_none()
            && is_as_it_began(&self.data)? == Some(true))
    }

    /// Makes sure that a database without a history is at an instant as it is now.
    pub(super) fn check_born(&self, at: Timestamp) -> Result<()> {
        let is_born = self.is_unwritten && self.birth.is_kept_since && self.retained_from.is_none();
        match is_born {
            true if at < self.birth.at => Err(outside(at, self.birth.at.as_micros())),
            true if self.is_as_it_was_born()? => Ok(()),
            true => Err(changed(at, self.birth.at.as_micros(), None)),
            false if self.is_unwritten || self.retained_from.is_some() => Err(not_kept(at)),
            false => Err(lost(at, self.paths.dir())),
        }
    }
}
