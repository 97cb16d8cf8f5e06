//! Packs: the files of consecutive generations in one file.
//!
//! A pack is a tar archive that is compressed as a sequence of zstd frames. The members are the files that it replaces: first the
//! segments of all its generations, then all stamps, then all indexes, each in the order of the generations. Standard tools
//! extract them (`tar -xf`). After the zstd frames that hold the archive follow two skippable frames, which `zstd` and `tar`
//! ignore: the directory, which has the offset of each member, and a [seek table](crate::seekable), whose last entry is the
//! directory. Numbers are little-endian.
//!
//! | bytes | contents of the directory |
//! |---|---|
//! | 0..3 | `0x184D2A5D` |
//! | 4..7 | the number of bytes that follow |
//! | 8..15 | `LFpacked` |
//! | 16..23 | version, 1 |
//! | 24..31 | the number of the first generation |
//! | 32..39 | the number of generations |
//! | 48 for each generation | offset and length in the archive of its segment, its stamps and its index; 0 and 0 for a file that it does not have |
//! | 8 | XXH3-64 of the bytes from 8 on, followed by the seek table |

use xxhash_rust::xxh3::Xxh3;

use crate::{
    seekable::SeekTable,
    stamps::{WORD_LEN, Word, bytes, words},
    units::{GenerationNumber, GenerationSpan},
};

/// The unit in which a tar archive is organized.
pub(crate) const BLOCK: usize = 512;

/// Maximum number of generations in a pack.
pub(crate) const GENERATIONS_MAX: u64 = 1 << 16;

const SKIPPABLE_MAGIC: u32 = 0x184D_2A5D;
const HEAD_LEN: usize = 8;
const MAGIC: Word = Word::from_le_bytes(*b"LFpacked");
const VERSION: Word = 1;

/// Words before those of the generations, and of each generation.
const HEADER_WORDS: usize = 4;
const GENERATION_WORDS: usize = 6;

/// Maximum length of a member: 8 GiB, less one byte, the largest length in the header of a tar member.
const MEMBER_MAX: u64 = (1 << 33) - 1;

/// A range of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) at: u64,
    pub(crate) len: u64,
}

/// The kinds of members, in the order in which a pack has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Segment,
    Stamps,
    Index,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Segment, Self::Stamps, Self::Index];

    fn extension(self) -> &'static str {
        match self {
            Self::Segment => "wal",
            Self::Stamps => "stamps",
            Self::Index => "index",
        }
    }
}

/// The lengths of the files of one generation, by [`Kind`].
pub(crate) type Lengths = [Option<u64>; Kind::ALL.len()];

/// Where the files of consecutive generations are in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    first: GenerationNumber,
    /// The files of each generation, by [`Kind`].
    generations: Vec<[Option<Extent>; Kind::ALL.len()]>,
}

/// Why a directory cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Damaged,
    NewerVersion(Word),
}

/// A member of the archive: a header, the contents, and zeros up to the next block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) number: GenerationNumber,
    pub(crate) kind: Kind,
    /// The contents.
    pub(crate) extent: Extent,
}

impl Member {
    /// The header, which precedes the contents.
    pub(crate) fn header(&self) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, &format!("{:012}.{}", self.number, self.kind.extension()));
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", self.extent.len));
        put(136, "00000000000\0");
        // The checksum is computed as if its field were blank.
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    /// The number of zeros after the contents.
    pub(crate) fn padding(&self) -> usize {
        let over = self.extent.len % BLOCK as u64;
        usize::try_from(over).map_or(0, |over| (BLOCK - over) % BLOCK)
    }
}

/// The number of zeros at the end of the archive.
pub(crate) const END_LEN: usize = 2 * BLOCK;

impl Directory {
    /// Lays out the files of consecutive generations. Returns `None` if a file is too long, or if there are too many.
    pub(crate) fn lay_out(first: GenerationNumber, lengths: &[Lengths]) -> Option<Self> {
        let count = lengths.len() as u64;
        let is_too_long = lengths.iter().flatten().flatten().any(|len| *len > MEMBER_MAX);
        if count == 0 || count > GENERATIONS_MAX || is_too_long {
            return None;
        }
        let mut generations = vec![[None; Kind::ALL.len()]; lengths.len()];
        let mut at = 0;
        for kind in Kind::ALL {
            for (generation, lengths) in generations.iter_mut().zip(lengths) {
                let Some(len) = lengths[kind as usize] else { continue };
                at += BLOCK as u64;
                generation[kind as usize] = Some(Extent { at, len });
                at += len.next_multiple_of(BLOCK as u64);
            }
        }
        Some(Self { first, generations })
    }

    pub(crate) fn span(&self) -> GenerationSpan {
        let last = self.first.get() + (self.generations.len() as u64).saturating_sub(1);
        GenerationSpan { first: self.first, last: GenerationNumber::new(last) }
    }

    /// A file of a generation. Returns `None` if the pack does not have it.
    pub(crate) fn find(&self, number: GenerationNumber, kind: Kind) -> Option<Extent> {
        let index = number.get().checked_sub(self.first.get())?;
        self.generations.get(usize::try_from(index).ok()?)?[kind as usize]
    }

