//! Snapshots: whole databases, each with a file of the checksums of its pages.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    archive::Archive,
    checksummed::{self, page_checksum},
    ended::EndedFile,
    errors::{damaged, missing},
};
use crate::{
    disk::Disk,
    error::Result,
    layout::{self, ArchiveFile, ArchivePaths},
    stamps::{Generation, Word},
    units::{PageChecksum, PageCount, PageNumber},
};

const MAGIC: Word = Word::from_le_bytes(*b"LFsnapsh");

/// The end of the names of the checksums of a snapshot that is not published.
const STAGED_SUM: &str = "-sum";

/// Approximate number of bytes of a snapshot that are read at once.
pub(super) const STEP: usize = 1 << 20;

/// A snapshot, opened for reading.
#[derive(Debug)]
pub(super) struct Snapshot {
    file: Box<dyn EndedFile>,
    page_size: u32,
    checksums: Vec<PageChecksum>,
}

/// Whether a file of `len` bytes can be a snapshot of this many pages. The last page may be followed by less than a page of other
/// bytes: older versions copied such bytes from the end of the database file.
pub(super) fn is_len_of(len: u64, pages: usize, page_size: u32) -> bool {
    len / u64::from(page_size) == pages as u64
}

/// The number of bytes of whole pages to read at once.
pub(super) fn step_of(page_size: u32) -> usize {
    let page_size = page_size as usize;
    (STEP / page_size).max(1) * page_size
}

impl Snapshot {
    /// Opens the snapshot before the first commit of a generation. Returns `None` if no complete one exists.
    pub(super) fn open(ended: &Archive, generation: &Generation) -> Result<Option<Self>> {
        let Some(checksums) = page_checksums(ended, generation)? else { return Ok(None) };
        let number = generation.number;
        let file = ended
            .open(number, ArchiveFile::Snapshot)?
            .ok_or_else(|| missing(&ended.path(number, ArchiveFile::Snapshot)))?;
        if !is_len_of(file.len()?, checksums.len(), generation.page_size) {
            return Err(damaged(file.path(), "wrong length"));
        }
        Ok(Some(Self { file, page_size: generation.page_size, checksums }))
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn page_count(&self) -> PageCount {
        PageCount::from_len(self.checksums.len())
    }

    /// Fills `into` from an offset without checking it.
    pub(super) fn read_at(&self, into: &mut [u8], offset: u64) -> Result<()> {
        if self.file.read_at(into, offset)? < into.len() {
            return Err(damaged(self.path(), "it is truncated"));
        }
        Ok(())
    }

    /// Fills `into` with a page and checks it.
    pub(super) fn read_page(&self, page: PageNumber, into: &mut [u8]) -> Result<()> {
        self.read_at(into, page.offset(self.page_size))?;
        self.check(page, into)
    }

    /// Fails with [`ErrorKind::Corrupt`](crate::error::ErrorKind::Corrupt) if the contents of a page are wrong.
    pub(super) fn check(&self, page: PageNumber, contents: &[u8]) -> Result<()> {
        if self.checksums.get(page.index()) == Some(&page_checksum(contents)) {
            return Ok(());
        }
        Err(damaged(self.path(), format_args!("the checksum of page {page} does not match")))
    }

    /// Reads and checks all pages.
    pub(super) fn check_all(&self) -> Result<()> {
        let mut contents = vec![0; self.page_size as usize];
        let mut pages = PageNumber::FIRST.and_following().take(self.checksums.len());
        pages.try_for_each(|page| self.read_page(page, &mut contents))
    }
}

/// The checksums of the pages of the snapshot before a generation. Returns `None` if there are none of this generation.
pub(super) fn page_checksums(ended: &Archive, generation: &Generation) -> Result<Option<Vec<PageChecksum>>> {
    let path = ended.path(generation.number, ArchiveFile::Sum);
    let Some(bytes) = ended.read(generation.number, ArchiveFile::Sum)? else { return Ok(None) };
    let words = checksummed::decode(&path, &bytes)?;
    let [MAGIC, seed, ref checksums @ ..] = words[..] else {
        return Err(damaged(&path, "invalid header"));
    };
    // Checksums of another generation are a leftover of a process that was killed before it replaced them.
    let checksums = checksums.iter().copied().map(PageChecksum::new);
    Ok((seed == generation.seed()).then(|| checksums.collect()))
}

/// Whether the publication of the snapshot before a generation has begun and is not complete: it is in progress, or its process was
/// killed.
pub(super) fn is_incomplete(paths: &ArchivePaths, generation: &Generation) -> Result<bool> {
    for name in Disk::list(paths.dir())?.iter().filter(|name| name.ends_with(STAGED_SUM)) {
        // Checksums that are not written completely belong to a snapshot that is not published at all.
        let words = checksummed::read(&paths.dir().join(name)).ok().flatten();
        if words.is_some_and(|words| words.starts_with(&[MAGIC, generation.seed()])) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A snapshot that is written and not published.
pub(super) struct Staged<'a> {
    pub(super) path: PathBuf,
    pub(super) file: &'a File,
}

impl Staged<'_> {
    /// Publishes the snapshot before a generation, with its checksums. Replaces an incomplete snapshot that a killed process
    /// left.
    pub(super) fn publish(
        &self,
        disk: &Disk,
        paths: &ArchivePaths,
        ended: &Archive,
        generation: &Generation,
    ) -> Result<()> {
        let number = generation.number;
        let page_size = generation.page_size as usize;
        let mut words = vec![MAGIC, generation.seed()];
        let mut buffer = vec![0; step_of(generation.page_size)];
        let mut at = 0;
        loop {
            let count = Disk::read_up_to(self.file, &self.path, &mut buffer, at)?;
            words.extend(buffer[..count].chunks_exact(page_size).map(|page| page_checksum(page).get()));
            at += count as u64;
            if count < buffer.len() {
                break;
            }
        }
        // As long as the staged checksums exist, the snapshot without published checksums is incomplete and not damaged.
        let sums = layout::beside(&self.path, STAGED_SUM);
        checksummed::create(disk, &sums, &words, &paths.data())?;
        ended.delete(number, ArchiveFile::Sum)?;
        // SQLite would take a WAL or a journal of that name for the snapshot's.
        while let Some(left) =
            Disk::first_present(layout::companions(&paths.file(number, ArchiveFile::Snapshot)))?
        {
            disk.remove(&left)?;
        }
        ended.put_whole(number, ArchiveFile::Snapshot, &self.path)?;
        let published = ended.put_whole(number, ArchiveFile::Sum, &sums);
        if published.is_err() {
            // Without its checksums, the snapshot would be reported as damaged.
            let _replaced_by_the_next = ended.delete(number, ArchiveFile::Snapshot);
        }
        published
    }
}
