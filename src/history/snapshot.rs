//! Snapshots: whole databases, each with a file beside it that holds the checksums of its pages.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{checksummed, damaged, missing};
use crate::{
    disk::Disk,
    error::Result,
    layout::{self, ArchiveFile, ArchivePaths},
    stamps::Word,
};

const MAGIC: Word = Word::from_le_bytes(*b"LFsnapsh");

/// About how much of a snapshot is read at once: a whole number of pages.
pub(super) const STEP: usize = 1 << 20;

/// A snapshot, by what the file beside it says.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(super) path: PathBuf,
    /// The checksum of each page.
    sums: Vec<u64>,
}

/// Whether a file of `len` bytes holds a snapshot of so many pages. Less than a page may follow the last one: that is what
/// a snapshot of a file with bytes beyond its last page used to be.
pub(super) fn is_len_of(len: u64, pages: usize, page_size: u32) -> bool {
    len / u64::from(page_size) == pages as u64
}

impl Snapshot {
    /// The snapshot before the first commit of a generation, of which the check of its header is given; nothing if there
    /// is none that was finished.
    pub(super) fn find(
        paths: &ArchivePaths,
        sequence: u64,
        seed: u64,
        page_size: u32,
    ) -> Result<Option<Self>> {
        let Some(sums) = Self::sums(paths, sequence, seed)? else { return Ok(None) };
        let path = paths.file(sequence, ArchiveFile::Snapshot);
        match Disk::len(&path)? {
            None => Err(missing(&path)),
            Some(len) if !is_len_of(len, sums.len(), page_size) => {
                Err(damaged(&path, "its length is not what it was"))
            }
            Some(_) => Ok(Some(Self { path, sums })),
        }
    }

    /// The checksums of its pages, likewise.
    pub(super) fn sums(paths: &ArchivePaths, sequence: u64, seed: u64) -> Result<Option<Vec<u64>>> {
        let path = paths.file(sequence, ArchiveFile::Sum);
        let Some(mut words) = checksummed::read(&path)? else { return Ok(None) };
        let [MAGIC, of, ..] = words[..] else {
            return Err(damaged(&path, "it holds something else"));
        };
        // One of an attempt that went no further is no snapshot of this generation.
        words.drain(..2);
        Ok((of == seed).then_some(words))
    }

    /// None: what is read is in memory, and was read from this file.
    pub(super) fn none(path: &Path) -> Self {
        Self { path: path.to_owned(), sums: Vec::new() }
    }

    /// The size in pages.
    pub(super) fn pages(&self) -> u32 {
        u32::try_from(self.sums.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn open(&self) -> Result<File> {
        Disk::open(&self.path)?.ok_or_else(|| missing(&self.path))
    }

    /// Whether a page, counted from 1, is what it was.
    pub(super) fn check(&self, number: u32, page: &[u8]) -> Result<()> {
        if self.sums.get(number as usize - 1) == Some(&checksummed::of(page)) {
            return Ok(());
        }
        Err(damaged(&self.path, format_args!("the checksum of page {number} does not fit")))
    }

    /// Reads all of it, in pages of this size, and checks each.
    pub(super) fn check_all(&self, page_size: u32) -> Result<()> {
        let file = self.open()?;
        let mut page = vec![0; page_size as usize];
        for number in 1..=self.pages() {
            let at = u64::from(number - 1) * u64::from(page_size);
            if Disk::read_up_to(&file, &self.path, &mut page, at)? < page.len() {
                return Err(damaged(&self.path, "it is cut off"));
            }
            self.check(number, &page)?;
        }
        Ok(())
    }

    /// Puts a file that was written beside its place there, with its sums. What stood there is replaced: it belonged to an
    /// attempt that went no further.
    pub(crate) fn publish(
        disk: &Disk,
        paths: &ArchivePaths,
        (sequence, seed, page_size): (u64, u64, u32),
        (written, file): (&Path, &File),
    ) -> Result<()> {
        let (path, sum_path) =
            (paths.file(sequence, ArchiveFile::Snapshot), paths.file(sequence, ArchiveFile::Sum));
        let mut words = vec![MAGIC, seed];
        let page_size = page_size as usize;
        let mut buffer = vec![0; (STEP / page_size).max(1) * page_size];
        let mut at = 0;
        loop {
            let count = Disk::read_up_to(file, written, &mut buffer, at)?;
            words.extend(buffer[..count].chunks_exact(page_size).map(checksummed::of));
            at += count as u64;
            if count < buffer.len() {
                break;
            }
        }
        disk.remove(&sum_path)?;
        // SQLite would read a log or a journal of that name as the snapshot's, which has none yet.
        while let Some(left) = Disk::first_present(layout::companions(&path))? {
            disk.remove(&left)?;
        }
        disk.rename(written, &path)?;
        checksummed::write(disk, &sum_path, &layout::beside(written, "-sum"), &words, &paths.data())
    }
}
