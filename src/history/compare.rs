//! Whether the current database equals the end of its history.

use std::path::Path;

use super::{
    base_snapshot::{database_len, open},
    generation_log::has_segment,
    image::HistoricalImage,
    log::{Log, salts_of},
    materialize::write_pages,
    plan,
    stamp_file::state_of,
    timeline::Timeline,
};
use crate::{
    disk::{Disk, open_databases},
    error::{ErrorKind, Result},
    progress::no_progress,
    stamps::Stamps,
};

/// Whether the newest generation ends in the current state of the database.
pub(super) fn ends_in_database(timeline: &Timeline, stamps: &Stamps) -> Result<bool> {
    let wal = timeline.origin.wal();
    match salts_of(&wal)? {
        Some(salts) if salts == stamps.generation.salts => {
            // A power loss may have left only the header of a WAL whose frames are in the archive.
            return Ok(!has_segment(timeline, stamps)?
                || Log::open(&wal)?.is_some_and(|(_, log)| !log.frames.is_empty())
                || is_at_end(timeline, stamps)?);
        }
        // A foreign writer restarted the WAL and committed to it.
        Some(_) if Log::open(&wal)?.is_some_and(|(_, log)| !log.frames.is_empty()) => return Ok(false),
        _ => {}
    }
    let expected = match stamps.checkpointed() {
        Some(checkpointed) => checkpointed,
        None if stamps.end().is_none() && has_segment(timeline, stamps)? => {
            return is_at_end(timeline, stamps);
        }
        None if stamps.commits().is_empty() => stamps.generation.data,
        // A process archived the WAL in order to begin another one, and was killed.
        None if stamps.end().is_some() => return is_at_end(timeline, stamps),
        None => return Ok(false),
    };
    Ok(state_of(&timeline.origin.data)? == Some(expected) || is_at_end(timeline, stamps)?)
}

/// Whether the pages of the database file are those with which a generation ended. The modification time of the file cannot
/// decide this, because it changes when a fleet is copied.
pub(crate) fn is_at_end(timeline: &Timeline, stamps: &Stamps) -> Result<bool> {
    // The image is also read in that closure, which on Linux has its own descriptors.
    let same = open_databases(|| {
        let timeline = timeline.reopened();
        plan::image_at_end(&timeline, stamps).and_then(|image| has_pages(&timeline.origin.data, &image))
    })?;
    match same {
        // A generation cannot continue a damaged or missing one.
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::OutsideWindow) => Ok(false),
        same => same,
    }
}

/// Whether a database file consists of the pages of an image.
///
/// Must run within [`open_databases`].
fn has_pages(data: &Path, image: &HistoricalImage) -> Result<bool> {
    let file = open(data)?;
    if database_len(&file, data)? != image.len() || Disk::len(data)?.is_none_or(|len| len < image.len()) {
        return Ok(false);
    }
    let mut same = true;
    let mut found = Vec::new();
    write_pages(image, &mut no_progress, |bytes, at| {
        found.resize(bytes.len(), 0);
        file.read_at(&mut found, at)?;
        same &= found == bytes;
        Ok(())
    })?;
    Ok(same)
}
