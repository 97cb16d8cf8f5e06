//! Writes a pack to a local file.

use std::{fs::File, path::Path};

use super::{archive::Archive, ended, errors::missing, log_file::LogFile, pack_file::PackFile};
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    layout::ArchiveFile,
    pack::{BLOCK, Directory, END_LEN, Kind, Member},
    progress::{self, Phase, ProgressFn},
    seekable::{Frames, SeekTable},
    units::{GenerationNumber, GenerationSpan},
    wal::{FRAME_HEADER_LEN, HEADER_LEN},
};

/// Maximum number of bytes that are compressed together, and therefore decompressed to read one page; more only for a larger page.
///
/// In logs of small transactions, which write the same pages repeatedly, most versions of a page are within this distance. Frames
/// of 1 MiB would be 3 % smaller, and reading a page would take 16 times as long.
const FRAME_LEN: usize = 64 << 10;

/// Approximate number of bytes that are read, compared or written at once.
const READ_LEN: usize = 1 << 20;
const WRITE_LEN: usize = 128 << 10;

/// A generation to pack.
#[derive(Debug)]
pub(super) struct Packable {
    pub(super) number: GenerationNumber,
    pub(super) page_size: u32,
    /// The length of its segment, if it has one.
    pub(super) log_len: Option<u64>,
    pub(super) stamps_len: u64,
    /// The index of the segment.
    pub(super) index: Option<Vec<u8>>,
}

impl Packable {
    pub(super) fn len(&self) -> u64 {
        self.log_len.unwrap_or(0) + self.stamps_len
    }
}

/// Writes packs to the file at `path`.
#[derive(Clone, Copy)]
pub(super) struct PackWriter<'a> {
    pub(super) disk: &'a Disk,
    pub(super) archive: &'a Archive,
    pub(super) path: &'a Path,
    /// The database file, whose owner and mode the pack gets.
    pub(super) data: &'a Path,
}

/// A pack that is being written.
struct Output<'a> {
    writer: PackWriter<'a>,
    file: File,
    frames: Frames,
    table: SeekTable,
    /// The contents of the next frame.
    plain: Vec<u8>,
    /// The frames that are not written yet, and their offset in the file.
    packed: Vec<u8>,
    at: u64,
}

