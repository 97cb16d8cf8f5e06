//! The bytes of an archived WAL: a segment as SQLite wrote it, or a compressed one.

use std::path::{Path, PathBuf};

use super::{
    ended::{Ended, EndedFile},
    errors::damaged,
};
use crate::{
    error::Result,
    layout::ArchiveFile,
    seekable::{self, FOOTER_LEN, FrameSpan, SeekTable},
    units::GenerationNumber,
};

/// An archived WAL. Offsets are those of the WAL, whether or not it is compressed.
#[derive(Debug)]
pub(super) struct LogFile {
    file: Box<dyn EndedFile>,
    len: u64,
    /// The seek table of a compressed segment.
    table: Option<SeekTable>,
}

/// What is known of an archived WAL without its contents.
#[derive(Debug)]
pub(super) struct LogFileInfo {
    /// The name of the segment in errors.
    pub(super) path: PathBuf,
    /// The length of the WAL.
    pub(super) len: u64,
    pub(super) is_compressed: bool,
}

/// A decompressed part of a compressed segment.
#[derive(Debug)]
pub(super) struct Part {
    at: u64,
    bytes: Vec<u8>,
}

impl Part {
    /// Bytes of the WAL, or `None` unless the part has all of them.
    pub(super) fn get(&self, at: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(at.checked_sub(self.at)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }
}

impl LogFile {
    /// Opens the segment of a generation. Returns `None` if there is none.
    ///
    /// If both files exist, the compressed one may be incomplete, and the other one is opened.
    pub(super) fn open(ended: &dyn Ended, number: GenerationNumber) -> Result<Option<Self>> {
        match Self::plain(ended, number)? {
            Some(plain) => Ok(Some(plain)),
            None => Self::compressed(ended, number),
        }
    }

    /// Describes the segment that [`open`](Self::open) opens. Only a compressed segment is opened for that. Returns `None` if
    /// there is none.
    pub(super) fn info(ended: &dyn Ended, number: GenerationNumber) -> Result<Option<LogFileInfo>> {
        if let Some(len) = ended.len(number, ArchiveFile::Segment)? {
            let path = ended.path(number, ArchiveFile::Segment);
            return Ok(Some(LogFileInfo { path, len, is_compressed: false }));
        }
        let Some(file) = Self::open(ended, number)? else { return Ok(None) };
        Ok(Some(LogFileInfo { len: file.len, is_compressed: file.is_compressed(), path: file.into_path() }))
    }

    /// Opens the segment as SQLite wrote it. Returns `None` if it does not exist.
    pub(super) fn plain(ended: &dyn Ended, number: GenerationNumber) -> Result<Option<Self>> {
        let Some(file) = ended.open(number, ArchiveFile::Segment)? else { return Ok(None) };
        let len = file.len()?;
        Ok(Some(Self { file, len, table: None }))
    }

    /// Opens the compressed segment. Returns `None` if it does not exist.
    pub(super) fn compressed(ended: &dyn Ended, number: GenerationNumber) -> Result<Option<Self>> {
        let Some(file) = ended.open(number, ArchiveFile::Compressed)? else { return Ok(None) };
        let Some(table) = read_table(&*file)? else {
            return Err(damaged(file.path(), "invalid seek table"));
        };
        let len = table.plain_len();
        Ok(Some(Self { file, len, table: Some(table) }))
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn into_path(self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// The length of the WAL.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.table.is_some()
    }

    /// Fills `into` from an offset up to the end of the WAL, and returns the number of bytes read.
    pub(super) fn read_up_to(&self, into: &mut [u8], at: u64) -> Result<usize> {
        let Some(table) = &self.table else { return self.file.read_at(into, at) };
        let mut packed = Vec::new();
        let mut count = 0;
        while count < into.len()
            && let Some(frame) = table.find(at + count as u64)
        {
            let left = &mut into[count..];
            let at = at + count as u64;
            if frame.plain_at == at && frame.plain_len <= left.len() {
                self.decompress(&frame, &mut packed, &mut left[..frame.plain_len])?;
                count += frame.plain_len;
                continue;
            }
            let mut bytes = vec![0; frame.plain_len];
            self.decompress(&frame, &mut packed, &mut bytes)?;
            let inside = usize::try_from(at - frame.plain_at).unwrap_or(usize::MAX);
            let part = bytes.get(inside..).unwrap_or_default();
            let more = part.len().min(left.len());
            left[..more].copy_from_slice(&part[..more]);
            count += more;
        }
        Ok(count)
    }

    /// Fills `into` from an offset of an uncompressed segment if that does not block. Returns whether it filled `into`.
    pub(super) fn read_cached(&self, into: &mut [u8], at: u64) -> bool {
        self.table.is_none() && self.file.read_cached(into, at)
    }

    /// Starts to read a range of a segment that is not compressed.
    pub(super) fn prefetch(&self, at: u64, len: u64) {
        if self.table.is_none() {
            self.file.prefetch(at, len);
        }
    }

    /// Decompresses the part with the byte at an offset. Returns `None` if the segment is not compressed or ends before it.
    pub(super) fn part(&self, at: u64) -> Result<Option<Part>> {
        let Some(frame) = self.table.as_ref().and_then(|table| table.find(at)) else { return Ok(None) };
        let mut bytes = vec![0; frame.plain_len];
        self.decompress(&frame, &mut Vec::new(), &mut bytes)?;
        Ok(Some(Part { at: frame.plain_at, bytes }))
    }

    /// Fills `into` with the contents of a zstd frame. `packed` is a buffer for the frame.
    fn decompress(&self, frame: &FrameSpan, packed: &mut Vec<u8>, into: &mut [u8]) -> Result<()> {
        packed.resize(frame.len, 0);
        let count = self.file.read_at(packed, frame.at)?;
        if seekable::decompress(&packed[..count], into) {
            return Ok(());
        }
        let (from, to) = (frame.at, frame.at + frame.len as u64);
        Err(damaged(self.path(), format_args!("bytes {from} to {to} cannot be decompressed")))
    }
}

/// The table at the end of a file. Returns `None` if it is invalid or does not match the file.
fn read_table(file: &dyn EndedFile) -> Result<Option<SeekTable>> {
    let len = file.len()?;
    let mut footer = [0; FOOTER_LEN];
    let Some(at) = len.checked_sub(FOOTER_LEN as u64) else { return Ok(None) };
    file.read_at(&mut footer, at)?;
    let Some(table_len) = SeekTable::encoded_len(footer) else { return Ok(None) };
    let Some(at) = len.checked_sub(table_len) else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(table_len).unwrap_or(0)];
    file.read_at(&mut bytes, at)?;
    Ok(SeekTable::parse(&bytes).filter(|table| table.frames_len() == at))
}
