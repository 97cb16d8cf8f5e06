//! A file that lists the frames of a segment, so that a restore need not read the segment to find them.
//!
//! An index is derived from its segment. The connection that archives a log writes it, if the connections of its process have
//! written all frames of the log. Otherwise the first reader of a whole segment writes it. An index that does not match is ignored.

use std::path::PathBuf;

use super::{archive::Archive, checksummed, log::Log, log_file::LogFile};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    layout::{ArchiveFile, ArchivePaths},
    stamps::{Generation, LogEnd, Word, halves, pair},
    units::{PageChecksum, PageCount, PageNumber, WalChecksum},
    wal::{Frame, HEADER_LEN},
};

const MAGIC: Word = Word::from_le_bytes(*b"LFindex1");

/// Words before those of the frames.
const HEADER_WORDS: usize = 5;

/// The word that records whether compression does not shrink the log.
const SHRINKS_AT: usize = 4;
const DOES_NOT_SHRINK: Word = 1;

/// The words of a frame: its page number and, for a commit frame, the page count; and the checksum of its page.
pub(crate) type FrameWords = [Word; 2];

/// Minimum number of frames of a log for which the connection that archives it writes an index. A reader takes about as long to
/// read a shorter log as to read its index.
const INDEXED_MIN: usize = 16;

/// Writes indexes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexWriter<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) paths: &'a ArchivePaths,
}

impl IndexWriter<'_> {
    /// Stores the index of a log that was archived. `frames` are all frames up to `end`.
    pub(crate) fn store(&self, generation: &Generation, end: &LogEnd, frames: &[FrameWords]) {
        if frames.len() >= INDEXED_MIN {
            let ended = Archive::local(self.disk.clone(), self.paths.clone());
            self.write(&ended, generation, &words(generation, end.checksum, frames));
        }
    }

    /// Stores an index. A failure is ignored: the next reader writes the index again.
    fn write(&self, ended: &Archive, generation: &Generation, words: &[Word]) {
        let beside = self.staged(generation);
        let _written_again = checksummed::create(self.disk, &beside, words, &self.paths.data())
            .and_then(|_file| ended.put_whole(generation.number, ArchiveFile::Index, &beside));
    }

    /// The name of an index while it is written, which no concurrent reader uses.
    fn staged(&self, generation: &Generation) -> PathBuf {
        // Without random bytes, two readers may use one name. The checksum of the index detects that.
        let random = getrandom::u64().unwrap_or_default();
        self.paths.dir().join(format!("index-{}-{random:016x}.new", generation.number))
    }
}

/// The log of an archived generation according to its index. `end` is the end of the log, if known, and `len` the length of the
/// segment. Returns `None` if there is no index that matches: the caller then reads the segment.
pub(super) fn indexed(
    ended: &Archive,
    generation: &Generation,
    end: Option<LogEnd>,
    len: u64,
) -> Option<Log> {
    // A segment without a known end may have grown since its index was written.
    let matches = |log: &Log| match end {
        Some(end) => end == log.end() && log.len() <= len,
        None => log.len() == len,
    };
    let words = read(ended, generation).ok().flatten()?;
    decode(&words, generation).filter(matches)
}

/// The log of an archived generation according to its segment. Stores an index if `writer` is one. Returns `None` if the segment
/// has an invalid header.
pub(super) fn log(
    ended: &Archive,
    writer: Option<IndexWriter<'_>>,
    generation: &Generation,
    segment: &LogFile,
) -> Result<Option<Log>> {
    let Some(log) = Log::read_from(|into, at| segment.read_up_to(into, at))? else { return Ok(None) };
    if let Some(writer) = writer.filter(|_| log.salts == generation.salts) {
        writer.write(ended, generation, &encode(&log, generation));
    }
    Ok(Some(log))
}

/// Whether the log of a generation was found not to shrink by compression.
pub(super) fn does_not_shrink(ended: &Archive, generation: &Generation) -> bool {
    read(ended, generation).ok().flatten().is_some_and(|words| {
        words.get(SHRINKS_AT) == Some(&DOES_NOT_SHRINK) && decode(&words, generation).is_some()
    })
}

