//! The snapshot with which a history begins: the database as it is, while nobody else can write to it.

use std::{fs::File, path::Path};

use super::{
    damaged,
    image::HistoricalImage,
    log::{self, Log},
    snapshot::Snapshot,
};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::{self, ArchivePaths},
    page::{HEADER_LEN, Header},
    stamps::Generation,
};

/// Makes the snapshot before the first commit of a generation: the database file, overlaid with the frames of its WAL that
/// were there before that.
///
/// The caller keeps others from committing. Must run [with isolated descriptors](crate::sys::isolated_fds).
pub(crate) fn take(disk: &Disk, paths: &ArchivePaths, data: &Path, generation: &Generation) -> Result<()> {
    let beside = paths.dir().join("snapshot.new");
    disk.remove(&beside)?;
    let target = disk.create_like(&beside, data)?;
    let source = open(data)?;
    let file_len = Disk::len(data)?.unwrap_or(0);
    let len = database_len(&source, data)?;
    let copied = len.min(file_len);
    if !disk.clone_file(&source, &target, &beside)?
        && disk.copy(&source, &target, &beside, copied, |_| true)? < copied
    {
        return Err(damaged(data, "it was cut while it was copied"));
    }
    if len != file_len {
        disk.set_len(&target, &beside, len)?;
    }
    if generation.first_frame > 0 {
        let wal = layout::beside(data, "-wal");
        let log = Log::open(&wal)?.filter(|(_, log)| log.salts == generation.salts);
        let (file, log) = log.ok_or_else(|| damaged(&wal, "its header is none"))?;
        lay_over(disk, (&file, &wal, &log), generation, (&target, &beside))?;
    }
    let of = (generation.sequence, generation.seed(), generation.page_size);
    Snapshot::publish(disk, paths, of, (&beside, &target))
}

/// Writes the frames of a log that were there before its generation over a copy.
fn lay_over(
    disk: &Disk,
    (file, wal, log): (&File, &Path, &Log),
    generation: &Generation,
    (target, path): (&File, &Path),
) -> Result<()> {
    let frames = log.frames.get(..generation.first_frame as usize);
    let last = frames.and_then(|frames| frames.last()).and_then(|frame| frame.commit);
    let (Some(frames), Some(pages)) = (frames, last) else {
        return Err(damaged(wal, "it ends before its last commit"));
    };
    let mut page = vec![0; generation.page_size as usize];
    for (number, frame) in (1..).zip(frames) {
        if frame.page_number <= pages {
            Disk::read_at(file, wal, &mut page, log::page_offset(number, generation.page_size))?;
            disk.write_at(target, path, &page, u64::from(frame.page_number - 1) * page.len() as u64)?;
        }
    }
    disk.set_len(target, path, u64::from(pages) * page.len() as u64)
}

/// Whether a database file is, page by page, what it was at the end of a history.
///
/// Must run [with isolated descriptors](crate::sys::isolated_fds).
pub(crate) fn is_at(data: &Path, past: &HistoricalImage) -> Result<bool> {
    let file = open(data)?;
    if database_len(&file, data)? != past.len() || Disk::len(data)?.is_none_or(|len| len < past.len()) {
        return Ok(false);
    }
    let mut same = true;
    let mut there = Vec::new();
    past.read_all(&mut crate::progress::no_progress, |bytes, at| {
        there.resize(bytes.len(), 0);
        Disk::read_at(&file, data, &mut there, at)?;
        same &= there == bytes;
        Ok(())
    })?;
    Ok(same)
}

/// The size in bytes of the database in a file, without what its log adds: see [`Header::database_len`]. A file whose
/// header is damaged counts whole.
pub(super) fn database_len(file: &File, path: &Path) -> Result<u64> {
    let file_len = Disk::len(path)?.unwrap_or(0);
    let mut head = [0; HEADER_LEN];
    let is_whole = Disk::read_up_to(file, path, &mut head, 0)? == head.len();
    let header = Header::parse(&head).ok().filter(|_| is_whole);
    Ok(header.map_or(file_len, |header| header.database_len(file_len)))
}

fn open(data: &Path) -> Result<File> {
    let missing = || Error::naming(ErrorKind::NotFound, data, |data| format!("{data}: no such file"));
    Disk::open_regular(data)?.ok_or_else(missing)
}
