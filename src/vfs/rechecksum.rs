//! Frames whose salts and checksum SQLite leaves out and does not fill in.
//!
//! When SQLite overwrites a frame of its transaction, it leaves the salts and checksums of the frames that it appends from there
//! on empty, and fills them in at the commit, from the first overwritten frame on. SQLite 3.49.2 forgets a `ROLLBACK TO` in
//! between: once that has removed the overwritten frame, frames *before* it are appended without salts too, and the commit does
//! not fill them in. A recovery of the log ends at such a frame and loses the commit; an archived log ends there as well. The
//! bundled SQLite has no such fault. A host may link one that has.
//!
//! Such a frame is recognized by its number, which is not after an overwritten frame. The VFS fills in its salts and checksum.

use super::{
    error::VfsError,
    frame_offset::{FIRST_FRAME, FramePosition},
    frames::FrameHeader,
    raw_file::RawFile,
};
use crate::{
    units::WalChecksum,
    wal::{self, Chain, Header},
};

use rusqlite::ffi::SQLITE_OK;

/// The offset of the checksum in a frame header.
pub(super) const CHECKSUM_AT: usize = 16;

/// The overwritten and forgotten frames of one write transaction.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// The first frame that was overwritten.
    overwritten: Option<u32>,
    /// The frame that was appended last.
    last: Option<FramePosition>,
    /// Whether a checksum was filled in.
    has_filled_in: bool,
}

impl Forgotten {
    pub(super) fn overwrites(&mut self, frame: u32) {
        self.overwritten = Some(self.overwritten.map_or(frame, |first| first.min(frame)));
    }

    pub(super) fn appends(&mut self, frame: FramePosition) {
        self.last = Some(frame);
    }

    /// Whether this header of an appended frame lacks salts and a checksum that SQLite will not fill in.
    pub(super) fn is_forgotten(&self, frame: u32, head: &FrameHeader) -> bool {
        lacks_checksum(head) && self.overwritten.is_none_or(|first| first >= frame)
    }

    /// Fills in the salts and checksum of an appended frame of a plain WAL.
    #[cold]
    pub(super) fn fill_in(
        &mut self,
        position: FramePosition,
        head: &mut FrameHeader,
        page: &[u8],
        raw: &dyn RawFile,
    ) -> Result<(), VfsError> {
        let header = stored_header(raw)?.ok_or(VfsError::Layout)?;
        let mut chain = chain_before(header, position, raw)?;
        head[8..CHECKSUM_AT].copy_from_slice(&header.salts().bytes());
        let checksum = chain.extend(head, page);
        head[CHECKSUM_AT..].copy_from_slice(&checksum.to_bytes());
        self.has_filled_in = true;
        Ok(())
    }

    /// The frame whose checksum SQLite continues from when it reads that of `frame`, if that is another one.
    ///
    /// At the commit SQLite reads the checksum before the first overwritten frame. If all frames of the transaction precede that
    /// frame, the checksum belongs to a frame that was rolled back, and the transaction continues from its last frame.
    pub(super) fn continues_from(&self, frame: u32) -> Option<FramePosition> {
        self.last.filter(|last| self.has_filled_in && frame > last.number)
    }

    #[cfg(test)]
    pub(super) fn has_filled_in(&self) -> bool {
        self.has_filled_in
    }
}

/// Whether a frame header has no salts and no checksum yet.
pub(super) fn lacks_checksum(head: &FrameHeader) -> bool {
    head[8..] == [0; 16]
}

/// The header that is stored at the start of a WAL. `None` if SQLite would reject the header.
pub(super) fn stored_header(raw: &dyn RawFile) -> Result<Option<Header>, VfsError> {
    let mut bytes = [0; wal::HEADER_LEN];
    match raw.read(&mut bytes, 0) {
        SQLITE_OK => Ok(Header::parse(&bytes)),
        code => Err(VfsError::unreadable(code)),
    }
}

