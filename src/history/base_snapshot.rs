//! The first snapshot of a history: a copy of the current database, taken while no other connection can write to it.

use std::path::Path;

use super::{
    archive::Archive,
    errors::damaged,
    log::Log,
    overlay::Overlay,
    snapshot::{Snapshot, Staged},
};
use crate::{
    disk::{DatabaseFile, Disk},
    error::{Error, ErrorKind, Result},
    layout::{self, ArchivePaths},
    page::{HEADER_LEN, Header},
    stamps::Generation,
    units::{FrameNumber, PageCount},
    wal,
};

/// Takes the snapshot before the first commit of a generation. The snapshot is the database file with the frames applied that the
/// WAL had before the generation began.
///
/// The caller prevents concurrent commits. Must run within [`open_databases`](crate::disk::open_databases).
pub(crate) fn take(disk: &Disk, paths: &ArchivePaths, data: &Path, generation: &Generation) -> Result<()> {
    let beside = paths.dir().join("snapshot.new");
    disk.remove(&beside)?;
    let target = disk.create_like(&beside, data)?;
    let source = open(data)?;
    let file_len = Disk::len(data)?.unwrap_or(0);
    let len = database_len(&source, data)?;
    let copied = len.min(file_len);
    if !source.clone_to(disk, &target, &beside)?
        && source.copy_to(disk, &target, &beside, copied, |_| true)? < copied
    {
        return Err(damaged(data, "it was truncated while it was copied"));
    }
    if len != file_len {
        disk.set_len(&target, &beside, len)?;
    }
    let staged = Staged { path: beside, file: &target };
    if let Some(last) = generation.base_frame {
        apply_wal(disk, &layout::beside(data, "-wal"), last, generation, &staged)?;
    }
    staged.publish(disk, paths, &Archive::local(disk.clone(), paths.clone()), generation)
}

/// Whether the snapshot before the first commit of a generation exists, and the checksum of each of its pages matches.
pub(crate) fn is_intact(disk: &Disk, paths: &ArchivePaths, generation: &Generation) -> Result<bool> {
    let ended = Archive::local(disk.clone(), paths.clone());
    let checked = Snapshot::open(&ended, generation).and_then(|snapshot| match snapshot {
        Some(snapshot) => snapshot.check_all().map(|()| true),
        None => Ok(false),
    });
    match checked {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
        checked => checked,
    }
}

/// Applies the frames of a WAL up to `last` to a copy of its database.
fn apply_wal(
    disk: &Disk,
    wal: &Path,
    last: FrameNumber,
    generation: &Generation,
    target: &Staged<'_>,
) -> Result<()> {
    let page_size = generation.page_size;
    let (file, log) = Log::open(wal)?
        .filter(|(_, log)| log.salts == generation.salts)
        .ok_or_else(|| damaged(wal, "invalid header"))?;
    if log.frame(last).is_none_or(|frame| frame.commit.is_none()) {
        return Err(damaged(wal, "it ends before its last commit"));
    }
    let base_len = Disk::len(&target.path)?.unwrap_or(0);
    let base_pages =
        usize::try_from(base_len / u64::from(page_size)).map_or(PageCount::ZERO, PageCount::from_len);
    let mut overlay = Overlay::new(base_pages, page_size);
    overlay.apply(&log, wal, 0..last.get() as usize, |frame| frame)?;
    let mut contents = vec![0; page_size as usize];
    for (page, frame) in overlay.iter() {
        Disk::read_at(&file, wal, &mut contents, wal::page_offset(frame, page_size))?;
        disk.write_at(target.file, &target.path, &contents, page.offset(page_size))?;
    }
    disk.set_len(target.file, &target.path, overlay.page_count().len(page_size))
}

/// The size in bytes of the database in a file, without its WAL: see [`Header::database_len`]. If the header is damaged, this is
/// the length of the file.
pub(super) fn database_len(file: &DatabaseFile, path: &Path) -> Result<u64> {
    let file_len = Disk::len(path)?.unwrap_or(0);
    let mut head = [0; HEADER_LEN];
    let is_whole = file.read_up_to(&mut head, 0)? == head.len();
    let header = Header::parse(&head).ok().filter(|_| is_whole);
    Ok(header.map_or(file_len, |header| header.database_len(file_len)))
}

/// Opens the database file.
pub(super) fn open(data: &Path) -> Result<DatabaseFile> {
    let missing = || Error::naming(ErrorKind::NotFound, data, |data| format!("{data}: no such file"));
    DatabaseFile::open(data)?.ok_or_else(missing)
}
