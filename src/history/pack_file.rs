//! A pack that is open for reading.

use std::{path::Path, sync::Arc};

use super::{
    ended::EndedFile,
    errors::{damaged, newer_version},
    seekable_file::{Plain, SeekableFile, read_table},
};
use crate::{
    error::Result,
    pack::{Directory, Extent, Fault, Kind},
    sync::{Mutex, Rank},
    units::{GenerationNumber, GenerationSpan},
};

/// The number of decompressed frames that are kept: the stamps and the indexes of consecutive generations are read in turn.
const FRAMES_KEPT: usize = 4;

/// A pack. Its name states which generations it has, even if its directory is damaged.
#[derive(Debug)]
pub(super) struct PackFile {
    span: GenerationSpan,
    contents: Contents,
    /// The frames of stamps and indexes that were used last, newest first.
    kept: Mutex<Vec<Arc<Plain>>>,
}

#[derive(Debug)]
enum Contents {
    Intact { file: Arc<SeekableFile>, directory: Directory },
    Damaged(Box<dyn EndedFile>),
}

/// A segment in a pack.
#[derive(Debug)]
pub(super) struct PackedLog {
    pub(super) file: Arc<SeekableFile>,
    pub(super) extent: Extent,
}

impl PackFile {
    /// Reads the directory of a pack. Fails with [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported) if the pack has a
    /// newer version.
    pub(super) fn open(span: GenerationSpan, file: Box<dyn EndedFile>) -> Result<Self> {
        let kept = Mutex::new(Rank::PackFrames, Vec::new());
        let Some((table, bytes)) = read_table(&*file)? else {
            return Ok(Self { span, contents: Contents::Damaged(file), kept });
        };
        let mut directory = Vec::new();
        if let Some(trailer) = table.trailer() {
            directory.resize(trailer.len.min(usize::try_from(file.len()?).unwrap_or(usize::MAX)), 0);
            file.read_at(&mut directory, trailer.at)?;
        }
        let contents = match Directory::parse(&directory, &bytes, &table) {
            Ok(directory) if directory.span() == span => {
                Contents::Intact { file: Arc::new(SeekableFile::new(file, table)), directory }
            }
            Err(Fault::NewerVersion(version)) => return Err(newer_version(file.path(), version)),
            Ok(_) | Err(Fault::Damaged) => Contents::Damaged(file),
        };
        Ok(Self { span, contents, kept })
    }

    pub(super) fn span(&self) -> GenerationSpan {
        self.span
    }

    pub(super) fn path(&self) -> &Path {
        match &self.contents {
            Contents::Intact { file, .. } => file.path(),
            Contents::Damaged(file) => file.path(),
        }
    }

    /// The archive and its directory. Fails with [`ErrorKind::Corrupt`](crate::error::ErrorKind::Corrupt) if the directory is damaged.
    pub(super) fn contents(&self) -> Result<(&Arc<SeekableFile>, &Directory)> {
        match &self.contents {
            Contents::Intact { file, directory } => Ok((file, directory)),
            Contents::Damaged(_) => Err(damaged(self.path(), "invalid directory")),
        }
    }

    pub(super) fn is_damaged(&self) -> bool {
        matches!(self.contents, Contents::Damaged(_))
    }

    /// The length of a file of a generation. Returns `None` if the pack does not have it. A damaged pack counts as having the
    /// segments and the stamps of its generations.
    pub(super) fn len(&self, number: GenerationNumber, kind: Kind) -> Option<u64> {
        match &self.contents {
            Contents::Intact { directory, .. } => directory.find(number, kind).map(|extent| extent.len),
            Contents::Damaged(_) => (self.span.contains(number) && kind != Kind::Index).then_some(0),
        }
    }

    /// The segment of a generation. Returns `None` if the pack does not have it.
    pub(super) fn log(&self, number: GenerationNumber) -> Result<Option<PackedLog>> {
        let (file, directory) = self.contents()?;
        let extent = directory.find(number, Kind::Segment);
        Ok(extent.map(|extent| PackedLog { file: Arc::clone(file), extent }))
    }

    /// Reads the stamps or the index of a generation. Returns `None` if the pack does not have it.
    pub(super) fn read(&self, number: GenerationNumber, kind: Kind) -> Result<Option<Vec<u8>>> {
        let (file, directory) = self.contents()?;
        let Some(Extent { at, len }) = directory.find(number, kind) else { return Ok(None) };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = at + bytes.len() as u64;
            let Some(plain) = self.frame(file, at)? else { break };
            let start = usize::try_from(at - plain.at).unwrap_or(usize::MAX);
            let rest = plain.bytes.get(start..).unwrap_or_default();
            bytes.extend(&rest[..rest.len().min(len - bytes.len())]);
        }
        Ok(Some(bytes))
    }

    /// The frame with the byte at an offset of the archive.
    fn frame(&self, file: &SeekableFile, at: u64) -> Result<Option<Arc<Plain>>> {
        let mut kept = self.kept.lock_or_clear();
        if let Some(index) = kept.iter().position(|plain| plain.get(at, 1).is_some()) {
            kept[..=index].rotate_right(1);
            return Ok(kept.first().map(Arc::clone));
        }
        let Some(plain) = file.frame(at)?.map(Arc::new) else { return Ok(None) };
        kept.truncate(FRAMES_KEPT - 1);
        kept.insert(0, Arc::clone(&plain));
        Ok(Some(plain))
    }
}