    /// The members of the archive in order.
    pub(crate) fn members(&self) -> impl Iterator<Item = Member> {
        let of = |kind: Kind| {
            let numbers = (self.first.get()..).map(GenerationNumber::new);
            numbers.zip(&self.generations).filter_map(move |(number, generation)| {
                generation[kind as usize].map(|extent| Member { number, kind, extent })
            })
        };
        Kind::ALL.into_iter().flat_map(of)
    }

    /// The length of the archive.
    pub(crate) fn archive_len(&self) -> u64 {
        let end =
            self.members().last().map_or(0, |last| last.extent.at + last.extent.len + last.padding() as u64);
        end + END_LEN as u64
    }

    /// The directory and the seek table of a pack whose archive has the frames of `table`.
    pub(crate) fn encode(&self, mut table: SeekTable) -> Vec<u8> {
        let mut words = vec![MAGIC, VERSION, self.first.get(), self.generations.len() as u64];
        for extent in self.generations.iter().flatten() {
            words.extend(extent.map_or([0, 0], |extent| [extent.at, extent.len]));
        }
        let len = (words.len() + 1) * WORD_LEN;
        table.push(frame_len(HEAD_LEN + len), 0);
        let (words, table) = (bytes(&words), table.encode());
        let mut tail = Vec::with_capacity(HEAD_LEN + words.len() + WORD_LEN + table.len());
        tail.extend(SKIPPABLE_MAGIC.to_le_bytes());
        tail.extend(frame_len(len).to_le_bytes());
        tail.extend(&words);
        tail.extend(checksum(&words, &table).to_le_bytes());
        tail.extend(table);
        tail
    }

    /// Reads a directory, and checks it and the bytes of the seek table behind it, which parse to `seek`.
    pub(crate) fn parse(directory: &[u8], table: &[u8], seek: &SeekTable) -> Result<Self, Fault> {
        let Some((frame, sum)) = directory.split_last_chunk::<WORD_LEN>() else { return Err(Fault::Damaged) };
        let Some((head, body)) = frame.split_at_checked(HEAD_LEN) else { return Err(Fault::Damaged) };
        let expected_head = [SKIPPABLE_MAGIC.to_le_bytes(), frame_len(body.len() + WORD_LEN).to_le_bytes()];
        if head != expected_head.as_flattened() || Word::from_le_bytes(*sum) != checksum(body, table) {
            return Err(Fault::Damaged);
        }
        match words(body).split_first_chunk::<HEADER_WORDS>() {
            Some(([MAGIC, VERSION, first, count], rest)) => {
                let found = Self::decode(GenerationNumber::new(*first), *count, rest);
                found.filter(|found| found.archive_len() == seek.plain_len()).ok_or(Fault::Damaged)
            }
            Some(([MAGIC, version, ..], _)) if *version > VERSION => Err(Fault::NewerVersion(*version)),
            _ => Err(Fault::Damaged),
        }
    }

    fn decode(first: GenerationNumber, count: u64, extents: &[Word]) -> Option<Self> {
        let (extents, []) = extents.as_chunks::<GENERATION_WORDS>() else { return None };
        let extent = |at, len| (at != 0).then_some(Extent { at, len });
        let generations: Vec<_> = extents
            .iter()
            .map(|[w, w_len, s, s_len, i, i_len]| {
                [extent(*w, *w_len), extent(*s, *s_len), extent(*i, *i_len)]
            })
            .collect();
        let lengths: Vec<Lengths> =
            generations.iter().map(|files| files.map(|extent| extent.map(|extent| extent.len))).collect();
        // The layout follows from the lengths.
        let found = Self { first, generations };
        let is_valid = count == found.generations.len() as u64
            && Self::lay_out(first, &lengths).as_ref() == Some(&found);
        is_valid.then_some(found)
    }
}

