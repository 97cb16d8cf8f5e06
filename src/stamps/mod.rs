//! The stamps of one generation of a WAL: when each of its commits was made.
//!
//! A WAL lives from the writing of its header to the next, and has salts of its own for that long: a *generation*. Its
//! stamps stand in a file of words of 8 bytes, little-endian: a header, and behind it records, which are only ever
//! appended. The table of both is in the crate's [format](crate::format) document.
//!
//! Every record carries a check over itself, its place and the header, so that one that is torn, moved or of another
//! generation is none. The header carries a digest of the generation before it, so that generations form a chain.

mod file;

pub(crate) use file::Stamps;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// A word of the file, in this machine's byte order.
pub(crate) type Word = u64;

pub(crate) const WORD_LEN: usize = size_of::<Word>();
pub(crate) const HEADER_WORDS: usize = 16;
pub(crate) const RECORD_WORDS: usize = 4;
pub(crate) const HEADER_LEN: usize = HEADER_WORDS * WORD_LEN;
pub(crate) const RECORD_LEN: usize = RECORD_WORDS * WORD_LEN;

const MAGIC: Word = Word::from_le_bytes(*b"LFstamps");
const VERSION: Word = 1;

/// No history gets as far as this.
const SEQUENCE_MAX: u64 = 1 << 48;

/// Flags of the header, in the word of the version.
const BEGINS: Word = 1 << 32;
const AFTER_CHANGE: Word = 1 << 33;

/// The first word of records that are no commits. Instants of commits are never this far in the past.
const END: Word = 1 << 63;
const REST: Word = (1 << 63) + 1;

/// What tells whether a database file was written to: its length, and the time of its last change in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    pub(crate) len: u64,
    pub(crate) changed_at: i64,
}

/// The header: which generation it is, and what it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    /// The id of the database.
    pub(crate) database: u128,
    /// Its number in the archive, from 1.
    pub(crate) sequence: u64,
    /// The salts of its WAL.
    pub(crate) salts: [u8; 8],
    /// The size of a page in bytes.
    pub(crate) page_size: u32,
    /// The last frame of the WAL that was there before this history began. 0 unless it began in the middle of a WAL.
    pub(crate) first_frame: u32,
    /// Whether the history begins here, from a snapshot, and does not go on from the generation before.
    pub(crate) begins: bool,
    /// Whether it begins because somebody else changed the database.
    pub(crate) after_change: bool,
    /// No commit of this generation is stamped at or before this, in microseconds of UTC.
    pub(crate) not_before: i64,
    /// When it began.
    pub(crate) begun_at: i64,
    /// The digest of the stamps of the generation before, if the history goes on from that.
    pub(crate) link: u64,
    /// How the WAL of that generation ended.
    pub(crate) end_before: LogEnd,
    /// The database file, before anything of this generation was written to it.
    pub(crate) data: FileState,
}

/// A commit, by its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    /// When it was made, in microseconds of UTC.
    pub(crate) at: i64,
    /// The frame that ends it.
    pub(crate) frame: u32,
    /// The frame that ended the commit before it, or 0.
    pub(crate) before: u32,
    /// The pages that it leaves.
    pub(crate) pages: u32,
    /// The lower half of the checksum of the page in that frame; 0 where that is not known.
    pub(crate) sum: u32,
}

/// What stands in a WAL, as far as its stamps tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitRecord {
    Commit(Commit),
    /// Commits whose stamps were lost, the last of which ends with this frame.
    Unstamped {
        frame: u32,
    },
}

/// How a WAL ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// Its last committed frame.
    pub(crate) frame: u32,
    /// The pages that it left.
    pub(crate) pages: u32,
    /// The checksum in that frame, which stands for all that comes before it.
    pub(crate) checksum: [u8; 8],
}

impl LogEnd {
    /// There was none.
    pub(crate) const NONE: Self = Self { frame: 0, pages: 0, checksum: [0; 8] };
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A commit is about to be written.
    Commit(Commit),
    /// The WAL is about to end.
    End(LogEnd),
    /// The WAL is about to end, and all of it stands in the database file, which is like this.
    Rest(FileState),
}

