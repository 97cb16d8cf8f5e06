//! SQLite's write-ahead log: its header, its chain of frames, and the commits in it.
//!
//! Offsets and checksums are those of <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use crate::page::be32;

/// The size of the header at the start of a WAL.
pub(crate) const HEADER_LEN: usize = 32;

/// The size of the header before each page of a WAL.
pub(crate) const FRAME_HEADER_LEN: usize = 24;

const MAGIC: u32 = 0x377f_0682;
const FORMAT_VERSION: u32 = 3_007_000;

/// The running checksum of a WAL.
type Checksum = [u32; 2];

/// The header of a WAL: what stays the same until the WAL is begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    page_size: u32,
    salts: [u8; 8],
    words: Words,
    checksum: Checksum,
}

/// The byte order in which checksums read their words, which the magic number tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    LittleEndian,
    BigEndian,
}

impl Words {
    /// Carries the checksum on over `bytes`, whose length is a multiple of 8.
    fn checksum(self, [mut s0, mut s1]: Checksum, bytes: &[u8]) -> Checksum {
        let read = |word: [u8; 4]| match self {
            Self::LittleEndian => u32::from_le_bytes(word),
            Self::BigEndian => u32::from_be_bytes(word),
        };
        let (pairs, _) = bytes.as_chunks::<8>();
        for &[a, b, c, d, e, f, g, h] in pairs {
            s0 = s0.wrapping_add(read([a, b, c, d])).wrapping_add(s1);
            s1 = s1.wrapping_add(read([e, f, g, h])).wrapping_add(s0);
        }
        [s0, s1]
    }
}

/// The format version of a WAL whose header is otherwise valid, if SQLite refuses to open a database for it. `None` for a
/// version that SQLite reads, and for an invalid header, with which SQLite ignores the log.
pub(crate) fn unknown_version(header: &[u8; HEADER_LEN]) -> Option<u32> {
    let version = be32(header, 4);
    (version != FORMAT_VERSION && Header::parse_any(header).is_some()).then_some(version)
}

impl Header {
    /// Reads a header. A header that SQLite would not accept is none.
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        Self::parse_any(bytes).filter(|_| be32(bytes, 4) == FORMAT_VERSION)
    }

    /// Reads a header of any format version.
    fn parse_any(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let words = match be32(bytes, 0) {
            MAGIC => Words::LittleEndian,
            magic if magic == MAGIC | 1 => Words::BigEndian,
            _ => return None,
        };
        let page_size = be32(bytes, 8);
        let checksum = words.checksum([0, 0], &bytes[..24]);
        let valid = page_size.is_power_of_two()
            && (512..=65_536).contains(&page_size)
            && checksum == [be32(bytes, 24), be32(bytes, 28)];
        let mut salts = [0; 8];
        salts.copy_from_slice(&bytes[16..24]);
        valid.then_some(Self { page_size, salts, words, checksum })
    }

    /// The size of a page in bytes.
    pub(crate) fn page_size(&self) -> u32 {
        self.page_size
    }

    /// What tells this log from the one that was there before.
    pub(crate) fn salts(&self) -> [u8; 8] {
        self.salts
    }

    /// The size of a frame: its header and its page.
    pub(crate) fn frame_len(&self) -> usize {
        FRAME_HEADER_LEN + self.page_size as usize
    }

    /// The chain of frames from the first one on.
    pub(crate) fn chain(self) -> Chain {
        Chain { checksum: self.checksum, header: self }
    }

    /// The chain from the frame on that follows one with this checksum in its header.
    pub(crate) fn chain_after(self, checksum: [u8; 8]) -> Chain {
        Chain { checksum: [be32(&checksum, 0), be32(&checksum, 4)], header: self }
    }

    /// Whether the header of a frame has the salts of this log.
    pub(crate) fn has_salts(&self, frame: &[u8]) -> bool {
        frame[8..16] == self.salts
    }
}

/// One frame that continued its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The number of its page, from 1.
    pub(crate) page_number: u32,
    /// The size of the database in pages if this frame ends a transaction.
    pub(crate) commit: Option<u32>,
}

/// Follows the frames of a WAL one by one, as SQLite's recovery does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    header: Header,
    checksum: Checksum,
}

impl Chain {
    /// Takes the next whole frame. Nothing means that the log ends before it: it is torn, of an older
    /// generation, or not there.
    pub(crate) fn follow(&mut self, frame: &[u8]) -> Option<Frame> {
        if frame.len() != self.header.frame_len() || frame[8..16] != self.header.salts {
            return None;
        }
        let (head, page) = frame.split_at(FRAME_HEADER_LEN);
        let checksum = self.header.words.checksum(self.checksum, &head[..8]);
        let checksum = self.header.words.checksum(checksum, page);
        let page_number = be32(head, 0);
        if page_number == 0 || checksum != [be32(head, 16), be32(head, 20)] {
            return None;
        }
        self.checksum = checksum;
        Some(Frame { page_number, commit: Some(be32(head, 4)).filter(|pages| *pages > 0) })
    }

    /// Carries the chain on over a frame that is written, of which the first 8 bytes and the page are given, and returns
    /// the checksum that belongs into its header.
    pub(crate) fn extend(&mut self, head: &[u8], page: &[u8]) -> [u8; 8] {
        let words = self.header.words;
        let [s0, s1] = words.checksum(words.checksum(self.checksum, &head[..8]), page);
        self.checksum = [s0, s1];
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&s0.to_be_bytes());
        bytes[4..].copy_from_slice(&s1.to_be_bytes());
        bytes
    }
}

/// The checksum that belongs into a header with little-endian words.
#[cfg(test)]
pub(crate) fn header_checksum(header: &[u8; HEADER_LEN]) -> [u8; 8] {
    let [s0, s1] = Words::LittleEndian.checksum([0, 0], &header[..24]);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&s0.to_be_bytes());
    bytes[4..].copy_from_slice(&s1.to_be_bytes());
    bytes
}

