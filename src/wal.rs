//! SQLite's write-ahead log: its header, its chain of frames, the commits in it, and the wal-index.
//!
//! Offsets and checksums are those of <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

mod sums;

use crate::{
    page::be32,
    units::{FrameNumber, PageCount, PageNumber, Salts, WalChecksum},
};

/// The size of the header at the start of a WAL.
pub(crate) const HEADER_LEN: usize = 32;

/// The size of the header before each page of a WAL.
pub(crate) const FRAME_HEADER_LEN: usize = 24;

/// The offset of the running checksum in the header of a frame.
const CHECKSUM_AT: usize = 16;

const MAGIC: u32 = 0x377f_0682;
const FORMAT_VERSION: u32 = 3_007_000;

/// The header of a WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    page_size: u32,
    salts: Salts,
    words: Words,
    checksum: WalChecksum,
}

/// The byte order in which checksums read their input, given by the magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    LittleEndian,
    BigEndian,
}

impl Words {
    /// The byte order of this machine, in which SQLite computes the checksum of the wal-index header.
    const NATIVE: Self = if cfg!(target_endian = "big") { Self::BigEndian } else { Self::LittleEndian };

    /// Continues a checksum over `bytes`, whose length is a multiple of 8.
    fn checksum(self, checksum: WalChecksum, bytes: &[u8]) -> WalChecksum {
        let (words, _) = bytes.as_chunks();
        let (steps, _) = words.as_chunks();
        WalChecksum::new(match self {
            Self::LittleEndian => sums::continued(checksum.words(), steps, u32::from_le_bytes),
            Self::BigEndian => sums::continued(checksum.words(), steps, u32::from_be_bytes),
        })
    }

    fn read(self, word: [u8; 4]) -> u32 {
        match self {
            Self::LittleEndian => u32::from_le_bytes(word),
            Self::BigEndian => u32::from_be_bytes(word),
        }
    }
}

/// The format version of a header that is valid except for its version. SQLite refuses to open such a database.
///
/// Returns `None` for the version that SQLite reads, and for an invalid header, with which SQLite ignores the WAL.
pub(crate) fn unknown_version(header: &[u8; HEADER_LEN]) -> Option<u32> {
    let version = be32(header, 4);
    (version != FORMAT_VERSION && Header::parse_any(header).is_some()).then_some(version)
}

impl Header {
    /// Reads a header. Returns `None` if SQLite would not accept it.
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
        let checksum = words.checksum(WalChecksum::ZERO, &bytes[..24]);
        let valid = page_size.is_power_of_two()
            && (512..=65_536).contains(&page_size)
            && checksum == WalChecksum::new([be32(bytes, 24), be32(bytes, 28)]);
        let mut salts = [0; 8];
        salts.copy_from_slice(&bytes[16..24]);
        valid.then_some(Self { page_size, salts: Salts::new(salts), words, checksum })
    }

    /// The header of a new WAL.
    pub(crate) fn new(page_size: u32, salts: Salts) -> Self {
        let mut header = Self { page_size, salts, words: Words::LittleEndian, checksum: WalChecksum::ZERO };
        header.checksum = Words::LittleEndian.checksum(WalChecksum::ZERO, &header.bytes()[..24]);
        header
    }

    /// The header as a WAL stores it, with 0 as the number of checkpoints.
    pub(crate) fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let magic = if self.words == Words::LittleEndian { MAGIC } else { MAGIC | 1 };
        bytes[..4].copy_from_slice(&magic.to_be_bytes());
        bytes[4..8].copy_from_slice(&FORMAT_VERSION.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.salts.bytes());
        bytes[24..].copy_from_slice(&self.checksum.to_bytes());
        bytes
    }

    /// The size of a page in bytes.
    pub(crate) fn page_size(&self) -> u32 {
        self.page_size
    }

    pub(crate) fn salts(&self) -> Salts {
        self.salts
    }

    /// The size of a frame: its header and its page.
    pub(crate) fn frame_len(&self) -> usize {
        FRAME_HEADER_LEN + self.page_size as usize
    }

    /// The chain before the first frame.
    pub(crate) fn chain(self) -> Chain {
        Chain { checksum: self.checksum, header: self }
    }

    /// The chain after a frame with this checksum in its header.
    pub(crate) fn chain_after(self, checksum: WalChecksum) -> Chain {
        Chain { checksum, header: self }
    }

    /// Whether the header of a frame has the salts of this WAL.
    pub(crate) fn has_salts(&self, frame: &[u8]) -> bool {
        frame[8..CHECKSUM_AT] == self.salts.bytes()
    }
}

/// The fields of a frame header that describe its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) page_number: PageNumber,
    /// The size of the database after the commit if this frame ends a transaction.
    pub(crate) commit: Option<PageCount>,
}

impl Frame {
    /// Reads the header of a frame without checking it. Returns `None` if the page number is 0.
    pub(crate) fn parse(header: &[u8]) -> Option<Self> {
        PageNumber::new(be32(header, 0)).map(|page_number| Self { page_number, commit: commit_size(header) })
    }
}

