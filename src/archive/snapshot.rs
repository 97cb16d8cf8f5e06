//! Snapshots: whole databases, each with a file beside it that holds its checksum.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::damaged;
use crate::{
    disk::Disk,
    error::Result,
    layout::{ArchiveFile, ArchivePaths},
    stamps::{self, Word},
};

const MAGIC: Word = Word::from_le_bytes(*b"LFsnapsh");

/// Magic, the check of the generation's header, length, checksum, and the check of these four.
const SUM_WORDS: usize = 5;

/// About how much of a snapshot is read at once: a whole number of pages.
pub(super) const STEP: usize = 1 << 20;

/// A snapshot, by what its sum says.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(super) path: PathBuf,
    pub(super) len: u64,
    pub(super) checksum: u64,
}

impl Snapshot {
    /// The snapshot before the first commit of a generation, of which the check of its header is given; nothing if there
    /// is none that was finished.
    pub(super) fn find(paths: &ArchivePaths, sequence: u64, seed: u64) -> Result<Option<Self>> {
        let (path, sum_path) =
            (paths.file(sequence, ArchiveFile::Snapshot), paths.file(sequence, ArchiveFile::Sum));
        let Some(sum) = Disk::read(&sum_path)? else { return Ok(None) };
        let words: Vec<Word> =
            sum.as_chunks::<{ stamps::WORD_LEN }>().0.iter().copied().map(Word::from_le_bytes).collect();
        match words[..] {
            [MAGIC, of, len, checksum, check]
                if check == xxh3_64(&stamps::bytes(&words[..SUM_WORDS - 1])) =>
            {
                // One of an attempt that went no further is no snapshot of this generation.
                Ok((of == seed).then_some(Self { path, len, checksum }))
            }
            _ => Err(damaged(&sum_path, "its checksum does not fit")),
        }
    }

    /// Puts a file that was written beside its place there, with its sum. What stood there is replaced: it belonged to an
    /// attempt that went no further.
    pub(crate) fn publish(
        disk: &Disk,
        paths: &ArchivePaths,
        sequence: u64,
        seed: u64,
        (written, len, checksum): (&Path, u64, u64),
    ) -> Result<()> {
        let (path, sum_path) =
            (paths.file(sequence, ArchiveFile::Snapshot), paths.file(sequence, ArchiveFile::Sum));
        disk.remove(&sum_path)?;
        disk.rename(written, &path)?;
        let mut words = [MAGIC, seed, len, checksum, 0];
        words[SUM_WORDS - 1] = xxh3_64(&stamps::bytes(&words[..SUM_WORDS - 1]));
        let beside = paths.dir().join("sum.new");
        disk.remove(&beside)?;
        let file = disk.create(&beside)?;
        disk.write_at(&file, &beside, &stamps::bytes(&words), 0)?;
        disk.rename(&beside, &sum_path)
    }
}

/// The checksum of a snapshot, counted as it is written or read.
#[derive(Default)]
pub(crate) struct Checksum(Xxh3);

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checksum")
    }
}

impl Checksum {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0.digest()
    }
}