/// The running checksum before a frame, from what is stored.
pub(super) fn chain_before(
    header: Header,
    position: FramePosition,
    raw: &dyn RawFile,
) -> Result<Chain, VfsError> {
    if position.start == FIRST_FRAME {
        return Ok(header.chain());
    }
    let mut checksum = [0; 8];
    match raw.read(&mut checksum, position.start - header.frame_len() as u64 + CHECKSUM_AT as u64) {
        SQLITE_OK => Ok(header.chain_after(WalChecksum::from_bytes(checksum))),
        code => Err(VfsError::unreadable(code)),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::wal::FRAME_HEADER_LEN;
    use crate::{
        cipher::{Cipher, EncryptionKey, Nonces},
        page::{self, PageCodec, PageFormat, Seal},
        vfs::{NoPolicy, Sealing, connection::DbConnection, raw_file::memory::Memory, wal_file::WalFile},
        wal::{Chain, Header},
    };

    const PAGE: usize = 4096;
    const FRAME: u64 = (FRAME_HEADER_LEN + PAGE) as u64;

    fn frame_at(number: u32) -> u64 {
        wal::HEADER_LEN as u64 + u64::from(number - 1) * FRAME
    }

    /// A writer that does what SQLite 3.49.2 does, with its fault.
    struct Writer<'a> {
        wal: &'a WalFile,
        memory: &'a Memory,
        chain: Chain,
        header: Header,
        /// The first frame whose checksum is written at the commit, or 0.
        recount: u32,
        last: u32,
    }

    impl<'a> Writer<'a> {
        fn begin(wal: &'a WalFile, memory: &'a Memory) -> Self {
            let mut header = [0; wal::HEADER_LEN];
            header[..4].copy_from_slice(&0x377f_0682_u32.to_be_bytes());
            header[4..8].copy_from_slice(&3_007_000_u32.to_be_bytes());
            header[8..12].copy_from_slice(&4096_u32.to_be_bytes());
            header[16..24].copy_from_slice(b"saltsalt");
            let sum = wal::header_checksum(&header);
            header[24..].copy_from_slice(&sum.to_bytes());
            assert_eq!(wal.put(&header, 0, memory), Ok(SQLITE_OK));
            let header = Header::parse(&header).unwrap();
            Self { wal, memory, chain: header.chain(), header, recount: 0, last: 0 }
        }

        fn page(number: u32, word: u8) -> Vec<u8> {
            let mut page = if number == 1 { page::empty_database(48).to_vec() } else { vec![word; PAGE] };
            page[PAGE - 48..].fill(0);
            page
        }

        fn append(&mut self, number: u32, word: u8, commit: u32) {
            let page = Self::page(number, word);
            self.last += 1;
            let mut head = [0; FRAME_HEADER_LEN];
            head[..4].copy_from_slice(&number.to_be_bytes());
            head[4..8].copy_from_slice(&commit.to_be_bytes());
            if self.recount == 0 {
                head[8..16].copy_from_slice(&self.header.salts().bytes());
                let sum = self.chain.extend(&head, &page);
                head[16..].copy_from_slice(&sum.to_bytes());
            }
            let at = frame_at(self.last);
            assert_eq!(self.wal.put(&head, at, self.memory), Ok(SQLITE_OK));
            assert_eq!(self.wal.put(&page, at + FRAME_HEADER_LEN as u64, self.memory), Ok(SQLITE_OK));
        }

        fn overwrite(&mut self, frame: u32, number: u32, word: u8) {
            let at = frame_at(frame) + FRAME_HEADER_LEN as u64;
            assert_eq!(self.wal.put(&Self::page(number, word), at, self.memory), Ok(SQLITE_OK));
            self.recount = if self.recount == 0 { frame } else { self.recount.min(frame) };
        }

        /// `ROLLBACK TO` the state after this frame. The fault is that `recount` stays.
        fn undo_to(&mut self, frame: u32) {
            self.last = frame;
        }

        fn read(&self, into: &mut [u8], at: u64) {
            let code = self.memory.read(into, at);
            assert_eq!(self.wal.after_read(into, at, code, self.memory), Ok(SQLITE_OK));
        }

        fn commit(&mut self) {
            let Some(before) = self.recount.checked_sub(1) else { return };
            let mut sum = [0; 8];
            self.read(&mut sum, if before == 0 { 24 } else { frame_at(before) + 16 });
            self.chain = self.header.chain_after(WalChecksum::from_bytes(sum));
            for number in self.recount..=self.last {
                let mut frame = vec![0; FRAME_HEADER_LEN + PAGE];
                self.read(&mut frame, frame_at(number));
                let (head, page) = frame.split_at_mut(FRAME_HEADER_LEN);
                head[8..16].copy_from_slice(&self.header.salts().bytes());
                let sum = self.chain.extend(head, page);
                head[16..].copy_from_slice(&sum.to_bytes());
                assert_eq!(self.wal.put(head, frame_at(number), self.memory), Ok(SQLITE_OK));
            }
            self.recount = 0;
        }
    }

    /// The frames that a recovery of the stored log accepts.
    fn recovered(memory: &Memory) -> u32 {
        let bytes = memory.bytes();
        let mut chain = Header::parse(bytes.first_chunk().unwrap()).unwrap().chain();
        let frames = bytes[wal::HEADER_LEN..].chunks_exact(FRAME_HEADER_LEN + PAGE);
        u32::try_from(frames.map_while(|frame| chain.follow(frame)).count()).unwrap()
    }

    /// A WAL in a write transaction.
    fn wal(connection: DbConnection) -> WalFile {
        connection.writes_now();
        WalFile::new(Arc::new(connection))
    }

    fn plain() -> WalFile {
        wal(DbConnection::open(Path::new("/none"), None, &Memory::default()).unwrap())
    }

    fn sealed() -> WalFile {
        let key = EncryptionKey::generate(Cipher::Aegis256).unwrap();
        let seal = Seal::new(PageFormat::Native, Cipher::Aegis256, &key).unwrap();
        let codec = PageCodec::new(seal, 4096, &key).unwrap();
        let (mut page, plain) = (vec![0; PAGE], page::empty_database(48));
        codec.seal_page(1, &plain, &mut page, &mut Nonces::new().unwrap()).unwrap();
        let data = Memory::default();
        data.write(&page, 0);
        let source = NoPolicy::making(Some(Sealing::new(key, Cipher::Aegis256)));
        wal(DbConnection::open(Path::new("/none"), Some(Arc::new(source)), &data).unwrap())
    }

    /// A transaction whose pages spill, one of which is overwritten and then rolled back, and that ends with `appended` frames.
    /// Returns the number of frames that a recovery accepts.
    fn forgetful(wal: &WalFile, appended: u32) -> u32 {
        let memory = Memory::default();
        let mut writer = Writer::begin(wal, &memory);
        for number in 1..=3 {
            writer.append(number, b'a', 0);
        }
        for number in 4..=8 {
            writer.append(number, b'b', 0);
        }
        writer.overwrite(6, 6, b'c');
        writer.undo_to(3);
        for number in 1..=appended {
            writer.append(number + 20, b'd', if number == appended { 30 } else { 0 });
        }
        writer.commit();
        // The next transaction continues the chain.
        writer.append(40, b'e', 40);
        assert_eq!(writer.last, 3 + appended + 1);
        recovered(&memory)
    }

    #[test]
    fn checksums_that_sqlite_forgets_after_rollback_to_are_filled_in() {
        for wal in [plain, sealed] {
            // The transaction ends before the overwritten frame, at it, and after it.
            for appended in 1..=5 {
                assert_eq!(forgetful(&wal(), appended), 3 + appended + 1, "{appended}");
            }
        }
    }

    #[test]
    fn checksums_that_the_commit_fills_in_are_left_to_it() {
        for wal in [plain(), sealed()] {
            let memory = Memory::default();
            let mut writer = Writer::begin(&wal, &memory);
            (1..=4).for_each(|number| writer.append(number, b'a', 0));
            writer.overwrite(3, 3, b'b');
            writer.append(5, b'c', 5);
            assert_eq!(memory.bytes()[usize::try_from(frame_at(5)).unwrap() + 8..][..16], [0; 16]);
            writer.commit();
            assert_eq!(recovered(&memory), 5);
            assert!(!wal.has_filled_in());
        }
    }
}