/// The size of the database after the commit if the frame with this header ends a transaction.
pub(crate) fn commit_size(header: &[u8]) -> Option<PageCount> {
    Some(PageCount::new(be32(header, 4))).filter(|pages| *pages > PageCount::ZERO)
}

/// The running checksum in the header of a frame.
pub(crate) fn checksum_in(header: &[u8]) -> WalChecksum {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[CHECKSUM_AT..FRAME_HEADER_LEN]);
    WalChecksum::from_bytes(bytes)
}

/// Follows the frames of a WAL one by one, as SQLite's recovery does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    header: Header,
    checksum: WalChecksum,
}

impl Chain {
    /// Checks the next frame. Returns `None` if the WAL ends before it: the frame is short, torn or of an older generation.
    pub(crate) fn follow(&mut self, frame: &[u8]) -> Option<Frame> {
        if frame.len() != self.header.frame_len() || !self.header.has_salts(frame) {
            return None;
        }
        let parsed = Frame::parse(frame)?;
        let (head, page) = frame.split_at(FRAME_HEADER_LEN);
        let checksum = self.continued(head, page);
        if checksum != checksum_in(head) {
            return None;
        }
        self.checksum = checksum;
        Some(parsed)
    }

    /// Appends a frame, of which `head` has at least the first 8 bytes, and returns the checksum for its header.
    pub(crate) fn extend(&mut self, head: &[u8], page: &[u8]) -> WalChecksum {
        self.checksum = self.continued(head, page);
        self.checksum
    }

    /// Appends a frame and returns its header.
    pub(crate) fn append(&mut self, frame: Frame, page: &[u8]) -> [u8; FRAME_HEADER_LEN] {
        let mut head = [0; FRAME_HEADER_LEN];
        head[..4].copy_from_slice(&frame.page_number.get().to_be_bytes());
        head[4..8].copy_from_slice(&frame.commit.map_or(0, PageCount::get).to_be_bytes());
        head[8..CHECKSUM_AT].copy_from_slice(&self.header.salts.bytes());
        let checksum = self.extend(&head, page);
        head[CHECKSUM_AT..].copy_from_slice(&checksum.to_bytes());
        head
    }

    fn continued(&self, head: &[u8], page: &[u8]) -> WalChecksum {
        let words = self.header.words;
        words.checksum(words.checksum(self.checksum, &head[..8]), page)
    }
}

/// The length of a WAL up to and including the frame `last`.
pub(crate) fn len_up_to(last: Option<FrameNumber>, page_size: u32) -> u64 {
    let frame_len = FRAME_HEADER_LEN as u64 + u64::from(page_size);
    HEADER_LEN as u64 + u64::from(FrameNumber::count(last)) * frame_len
}

/// The offset of a frame in a WAL.
pub(crate) fn frame_offset(frame: FrameNumber, page_size: u32) -> u64 {
    len_up_to(FrameNumber::new(frame.get() - 1), page_size)
}

/// The offset of a frame's page in a WAL.
pub(crate) fn page_offset(frame: FrameNumber, page_size: u32) -> u64 {
    frame_offset(frame, page_size) + FRAME_HEADER_LEN as u64
}

/// The checksum of a WAL header with little-endian words.
#[cfg(test)]
pub(crate) fn header_checksum(header: &[u8; HEADER_LEN]) -> WalChecksum {
    Words::LittleEndian.checksum(WalChecksum::ZERO, &header[..24])
}

/// The size of a region of the wal-index in bytes, and the size in words of the header in the first region
/// (<https://www.sqlite.org/walformat.html#the_wal_index_file_format>).
pub(crate) const INDEX_REGION_LEN: usize = 32 << 10;
const INDEX_HEADER_WORDS: u32 = 34;

/// The number of page numbers in every region of the wal-index but the first, which also has the header.
const INDEX_REGION_FRAMES: u32 = 4096;

/// The word in the header of the wal-index with the size of the database after the last commit.
pub(crate) const INDEX_PAGE_COUNT: usize = 5;

/// The word in the header of the wal-index with the last committed frame, and the first of the two words with the salts.
pub(crate) const INDEX_LAST_FRAME: usize = 4;
pub(crate) const INDEX_SALTS: usize = 8;

/// The first of the two words in the header of the wal-index with the running checksum of the last committed frame.
pub(crate) const INDEX_FRAME_CHECKSUM: usize = 6;

/// The first of the two words in the header of the wal-index with the checksum of the words before it.
const INDEX_CHECKSUM: usize = 10;

/// The size in bytes of one of the two copies of the wal-index header.
pub(crate) const INDEX_HEADER_LEN: usize = 48;

/// The last commit according to a wal-index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastCommit {
    /// The last committed frame, or `None` if the WAL has no commits.
    pub(crate) frame: Option<FrameNumber>,
    /// The salts of the WAL.
    pub(crate) salts: Salts,
    /// The running checksum of that frame as SQLite computed it, which is not the stored one in an encrypted WAL.
    pub(crate) checksum: WalChecksum,
}

