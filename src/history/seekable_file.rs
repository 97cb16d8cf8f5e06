//! A file of zstd frames with a seek table, open for reading.

use std::path::Path;

use super::{ended::EndedFile, errors::damaged};
use crate::{
    error::Result,
    seekable::{self, FOOTER_LEN, FrameSpan, SeekTable},
};

/// Offsets are those of the plain bytes.
#[derive(Debug)]
pub(super) struct SeekableFile {
    file: Box<dyn EndedFile>,
    table: SeekTable,
}

/// The plain bytes of a frame.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) at: u64,
    pub(super) bytes: Vec<u8>,
}

impl Plain {
    /// A range of the plain bytes. Returns `None` unless the frame has all of them.
    pub(super) fn get(&self, at: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(at.checked_sub(self.at)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }
}

/// The seek table of a file and its bytes, which are the last of the file. Returns `None` if the table is invalid or does not match
/// the file.
pub(super) fn read_table(file: &dyn EndedFile) -> Result<Option<(SeekTable, Vec<u8>)>> {
    let len = file.len()?;
    let mut footer = [0; FOOTER_LEN];
    let Some(at) = len.checked_sub(FOOTER_LEN as u64) else { return Ok(None) };
    file.read_at(&mut footer, at)?;
    let Some(table_len) = SeekTable::encoded_len(footer) else { return Ok(None) };
    let Some(at) = len.checked_sub(table_len) else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(table_len).unwrap_or(0)];
    file.read_at(&mut bytes, at)?;
    let table = SeekTable::parse(&bytes).filter(|table| table.frames_len() == at);
    Ok(table.map(|table| (table, bytes)))
}

impl SeekableFile {
    pub(super) fn new(file: Box<dyn EndedFile>, table: SeekTable) -> Self {
        Self { file, table }
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// The length of the plain bytes.
    pub(super) fn len(&self) -> u64 {
        self.table.plain_len()
    }

    pub(super) fn frames(&self) -> impl Iterator<Item = FrameSpan> {
        self.table.frames()
    }

    /// Fills `into` from an offset up to the end, and returns the number of bytes read.
    pub(super) fn read_up_to(&self, into: &mut [u8], at: u64) -> Result<usize> {
        let mut packed = Vec::new();
        let mut count = 0;
        while count < into.len()
            && let Some(frame) = self.table.find(at + count as u64)
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

    /// Decompresses the frame with the byte at an offset. Returns `None` after the last one.
    pub(super) fn frame(&self, at: u64) -> Result<Option<Plain>> {
        let Some(frame) = self.table.find(at) else { return Ok(None) };
        let mut bytes = vec![0; frame.plain_len];
        self.decompress(&frame, &mut Vec::new(), &mut bytes)?;
        Ok(Some(Plain { at: frame.plain_at, bytes }))
    }

    /// Fills `into` with the contents of a frame. `packed` is a buffer for the frame.
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
