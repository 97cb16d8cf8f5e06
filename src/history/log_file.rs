//! The bytes of an archived log: in a file as SQLite wrote them, or compressed.

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
};

use super::damaged;
use crate::{
    disk::Disk,
    error::Result,
    layout::{ArchiveFile, ArchivePaths},
    os_cache,
    seekable::{self, FOOTER_LEN, Place, SeekTable},
};

/// An archived log. What is read has the same offsets, whether or not it is compressed.
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    file: File,
    len: u64,
    /// Where the parts of a compressed one stand.
    table: Option<SeekTable>,
}

/// A part of a compressed log that was decompressed.
#[derive(Debug)]
pub(super) struct Part {
    at: u64,
    bytes: Vec<u8>,
}

impl Part {
    /// Bytes of the log, if all of them are in this part.
    pub(super) fn get(&self, at: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(at.checked_sub(self.at)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }
}

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl LogFile {
    /// The log of a generation; nothing if it is not there. Where both of its files are, the compressed one may not be
    /// whole.
    pub(super) fn open(paths: &ArchivePaths, sequence: u64) -> Result<Option<Self>> {
        match Self::plain(paths, sequence)? {
            Some(plain) => Ok(Some(plain)),
            None => Self::compressed(paths, sequence),
        }
    }

    /// The log as SQLite wrote it.
    pub(super) fn plain(paths: &ArchivePaths, sequence: u64) -> Result<Option<Self>> {
        let path = paths.file(sequence, ArchiveFile::Segment);
        let Some(file) = Disk::open_regular(&path)? else { return Ok(None) };
        let len = Disk::len(&path)?.unwrap_or(0);
        Ok(Some(Self { path, file, len, table: None }))
    }

    /// The compressed log.
    pub(super) fn compressed(paths: &ArchivePaths, sequence: u64) -> Result<Option<Self>> {
        let path = paths.file(sequence, ArchiveFile::Compressed);
        let Some(file) = Disk::open_regular(&path)? else { return Ok(None) };
        let file_len = Disk::len(&path)?.unwrap_or(0);
        let Some(table) = read_table(&file, &path, file_len)? else {
            return Err(damaged(&path, "the table at its end, which says what stands where, is none"));
        };
        let len = table.plain_len();
        Ok(Some(Self { path, file, len, table: Some(table) }))
    }

    /// The length of the log itself.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.table.is_some()
    }

    /// Fills `into` from the log as far as that goes, and says how far.
    pub(super) fn read_up_to(&self, into: &mut [u8], at: u64) -> Result<usize> {
        let Some(table) = &self.table else {
            return Disk::read_up_to(&self.file, &self.path, into, at);
        };
        let mut packed = Vec::new();
        let mut count = 0;
        while count < into.len()
            && let Some(place) = table.find(at + count as u64)
        {
            let left = &mut into[count..];
            let at = at + count as u64;
            if place.plain_at == at && place.plain_len <= left.len() {
                self.unpack(&place, &mut packed, &mut left[..place.plain_len])?;
                count += place.plain_len;
                continue;
            }
            let mut bytes = vec![0; place.plain_len];
            self.unpack(&place, &mut packed, &mut bytes)?;
            let inside = usize::try_from(at - place.plain_at).unwrap_or(usize::MAX);
            let part = bytes.get(inside..).unwrap_or_default();
            let more = part.len().min(left.len());
            left[..more].copy_from_slice(&part[..more]);
            count += more;
        }
        Ok(count)
    }

    /// Fills `into` from the log, if that is not compressed and the system has all of it in memory.
    pub(super) fn read_ready(&self, into: &mut [u8], at: u64) -> bool {
        self.table.is_none() && os_cache::read(&self.file, into, at)
    }

    /// Lets the system begin to read a part of a log that is not compressed.
    pub(super) fn fetch(&self, at: u64, len: u64) {
        if self.table.is_none() {
            os_cache::fetch(&self.file, at, len);
        }
    }

    /// The part that a byte is in; nothing where the log is not compressed, or ends before it.
    pub(super) fn part(&self, at: u64) -> Result<Option<Part>> {
        let Some(place) = self.table.as_ref().and_then(|table| table.find(at)) else { return Ok(None) };
        let mut bytes = vec![0; place.plain_len];
        self.unpack(&place, &mut Vec::new(), &mut bytes)?;
        Ok(Some(Part { at: place.plain_at, bytes }))
    }

    /// Fills `into` with what a frame of the file holds, which goes into `packed` before.
    fn unpack(&self, place: &Place, packed: &mut Vec<u8>, into: &mut [u8]) -> Result<()> {
        packed.resize(place.len, 0);
        let count = Disk::read_up_to(&self.file, &self.path, packed, place.at)?;
        if seekable::decompress(&packed[..count], into) {
            return Ok(());
        }
        let (from, to) = (place.at, place.at + place.len as u64);
        Err(damaged(&self.path, format_args!("bytes {from} to {to} cannot be decompressed")))
    }
}

/// The table at the end of a file, if that is one and fits the file.
fn read_table(file: &File, path: &Path, len: u64) -> Result<Option<SeekTable>> {
    let mut footer = [0; FOOTER_LEN];
    let Some(at) = len.checked_sub(FOOTER_LEN as u64) else { return Ok(None) };
    Disk::read_up_to(file, path, &mut footer, at)?;
    let found = SeekTable::encoded_len(footer).and_then(|found| Some((found, len.checked_sub(found)?)));
    let Some((table_len, at)) = found else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(table_len).unwrap_or(0)];
    Disk::read_up_to(file, path, &mut bytes, at)?;
    Ok(SeekTable::parse(&bytes).filter(|table| table.frames_len() == at))
}
