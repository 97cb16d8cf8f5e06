//! Snapshots: whole databases, each with a file of the checksums of its pages.
//!
//! A snapshot is full, or it is a delta: a WAL of the pages that differ from those of a full snapshot, its *base*. Every page of a
//! delta is checked against the sums of the delta, whichever file has it. A base that was damaged or replaced is therefore noticed
//! without the sums of the base, which are removed when its generation is pruned.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    archive::Archive,
    checksummed::{self, page_checksum},
    ended::EndedFile,
    errors::{damaged, missing},
    sums::Sums,
};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    layout::{self, ArchiveFile, ArchivePaths},
    stamps::Generation,
    units::{FrameNumber, GenerationNumber, PageChecksum, PageCount, PageNumber, Salts},
    wal,
};

/// The end of the names of the checksums of a snapshot that is not published.
const STAGED_SUM: &str = "-sum";

/// Approximate number of bytes of a snapshot that are read at once.
pub(super) const STEP: usize = 1 << 20;

/// A snapshot, opened for reading.
#[derive(Debug)]
pub(super) struct Snapshot {
    file: Box<dyn EndedFile>,
    /// The file of the base of a delta.
    base: Option<Box<dyn EndedFile>>,
    page_size: u32,
    sums: Sums,
}

/// Whether a file of `len` bytes can be a full snapshot of this many pages. The last page may be followed by less than a page of
/// other bytes: older versions copied such bytes from the end of the database file.
pub(super) fn is_len_of(len: u64, pages: usize, page_size: u32) -> bool {
    len / u64::from(page_size) == pages as u64
}

/// The number of bytes of whole pages to read at once.
pub(super) fn step_of(page_size: u32) -> usize {
    let page_size = page_size as usize;
    (STEP / page_size).max(1) * page_size
}

/// The salts of the delta before a generation.
pub(super) fn delta_salts(generation: &Generation) -> Salts {
    Salts::new(generation.seed().to_le_bytes())
}

impl Snapshot {
    /// Opens the snapshot before the first commit of a generation. Returns `None` if no complete one exists.
    pub(super) fn open(ended: &Archive, generation: &Generation) -> Result<Option<Self>> {
        let Some(sums) = Sums::read(ended, generation)? else { return Ok(None) };
        let snapshot = Self::with_sums(ended, generation, sums)?;
        if !snapshot.has_len()? {
            return Err(damaged(snapshot.path(), "wrong length"));
        }
        Ok(Some(snapshot))
    }

    /// Opens the snapshot before a generation, whatever its length is.
    pub(super) fn with_sums(ended: &Archive, generation: &Generation, sums: Sums) -> Result<Self> {
        let open = |number, file| ended.open(number, file)?.ok_or_else(|| missing(&ended.path(number, file)));
        let file = open(generation.number, sums.file())?;
        let base = sums.delta.as_ref().map(|delta| open(delta.base, ArchiveFile::Snapshot)).transpose()?;
        Ok(Self { file, base, page_size: generation.page_size, sums })
    }

