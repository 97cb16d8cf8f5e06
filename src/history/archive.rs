//! The files of ended generations by generation and kind, whether they are files in the store or parts of packs.
//!
//! A file in the store takes precedence over the same file in a pack, and a pack over those whose generations it includes. Both
//! exist while maintenance replaces one with the other; they are equal.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use super::{
    ended::{self, Ended, EndedFile, EndedName, LocalArchive},
    errors::keeps_changing,
    pack_file::{PackFile, PackedLog},
};
use crate::{
    disk::Disk,
    error::Result,
    layout::{ArchiveFile, ArchivePaths},
    pack::{GENERATIONS_MAX, Kind},
    sync::{Mutex, Rank},
    units::{GenerationNumber, GenerationSpan, Nanos},
};

/// A file of a generation.
pub(crate) type NumberedFile = (GenerationNumber, ArchiveFile);

/// The files of ended generations.
#[derive(Clone, Debug)]
pub(crate) struct Archive {
    store: Arc<dyn Ended>,
    /// The packs of the last list. They are shared by all clones.
    slots: Arc<Mutex<Option<Slots>>>,
}

/// The packs of a history, in the order of precedence.
type Slots = Arc<[Slot]>;

/// A pack, which is opened when it is first needed.
#[derive(Debug)]
struct Slot {
    span: GenerationSpan,
    pack: OnceLock<Arc<PackFile>>,
}

/// A file of a pack, extracted.
#[derive(Debug)]
struct Extracted {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// The kind that a packed file has in an [`Archive`]. A packed segment counts as compressed.
const fn kind_of(file: ArchiveFile) -> Option<Kind> {
    match file {
        ArchiveFile::Compressed => Some(Kind::Segment),
        ArchiveFile::Stamps => Some(Kind::Stamps),
        ArchiveFile::Index => Some(Kind::Index),
        ArchiveFile::Segment | ArchiveFile::Snapshot | ArchiveFile::Delta | ArchiveFile::Sum => None,
    }
}

impl Archive {
    pub(crate) fn new(store: Arc<dyn Ended>) -> Self {
        Self { store, slots: Arc::new(Mutex::new(Rank::Packs, None)) }
    }

    /// This archive without the packs that it has opened. A thread with its own descriptors cannot read those, and must not leave
    /// the packs that it opens to others.
    pub(super) fn reopened(&self) -> Self {
        Self::new(Arc::clone(&self.store))
    }

    /// The archive directory beside a database.
    pub(crate) fn local(disk: Disk, paths: ArchivePaths) -> Self {
        Self::new(Arc::new(LocalArchive::new(disk, paths)))
    }

    /// The files as they are stored.
    pub(crate) fn store(&self) -> &dyn Ended {
        &*self.store
    }

    /// The files that exist. Of a generation in a pack, the stamps and the index are listed.
    pub(crate) fn list(&self) -> Result<BTreeSet<NumberedFile>> {
        let (mut files, slots) = self.observe()?;
        for slot in &*slots {
            for file in [ArchiveFile::Stamps, ArchiveFile::Index] {
                files.extend(slot.span.numbers().map(|number| (number, file)));
            }
        }
        Ok(files)
    }

    /// The files that are not in packs.
    pub(super) fn list_loose(&self) -> Result<BTreeSet<NumberedFile>> {
        self.observe().map(|(files, _)| files)
    }

    /// The packs that exist, in the order of precedence.
    pub(super) fn list_packs(&self) -> Result<Vec<Arc<PackFile>>> {
        let (_, slots) = self.observe()?;
        slots.iter().map(|slot| self.opened(slot)).collect()
    }

    /// The packs that exist, and their lengths in the store.
    pub(super) fn pack_lens(&self) -> Result<Vec<(GenerationSpan, u64)>> {
        let (_, slots) = self.observe()?;
        let mut lens = Vec::with_capacity(slots.len());
        for span in slots.iter().map(|slot| slot.span) {
            lens.push((span, self.store.len(EndedName::Pack(span))?.unwrap_or(0)));
        }
        Ok(lens)
    }

    /// Lists the files in the store that are not packs, and the packs.
    fn observe(&self) -> Result<(BTreeSet<NumberedFile>, Slots)> {
        let (mut files, mut spans) = (BTreeSet::new(), Vec::new());
        for name in self.store.list()? {
            match name {
                EndedName::File(number, file) => _ = files.insert((number, file)),
                EndedName::Pack(span) => spans.push(span),
            }
        }
        // No pack has more generations, so the name is not that of a pack.
        spans.retain(|span| span.last.get() - span.first.get() < GENERATIONS_MAX);
        spans.sort_unstable_by_key(|span| (span.first, Reverse(span.last)));
        let slots: Slots = spans.into_iter().map(|span| Slot { span, pack: OnceLock::new() }).collect();
        *self.slots.lock_or_clear() = Some(Arc::clone(&slots));
        Ok((files, slots))
    }

