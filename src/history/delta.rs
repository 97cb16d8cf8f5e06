//! Deltas: snapshots that have only the pages that differ from those of a full snapshot, as a WAL that SQLite applies to that one.

use std::{collections::BTreeSet, fs::File, path::Path};

use super::{
    archive::{Archive, NumberedFile},
    ended::EndedFile,
    snapshot::{STEP, delta_salts, is_len_of, read_or_zero},
    sums::Sums,
};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    layout::ArchiveFile,
    page::{self, Header},
    stamps::Generation,
    units::{GenerationNumber, PageCount, PageNumber},
    wal::{self, Chain, Frame},
};

/// A full snapshot to which a delta can refer.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) number: GenerationNumber,
    file: Box<dyn EndedFile>,
    /// The number of its pages.
    pages: PageCount,
}

/// The largest number of pages in a delta of a database with `count` pages. A full snapshot costs at most twice as much, and later
/// deltas are short again.
pub(super) fn pages_max(count: PageCount) -> usize {
    count.get() as usize / 2
}

impl Base {
    /// The base of the newest snapshot from the generation `from` on, or that snapshot if it is full. Returns `None` if the snapshot
    /// before `generation`, whose database has this header, cannot be based on it.
    pub(super) fn newest(
        ended: &Archive,
        from: GenerationNumber,
        generation: &Generation,
        header: &Header,
    ) -> Result<Option<Self>> {
        let files = ended.list_loose()?;
        let mut numbers = files
            .iter()
            .rev()
            .filter(|(number, file)| *file == ArchiveFile::Sum && (from..generation.number).contains(number));
        let found = numbers.find_map(|(number, _)| match Self::of(ended, *number, generation.page_size) {
            Err(error) if error.kind() == ErrorKind::Corrupt => None,
            base => base.transpose(),
        });
        let Some(base) = found.transpose()? else { return Ok(None) };
        let mut head = [0; page::HEADER_LEN];
        let is_whole = base.file.read_at(&mut head, 0)? == head.len();
        let own = Header::parse(&head).ok().filter(|_| is_whole);
        // SQLite applies a WAL only to a database with its page size.
        let is_like = own.is_some_and(|own| {
            (own.page_size, own.reserved, own.seal.map(|seal| seal.identity()))
                == (header.page_size, header.reserved, header.seal.map(|seal| seal.identity()))
        });
        Ok(Some(base).filter(|_| is_like && header.page_size == generation.page_size))
    }

    /// The base of the snapshot before a generation, or that snapshot if it is full. Returns `None` if it does not exist or is
    /// incomplete.
    fn of(ended: &Archive, number: GenerationNumber, page_size: u32) -> Result<Option<Self>> {
        let Some((_, sums)) = Sums::read_any(ended, number)? else { return Ok(None) };
        let base = sums.delta.as_ref().map(|delta| delta.base);
        let number = base.unwrap_or(number);
        let Some(file) = ended.open(number, ArchiveFile::Snapshot)? else { return Ok(None) };
        let len = file.len()?;
        let pages = usize::try_from(len / u64::from(page_size)).unwrap_or(usize::MAX);
        let is_whole = base.is_some() || is_len_of(len, sums.checksums.len(), page_size);
        let pages = PageCount::from_len(pages);
        Ok(is_whole.then_some(Self { number, file, pages }))
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Fills `into` with whole pages from an offset on. Those after its end are zero, and it does not [have](Self::has) them.
    pub(super) fn read(&self, into: &mut [u8], offset: u64) -> Result<()> {
        read_or_zero(&*self.file, into, offset)
    }

    pub(super) fn has(&self, page: PageNumber) -> bool {
        self.pages.contains(page)
    }
}

/// The generations with the full snapshots to which deltas refer, from the generation `from` on. Returns `None` if they are not
/// known, because the sums of a delta are damaged or missing. A missing file may be put back later.
pub(super) fn bases_of(
    ended: &Archive,
    files: &BTreeSet<NumberedFile>,
    from: GenerationNumber,
) -> Result<Option<BTreeSet<GenerationNumber>>> {
    let mut bases = BTreeSet::new();
    for (number, file) in files.iter().filter(|(number, _)| *number >= from) {
        let has = |file| files.contains(&(*number, file));
        match file {
            ArchiveFile::Delta if !has(ArchiveFile::Sum) => return Ok(None),
            ArchiveFile::Sum if has(ArchiveFile::Delta) || !has(ArchiveFile::Snapshot) => {
                match base_of(ended, *number) {
                    Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(None),
                    base => bases.extend(base?),
                }
            }
            _ => {}
        }
    }
    Ok(Some(bases))
}

/// The full snapshot to which the snapshot before a generation refers. Returns `None` if it is full, or has no sums.
pub(super) fn base_of(ended: &Archive, number: GenerationNumber) -> Result<Option<GenerationNumber>> {
    let found = Sums::read_any(ended, number)?;
    Ok(found.and_then(|(_, sums)| sums.delta).map(|delta| delta.base))
}

/// Writes the WAL of a delta.
pub(super) struct DeltaWriter<'a> {
    disk: &'a Disk,
    file: &'a File,
    path: &'a Path,
    chain: Chain,
    /// The pages that were added.
    pages: Vec<PageNumber>,
    /// The contents of the last of them. Its frame has the page count, which is known at the end.
    last: Vec<u8>,
    /// Frames that are not written yet, and the offset to which they are written.
    buffer: Vec<u8>,
    at: u64,
}

impl<'a> DeltaWriter<'a> {
    /// Begins the delta before a generation in an empty file.
    pub(super) fn new(disk: &'a Disk, file: &'a File, path: &'a Path, generation: &Generation) -> Self {
        let header = wal::Header::new(generation.page_size, delta_salts(generation));
        Self {
            disk,
            file,
            path,
            chain: header.chain(),
            pages: Vec::new(),
            last: Vec::new(),
            buffer: header.bytes().to_vec(),
            at: 0,
        }
    }

    /// The number of pages that were added.
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Adds a page after the previous one.
    pub(super) fn add(&mut self, page: PageNumber, contents: &[u8]) -> Result<()> {
        self.append(None)?;
        self.pages.push(page);
        self.last.clear();
        self.last.extend_from_slice(contents);
        Ok(())
    }

    /// Ends the delta of a database of this size. Returns its pages.
    pub(super) fn finish(mut self, count: PageCount) -> Result<Vec<PageNumber>> {
        self.append(Some(count))?;
        self.write()?;
        Ok(self.pages)
    }

    /// Appends the frame of the last page that was added.
    fn append(&mut self, commit: Option<PageCount>) -> Result<()> {
        let Some(page_number) = self.pages.last().copied() else { return Ok(()) };
        self.buffer.extend(self.chain.append(Frame { page_number, commit }, &self.last));
        self.buffer.extend_from_slice(&self.last);
        if self.buffer.len() >= STEP { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        self.disk.write_at(self.file, self.path, &self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