impl LastCommit {
    /// The last commit according to words of a wal-index header: the last frame, or 0, its checksum and the salts.
    pub(crate) fn new(frame: u32, checksum: [u32; 2], salts: [u8; 8]) -> Self {
        let checksum = WalChecksum::new(checksum);
        Self { frame: FrameNumber::new(frame), salts: Salts::new(salts), checksum }
    }
}

/// Reads the last commit from both copies of a wal-index header. Returns `None` if SQLite would not accept the header: it is not
/// initialized, is being written, or its checksum does not match.
pub(crate) fn last_commit(copies: &[u8; 2 * INDEX_HEADER_LEN]) -> Option<LastCommit> {
    let (first, second) = copies.split_at(INDEX_HEADER_LEN);
    // Words are in native byte order, salts in the byte order of the WAL.
    let word = |at: usize| Some(Words::NATIVE.read(*first[at * 4..].first_chunk()?));
    let checksum = WalChecksum::new([word(INDEX_CHECKSUM)?, word(INDEX_CHECKSUM + 1)?]);
    // The byte `isInit` is nonzero once the header is initialized.
    let is_valid = first[12] != 0
        && first == second
        && Words::NATIVE.checksum(WalChecksum::ZERO, &first[..INDEX_CHECKSUM * 4]) == checksum;
    let frame = word(INDEX_LAST_FRAME).filter(|_| is_valid)?;
    let frame_checksum = [word(INDEX_FRAME_CHECKSUM)?, word(INDEX_FRAME_CHECKSUM + 1)?];
    let mut salts = [0; 8];
    salts.copy_from_slice(&first[INDEX_SALTS * 4..INDEX_SALTS * 4 + 8]);
    Some(LastCommit::new(frame, frame_checksum, salts))
}

/// How much of a WAL is committed according to a wal-index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeenFrames {
    /// The frames up to this one are committed; no commit after it is visible.
    UpTo(Option<FrameNumber>),
    /// The wal-index belongs to another WAL.
    Unknown,
}

/// Maximum number of WAL restarts that began but did not complete.
const RESTARTS_MAX: u32 = 1 << 24;

/// How much of the WAL with the salts `log` is committed according to a wal-index with this last commit.
///
/// When SQLite restarts a WAL, it increments the first salt, first in the wal-index and then in the WAL. If a wal-index has no
/// frames and the salts of no WAL or of an unrelated WAL, no commit of this WAL was ever visible: the process that restarted the
/// WAL failed before it updated the wal-index.
pub(crate) fn seen_frames(last: LastCommit, log: Salts) -> SeenFrames {
    let restarts = last.salts.counter().wrapping_sub(log.counter());
    let is_ahead = last.salts != Salts::ZERO && (1..=RESTARTS_MAX).contains(&restarts);
    match last.frame {
        frame if last.salts == log => SeenFrames::UpTo(frame),
        None if !is_ahead => SeenFrames::UpTo(None),
        _ => SeenFrames::Unknown,
    }
}

/// The region of the wal-index that has the page number of a frame, and the word in that region.
pub(crate) fn index_slot(frame: u32) -> (usize, usize) {
    // In the first region, the header takes the place of page numbers.
    let word = frame - 1 + INDEX_HEADER_WORDS;
    ((word / INDEX_REGION_FRAMES) as usize, (word % INDEX_REGION_FRAMES) as usize)
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
    fn chain_follows_every_frame_that_sqlite_wrote() {
        let wal = wal();
        let frames = frames(&wal);
        assert_eq!(frames.len(), (wal.len() - HEADER_LEN) / (FRAME_HEADER_LEN + 4096));
        let commits: Vec<_> = frames.iter().filter_map(|frame| frame.commit).collect();
        assert_eq!(commits.len(), 3);
        assert_eq!(commits[0], PageCount::new(2));
        assert!(commits[1] > PageCount::new(2));
    }

    #[test]
    fn last_commit_is_read_from_valid_wal_index_header_only() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("t.db")).unwrap();
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
        connection.execute_batch("CREATE TABLE t(a)").unwrap();
        let wal = std::fs::read(dir.path().join("t.db-wal")).unwrap();
        let salts = Header::parse(wal.first_chunk().unwrap()).unwrap().salts();
        let shm = std::fs::read(dir.path().join("t.db-shm")).unwrap();
        let copies: [u8; 2 * INDEX_HEADER_LEN] = *shm.first_chunk().unwrap();
        let checksum = checksum_in(&wal[HEADER_LEN + FRAME_HEADER_LEN + 4096..]);
        assert_eq!(last_commit(&copies), Some(LastCommit { frame: FrameNumber::new(2), salts, checksum }));
        for at in 0..INDEX_HEADER_LEN {
            let mut damaged = copies;
            damaged[at] ^= 0x40;
            assert_eq!(last_commit(&damaged), None, "byte {at} of one copy");
            damaged[INDEX_HEADER_LEN + at] ^= 0x40;
            assert_eq!(last_commit(&damaged), None, "byte {at} of both copies");
        }
    }

    #[test]
    fn chain_ends_at_damaged_byte() {
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
