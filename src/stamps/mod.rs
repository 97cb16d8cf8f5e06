//! The stamps of one generation of a WAL: when each of its commits was made.
//!
//! A generation is the use of the WAL from one header write to the next. Each generation has its own salts. The stamps of a
//! generation are in a file of 8-byte little-endian words: a header followed by records, which are only appended. The crate's
//! [format](crate::format) document describes both.
//!
//! Every record has a checksum over its contents, its position and the header. A record that is torn, moved or of another
//! generation is therefore invalid. The header has a digest of the previous generation, so that generations form a chain.

mod file;

pub(crate) use file::Stamps;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::units::{
    FrameNumber, GenerationNumber, Micros, Nanos, PageCount, Salts, ShortChecksum, WalChecksum,
};

/// A word of the file, in native byte order.
pub(crate) type Word = u64;

pub(crate) const WORD_LEN: usize = size_of::<Word>();
pub(crate) const HEADER_WORDS: usize = 16;
pub(crate) const RECORD_WORDS: usize = 4;
pub(crate) const HEADER_LEN: usize = HEADER_WORDS * WORD_LEN;
pub(crate) const RECORD_LEN: usize = RECORD_WORDS * WORD_LEN;

const MAGIC: Word = Word::from_le_bytes(*b"LFstamps");
const VERSION: Word = 1;

/// Upper bound on generation numbers.
const NUMBER_MAX: u64 = 1 << 48;

/// Flags of the header, in the word of the version.
const BEGINS: Word = 1 << 32;
const AFTER_GAP: Word = 1 << 33;

/// The first word of records other than commits. No commit is stamped with these instants, which are far in the past.
const END: Word = 1 << 63;
const CHECKPOINTED: Word = (1 << 63) + 1;

/// The length and the modification time of a database file, by which a write to the file is detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    pub(crate) len: u64,
    pub(crate) changed_at: Nanos,
}

impl FileState {
    /// The state recorded for a file that does not exist.
    pub(crate) const MISSING: Self = Self { len: 0, changed_at: Nanos::new(0) };
}

/// The header of a file of stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    /// The id of the database.
    pub(crate) database: u128,
    pub(crate) number: GenerationNumber,
    /// The salts of its WAL.
    pub(crate) salts: Salts,
    /// The size of a page in bytes.
    pub(crate) page_size: u32,
    /// The last frame that the WAL had when the generation began, whose own frames follow. `None` unless it began in the middle
    /// of a WAL.
    pub(crate) base_frame: Option<FrameNumber>,
    pub(crate) lineage: Lineage,
    /// No commit of this generation is stamped at or before this instant.
    pub(crate) not_before: Micros,
    /// When the generation began.
    pub(crate) begun_at: Micros,
    /// The state of the database file before the first write of this generation.
    pub(crate) data: FileState,
}

/// How a generation follows its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lineage {
    /// The first generation of a database whose contents had not changed since it was created. It begins with a snapshot.
    Born,
    /// Commits before this generation were not captured. It begins with a snapshot.
    AfterGap,
    /// The generation begins where its predecessor ended.
    Continues {
        /// The digest of the predecessor's stamps.
        digest: u64,
        /// How the predecessor's WAL ended.
        end: LogEnd,
    },
}

/// A commit according to its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) at: Micros,
    /// The commit frame.
    pub(crate) frame: FrameNumber,
    /// The previous commit frame, or `None` if this is the first commit of the WAL.
    pub(crate) before: Option<FrameNumber>,
    /// The size of the database after the commit.
    pub(crate) pages: PageCount,
    /// The checksum of the page in the commit frame, or `None` if it is not known.
    pub(crate) checksum: Option<ShortChecksum>,
}

/// A commit in a WAL according to the stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitRecord {
    Commit(Commit),
    /// Commits whose stamps are missing, the last of which ends with this frame.
    Unstamped {
        frame: FrameNumber,
    },
}

/// How a WAL ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// The last committed frame, or `None` if the WAL had no commits.
    pub(crate) frame: Option<FrameNumber>,
    /// The size of the database after the last commit.
    pub(crate) pages: PageCount,
    /// The running checksum in the last committed frame, which covers all frames before it.
    pub(crate) checksum: WalChecksum,
}

impl LogEnd {
    /// A WAL without commits.
    pub(crate) const EMPTY: Self = Self { frame: None, pages: PageCount::ZERO, checksum: WalChecksum::ZERO };
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A commit is about to be written.
    Commit(Commit),
    /// The WAL has ended.
    End(LogEnd),
    /// The WAL has ended and is checkpointed completely into the database file, whose state this is.
    Checkpointed(FileState),
}

