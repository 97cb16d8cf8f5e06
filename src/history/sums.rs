//! The sums of a snapshot: the checksums of its pages, and which of the pages its file has.

use super::{
    archive::Archive,
    checksummed::{self, page_checksum},
    errors::damaged,
};
use crate::{
    error::Result,
    layout::ArchiveFile,
    stamps::{Generation, Word},
    units::{GenerationNumber, PageChecksum, PageCount, PageNumber},
};

/// The first word of the sums of a full snapshot and of a delta.
const FULL: Word = Word::from_le_bytes(*b"LFsnapsh");
const DELTA: Word = Word::from_le_bytes(*b"LFdelta1");

/// The sums of a snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    /// The checksums of all its pages, in order.
    pub(super) checksums: Vec<PageChecksum>,
    /// The pages in the file of a delta, or `None` for a full snapshot.
    pub(super) delta: Option<DeltaPages>,
}

/// The pages in the file of a delta. The other pages of the snapshot are in its base.
#[derive(Clone, Debug)]
pub(super) struct DeltaPages {
    /// The full snapshot to which the delta refers.
    pub(super) base: GenerationNumber,
    /// In order. The file has one frame for each, in the same order.
    pub(super) pages: Vec<PageNumber>,
}

impl Sums {
    /// Reads the sums of the snapshot before a generation. Returns `None` if there are none of this generation.
    pub(super) fn read(ended: &Archive, generation: &Generation) -> Result<Option<Self>> {
        // Sums of another generation are a leftover of a process that was killed before it replaced them.
        let found = Self::read_any(ended, generation.number)?;
        Ok(found.filter(|(seed, _)| *seed == generation.seed()).map(|(_, sums)| sums))
    }

    /// Reads the sums with this number, and the check of the generation to which they belong. Returns `None` if they do not exist.
    pub(super) fn read_any(ended: &Archive, number: GenerationNumber) -> Result<Option<(u64, Self)>> {
        let path = ended.path(number, ArchiveFile::Sum);
        let Some(bytes) = ended.read(number, ArchiveFile::Sum)? else { return Ok(None) };
        let words = checksummed::decode(&path, &bytes)?;
        let decoded = Self::decode(number, &words).ok_or_else(|| damaged(&path, "invalid header"))?;
        Ok(Some(decoded))
    }

    fn decode(number: GenerationNumber, words: &[Word]) -> Option<(u64, Self)> {
        let (seed, checksums, delta) = match *words {
            [FULL, seed, ref checksums @ ..] => (seed, checksums, None),
            [DELTA, seed, base, count, ref rest @ ..] => {
                let (checksums, pages) = rest.split_at_checked(usize::try_from(count).ok()?)?;
                let base = Some(GenerationNumber::new(base)).filter(|base| *base < number)?;
                (seed, checksums, Some(DeltaPages { base, pages: decode_pages(pages, checksums.len())? }))
            }
            _ => return None,
        };
        let checksums = checksums.iter().copied().map(PageChecksum::new).collect();
        Some((seed, Self { checksums, delta }))
    }

    /// The words of the sums of the snapshot before a generation.
    pub(super) fn encode(&self, generation: &Generation) -> Vec<Word> {
        let mut words = match &self.delta {
            None => vec![FULL, generation.seed()],
            Some(delta) => {
                vec![DELTA, generation.seed(), delta.base.get(), self.checksums.len() as Word]
            }
        };
        words.extend(self.checksums.iter().map(|checksum| checksum.get()));
        let pages = self.delta.iter().flat_map(|delta| &delta.pages);
        words.extend(pages.map(|page| Word::from(page.get())));
        words
    }

    /// Whether these are the words of sums that belong to a generation.
    pub(super) fn are_of(words: &[Word], generation: &Generation) -> bool {
        [FULL, DELTA].iter().any(|magic| words.starts_with(&[*magic, generation.seed()]))
    }

    pub(super) fn page_count(&self) -> PageCount {
        PageCount::from_len(self.checksums.len())
    }

    /// The file with the pages, or with those that differ from the base.
    pub(super) fn file(&self) -> ArchiveFile {
        if self.delta.is_some() { ArchiveFile::Delta } else { ArchiveFile::Snapshot }
    }

    /// Whether a page has these contents.
    pub(super) fn matches(&self, page: PageNumber, contents: &[u8]) -> bool {
        self.checksums.get(page.index()) == Some(&page_checksum(contents))
    }
}

/// The numbers of the pages of a delta of a database with `count` pages. Returns `None` if they are not in order.
fn decode_pages(words: &[Word], count: usize) -> Option<Vec<PageNumber>> {
    let mut pages: Vec<PageNumber> = Vec::with_capacity(words.len());
    for word in words {
        let page = PageNumber::new(u32::try_from(*word).ok()?)?;
        if page.index() >= count || pages.last().is_some_and(|last| *last >= page) {
            return None;
        }
        pages.push(page);
    }
    Some(pages).filter(|pages| !pages.is_empty())
}