impl PackWriter<'_> {
    /// Writes a pack of consecutive generations durably. Returns `None`, and writes nothing, if a file is too long for a pack.
    pub(super) fn write(
        &self,
        generations: &[Packable],
        watch: &mut ProgressFn<'_>,
    ) -> Result<Option<GenerationSpan>> {
        let lengths: Vec<_> = generations
            .iter()
            .map(|of| [of.log_len, Some(of.stamps_len), of.index.as_ref().map(|index| index.len() as u64)])
            .collect();
        let first = generations.first().map(|first| first.number);
        let Some(directory) = first.and_then(|first| Directory::lay_out(first, &lengths)) else {
            return Ok(None);
        };
        self.disk.remove(self.path)?;
        let mut output = Output {
            writer: *self,
            file: self.disk.create_like(self.path, self.data)?,
            frames: Frames::new().map_err(failed)?,
            table: SeekTable::default(),
            plain: Vec::new(),
            packed: Vec::new(),
            at: 0,
        };
        let mut kind = Kind::Segment;
        for member in directory.members() {
            // Stamps and indexes are read without the logs.
            if kind != member.kind {
                output.end_frame()?;
                kind = member.kind;
            }
            progress::tell(watch, Phase::Copy, member.extent.at, Some(directory.archive_len()))?;
            output.put(&member.header())?;
            let index =
                usize::try_from(member.number.get() - directory.span().first.get()).unwrap_or(usize::MAX);
            let Some(generation) = generations.get(index) else { continue };
            output.put_contents(&member, generation, watch)?;
            output.put(&[0; BLOCK][..member.padding()])?;
        }
        output.put(&[0; END_LEN])?;
        output.finish(&directory)?;
        Ok(Some(directory.span()))
    }

    /// Whether a pack was written as intended, according to what is read back.
    pub(super) fn is_written(&self, span: GenerationSpan, generations: &[Packable]) -> Result<bool> {
        let compare = || {
            let Some(file) = ended::open_staged(self.path)? else { return Ok(false) };
            let pack = PackFile::open(span, file)?;
            for Packable { number, index, .. } in generations {
                let is_same = is_same_log(
                    LogFile::open(self.archive, *number)?,
                    pack.log(*number)?.map(LogFile::packed),
                )? && pack.read(*number, Kind::Stamps)?
                    == self.archive.read(*number, ArchiveFile::Stamps)?
                    && pack.read(*number, Kind::Index)? == *index;
                if !is_same {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        match compare() {
            Err(error) if ErrorKind::Corrupt == Error::kind(&error) => Ok(false),
            is_written => is_written,
        }
    }
}

/// Whether two segments are equal, or neither exists.
pub(super) fn is_same_log(one: Option<LogFile>, other: Option<LogFile>) -> Result<bool> {
    let (one, other) = match (one, other) {
        (Some(one), Some(other)) => (one, other),
        (one, other) => return Ok(one.is_none() && other.is_none()),
    };
    if one.len() != other.len() {
        return Ok(false);
    }
    let (mut expected, mut found) = (vec![0; READ_LEN], vec![0; READ_LEN]);
    let mut at = 0;
    while at < one.len() {
        let count = one.read_up_to(&mut expected, at)?;
        if count == 0 || other.read_up_to(&mut found, at)? != count || expected[..count] != found[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

impl Output<'_> {
    /// Appends the file of a generation.
    fn put_contents(
        &mut self,
        member: &Member,
        generation: &Packable,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        let archive = self.writer.archive;
        let number = member.number;
        let (file, bytes) = match member.kind {
            Kind::Segment => return self.put_log(member, generation, watch),
            Kind::Stamps => (ArchiveFile::Stamps, archive.read(number, ArchiveFile::Stamps)?),
            Kind::Index => (ArchiveFile::Index, generation.index.clone()),
        };
        let bytes = bytes.unwrap_or_default();
        if bytes.len() as u64 != member.extent.len {
            return Err(missing(&archive.path(number, file)));
        }
        self.put(&bytes)
    }

    fn put_log(&mut self, member: &Member, generation: &Packable, watch: &mut ProgressFn<'_>) -> Result<()> {
        let archive = self.writer.archive;
        let missing = || missing(&archive.path(member.number, ArchiveFile::Segment));
        let log = LogFile::open(archive, member.number)?.ok_or_else(missing)?;
        let frame_len = generation.page_size as usize + FRAME_HEADER_LEN;
        let mut buffer = vec![0; (READ_LEN / frame_len).max(1) * frame_len];
        let (mut at, mut want) = (0, HEADER_LEN);
        while at < member.extent.len {
            let count = log.read_up_to(&mut buffer[..want], at)?;
            if count == 0 {
                return Err(missing());
            }
            // No page spans two frames of the pack, so that one frame is decompressed to read it.
            for frame in buffer[..count].chunks(frame_len) {
                self.put_together(frame)?;
            }
            at += count as u64;
            want = buffer.len();
            progress::tell(watch, Phase::Copy, member.extent.at + at, None)?;
        }
        Ok(())
    }

    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        bytes.chunks(FRAME_LEN).try_for_each(|piece| self.put_together(piece))
    }

    /// Appends bytes within one frame.
    fn put_together(&mut self, bytes: &[u8]) -> Result<()> {
        if self.plain.len() + bytes.len() > FRAME_LEN {
            self.end_frame()?;
        }
        self.plain.extend(bytes);
        Ok(())
    }

    fn end_frame(&mut self) -> Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        let frame = self.frames.compress(&self.plain).map_err(failed)?;
        let len = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        self.table.push(len(frame.len()), len(self.plain.len()));
        self.plain.clear();
        self.packed.extend(frame);
        if self.packed.len() >= WRITE_LEN { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let PackWriter { disk, path, .. } = self.writer;
        disk.write_at(&self.file, path, &self.packed, self.at)?;
        self.at += self.packed.len() as u64;
        self.packed.clear();
        Ok(())
    }

    fn finish(mut self, directory: &Directory) -> Result<()> {
        self.end_frame()?;
        self.packed.extend(directory.encode(std::mem::take(&mut self.table)));
        self.write()?;
        self.writer.disk.sync_file(&self.file, self.writer.path)
    }
}

#[cold]
fn failed(error: std::io::Error) -> Error {
    Error::io("compressing a pack", error)
}
