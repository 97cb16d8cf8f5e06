//! Files of words with a checksum at their end: what a snapshot and a segment are checked by, page by page, and from where
//! on a history is retained.

use std::{fs::File, path::Path};

use xxhash_rust::xxh3::xxh3_64;

use super::damaged;
use crate::{
    disk::Disk,
    error::Result,
    stamps::{self, WORD_LEN, Word},
};

/// The checksum of a page.
pub(super) fn of(page: &[u8]) -> u64 {
    xxh3_64(page)
}

/// The words of a file without the checksum behind them; nothing if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<Word>>> {
    let Some(bytes) = Disk::read(path)? else { return Ok(None) };
    let Some((words, sum)) = bytes.split_last_chunk::<WORD_LEN>() else {
        return Err(damaged(path, "it is cut off"));
    };
    if Word::from_le_bytes(*sum) != xxh3_64(words) {
        return Err(damaged(path, "its checksum does not fit"));
    }
    Ok(Some(words.as_chunks::<WORD_LEN>().0.iter().copied().map(Word::from_le_bytes).collect()))
}

/// Puts a file of words in its place, whole.
pub(super) fn write(disk: &Disk, path: &Path, beside: &Path, words: &[Word], data: &Path) -> Result<()> {
    write_beside(disk, beside, words, data)?;
    disk.rename(beside, path)
}

/// Writes a file of words, which is not in its place yet, with the owner and the mode of the database file `data`.
pub(super) fn write_beside(disk: &Disk, beside: &Path, words: &[Word], data: &Path) -> Result<File> {
    let mut bytes = stamps::bytes(words);
    let sum = xxh3_64(&bytes);
    bytes.extend(sum.to_le_bytes());
    disk.remove(beside)?;
    let file = disk.create_like(beside, data)?;
    disk.write_at(&file, beside, &bytes, 0)?;
    Ok(file)
}
