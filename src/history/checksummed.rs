//! Files of little-endian words that end with their checksum, and the checksums of pages.

use std::{fs::File, path::Path};

use xxhash_rust::xxh3::xxh3_64;

use super::errors::damaged;
use crate::{
    disk::Disk,
    error::Result,
    stamps::{self, WORD_LEN, Word},
    units::PageChecksum,
};

/// The checksum of a page as it is stored.
pub(crate) fn page_checksum(page: &[u8]) -> PageChecksum {
    PageChecksum::new(xxh3_64(page))
}

/// Reads the words of a file, without its checksum. Returns `None` if the file does not exist.
pub(super) fn read(path: &Path) -> Result<Option<Vec<Word>>> {
    Disk::read(path)?.map(|bytes| decode(path, &bytes)).transpose()
}

/// Checks the contents of the file at `path` and returns its words, without the checksum.
pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Vec<Word>> {
    let Some((words, checksum)) = bytes.split_last_chunk::<WORD_LEN>() else {
        return Err(damaged(path, "it is truncated"));
    };
    if Word::from_le_bytes(*checksum) != xxh3_64(words) {
        return Err(damaged(path, "its checksum does not match"));
    }
    Ok(words.as_chunks::<WORD_LEN>().0.iter().copied().map(Word::from_le_bytes).collect())
}

/// The contents of a file of words.
pub(super) fn encode(words: &[Word]) -> Vec<u8> {
    let mut bytes = stamps::bytes(words);
    let checksum = xxh3_64(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// Writes a new file of words with the owner and the mode of the database file `data`.
pub(super) fn create(disk: &Disk, path: &Path, words: &[Word], data: &Path) -> Result<File> {
    disk.remove(path)?;
    let file = disk.create_like(path, data)?;
    disk.write_at(&file, path, &encode(words), 0)?;
    Ok(file)
}