/// A length in a header. No directory is longer.
fn frame_len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn checksum(words: &[u8], table: &[u8]) -> Word {
    let mut hasher = Xxh3::new();
    hasher.update(words);
    hasher.update(table);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seekable::{FOOTER_LEN, Frames};
    use proptest::prelude::*;

    fn directory(first: u64, lengths: &[Lengths]) -> Directory {
        Directory::lay_out(GenerationNumber::new(first), lengths).unwrap()
    }

    /// The archive of a directory whose files consist of a byte that depends on the position.
    fn archive(directory: &Directory) -> Vec<u8> {
        let mut bytes = Vec::new();
        for member in directory.members() {
            bytes.extend(member.header());
            assert_eq!(bytes.len() as u64, member.extent.at);
            bytes.extend((0..member.extent.len).map(|at| u8::try_from(at % 251).unwrap()));
            bytes.resize(bytes.len() + member.padding(), 0);
        }
        bytes.resize(bytes.len() + END_LEN, 0);
        assert_eq!(bytes.len() as u64, directory.archive_len());
        bytes
    }

    fn pack(directory: &Directory) -> Vec<u8> {
        let (mut bytes, mut table, mut frames) = (Vec::new(), SeekTable::default(), Frames::new().unwrap());
        for piece in archive(directory).chunks(10_000) {
            let frame = frames.compress(piece).unwrap();
            table.push(frame_len(frame.len()), frame_len(piece.len()));
            bytes.extend(frame);
        }
        bytes.extend(directory.encode(table));
        bytes
    }

    fn parse(pack: &[u8]) -> Result<Directory, Fault> {
        let footer = pack.last_chunk::<FOOTER_LEN>().ok_or(Fault::Damaged)?;
        let len = SeekTable::encoded_len(*footer).and_then(|len| usize::try_from(len).ok());
        let (rest, bytes) =
            len.and_then(|len| pack.split_at_checked(pack.len().checked_sub(len)?)).ok_or(Fault::Damaged)?;
        let table = SeekTable::parse(bytes).ok_or(Fault::Damaged)?;
        let trailer =
            table.trailer().filter(|_| table.frames_len() == rest.len() as u64).ok_or(Fault::Damaged)?;
        Directory::parse(&rest[usize::try_from(trailer.at).unwrap()..], bytes, &table)
    }

    const LENGTHS: [Lengths; 3] =
        [[Some(8272), Some(4096), Some(88)], [None, Some(128), None], [Some(30_000), Some(512), Some(1)]];

    #[test]
    fn tar_extracts_each_file_of_a_pack() {
        let directory = directory(41, &LENGTHS);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack.tar.zst");
        std::fs::write(&path, pack(&directory)).unwrap();
        let plain = zstd::decode_all(&std::fs::read(&path).unwrap()[..]).unwrap();
        assert!(plain == archive(&directory));
        std::fs::write(dir.path().join("pack.tar"), plain).unwrap();
        let tar = std::process::Command::new("tar")
            .args(["-xf", "pack.tar"])
            .current_dir(dir.path())
            .status()
            .unwrap();
        assert!(tar.success());
        for member in directory.members() {
            let name = format!("{:012}.{}", member.number, member.kind.extension());
            let found = std::fs::read(dir.path().join(name)).unwrap();
            assert_eq!(found.len() as u64, member.extent.len);
            assert!(found.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
        }
        assert!(!dir.path().join("000000000042.wal").exists());
    }

    #[test]
    fn directory_finds_the_files_of_each_generation() {
        let directory = directory(41, &LENGTHS);
        assert_eq!(parse(&pack(&directory)), Ok(directory.clone()));
        assert_eq!(
            directory.span(),
            GenerationSpan { first: GenerationNumber::new(41), last: GenerationNumber::new(43) }
        );
        for (number, lengths) in (40..).zip([[None; 3]].iter().chain(&LENGTHS).chain(&[[None; 3]])) {
            for kind in Kind::ALL {
                let found = directory.find(GenerationNumber::new(number), kind);
                assert_eq!(found.map(|extent| extent.len), lengths[kind as usize]);
            }
        }
        assert_eq!(Directory::lay_out(GenerationNumber::FIRST, &[]), None);
        assert_eq!(Directory::lay_out(GenerationNumber::FIRST, &[[Some(1 << 33), None, None]]), None);
    }

    #[test]
    fn newer_version_is_distinguished_from_damage() {
        let whole = pack(&directory(1, &LENGTHS));
        let table = SeekTable::encoded_len(*whole.last_chunk().unwrap()).unwrap();
        let at = whole.len()
            - usize::try_from(table).unwrap()
            - HEAD_LEN
            - (HEADER_WORDS + 3 * GENERATION_WORDS + 1) * WORD_LEN;
        let mut newer = whole.clone();
        newer[at + HEAD_LEN + WORD_LEN] = 2;
        assert_eq!(parse(&newer), Err(Fault::Damaged));
        let words = at + HEAD_LEN..whole.len() - usize::try_from(table).unwrap() - WORD_LEN;
        let sum = checksum(&newer[words.clone()], &newer[words.end + WORD_LEN..]);
        newer[words.end..words.end + WORD_LEN].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(parse(&newer), Err(Fault::NewerVersion(2)));
    }

    #[test]
    fn flipped_bit_of_the_tail_is_detected() {
        let directory = directory(7, &LENGTHS);
        let whole = pack(&directory);
        let frames = usize::try_from(directory.archive_len().div_ceil(10_000)).unwrap();
        let tail = HEAD_LEN
            + (HEADER_WORDS + 3 * GENERATION_WORDS + 1) * WORD_LEN
            + 8
            + (frames + 1) * 8
            + FOOTER_LEN;
        for bit in (whole.len() - tail) * 8..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&damaged), Err(Fault::Damaged), "bit {bit}");
        }
        for len in (whole.len() - tail..whole.len()).chain([0, 1]) {
            assert_eq!(parse(&whole[..len]), Err(Fault::Damaged), "{len}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn directory_is_read_as_written(
            first in 1..1_u64 << 48,
            lengths in prop::collection::vec(prop::array::uniform3(prop::option::of(0..20_000_u64)), 1..20),
        ) {
            let directory = directory(first, &lengths);
            prop_assert_eq!(parse(&pack(&directory)), Ok(directory));
        }
    }
}
