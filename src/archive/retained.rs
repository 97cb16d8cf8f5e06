//! From which generation on a history is retained.
//!
//! What lies before that is pruned: for every reader it is not there, whether or not its files are removed yet. So the one
//! rename that puts this file in its place is the step by which a history is pruned, and what follows it, in any order and
//! with any crash in between, changes no answer.

use xxhash_rust::xxh3::xxh3_64;

use super::damaged;
use crate::{
    disk::Disk,
    error::Result,
    layout::ArchivePaths,
    stamps::{self, Word},
};

const MAGIC: Word = Word::from_le_bytes(*b"LFretain");

/// Magic, the generation, the two halves of the database's id, and the check of these four.
const WORDS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retained {
    /// The first generation that is retained. There need not be one yet: then nothing is.
    pub(crate) from: u64,
    /// The id of the database.
    pub(crate) database: u128,
}

impl Retained {
    /// What a history retains; nothing where it was never pruned.
    pub(crate) fn read(paths: &ArchivePaths) -> Result<Option<Self>> {
        let path = paths.retained();
        let Some(bytes) = Disk::read(&path)? else { return Ok(None) };
        let words: Vec<Word> =
            bytes.as_chunks::<{ stamps::WORD_LEN }>().0.iter().copied().map(Word::from_le_bytes).collect();
        match words[..] {
            [MAGIC, from, low, high, check] if check == xxh3_64(&stamps::bytes(&words[..WORDS - 1])) => {
                Ok(Some(Self { from, database: u128::from(low) | u128::from(high) << 64 }))
            }
            _ => Err(damaged(&path, "its checksum does not fit")),
        }
    }

    /// Prunes a history: on the disk when this returns.
    pub(super) fn write(&self, disk: &Disk, paths: &ArchivePaths) -> Result<()> {
        let mut words = [MAGIC, self.from, low(self.database), low(self.database >> 64), 0];
        words[WORDS - 1] = xxh3_64(&stamps::bytes(&words[..WORDS - 1]));
        let (path, beside) = (paths.retained(), paths.dir().join("retained.new"));
        disk.remove(&beside)?;
        let file = disk.create(&beside)?;
        disk.write_at(&file, &beside, &stamps::bytes(&words), 0)?;
        disk.sync_file(&file, &beside)?;
        disk.rename(&beside, &path)?;
        disk.sync_dir(paths.dir())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half of a number")]
fn low(number: u128) -> Word {
    number as Word
}