    /// Whether its file has the length that its sums require.
    pub(super) fn has_len(&self) -> Result<bool> {
        let len = self.file.len()?;
        Ok(match &self.sums.delta {
            None => is_len_of(len, self.sums.checksums.len(), self.page_size),
            Some(delta) => len == wal::len_up_to(frame_count(&delta.pages), self.page_size),
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file that has a page.
    pub(super) fn path_of(&self, page: PageNumber) -> &Path {
        let base = self.base.as_ref().filter(|_| !self.is_own(page));
        base.unwrap_or(&self.file).path()
    }

    pub(super) fn page_count(&self) -> PageCount {
        self.sums.page_count()
    }

    /// The checksums of all pages, in order.
    pub(super) fn checksums(&self) -> &[PageChecksum] {
        &self.sums.checksums
    }

    /// The generation before which the full snapshot is to which this delta refers.
    pub(super) fn base(&self) -> Option<GenerationNumber> {
        self.sums.delta.as_ref().map(|delta| delta.base)
    }

    /// Whether its own file has a page, and not its base.
    pub(super) fn is_own(&self, page: PageNumber) -> bool {
        self.sums.delta.as_ref().is_none_or(|delta| delta.pages.binary_search(&page).is_ok())
    }

    /// Fills `into` with whole pages from an offset without checking them.
    pub(super) fn read_at(&self, into: &mut [u8], offset: u64) -> Result<()> {
        if self.read_up_to(into, offset)? < into.len() {
            return Err(damaged(self.path(), "it is truncated"));
        }
        Ok(())
    }

    /// Fills `into` with whole pages from an offset, and returns the number of bytes read: fewer if a full snapshot is truncated.
    /// Pages of a delta that are in no file are zero. They fail the check.
    pub(super) fn read_up_to(&self, into: &mut [u8], offset: u64) -> Result<usize> {
        let Some((delta, base)) = self.sums.delta.as_ref().zip(self.base.as_ref()) else {
            return self.file.read_at(into, offset);
        };
        let page_size = self.page_size as usize;
        let begin = PageNumber::at_offset(offset, self.page_size);
        let first = delta.pages.partition_point(|page| *page < begin);
        let is_in = |page: &PageNumber| page.offset(self.page_size) < offset + into.len() as u64;
        let own = &delta.pages[first..];
        let own = &own[..own.partition_point(is_in)];
        if own.len() * page_size < into.len() {
            read_or_zero(&**base, into, offset)?;
        }
        for (index, page) in own.iter().enumerate() {
            let at = (page.index() - begin.index()) * page_size;
            let frame = FrameNumber::from_index((first + index) as u64);
            let contents = &mut into[at..at + page_size];
            read_or_zero(&*self.file, contents, wal::page_offset(frame, self.page_size))?;
        }
        Ok(into.len())
    }

    /// Fills `into` with a page and checks it.
    pub(super) fn read_page(&self, page: PageNumber, into: &mut [u8]) -> Result<()> {
        self.read_at(into, page.offset(self.page_size))?;
        self.check(page, into)
    }

    /// Fails with [`ErrorKind::Corrupt`](crate::error::ErrorKind::Corrupt) if the contents of a page are wrong.
    pub(super) fn check(&self, page: PageNumber, contents: &[u8]) -> Result<()> {
        if self.sums.matches(page, contents) {
            return Ok(());
        }
        Err(damaged(self.path_of(page), format_args!("the checksum of page {page} does not match")))
    }

    /// Reads and checks all pages.
    pub(super) fn check_all(&self) -> Result<()> {
        let total = self.page_count().len(self.page_size);
        let mut buffer = vec![0; step_of(self.page_size)];
        let mut at = 0;
        while at < total {
            let want = usize::try_from(total - at).unwrap_or(usize::MAX).min(buffer.len());
            let buffer = &mut buffer[..want];
            self.read_at(buffer, at)?;
            let pages = PageNumber::at_offset(at, self.page_size).and_following();
            let contents = buffer.chunks_exact(self.page_size as usize);
            pages.zip(contents).try_for_each(|(page, contents)| self.check(page, contents))?;
            at += want as u64;
        }
        Ok(())
    }

    /// Whether the snapshot before a generation is complete, and the checksum of each of its pages matches.
    pub(super) fn is_intact(ended: &Archive, generation: &Generation) -> Result<bool> {
        let opened = Self::open(ended, generation);
        match opened.and_then(|snapshot| snapshot.map(|snapshot| snapshot.check_all()).transpose()) {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            checked => Ok(checked?.is_some()),
        }
    }
}

/// The number of the last frame of a delta with these pages.
fn frame_count(pages: &[PageNumber]) -> Option<FrameNumber> {
    FrameNumber::new(PageCount::from_len(pages.len()).get())
}

/// Fills `into` from a file, and with zeros after the end of the file.
pub(super) fn read_or_zero(file: &dyn EndedFile, into: &mut [u8], offset: u64) -> Result<()> {
    let count = file.read_at(into, offset)?;
    into[count..].fill(0);
    Ok(())
}

/// Whether the publication of the snapshot before a generation has begun and is not complete: it is in progress, or its process was
/// killed.
pub(super) fn is_incomplete(paths: &ArchivePaths, generation: &Generation) -> Result<bool> {
    for name in Disk::list(paths.dir())?.iter().filter(|name| name.ends_with(STAGED_SUM)) {
        // Checksums that are not written completely belong to a snapshot that is not published at all.
        let words = checksummed::read(&paths.dir().join(name)).ok().flatten();
        if words.is_some_and(|words| Sums::are_of(&words, generation)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The snapshot before a generation, which is not published.
pub(super) struct NewSnapshot<'a> {
    pub(super) disk: &'a Disk,
    pub(super) paths: &'a ArchivePaths,
    pub(super) ended: &'a Archive,
    pub(super) generation: &'a Generation,
    /// The file in which it is written.
    pub(super) staged: PathBuf,
}

impl NewSnapshot<'_> {
    /// Creates its file, in place of one that a killed process left.
    pub(super) fn create(&self) -> Result<File> {
        self.disk.remove(&self.staged)?;
        self.disk.create_like(&self.staged, &self.paths.data())
    }

    /// Publishes it as a full snapshot, with the checksums of its pages. Replaces an incomplete snapshot that a killed process left.
    pub(super) fn publish(&self, file: &File) -> Result<()> {
        let page_size = self.generation.page_size as usize;
        let mut checksums: Vec<PageChecksum> = Vec::new();
        let mut buffer = vec![0; step_of(self.generation.page_size)];
        let mut at = 0;
        loop {
            let count = Disk::read_up_to(file, &self.staged, &mut buffer, at)?;
            checksums.extend(buffer[..count].chunks_exact(page_size).map(page_checksum));
            at += count as u64;
            if count < buffer.len() {
                break;
            }
        }
        self.publish_with(&Sums { checksums, delta: None })
    }

    /// Publishes it with its sums. A delta is published only if no file has the name of the full snapshot.
    pub(super) fn publish_with(&self, sums: &Sums) -> Result<()> {
        let Self { disk, paths, ended, generation, staged } = self;
        let number = generation.number;
        // As long as the staged checksums exist, the snapshot without published checksums is incomplete and not damaged.
        let staged_sums = layout::beside(staged, STAGED_SUM);
        checksummed::create(disk, &staged_sums, &sums.encode(generation), &paths.data())?;
        ended.delete(number, ArchiveFile::Sum)?;
        if sums.file() == ArchiveFile::Snapshot {
            ended.delete(number, ArchiveFile::Delta)?;
            // SQLite would take a WAL or a journal of that name for the snapshot's.
            while let Some(left) =
                Disk::first_present(layout::companions(&paths.file(number, ArchiveFile::Snapshot)))?
            {
                disk.remove(&left)?;
            }
        }
        ended.put_whole(number, sums.file(), staged)?;
        let published = ended.put_whole(number, ArchiveFile::Sum, &staged_sums);
        if published.is_err() {
            // Without its checksums, the snapshot would be reported as damaged.
            let _replaced_by_the_next = ended.delete(number, sums.file());
        }
        published
    }
}
