//! The first snapshot of a history: the current database, taken while no other connection can write to it.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    archive::Archive,
    checksummed::page_checksum,
    delta::{Base, DeltaWriter, pages_max},
    errors::damaged,
    log::Log,
    overlay::Overlay,
    retention::RetentionMark,
    snapshot::{NewSnapshot, Snapshot, step_of},
    sums::{DeltaPages, Sums},
};
use crate::{
    disk::{DatabaseFile, Disk},
    error::{Error, ErrorKind, Result},
    layout::{self, ArchiveFile, ArchivePaths},
    page::{HEADER_LEN, Header},
    stamps::Generation,
    units::{FrameNumber, GenerationNumber, PageCount, PageNumber},
    wal,
};

/// Takes the snapshot before the first commit of a generation. The snapshot is the database file with the frames applied that the
/// WAL had before the generation began. It is a delta if at most half of its pages differ from those of an older snapshot.
///
/// The caller prevents concurrent commits. Must run within [`open_databases`](crate::disk::open_databases).
pub(crate) fn take(disk: &Disk, paths: &ArchivePaths, data: &Path, generation: &Generation) -> Result<()> {
    let ended = &Archive::local(disk.clone(), paths.clone());
    let new = NewSnapshot { disk, paths, ended, generation, staged: paths.dir().join("snapshot.new") };
    match take_delta(&new, data) {
        Ok(true) => Ok(()),
        // Whatever prevents a delta, a full snapshot needs neither the base nor its checksums.
        Ok(false) | Err(_) => take_full(&new, data),
    }
}

fn take_full(new: &NewSnapshot<'_>, data: &Path) -> Result<()> {
    let NewSnapshot { disk, staged, generation, .. } = new;
    let target = new.create()?;
    let source = open(data)?;
    let file_len = Disk::len(data)?.unwrap_or(0);
    let len = database_len(&source, data)?;
    let copied = len.min(file_len);
    if !source.clone_to(disk, &target, staged)?
        && source.copy_to(disk, &target, staged, copied, |_| true)? < copied
    {
        return Err(damaged(data, "it was truncated while it was copied"));
    }
    if len != file_len {
        disk.set_len(&target, staged, len)?;
    }
    if let Some(frames) = WalFrames::open(data, generation, len)? {
        let page_size = generation.page_size;
        let mut contents = vec![0; page_size as usize];
        for (page, frame) in frames.overlay.iter() {
            frames.read(frame, &mut contents)?;
            disk.write_at(&target, staged, &contents, page.offset(page_size))?;
        }
        disk.set_len(&target, staged, frames.overlay.page_count().len(page_size))?;
    }
    new.publish(&target)
}

/// Whether the snapshot before the first commit of a generation exists, and the checksum of each of its pages matches.
pub(crate) fn is_intact(disk: &Disk, paths: &ArchivePaths, generation: &Generation) -> Result<bool> {
    Snapshot::is_intact(&Archive::local(disk.clone(), paths.clone()), generation)
}