/// What stands where a record may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Record(Record),
    /// Nothing was written there to the end, or it did not get to the disk.
    Empty,
    /// Anything else.
    Damaged,
}

impl Generation {
    /// The header's words.
    pub(crate) fn encode(&self) -> [Word; HEADER_WORDS] {
        let mut words = [0; HEADER_WORDS];
        let flag = |set: bool, flag: Word| if set { flag } else { 0 };
        words[0] = MAGIC;
        words[1] = VERSION | flag(self.begins, BEGINS) | flag(self.after_change, AFTER_CHANGE);
        (words[2], words[3]) = (low(self.database), low(self.database >> 64));
        words[4] = self.sequence;
        words[5] = Word::from_le_bytes(self.salts);
        words[6] = pair(self.page_size, self.first_frame);
        words[7] = self.not_before.cast_unsigned();
        words[8] = self.begun_at.cast_unsigned();
        words[9] = self.link;
        words[10] = self.data.len;
        words[11] = self.data.changed_at.cast_unsigned();
        words[12] = pair(self.end_before.frame, self.end_before.pages);
        words[13] = Word::from_le_bytes(self.end_before.checksum);
        words[HEADER_WORDS - 1] = xxh3_64(&bytes(&words[..HEADER_WORDS - 1]));
        words
    }

    /// Reads a header; nothing if it is damaged, of a version that is not known here, or says what no header says.
    pub(crate) fn decode(words: &[Word; HEADER_WORDS]) -> Option<Self> {
        Self::version(words).filter(|version| *version == VERSION)?;
        let (page_size, first_frame) = parts(words[6]);
        let (frame, pages) = parts(words[12]);
        let is_page_size = page_size.is_power_of_two() && (512..=65_536).contains(&page_size);
        if !is_page_size || !(1..=SEQUENCE_MAX).contains(&words[4]) {
            return None;
        }
        Some(Self {
            database: u128::from(words[2]) | u128::from(words[3]) << 64,
            sequence: words[4],
            salts: words[5].to_le_bytes(),
            page_size,
            first_frame,
            begins: words[1] & BEGINS != 0,
            after_change: words[1] & AFTER_CHANGE != 0,
            not_before: words[7].cast_signed(),
            begun_at: words[8].cast_signed(),
            link: words[9],
            end_before: LogEnd { frame, pages, checksum: words[13].to_le_bytes() },
            data: FileState { len: words[10], changed_at: words[11].cast_signed() },
        })
    }

    /// The version of a header, which is known of a whole one only. The check stands there in every version.
    fn version(words: &[Word; HEADER_WORDS]) -> Option<Word> {
        let is_whole = words[HEADER_WORDS - 1] == xxh3_64(&bytes(&words[..HEADER_WORDS - 1]));
        (words[0] == MAGIC && is_whole).then(|| words[1] & Word::from(u32::MAX))
    }

    /// What the checks of its records, and what else belongs to this generation alone, begin with.
    pub(crate) fn seed(&self) -> u64 {
        self.encode()[HEADER_WORDS - 1]
    }
}

impl Record {
    /// The record's words at its place among the records of a generation, from 0.
    pub(crate) fn encode(self, seed: u64, place: usize) -> [Word; RECORD_WORDS] {
        let [first, second, third] = match self {
            Self::Commit(Commit { at, frame, before, pages, sum }) => {
                [at.cast_unsigned(), pair(frame, pages), pair(before, sum)]
            }
            Self::End(LogEnd { frame, pages, checksum }) => {
                [END, pair(frame, pages), Word::from_le_bytes(checksum)]
            }
            Self::Rest(data) => [REST, data.len, data.changed_at.cast_unsigned()],
        };
        [first, second, third, check([first, second, third], seed, place)]
    }
}

impl Slot {
    /// Reads what stands at a place.
    pub(crate) fn decode(words: [Word; RECORD_WORDS], seed: u64, place: usize) -> Self {
        let [first, second, third, found] = words;
        // The check is written last: without it, a killed process did not come to the end.
        if found == 0 {
            return Self::Empty;
        }
        if found != check([first, second, third], seed, place) {
            return Self::Damaged;
        }
        let ((frame, pages), (before, sum)) = (parts(second), parts(third));
        Self::Record(match first {
            END => Record::End(LogEnd { frame, pages, checksum: third.to_le_bytes() }),
            REST => Record::Rest(FileState { len: second, changed_at: third.cast_signed() }),
            at => Record::Commit(Commit { at: at.cast_signed(), frame, before, pages, sum }),
        })
    }
}