    fn opened(&self, slot: &Slot) -> Result<Arc<PackFile>> {
        if let Some(pack) = slot.pack.get() {
            return Ok(Arc::clone(pack));
        }
        let name = EndedName::Pack(slot.span);
        let file = self.store.open(name)?.ok_or_else(|| keeps_changing(&self.store.path(name)))?;
        let pack = Arc::new(PackFile::open(slot.span, file)?);
        Ok(Arc::clone(slot.pack.get_or_init(|| pack)))
    }

    /// The pack that has a generation, according to the last list. An intact pack takes precedence.
    fn pack_of(&self, number: GenerationNumber) -> Result<Option<Arc<PackFile>>> {
        let listed = self.slots.lock_or_clear().as_ref().map(Arc::clone);
        let slots = listed.map_or_else(|| self.observe().map(|(_, slots)| slots), Ok)?;
        let mut damaged = None;
        for slot in slots.iter().filter(|slot| slot.span.contains(number)) {
            let pack = self.opened(slot)?;
            if !pack.is_damaged() {
                return Ok(Some(pack));
            }
            damaged.get_or_insert(pack);
        }
        Ok(damaged)
    }

    /// The length of a file, or `None` if it does not exist. That of a packed segment is its plain length.
    pub(crate) fn len(&self, number: GenerationNumber, file: ArchiveFile) -> Result<Option<u64>> {
        let loose = self.store.len(EndedName::File(number, file))?;
        match kind_of(file).filter(|_| loose.is_none()) {
            Some(kind) => Ok(self.pack_of(number)?.and_then(|pack| pack.len(number, kind))),
            None => Ok(loose),
        }
    }

    pub(crate) fn exists(&self, number: GenerationNumber, file: ArchiveFile) -> Result<bool> {
        Ok(self.len(number, file)?.is_some())
    }

    /// Opens a file for reading. Returns `None` if it does not exist. [`packed_log`](Self::packed_log) opens a packed segment.
    pub(crate) fn open(
        &self,
        number: GenerationNumber,
        file: ArchiveFile,
    ) -> Result<Option<Box<dyn EndedFile>>> {
        if let Some(loose) = self.store.open(EndedName::File(number, file))? {
            return Ok(Some(loose));
        }
        let kind = kind_of(file).filter(|kind| *kind != Kind::Segment);
        let Some((kind, pack)) = kind.zip(self.pack_of(number)?) else { return Ok(None) };
        let bytes = pack.read(number, kind)?;
        let path = || pack.path().to_owned();
        Ok(bytes.map(|bytes| Box::new(Extracted { path: path(), bytes }) as Box<dyn EndedFile>))
    }

    /// Reads a whole file. Returns `None` if it does not exist.
    pub(super) fn read(&self, number: GenerationNumber, file: ArchiveFile) -> Result<Option<Vec<u8>>> {
        self.open(number, file)?.map(|file| ended::read_whole(&*file)).transpose()
    }

    /// The segment of a generation in a pack. Returns `None` if no pack has it.
    pub(super) fn packed_log(&self, number: GenerationNumber) -> Result<Option<PackedLog>> {
        self.pack_of(number)?.map_or(Ok(None), |pack| pack.log(number))
    }

    /// Atomically replaces the contents of a file with those of the local file `staged`, and removes `staged`.
    pub(crate) fn put_whole(&self, number: GenerationNumber, file: ArchiveFile, staged: &Path) -> Result<()> {
        self.store.put_whole(EndedName::File(number, file), staged)
    }

    /// Deletes a file that is not in a pack. Succeeds if it does not exist.
    pub(crate) fn delete(&self, number: GenerationNumber, file: ArchiveFile) -> Result<()> {
        self.store.delete(EndedName::File(number, file))
    }

    /// Makes all completed calls of [`put_whole`](Self::put_whole) and [`delete`](Self::delete) durable.
    pub(crate) fn flush(&self) -> Result<()> {
        self.store.flush()
    }

    /// Makes durable the files that capture has added since an instant.
    pub(crate) fn flush_added_since(&self, since: Nanos) -> Result<()> {
        self.store.flush_added_since(since)
    }

    /// The name of a file, or of the pack that has it, in errors and findings.
    pub(crate) fn path(&self, number: GenerationNumber, file: ArchiveFile) -> PathBuf {
        let loose = EndedName::File(number, file);
        // The name of a missing segment is that of the file which can be put back.
        let pack = kind_of(file).and_then(|_| self.pack_of(number).ok().flatten());
        match pack {
            Some(pack) if self.store.len(loose).is_ok_and(|len| len.is_none()) => pack.path().to_owned(),
            _ => self.store.path(loose),
        }
    }
}

impl EndedFile for Extracted {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize> {
        let rest =
            usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