/// The contents of the position of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Record(Record),
    /// No complete record: it was never written, or it was lost in a power failure.
    Empty,
    /// Anything else.
    Damaged,
}

impl Lineage {
    /// Whether the history begins with this generation, from a snapshot.
    pub(crate) fn begins(&self) -> bool {
        !matches!(self, Self::Continues { .. })
    }

    /// How the predecessor's WAL ended, or `None` if the generation does not continue one.
    pub(crate) fn end_before(&self) -> Option<LogEnd> {
        match self {
            Self::Continues { end, .. } => Some(*end),
            Self::Born | Self::AfterGap => None,
        }
    }

    /// Whether the generation continues stamps with a digest other than this one.
    pub(crate) fn contradicts(&self, stamps: u64) -> bool {
        matches!(self, Self::Continues { digest, .. } if *digest != stamps)
    }

    fn flags(&self) -> Word {
        match self {
            Self::Born => BEGINS,
            Self::AfterGap => BEGINS | AFTER_GAP,
            Self::Continues { .. } => 0,
        }
    }

    /// Returns `None` for a combination that no header has.
    fn decode(flags: Word, digest: u64, end: LogEnd) -> Option<Self> {
        match (flags & BEGINS != 0, flags & AFTER_GAP != 0) {
            (false, false) => Some(Self::Continues { digest, end }),
            _ if digest != 0 || end != LogEnd::EMPTY => None,
            (true, false) => Some(Self::Born),
            (true, true) => Some(Self::AfterGap),
            (false, true) => None,
        }
    }
}

impl Generation {
    /// Whether the history begins with this generation, from a snapshot.
    pub(crate) fn begins(&self) -> bool {
        self.lineage.begins()
    }

    /// The header's words.
    pub(crate) fn encode(&self) -> [Word; HEADER_WORDS] {
        let (digest, end) = match self.lineage {
            Lineage::Continues { digest, end } => (digest, end),
            Lineage::Born | Lineage::AfterGap => (0, LogEnd::EMPTY),
        };
        let mut words = [0; HEADER_WORDS];
        words[0] = MAGIC;
        words[1] = VERSION | self.lineage.flags();
        (words[2], words[3]) = (low(self.database), low(self.database >> 64));
        words[4] = self.number.get();
        words[5] = Word::from_le_bytes(self.salts.bytes());
        words[6] = pair(self.page_size, FrameNumber::count(self.base_frame));
        words[7] = self.not_before.get().cast_unsigned();
        words[8] = self.begun_at.get().cast_unsigned();
        words[9] = digest;
        words[10] = self.data.len;
        words[11] = self.data.changed_at.get().cast_unsigned();
        words[12] = pair(FrameNumber::count(end.frame), end.pages.get());
        words[13] = Word::from_le_bytes(end.checksum.to_bytes());
        words[HEADER_WORDS - 1] = xxh3_64(&bytes(&words[..HEADER_WORDS - 1]));
        words
    }

    /// Reads the header of a file. Returns `None` as [`decode`](Self::decode) does, and if the file is truncated.
    pub(crate) fn parse(file: &[u8]) -> Option<Self> {
        Self::decode(header_words(file).first_chunk()?)
    }

    /// Reads a header. Returns `None` if it is damaged, of an unknown version, or not one that this crate writes.
    pub(crate) fn decode(words: &[Word; HEADER_WORDS]) -> Option<Self> {
        Self::version(words).filter(|version| *version == VERSION)?;
        let (page_size, base_frame) = halves(words[6]);
        let (frame, pages) = halves(words[12]);
        let end = LogEnd {
            frame: FrameNumber::new(frame),
            pages: PageCount::new(pages),
            checksum: WalChecksum::from_bytes(words[13].to_le_bytes()),
        };
        let is_page_size = page_size.is_power_of_two() && (512..=65_536).contains(&page_size);
        if !is_page_size || !(1..=NUMBER_MAX).contains(&words[4]) {
            return None;
        }
        Some(Self {
            database: u128::from(words[2]) | u128::from(words[3]) << 64,
            number: GenerationNumber::new(words[4]),
            salts: Salts::new(words[5].to_le_bytes()),
            page_size,
            base_frame: FrameNumber::new(base_frame),
            lineage: Lineage::decode(words[1], words[9], end)?,
            not_before: Micros::new(words[7].cast_signed()),
            begun_at: Micros::new(words[8].cast_signed()),
            data: FileState { len: words[10], changed_at: Nanos::new(words[11].cast_signed()) },
        })
    }

