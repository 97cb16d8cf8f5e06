//! The bytes of an archived log: in a file as SQLite wrote them, or compressed.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::damaged;
use crate::{
    disk::Disk,
    error::Result,
    layout::{ArchiveFile, ArchivePaths},
    seekable::{self, FOOTER_LEN, Place, SeekTable},
};

/// Frames that are kept decompressed, and the bytes that they may have together.
const KEPT_FRAMES: usize = 64;
const KEPT_BYTES: usize = KEPT_FRAMES * seekable::FRAME_LEN;

/// An archived log. What is read has the same offsets, whether or not it is compressed.
pub(super) struct LogBytes {
    pub(super) path: PathBuf,
    file: File,
    len: u64,
    compressed: Option<Compressed>,
}

struct Compressed {
    sequence: u64,
    table: SeekTable,
    cache: Arc<Cache>,
}

impl fmt::Debug for LogBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogBytes").field("path", &self.path).finish_non_exhaustive()
    }
}

impl LogBytes {
    /// The log of a generation; nothing if it is not there. Where both of its files are, the compressed one may not be
    /// whole.
    pub(super) fn open(paths: &ArchivePaths, sequence: u64, cache: &Arc<Cache>) -> Result<Option<Self>> {
        match Self::plain(paths, sequence)? {
            Some(plain) => Ok(Some(plain)),
            None => Self::compressed(paths, sequence, cache),
        }
    }

    /// The log as SQLite wrote it.
    pub(super) fn plain(paths: &ArchivePaths, sequence: u64) -> Result<Option<Self>> {
        let path = paths.file(sequence, ArchiveFile::Segment);
        let Some(file) = Disk::open_regular(&path)? else { return Ok(None) };
        let len = Disk::len(&path)?.unwrap_or(0);
        Ok(Some(Self { path, file, len, compressed: None }))
    }

    /// The compressed log.
    pub(super) fn compressed(
        paths: &ArchivePaths,
        sequence: u64,
        cache: &Arc<Cache>,
    ) -> Result<Option<Self>> {
        let path = paths.file(sequence, ArchiveFile::Compressed);
        let Some(file) = Disk::open_regular(&path)? else { return Ok(None) };
        let file_len = Disk::len(&path)?.unwrap_or(0);
        let Some(table) = read_table(&file, &path, file_len)? else {
            return Err(damaged(&path, "the table at its end, which says what stands where, is none"));
        };
        let cache = Arc::clone(cache);
        let len = table.plain_len();
        Ok(Some(Self { path, file, len, compressed: Some(Compressed { sequence, table, cache }) }))
    }

    /// The length of the log itself.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.compressed.is_some()
    }

    /// Fills `into` from the log as far as that goes, and says how far.
    pub(super) fn read_up_to(&self, into: &mut [u8], at: u64) -> Result<usize> {
        let Some(compressed) = &self.compressed else {
            return Disk::read_up_to(&self.file, &self.path, into, at);
        };
        let mut count = 0;
        while count < into.len()
            && let Some(place) = compressed.table.find(at + count as u64)
        {
            let frame = self.frame(compressed, &place)?;
            let inside = usize::try_from(at + count as u64 - place.plain_at).unwrap_or(usize::MAX);
            let part = frame.get(inside..).unwrap_or_default();
            let more = part.len().min(into.len() - count);
            into[count..count + more].copy_from_slice(&part[..more]);
            count += more;
        }
        Ok(count)
    }

    fn frame(&self, Compressed { sequence, cache, .. }: &Compressed, place: &Place) -> Result<Arc<Vec<u8>>> {
        let key = (*sequence, place.number);
        if let Some(frame) = cache.get(key) {
            return Ok(frame);
        }
        let mut bytes = vec![0; place.len];
        let count = Disk::read_up_to(&self.file, &self.path, &mut bytes, place.at)?;
        let plain = seekable::decompress(&bytes[..count], place.plain_len).ok_or_else(|| {
            let (from, to) = (place.at, place.at + place.len as u64);
            damaged(&self.path, format_args!("bytes {from} to {to} cannot be decompressed"))
        })?;
        let frame = Arc::new(plain);
        cache.keep(key, &frame);
        Ok(frame)
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

/// Frames of compressed logs that were read last, by the number of their generation and their place in it.
#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: Mutex<VecDeque<(Key, Arc<Vec<u8>>)>>,
}

type Key = (u64, usize);

impl Cache {
    fn get(&self, key: Key) -> Option<Arc<Vec<u8>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(there, _)| *there == key)?;
        let found = kept.remove(at)?;
        let frame = Arc::clone(&found.1);
        kept.push_back(found);
        Some(frame)
    }

    fn keep(&self, key: Key, frame: &Arc<Vec<u8>>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((key, Arc::clone(frame)));
        let mut bytes: usize = kept.iter().map(|(_, frame)| frame.len()).sum();
        while (kept.len() > KEPT_FRAMES || bytes > KEPT_BYTES)
            && let Some((_, oldest)) = kept.pop_front()
        {
            bytes -= oldest.len();
        }
    }
}