/// The words that stand in a file.
fn words(file: &[u8]) -> Vec<Word> {
    file.as_chunks::<WORD_LEN>().0.iter().copied().map(Word::from_le_bytes).collect()
}

/// The same the other way round.
pub(crate) fn bytes(words: &[Word]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn check([first, second, third]: [Word; 3], seed: u64, place: usize) -> Word {
    let mut bytes = [0; 3 * WORD_LEN];
    for (at, word) in bytes.chunks_exact_mut(WORD_LEN).zip([first, second, third]) {
        at.copy_from_slice(&word.to_le_bytes());
    }
    // Never zero, so that no record is an empty place.
    xxh3_64_with_seed(&bytes, seed.wrapping_add(place as u64)) | 1
}

/// Two halves of a word.
pub(crate) fn pair(low: u32, high: u32) -> Word {
    Word::from(low) | Word::from(high) << 32
}

/// The same the other way round.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
pub(crate) fn parts(word: Word) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// The lower half of a number.
#[expect(clippy::cast_possible_truncation, reason = "the lower half of a number")]
pub(crate) fn low(number: u128) -> Word {
    number as Word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation() -> Generation {
        Generation {
            database: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
            sequence: 42,
            salts: [1, 2, 3, 4, 5, 6, 7, 8],
            page_size: 4096,
            first_frame: 7,
            begins: true,
            after_change: true,
            not_before: -5,
            begun_at: 1_764_000_000_000_000,
            link: 99,
            end_before: LogEnd { frame: 5, pages: 6, checksum: [7; 8] },
            data: FileState { len: 8192, changed_at: 1_764_000_000_000_000_001 },
        }
    }

    fn records() -> [Record; 4] {
        let max = u32::MAX;
        [
            Record::Commit(Commit { at: 1, frame: 8, before: 7, pages: 2, sum: 9 }),
            Record::Commit(Commit { at: i64::MAX, frame: max, before: max, pages: max, sum: max }),
            Record::End(LogEnd { frame: 9, pages: 2, checksum: [9; 8] }),
            Record::Rest(FileState { len: 8192, changed_at: -1 }),
        ]
    }

    fn file() -> Vec<u8> {
        let mut words = generation().encode().to_vec();
        let seed = generation().seed();
        words.extend(records().iter().enumerate().flat_map(|(place, record)| record.encode(seed, place)));
        words.extend([0; 2 * RECORD_WORDS]);
        bytes(&words)
    }

    #[test]
    fn what_was_written_is_read() {
        let stamps = Stamps::parse(&file()).unwrap();
        assert_eq!(stamps.generation, generation());
        assert_eq!(stamps.slots, records().map(Slot::Record));
        assert_eq!(stamps.end(), Some(LogEnd { frame: 9, pages: 2, checksum: [9; 8] }));
        assert_eq!(stamps.rest(), Some(FileState { len: 8192, changed_at: -1 }));
        assert_eq!(stamps.last_instant(), i64::MAX);
        // Room at the end is no part of it.
        assert_eq!(Stamps::parse(&file()[..HEADER_LEN + 4 * RECORD_LEN]).unwrap().digest, stamps.digest);
    }

    #[test]
    fn a_flipped_bit_is_noticed_where_it_stands() {
        let whole = Stamps::parse(&file()).unwrap();
        for bit in 0..(HEADER_LEN + 4 * RECORD_LEN) * 8 {
            let mut file = file();
            file[bit / 8] ^= 1 << (bit % 8);
            let Some(stamps) = Stamps::parse(&file) else {
                assert!(bit < HEADER_LEN * 8, "bit {bit}");
                continue;
            };
            let place = (bit / 8).checked_sub(HEADER_LEN).unwrap() / RECORD_LEN;
            for (other, slot) in stamps.slots.iter().enumerate() {
                let want = if other == place { Slot::Damaged } else { whole.slots[other] };
                assert_eq!(*slot, want, "bit {bit}");
            }
            assert_ne!(stamps.digest, whole.digest, "bit {bit}");
        }
    }

    #[test]
    fn a_record_counts_at_its_own_place_and_in_its_own_generation_only() {
        let seed = generation().seed();
        for record in records() {
            assert_eq!(Slot::decode(record.encode(seed, 3), seed, 3), Slot::Record(record));
            assert_eq!(Slot::decode(record.encode(seed, 3), seed, 4), Slot::Damaged);
            let other = Generation { sequence: 43, ..generation() }.seed();
            assert_eq!(Slot::decode(record.encode(seed, 3), other, 3), Slot::Damaged);
        }
        assert_eq!(Slot::decode([0; RECORD_WORDS], seed, 0), Slot::Empty);
    }

    #[test]
    fn a_log_that_went_on_after_its_end_has_not_ended() {
        let seed = generation().seed();
        let mut words = generation().encode().to_vec();
        for (place, record) in [records()[0], records()[2], records()[3], records()[0]].iter().enumerate() {
            words.extend(record.encode(seed, place));
        }
        let stamps = Stamps::of(&words).unwrap();
        assert_eq!((stamps.end(), stamps.rest()), (None, None));
    }

    /// The frames of the commits that are made of the stamps of commits `(frame, before)`; lost ones are negative.
    fn made(stamps: &[(u32, u32)], end: Option<u32>) -> Vec<i64> {
        let generation = Generation { first_frame: 0, ..generation() };
        let commit = |(at, &(frame, before))| Record::Commit(Commit { at, frame, before, pages: 1, sum: 0 });
        let slots = (0..).zip(stamps).map(commit).map(Slot::Record).collect();
        let stamps = Stamps { generation, slots, digest: 0 };
        let frame = |made| match made {
            CommitRecord::Commit(commit) => commit.frame.into(),
            CommitRecord::Unstamped { frame } => -i64::from(frame),
        };
        stamps.made(end).into_iter().map(frame).collect()
    }

    #[test]
    fn a_stamp_without_its_commit_is_none_and_a_commit_without_its_stamp_is_told() {
        assert_eq!([None, Some(5)].map(|end| made(&[(2, 0), (5, 2)], end)), [[2, 5], [2, 5]]);
        // Its commit failed, and another one took its frames, or more of them, or fewer.
        assert_eq!(made(&[(2, 0), (5, 2), (5, 2)], None), [2, 5]);
        assert_eq!(made(&[(2, 0), (5, 2), (7, 2)], None), [2, 7]);
        assert_eq!(made(&[(2, 0), (5, 2), (3, 2), (5, 3)], None), [2, 3, 5]);
        assert_eq!(made(&[(2, 0), (5, 2)], Some(2)), [2]);
        assert_eq!(made(&[(2, 0), (5, 2), (6, 5)], Some(0)), [0_i64; 0]);
        // Stamps that were lost: in the middle, at the end, all of them.
        assert_eq!(made(&[(2, 0), (7, 5)], None), [2, -5, 7]);
        assert_eq!([made(&[(2, 0)], Some(5)), made(&[], Some(5))], [vec![2, -5], vec![-5]]);
        assert_eq!(made(&[(2, 0), (7, 5), (9, 8)], Some(10)), [2, -5, 7, -8, 9, -10]);
        // Unstamped ones that were lost for good with the power, and others in their place.
        assert_eq!(made(&[(2, 0), (7, 5), (4, 2)], None), [2, 4]);
        assert_eq!(made(&[(2, 0), (7, 5), (9, 6)], None), [2, -5, -6, 9]);
    }

    #[test]
    fn a_header_that_no_history_has_is_none() {
        let decode = |generation: Generation| Generation::decode(&generation.encode());
        assert!(decode(generation()).is_some());
        let sizes = [0, 256, 1000, 131_072].map(|page_size| Generation { page_size, ..generation() });
        let sequences = [0, u64::MAX].map(|sequence| Generation { sequence, ..generation() });
        assert!([&sizes[..], &sequences].concat().into_iter().all(|of| decode(of).is_none()));
    }
}
