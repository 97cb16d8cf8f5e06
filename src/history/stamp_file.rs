//! The files of stamps of a history, and the stamps of the current WAL among them.

use std::path::Path;

use super::{
    archive::Archive,
    errors::{damaged, newer_version},
    log::salts_of,
};
use crate::{
    disk::Disk,
    error::{Error, Result},
    layout::{self, ArchiveFile, ArchivePaths},
    stamps::{FileState, Generation, HEADER_LEN, Stamps},
    units::{GenerationNumber, Nanos, Salts},
};

/// The stamps of the current WAL, or of the last one.
#[derive(Clone, Debug)]
pub(crate) struct CurrentStamps {
    pub(crate) stamps: Stamps,
    /// Whether the live stamps belong to a newer WAL whose header was never written, because of a crash or a power failure. These
    /// stamps are void, and `stamps` are those of the preceding generation.
    pub(crate) newer_are_void: bool,
}

/// Reads a local file of stamps. Returns `None` if it does not exist.
pub(crate) fn read_stamps(path: &Path) -> Result<Option<Stamps>> {
    Disk::read(path)?.map(|bytes| decode(path, &bytes)).transpose()
}

/// Reads the stamps of an ended generation. Returns `None` if the file does not exist.
pub(super) fn read_ended(ended: &Archive, number: GenerationNumber) -> Result<Option<Stamps>> {
    let bytes = ended.read(number, ArchiveFile::Stamps)?;
    bytes.map(|bytes| decode(&ended.path(number, ArchiveFile::Stamps), &bytes)).transpose()
}

/// Reads the header of the stamps of an ended generation. Returns `None` if the file does not exist.
pub(super) fn read_generation(ended: &Archive, number: GenerationNumber) -> Result<Option<Generation>> {
    let Some(file) = ended.open(number, ArchiveFile::Stamps)? else { return Ok(None) };
    let mut header = [0; HEADER_LEN];
    let count = file.read_at(&mut header, 0)?;
    let header = &header[..count];
    check_version(file.path(), header)?;
    Generation::parse(header).map(Some).ok_or_else(|| invalid_header(file.path()))
}

/// Reads the live stamps. Returns `None` if there is no history.
pub(super) fn live_stamps(paths: &ArchivePaths) -> Result<Option<Stamps>> {
    read_stamps(&paths.live_stamps())
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Stamps> {
    check_version(path, bytes)?;
    Stamps::parse(bytes).ok_or_else(|| invalid_header(path))
}

fn invalid_header(path: &Path) -> Error {
    damaged(path, "invalid header")
}

/// Fails with [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported) for stamps of a newer version.
pub(super) fn check_version(path: &Path, bytes: &[u8]) -> Result<()> {
    Stamps::newer_version(bytes).map_or(Ok(()), |version| Err(newer_version(path, version)))
}

/// The current stamps of the database in the file `data`. Returns `None` if there is no history.
pub(crate) fn current_stamps(paths: &ArchivePaths, data: &Path) -> Result<Option<CurrentStamps>> {
    current_stamps_in(&Archive::local(Disk::default(), paths.clone()), paths, data)
}

/// The current stamps of the database in the file `data`, of whose history `ended` stores the ended generations.
pub(super) fn current_stamps_in(
    ended: &Archive,
    paths: &ArchivePaths,
    data: &Path,
) -> Result<Option<CurrentStamps>> {
    let Some(live) = live_stamps(paths)? else { return Ok(None) };
    let salts = salts_of(&layout::beside(data, "-wal"))?;
    let previous = salts.and_then(|salts| previous_stamps(ended, &live, salts));
    let newer_are_void = previous.is_some();
    Ok(Some(CurrentStamps { stamps: previous.unwrap_or(live), newer_are_void }))
}

/// The stamps of the generation before the one of the live stamps, if a WAL with these salts belongs to it.
pub(super) fn previous_stamps(ended: &Archive, live: &Stamps, salts: Salts) -> Option<Stamps> {
    let generation = live.generation;
    if generation.begins() || salts == generation.salts {
        return None;
    }
    let number = generation.number.previous()?;
    let previous = read_ended(ended, number).ok()??;
    let found = previous.generation;
    let is_previous = (found.salts, found.number, found.database) == (salts, number, generation.database);
    is_previous.then_some(previous)
}

/// The length and the modification time of a database file. Returns `None` if it does not exist.
pub(crate) fn state_of(data: &Path) -> Result<Option<FileState>> {
    let state = Disk::last_change(data)?;
    Ok(state.map(|(len, changed_at)| FileState { len, changed_at: Nanos::new(changed_at) }))
}