    /// The version of an undamaged header. The checksum has the same position in every version.
    fn version(words: &[Word; HEADER_WORDS]) -> Option<Word> {
        let is_whole = words[HEADER_WORDS - 1] == xxh3_64(&bytes(&words[..HEADER_WORDS - 1]));
        (words[0] == MAGIC && is_whole).then(|| words[1] & Word::from(u32::MAX))
    }

    /// The header's checksum, which identifies the generation: the seed of the checksums of its records.
    pub(crate) fn seed(&self) -> u64 {
        self.encode()[HEADER_WORDS - 1]
    }

    /// The earliest instant that is after every stamped commit, and not before any unstamped commit, of the preceding
    /// generations.
    pub(crate) fn includes_all_before(&self) -> Micros {
        self.not_before.next().max(self.begun_at)
    }
}

impl Record {
    /// The record's words at a position among the records of a generation, from 0.
    pub(crate) fn encode(self, seed: u64, position: usize) -> [Word; RECORD_WORDS] {
        let [first, second, third] = match self {
            Self::Commit(Commit { at, frame, before, pages, checksum }) => [
                at.get().cast_unsigned(),
                pair(frame.get(), pages.get()),
                pair(FrameNumber::count(before), checksum.map_or(0, ShortChecksum::get)),
            ],
            Self::End(LogEnd { frame, pages, checksum }) => {
                [END, pair(FrameNumber::count(frame), pages.get()), Word::from_le_bytes(checksum.to_bytes())]
            }
            Self::Checkpointed(data) => [CHECKPOINTED, data.len, data.changed_at.get().cast_unsigned()],
        };
        [first, second, third, check([first, second, third], seed, position)]
    }

    /// Returns `None` for a commit without frames.
    fn decode([first, second, third]: [Word; 3]) -> Option<Self> {
        let ((frame, pages), (before, checksum)) = (halves(second), halves(third));
        let (frame, pages) = (FrameNumber::new(frame), PageCount::new(pages));
        Some(match first {
            END => Self::End(LogEnd { frame, pages, checksum: WalChecksum::from_bytes(third.to_le_bytes()) }),
            CHECKPOINTED => {
                Self::Checkpointed(FileState { len: second, changed_at: Nanos::new(third.cast_signed()) })
            }
            at => Self::Commit(Commit {
                at: Micros::new(at.cast_signed()),
                frame: frame?,
                before: FrameNumber::new(before),
                pages,
                checksum: ShortChecksum::new(checksum),
            }),
        })
    }
}

impl Slot {
    /// Reads what is at a position.
    pub(crate) fn decode(words: [Word; RECORD_WORDS], seed: u64, position: usize) -> Self {
        let [first, second, third, found] = words;
        // The checksum is written last. If it is absent, the process was killed before it completed the record.
        if found == 0 {
            return Self::Empty;
        }
        if found != check([first, second, third], seed, position) {
            return Self::Damaged;
        }
        Record::decode([first, second, third]).map_or(Self::Damaged, Self::Record)
    }
}

/// Decodes little-endian words.
pub(crate) fn words(file: &[u8]) -> Vec<Word> {
    file.as_chunks::<WORD_LEN>().0.iter().copied().map(Word::from_le_bytes).collect()
}

/// Decodes the words of the header of a file.
fn header_words(file: &[u8]) -> Vec<Word> {
    words(&file[..file.len().min(HEADER_LEN)])
}

/// Encodes words as little-endian bytes.
pub(crate) fn bytes(words: &[Word]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn check([first, second, third]: [Word; 3], seed: u64, position: usize) -> Word {
    let mut bytes = [0; 3 * WORD_LEN];
    for (at, word) in bytes.chunks_exact_mut(WORD_LEN).zip([first, second, third]) {
        at.copy_from_slice(&word.to_le_bytes());
    }
    // Never zero, so that no record looks like an empty position.
    xxh3_64_with_seed(&bytes, seed.wrapping_add(position as u64)) | 1
}

/// Combines the low and the high half of a word.
pub(crate) fn pair(low: u32, high: u32) -> Word {
    Word::from(low) | Word::from(high) << 32
}

/// Splits a word into its low and high halves; inverse of [`pair`].
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
pub(crate) fn halves(word: Word) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// The lower half of a number.
#[expect(clippy::cast_possible_truncation, reason = "the lower half of a number")]
pub(crate) fn low(number: u128) -> Word {
    number as Word
}

#[cfg(test)]
mod tests;
