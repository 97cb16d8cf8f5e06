//! The bytes of an archived WAL: a segment as SQLite wrote it, a compressed one, or one in a pack.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    archive::Archive,
    ended::EndedFile,
    errors::damaged,
    pack_file::PackedLog,
    seekable_file::{Plain, SeekableFile, read_table},
};
use crate::{error::Result, layout::ArchiveFile, units::GenerationNumber};

/// An archived WAL. Offsets are those of the WAL, whether or not it is compressed.
#[derive(Debug)]
pub(super) struct LogFile {
    bytes: Bytes,
    len: u64,
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

#[derive(Debug)]
enum Bytes {
    Plain(Box<dyn EndedFile>),
    /// The WAL begins at the offset `start` of the plain bytes.
    Compressed {
        file: Arc<SeekableFile>,
        start: u64,
    },
}

/// A decompressed part of a compressed segment, or of the pack with the segment.
#[derive(Debug)]
pub(super) struct Part {
    file: Arc<SeekableFile>,
    plain: Plain,
}

impl LogFile {
    /// Opens the segment of a generation. Returns `None` if there is none.
    ///
    /// If several files have it, those that replace another may be incomplete, and the other one is opened.
    pub(super) fn open(archive: &Archive, number: GenerationNumber) -> Result<Option<Self>> {
        match Self::plain(archive, number)? {
            Some(plain) => Ok(Some(plain)),
            None => Self::compressed(archive, number),
        }
    }

    /// Describes the segment that [`open`](Self::open) opens. Only a compressed segment is opened for that. Returns `None` if
    /// there is none.
    pub(super) fn info(archive: &Archive, number: GenerationNumber) -> Result<Option<LogFileInfo>> {
        if let Some(len) = archive.len(number, ArchiveFile::Segment)? {
            let path = archive.path(number, ArchiveFile::Segment);
            return Ok(Some(LogFileInfo { path, len, is_compressed: false }));
        }
        let Some(file) = Self::compressed(archive, number)? else { return Ok(None) };
        Ok(Some(LogFileInfo { len: file.len, is_compressed: file.is_compressed(), path: file.into_path() }))
    }

    /// Opens the segment as SQLite wrote it. Returns `None` if it does not exist.
    pub(super) fn plain(archive: &Archive, number: GenerationNumber) -> Result<Option<Self>> {
        let Some(file) = archive.open(number, ArchiveFile::Segment)? else { return Ok(None) };
        let len = file.len()?;
        Ok(Some(Self { bytes: Bytes::Plain(file), len }))
    }

    /// Opens the compressed segment, alone or in a pack. Returns `None` if it does not exist.
    pub(super) fn compressed(archive: &Archive, number: GenerationNumber) -> Result<Option<Self>> {
        let Some(file) = archive.open(number, ArchiveFile::Compressed)? else {
            return Ok(archive.packed_log(number)?.map(Self::packed));
        };
        let Some((table, _)) = read_table(&*file)? else {
            return Err(damaged(file.path(), "invalid seek table"));
        };
        let file = Arc::new(SeekableFile::new(file, table));
        let len = file.len();
        Ok(Some(Self { bytes: Bytes::Compressed { file, start: 0 }, len }))
    }

    /// A segment in a pack.
    pub(super) fn packed(log: PackedLog) -> Self {
        let PackedLog { file, extent } = log;
        Self { bytes: Bytes::Compressed { file, start: extent.at }, len: extent.len }
    }

    pub(super) fn path(&self) -> &Path {
        match &self.bytes {
            Bytes::Plain(file) => file.path(),
            Bytes::Compressed { file, .. } => file.path(),
        }
    }

    pub(super) fn into_path(self) -> PathBuf {
        self.path().to_owned()
    }

    /// The length of the WAL.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(self.bytes, Bytes::Compressed { .. })
    }

    /// Fills `into` from an offset up to the end of the WAL, and returns the number of bytes read.
    pub(super) fn read_up_to(&self, into: &mut [u8], at: u64) -> Result<usize> {
        match &self.bytes {
            Bytes::Plain(file) => file.read_at(into, at),
            Bytes::Compressed { file, start } => {
                let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
                let count = into.len().min(left);
                file.read_up_to(&mut into[..count], start + at)
            }
        }
    }

    /// Fills `into` from an offset of an uncompressed segment if that does not block. Returns whether it filled `into`.
    pub(super) fn read_cached(&self, into: &mut [u8], at: u64) -> bool {
        if let Bytes::Plain(file) = &self.bytes { file.read_cached(into, at) } else { false }
    }

    /// Starts to read a range of a segment that is not compressed.
    pub(super) fn prefetch(&self, at: u64, len: u64) {
        if let Bytes::Plain(file) = &self.bytes {
            file.prefetch(at, len);
        }
    }

    /// Decompresses the part with the byte at an offset. Returns `None` if the segment is not compressed or ends before it.
    pub(super) fn part(&self, at: u64) -> Result<Option<Part>> {
        let Bytes::Compressed { file, start } = &self.bytes else { return Ok(None) };
        if at >= self.len {
            return Ok(None);
        }
        Ok(file.frame(start + at)?.map(|plain| Part { file: Arc::clone(file), plain }))
    }

    /// Bytes of the WAL in a part. Returns `None` unless the part has all of them.
    pub(super) fn within<'p>(&self, part: &'p Part, at: u64, len: usize) -> Option<&'p [u8]> {
        let Bytes::Compressed { file, start } = &self.bytes else { return None };
        let is_inside = at.checked_add(len as u64)? <= self.len && Arc::ptr_eq(file, &part.file);
        part.plain.get(start + at, len).filter(|_| is_inside)
    }
}