/// Records in the index that the log does not shrink by compression.
pub(super) fn note_does_not_shrink(
    ended: &Archive,
    writer: IndexWriter<'_>,
    generation: &Generation,
    end: LogEnd,
    segment: &LogFile,
) -> Result<()> {
    let log = match indexed(ended, generation, Some(end), segment.len()) {
        Some(log) => Some(log),
        None => log(ended, None, generation, segment)?,
    };
    if let Some(log) = log.filter(|log| log.salts == generation.salts && log.end() == end) {
        let mut words = encode(&log, generation);
        words[SHRINKS_AT] = DOES_NOT_SHRINK;
        writer.write(ended, generation, &words);
    }
    Ok(())
}

/// The fault of the index of a generation with this log, or `None` if it has none. An index with fewer frames than the log is not
/// a fault: readers ignore it.
pub(super) fn fault(ended: &Archive, generation: &Generation, log: &Log) -> Result<Option<&'static str>> {
    let words = match read(ended, generation) {
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Some("it is damaged")),
        words => words?,
    };
    let Some(words) = words else { return Ok(None) };
    Ok(match decode(&words, generation) {
        None => Some("it belongs to another log"),
        Some(indexed) if indexed.end() == log.end() => {
            let mut right = encode(log, generation);
            right[SHRINKS_AT] = words[SHRINKS_AT];
            (words != right).then_some("it does not match its log")
        }
        Some(_) => None,
    })
}

fn read(ended: &Archive, generation: &Generation) -> Result<Option<Vec<Word>>> {
    let path = ended.path(generation.number, ArchiveFile::Index);
    let bytes = ended.read(generation.number, ArchiveFile::Index)?;
    bytes.map(|bytes| checksummed::decode(&path, &bytes)).transpose()
}

/// The words of the index of a log.
pub(super) fn encode(log: &Log, generation: &Generation) -> Vec<Word> {
    let frames = log.frames.iter().zip(&log.page_checksums);
    let frames: Vec<_> = frames.map(|(frame, checksum)| frame_words(frame, *checksum)).collect();
    words(generation, log.checksum, &frames)
}

pub(crate) fn frame_words(frame: &Frame, checksum: PageChecksum) -> FrameWords {
    let commit = frame.commit.map_or(0, PageCount::get);
    [pair(frame.page_number.get(), commit), checksum.get()]
}

/// The words of the index of a log with these frames. `checksum` is that of the last one.
fn words(generation: &Generation, checksum: WalChecksum, frames: &[FrameWords]) -> Vec<Word> {
    let checksum = Word::from_le_bytes(checksum.to_bytes());
    let header: [Word; HEADER_WORDS] = [MAGIC, generation.seed(), checksum, frames.len() as u64, 0];
    [&header, frames.as_flattened()].concat()
}

fn decode(words: &[Word], generation: &Generation) -> Option<Log> {
    let (header, rest) = words.split_first_chunk::<HEADER_WORDS>()?;
    let (frames, []) = rest.as_chunks::<2>() else { return None };
    let [MAGIC, seed, checksum, count, _] = *header else { return None };
    if seed != generation.seed() || count != frames.len() as u64 {
        return None;
    }
    let frame = |[word, _]: &[Word; 2]| {
        let (page_number, pages) = halves(*word);
        let commit = Some(PageCount::new(pages)).filter(|pages| *pages > PageCount::ZERO);
        PageNumber::new(page_number).map(|page_number| Frame { page_number, commit })
    };
    Some(Log {
        start: [0; HEADER_LEN],
        salts: generation.salts,
        page_size: generation.page_size,
        frames: frames.iter().map(frame).collect::<Option<_>>()?,
        page_checksums: frames.iter().map(|[_, checksum]| PageChecksum::new(*checksum)).collect(),
        checksum: WalChecksum::from_bytes(checksum.to_le_bytes()),
    })
}