/// Takes the snapshot as a delta. Returns `false` if no older snapshot shares enough pages.
///
/// Pages are shared if they are equal byte for byte. Their checksums do not decide that: an SQL statement can be made to write a page
/// with the checksum of another one.
fn take_delta(new: &NewSnapshot<'_>, data: &Path) -> Result<bool> {
    let NewSnapshot { disk, paths, ended, generation, staged } = new;
    // A process was killed while it published the full snapshot, or its sums were lost. It is replaced.
    if ended.exists(generation.number, ArchiveFile::Snapshot)? {
        return Ok(false);
    }
    let source = Source::open(data, generation)?;
    let retained = RetentionMark::read(paths, generation.database)?;
    let from = retained.map_or(GenerationNumber::new(0), |retained| retained.from);
    let page_size = generation.page_size;
    let mut contents = vec![0; step_of(page_size)];
    source.read(&mut contents[..page_size as usize], 0)?;
    let header = contents.first_chunk::<HEADER_LEN>().map(Header::parse).transpose()?;
    let base = header.map(|header| Base::newest(ended, from, generation, &header)).transpose()?;
    let Some(base) = base.flatten() else { return Ok(false) };
    let file = new.create()?;
    let mut writer = DeltaWriter::new(disk, &file, staged, generation);
    let mut checksums = Vec::with_capacity(source.page_count.get() as usize);
    let mut older = vec![0; contents.len()];
    let total = source.page_count.len(page_size);
    let mut at = 0;
    while at < total {
        let want = usize::try_from(total - at).unwrap_or(usize::MAX).min(contents.len());
        let (contents, older) = (&mut contents[..want], &mut older[..want]);
        source.read(contents, at)?;
        base.read(older, at)?;
        let pages = PageNumber::at_offset(at, page_size).and_following();
        let pairs = contents.chunks_exact(page_size as usize).zip(older.chunks_exact(page_size as usize));
        for (page, (contents, older)) in pages.zip(pairs) {
            checksums.push(page_checksum(contents));
            if base.has(page) && contents == older {
                continue;
            }
            if writer.len() == pages_max(source.page_count) {
                return Ok(false);
            }
            writer.add(page, contents)?;
        }
        at += want as u64;
    }
    if writer.len() == 0 {
        if source.page_count < PageCount::new(2) {
            return Ok(false);
        }
        // A WAL without a frame has no commit, and so no page count.
        let first = &mut contents[..page_size as usize];
        source.read(first, 0)?;
        writer.add(PageNumber::FIRST, first)?;
    }
    let pages = writer.finish(source.page_count)?;
    // A delta must not reach the disk without its base. Usually, the base is there already.
    if let Some(file) = Disk::open(base.path())? {
        disk.sync_file(&file, base.path())?;
    }
    new.publish_with(&Sums { checksums, delta: Some(DeltaPages { base: base.number, pages }) })?;
    Ok(true)
}

/// The pages of the database before a generation.
struct Source {
    file: DatabaseFile,
    frames: Option<WalFrames>,
    page_count: PageCount,
    page_size: u32,
}

/// The frames that the WAL had before a generation, if it began in the middle of the WAL.
struct WalFrames {
    path: PathBuf,
    file: File,
    overlay: Overlay<FrameNumber>,
    page_size: u32,
}

impl Source {
    fn open(data: &Path, generation: &Generation) -> Result<Self> {
        let page_size = generation.page_size;
        let file = open(data)?;
        let len = database_len(&file, data)?;
        let frames = WalFrames::open(data, generation, len)?;
        let page_count = frames.as_ref().map(|frames| frames.overlay.page_count());
        let page_count = page_count.unwrap_or_else(|| page_count_of(len, page_size));
        Ok(Self { file, frames, page_count, page_size })
    }

    /// Fills `into` with whole pages from an offset on. A page that is in no file is zero.
    fn read(&self, into: &mut [u8], offset: u64) -> Result<()> {
        let count = self.file.read_up_to(into, offset)?;
        into[count..].fill(0);
        let Some(frames) = &self.frames else { return Ok(()) };
        let pages = PageNumber::at_offset(offset, self.page_size).and_following();
        for (page, contents) in pages.zip(into.chunks_exact_mut(self.page_size as usize)) {
            match frames.overlay.frame(page) {
                Some(frame) => frames.read(frame, contents)?,
                None if frames.overlay.base_pages().contains(page) => {}
                None => contents.fill(0),
            }
        }
        Ok(())
    }
}

impl WalFrames {
    /// The frames before a generation. Returns `None` if it began with its WAL. `len` is the size of the database without the WAL.
    fn open(data: &Path, generation: &Generation, len: u64) -> Result<Option<Self>> {
        let Some(last) = generation.base_frame else { return Ok(None) };
        let path = layout::beside(data, "-wal");
        let (file, log) = Log::open(&path)?
            .filter(|(_, log)| log.salts == generation.salts)
            .ok_or_else(|| damaged(&path, "invalid header"))?;
        if log.frame(last).is_none_or(|frame| frame.commit.is_none()) {
            return Err(damaged(&path, "it ends before its last commit"));
        }
        let page_size = generation.page_size;
        let mut overlay = Overlay::new(page_count_of(len, page_size), page_size);
        overlay.apply(&log, &path, 0..last.get() as usize, |frame| frame)?;
        Ok(Some(Self { path, file, overlay, page_size }))
    }

    /// Fills `into` with the page of a frame.
    fn read(&self, frame: FrameNumber, into: &mut [u8]) -> Result<()> {
        Disk::read_at(&self.file, &self.path, into, wal::page_offset(frame, self.page_size))
    }
}

fn page_count_of(len: u64, page_size: u32) -> PageCount {
    usize::try_from(len / u64::from(page_size)).map_or(PageCount::ZERO, PageCount::from_len)
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
