//! What stands in a segment, frame by frame, so that the segment need not be read for it.
//!
//! An index follows from its segment. It is written by whoever reads a whole segment first, and one that does not fit is
//! as good as none.

use std::path::PathBuf;

use super::{checksummed, log::Log, log_file::LogFile};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    layout::{ArchiveFile, ArchivePaths},
    stamps::{Generation, LogEnd, Word, pair, parts},
    wal::{Frame, HEADER_LEN},
};

const MAGIC: Word = Word::from_le_bytes(*b"LFindex1");

/// Words before those of the frames.
const HEADER_WORDS: usize = 5;

/// The word that says whether compression was found not to pay.
const SHRINKS_AT: usize = 4;
const DOES_NOT_SHRINK: Word = 1;

/// The log of a generation that was archived, which ended so if that is known; nothing if its header is none. What is read
/// from a segment is kept in an index if there is a `disk` to write to.
pub(super) fn log(
    disk: Option<&Disk>,
    paths: &ArchivePaths,
    generation: &Generation,
    end: Option<LogEnd>,
    segment: &LogFile,
) -> Result<Option<Log>> {
    let path = paths.file(generation.sequence, ArchiveFile::Index);
    // A segment of which nobody knows how it ended may have grown since its index was written.
    let is_it = |log: &Log| match end {
        Some(end) => end == log.end() && log.len() <= segment.len(),
        None => log.len() == segment.len(),
    };
    // Whatever is wrong with an index, the segment says what is right.
    let indexed = checksummed::read(&path).ok().flatten().and_then(|words| decode(&words, generation));
    if let Some(log) = indexed.filter(is_it) {
        return Ok(Some(log));
    }
    let Some(log) = Log::read_from(|into, at| segment.read_up_to(into, at))? else { return Ok(None) };
    if let Some(disk) = disk.filter(|_| log.salts == generation.salts) {
        let beside = unique(paths, "index", generation);
        let _read_again_next_time =
            checksummed::write(disk, &path, &beside, &encode(&log, generation), &paths.data());
    }
    Ok(Some(log))
}

/// A name for an index while it is written, which no other reader of the history writes to at that time.
fn unique(paths: &ArchivePaths, prefix: &str, generation: &Generation) -> PathBuf {
    // Without random bytes two readers may meet: what they write has a checksum.
    let random = getrandom::u64().unwrap_or_default();
    paths.dir().join(format!("{prefix}-{}-{random:016x}.new", generation.sequence))
}

/// Whether the log of a generation was found not to shrink by compression.
pub(super) fn does_not_shrink(paths: &ArchivePaths, generation: &Generation) -> bool {
    let words = checksummed::read(&paths.file(generation.sequence, ArchiveFile::Index)).ok().flatten();
    words.is_some_and(|words| {
        words.get(SHRINKS_AT) == Some(&DOES_NOT_SHRINK) && decode(&words, generation).is_some()
    })
}

/// Notes that in the index, so that it need not be found again. Where the index is removed, it is.
pub(super) fn note_does_not_shrink(
    disk: &Disk,
    paths: &ArchivePaths,
    generation: &Generation,
    end: LogEnd,
    segment: &LogFile,
) -> Result<()> {
    let log = log(None, paths, generation, Some(end), segment)?;
    if let Some(log) = log.filter(|log| log.salts == generation.salts && log.end() == end) {
        let mut words = encode(&log, generation);
        words[SHRINKS_AT] = DOES_NOT_SHRINK;
        let beside = unique(paths, "shrinks", generation);
        let path = paths.file(generation.sequence, ArchiveFile::Index);
        let _found_again_next_time = checksummed::write(disk, &path, &beside, &words, &paths.data());
    }
    Ok(())
}

/// What is wrong with the index of a generation whose log this is, if anything is. One that was written before the
/// log went on is passed over, and is not wrong.
pub(super) fn fault(
    paths: &ArchivePaths,
    generation: &Generation,
    log: &Log,
) -> Result<Option<&'static str>> {
    let words = match checksummed::read(&paths.file(generation.sequence, ArchiveFile::Index)) {
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Some("it is damaged")),
        words => words?,
    };
    let Some(words) = words else { return Ok(None) };
    Ok(match decode(&words, generation) {
        None => Some("it is of another log"),
        Some(indexed) if indexed.end() == log.end() => {
            let mut right = encode(log, generation);
            right[SHRINKS_AT] = words[SHRINKS_AT];
            (words != right).then_some("it does not say what stands in its log")
        }
        Some(_) => None,
    })
}

fn encode(log: &Log, generation: &Generation) -> Vec<Word> {
    let frames = u32::try_from(log.frames.len()).unwrap_or(u32::MAX);
    let mut words = vec![MAGIC, generation.seed(), Word::from_le_bytes(log.checksum), frames.into(), 0];
    for (frame, sum) in log.frames.iter().zip(&log.sums) {
        words.extend([pair(frame.page_number, frame.commit.unwrap_or(0)), *sum]);
    }
    words
}

fn decode(words: &[Word], generation: &Generation) -> Option<Log> {
    let (header, rest) = words.split_first_chunk::<HEADER_WORDS>()?;
    let (frames, []) = rest.as_chunks::<2>() else { return None };
    let [MAGIC, seed, checksum, count, _] = *header else { return None };
    // No frame is of page 0.
    let is_frame = |[word, _]: &[Word; 2]| parts(*word).0 > 0;
    if seed != generation.seed() || count != frames.len() as u64 || !frames.iter().all(is_frame) {
        return None;
    }
    let frame = |word| {
        let (page_number, pages) = parts(word);
        Frame { page_number, commit: Some(pages).filter(|pages| *pages > 0) }
    };
    Some(Log {
        start: [0; HEADER_LEN],
        salts: generation.salts,
        page_size: generation.page_size,
        frames: frames.iter().map(|[word, _]| frame(*word)).collect(),
        sums: frames.iter().map(|[_, sum]| *sum).collect(),
        checksum: checksum.to_le_bytes(),
    })
}
