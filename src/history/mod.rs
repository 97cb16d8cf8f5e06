//! A database's history: snapshots, segments and stamps, from which it is rebuilt as of any instant.
//!
//! Each generation of the WAL leaves a *segment*, which is that WAL as SQLite wrote it, and the stamps of its commits. A
//! *snapshot* is the database before the first commit of a generation. An instant is a snapshot overlaid with the frames
//! of the segments behind it, up to the last commit stamped at or before that instant.
//!
//! Nothing here knows a key: pages are moved as they stand.

pub(crate) mod base_snapshot;
mod checksummed;
mod compress;
mod ended;
mod errors;
mod fallback;
mod frame_index;
mod image;
mod log;
mod log_file;
mod maintain;
mod materialize;
mod page_cache;
mod plan;
mod points;
mod prefetch;
pub(crate) mod pristine;
mod resolve;
mod retention;
mod snapshot;
mod timeline;
pub(crate) mod verify;

use std::path::Path;

pub(crate) use image::HistoricalImage;
pub(crate) use log::{Log, commit_at, ends_with};
pub(crate) use maintain::Maintenance;
pub(crate) use retention::RetentionMark;
pub(crate) use timeline::{Timeline, state_of};

use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::{self, ArchiveFile, ArchivePaths},
    stamps::{Generation, Stamps, parts},
    time::Timestamp,
    wal::{HEADER_LEN, Header},
};

/// Why the archive of another database is refused.
const FOREIGN: &str =
    "the files in it are the history of another database; put the directory of this database there";

/// The lower half of the checksum of a page, by which a stamp tells the frame that it means.
pub(crate) fn low_sum(page: &[u8]) -> u32 {
    parts(checksummed::of(page)).0
}

/// The database that a history must belong to, and when it was created.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth {
    /// The id of the database in the catalog.
    pub(crate) database: u128,
    pub(crate) at: Timestamp,
    /// Whether its history was never off since.
    pub(crate) is_kept_since: bool,
}

/// From this instant on whatever was committed before a generation had been, with a stamp or without one.
const fn all_before(generation: &Generation) -> i64 {
    let behind = generation.not_before.saturating_add(1);
    if generation.begun_at > behind { generation.begun_at } else { behind }
}

/// The stamps in a file; nothing if it is not there.
pub(crate) fn read_stamps(path: &Path) -> Result<Option<Stamps>> {
    let Some(bytes) = Disk::read(path)? else { return Ok(None) };
    check_version(path, &bytes)?;
    match Stamps::parse(&bytes) {
        Some(stamps) => Ok(Some(stamps)),
        None => Err(damaged(path, "its header is none")),
    }
}

/// Refuses stamps of a newer version, which are not damaged.
fn check_version(path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(version) = Stamps::newer_version(bytes) else { return Ok(()) };
    Err(Error::naming(ErrorKind::Unsupported, path, |file| {
        format!("{file} has format version {version}, which this litefleet does not know: use a newer one")
    }))
}

/// The stamps of the generation that the WAL is in, or was in last; nothing where there is no history.
pub(crate) fn live_stamps(paths: &ArchivePaths) -> Result<Option<Stamps>> {
    read_stamps(&paths.live_stamps())
}

/// The stamps of the generation that the WAL of the database in the file `data` is in, or was in last; nothing where there
/// is no history. And whether newer ones are void: those of a WAL that was about to be begun over this one, when the process
/// was killed or the power went.
pub(crate) fn current_stamps(paths: &ArchivePaths, data: &Path) -> Result<Option<(Stamps, bool)>> {
    let Some(live) = live_stamps(paths)? else { return Ok(None) };
    let before = salts_of(&layout::beside(data, "-wal"))?.and_then(|salts| before(paths, &live, salts));
    Ok(Some(before.map_or((live, false), |before| (before, true))))
}

/// The stamps of a WAL with these salts, if that is the one before the one that the live stamps are of.
fn before(paths: &ArchivePaths, live: &Stamps, salts: [u8; 8]) -> Option<Stamps> {
    let generation = live.generation;
    if generation.begins || salts == generation.salts {
        return None;
    }
    let before = read_stamps(&paths.file(generation.sequence - 1, ArchiveFile::Stamps)).ok()??;
    let is_it = (before.generation.salts, before.generation.sequence, before.generation.database)
        == (salts, generation.sequence - 1, generation.database);
    is_it.then_some(before)
}

/// The salts of a WAL, if its header is there.
fn salts_of(wal: &Path) -> Result<Option<[u8; 8]>> {
    let Some(file) = Disk::open_regular(wal)? else { return Ok(None) };
    let mut start = [0; HEADER_LEN];
    let count = Disk::read_up_to(&file, wal, &mut start, 0)?;
    Ok(Header::parse(&start).filter(|_| count == HEADER_LEN).map(|header| header.salts()))
}

/// What is said of a file that is not what was written.
#[cold]
fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::naming(ErrorKind::Corrupt, path, |file| format!("{file} is damaged: {what}"))
}

/// The error for an archive whose newest stamps carry the id of another database.
#[cold]
fn foreign(archive: &Path) -> Error {
    Error::naming(ErrorKind::Corrupt, archive, |dir| format!("{dir}: {FOREIGN}"))
}

/// What is said of a file that is not there.
#[cold]
fn missing(path: &Path) -> Error {
    Error::naming(ErrorKind::Corrupt, path, |file| {
        format!("{file} is missing, without which this instant cannot be restored: put it back")
    })
}