/// The size of a region of the wal-index in bytes, and of its header in words
/// (<https://www.sqlite.org/walformat.html#the_wal_index_file_format>).
pub(crate) const INDEX_REGION_LEN: usize = 32 << 10;
const INDEX_HEADER_WORDS: u32 = 34;

/// Frames whose page numbers stand in a region of the wal-index that has no header.
const INDEX_REGION_FRAMES: u32 = 4096;

/// The word in the header of the wal-index that says how many pages the last commit left.
pub(crate) const INDEX_PAGE_COUNT: usize = 5;

/// The word in it that says which frame ended the last commit, and the first of the two that hold the salts of the WAL.
pub(crate) const INDEX_LAST_FRAME: usize = 4;
pub(crate) const INDEX_SALTS: usize = 8;

/// The size of that header in bytes, of which there are two copies in a row.
pub(crate) const INDEX_HEADER_LEN: usize = 48;

/// The frame that ended the last commit, and the salts of its WAL, by both copies of the header of a wal-index. Nothing
/// while it is being written.
pub(crate) fn indexed(copies: &[u8; 2 * INDEX_HEADER_LEN]) -> Option<(u32, [u8; 8])> {
    let (first, second) = copies.split_at(INDEX_HEADER_LEN);
    let word = |at: usize| first[at * 4..].first_chunk().copied();
    // The byte says that it was written at all. Words are in the order of the machine, salts as they stand in the WAL.
    let is_there = first[12] != 0 && first == second;
    let last = word(INDEX_LAST_FRAME).filter(|_| is_there)?;
    let mut salts = [0; 8];
    salts.copy_from_slice(&first[INDEX_SALTS * 4..INDEX_SALTS * 4 + 8]);
    let last = if cfg!(target_endian = "big") { u32::from_be_bytes(last) } else { u32::from_le_bytes(last) };
    Some((last, salts))
}

/// What a wal-index says of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeenFrames {
    /// What is committed up to this frame was seen, and nothing behind it.
    UpTo(u32),
    /// Nothing: the index is of another log.
    Unknown,
}

/// How often SQLite may have been about to begin a log anew without that it was.
const RESTARTS_MAX: u32 = 1 << 24;

/// What a wal-index with these last frame and salts says of the log with the salts `log`.
///
/// SQLite counts the first half of the salts up, in the index first, where it begins a log anew. An index of no log or of an
/// unrelated one, which has no frames, says that nobody saw any commit of this one: whoever was to begin it was killed, or
/// failed, before the index knew.
pub(crate) fn seen_frames((last, salts): (u32, [u8; 8]), log: [u8; 8]) -> SeenFrames {
    let restarts = be32(&salts, 0).wrapping_sub(be32(&log, 0));
    let is_behind_log = salts != [0; 8] && (1..=RESTARTS_MAX).contains(&restarts);
    match last {
        _ if salts == log => SeenFrames::UpTo(last),
        0 if !is_behind_log => SeenFrames::UpTo(0),
        _ => SeenFrames::Unknown,
    }
}

/// Where in the wal-index the page number of a frame stands: the region, and the word in it.
pub(crate) fn index_slot(frame: u32) -> (usize, usize) {
    // In the first region the header takes the place of as many frames.
    let word = frame - 1 + INDEX_HEADER_WORDS;
    ((word / INDEX_REGION_FRAMES) as usize, (word % INDEX_REGION_FRAMES) as usize)
}

/// The page number and commit size in the header of a frame, unchecked.
pub(crate) fn frame_fields(header: &[u8]) -> Frame {
    Frame { page_number: be32(header, 0), commit: Some(be32(header, 4)).filter(|pages| *pages > 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    /// A WAL of three transactions, as SQLite wrote it.
    fn wal() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let connection = Connection::open(&path).unwrap();
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
        connection.execute_batch("CREATE TABLE t(a)").unwrap();
        connection.execute_batch("INSERT INTO t VALUES (randomblob(20000))").unwrap();
        connection.execute_batch("DELETE FROM t").unwrap();
        std::fs::read(dir.path().join("t.db-wal")).unwrap()
    }

    fn frames(wal: &[u8]) -> Vec<Frame> {
        let Some(header) = Header::parse(wal.first_chunk().unwrap()) else { return Vec::new() };
        let mut chain = header.chain();
        wal[HEADER_LEN..].chunks(header.frame_len()).map_while(|frame| chain.follow(frame)).collect()
    }

    #[test]
    fn every_frame_that_sqlite_wrote_is_followed() {
        let wal = wal();
        let frames = frames(&wal);
        assert_eq!(frames.len(), (wal.len() - HEADER_LEN) / (FRAME_HEADER_LEN + 4096));
        let commits: Vec<_> = frames.iter().filter_map(|frame| frame.commit).collect();
        assert_eq!(commits.len(), 3);
        assert_eq!(commits[0], 2);
        assert!(commits[1] > 2);
    }

    #[test]
    fn a_damaged_byte_ends_the_chain_where_it_stands() {
        let wal = wal();
        let whole = frames(&wal);
        let frame_len = FRAME_HEADER_LEN + 4096;
        for (at, kept) in
            [(HEADER_LEN + 2 * frame_len, 2), (HEADER_LEN + 3 * frame_len - 1, 2), (20, 0), (0, 0)]
        {
            let mut damaged = wal.clone();
            damaged[at] ^= 0x40;
            assert_eq!(frames(&damaged), whole[..kept], "byte {at}");
        }
        assert_eq!(frames(&wal[..wal.len() - 1]), whole[..whole.len() - 1]);
    }
}
