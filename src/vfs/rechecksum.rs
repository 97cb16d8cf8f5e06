//! Frames whose salts and checksum SQLite forgets.
//!
//! Where SQLite writes over a frame of its own transaction, the checksums of that frame and all that follow change. Until the
//! commit it leaves the salts and checksums of the frames that it appends empty, and then counts all frames from the first
//! overwritten one on. SQLite 3.49.2 forgets a `ROLLBACK TO` in between: once that has taken the overwritten frame away, frames
//! before it are appended without salts, and the commit does not count them. It is lost when the log is recovered, as is all
//! that follows, and an archived log ends there. The SQLite that is built in has no such fault; a host may link one that has.
//!
//! Such a frame is told by its number, which is not behind an overwritten one. It gets its salts and checksum here, and the log
//! is then what SQLite meant to write.

use std::{
    ffi::c_int,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rusqlite::ffi::SQLITE_OK;

use super::{
    VfsError,
    raw_file::RawFile,
    wal::{Place, Wal, stored_header},
};
use crate::{
    units::WalChecksum,
    wal::{self, FRAME_HEADER_LEN},
};

type FrameHeader = [u8; FRAME_HEADER_LEN];

/// Where the checksum stands in the header of a frame.
const CHECKSUM_AT: usize = 16;

/// What is known of the frames of one write transaction.
#[derive(Debug, Default)]
pub(super) struct Rechecksum {
    state: Mutex<State>,
    /// Whether a frame was counted here in this transaction.
    has_counted: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    transaction: u64,
    /// The first frame that was written over.
    overwritten: Option<u32>,
    /// The frame whose header was written last, and the header if SQLite forgot to count it.
    header: Option<(u32, Option<FrameHeader>)>,
    /// The frame that was appended last.
    last: Option<u32>,
}

impl Rechecksum {
    fn state(&self, transaction: u64) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.transaction != transaction {
            *state = State { transaction, ..State::default() };
            self.has_counted.store(false, Relaxed);
        }
        state
    }

    /// The page of this frame is written again, in place.
    pub(super) fn overwrites(&self, transaction: u64, frame: u32) {
        let mut state = self.state(transaction);
        state.overwritten = Some(state.overwritten.map_or(frame, |first| first.min(frame)));
    }

    /// Whether this header of a frame lacks salts and a checksum that the commit will not fill in.
    pub(super) fn is_forgotten(&self, transaction: u64, frame: u32, head: &[u8]) -> bool {
        let is_empty = head[8..] == [0; FRAME_HEADER_LEN - 8];
        is_empty && self.state(transaction).overwritten.is_none_or(|first| first >= frame)
    }
}

/// The first SQLite that is known to have no such fault: the one that is built in.
const REPAIRED: c_int = 3_054_001;

/// Whether the SQLite that is linked may have the fault.
fn is_needed() -> bool {
    cfg!(test) || rusqlite::version_number() < REPAIRED
}

impl Wal {
    /// Whether frames of a plain log were counted here, so that its reads are to be looked at.
    pub(super) fn is_recounted(&self) -> bool {
        self.recount.has_counted.load(Relaxed)
    }

    /// Writes to a plain log what SQLite gives to be written.
    pub(super) fn write_plain(
        &self,
        bytes: &[u8],
        at: u64,
        beneath: &impl RawFile,
    ) -> Result<c_int, VfsError> {
        if !is_needed() {
            return Ok(beneath.write(bytes, at));
        }
        let page_size = self.page_size(beneath).map_or(0, |size| size as usize);
        let place = Place::of(at, page_size).filter(|_| page_size > 0);
        let transaction = self.database.transactions();
        match place {
            Some(Place { inside: 0, number, .. }) if bytes.len() == FRAME_HEADER_LEN => {
                let forgotten = self.recount.is_forgotten(transaction, number, bytes);
                let head = bytes.first_chunk().copied().filter(|_| forgotten);
                self.recount.state(transaction).header = Some((number, head));
            }
            Some(place) if place.inside == FRAME_HEADER_LEN && bytes.len() == page_size => {
                let header = self.recount.state(transaction).header.take();
                match header.filter(|(number, _)| *number == place.number) {
                    None => self.recount.overwrites(transaction, place.number),
                    Some((number, head)) => {
                        self.recount.state(transaction).last = Some(number);
                        if let Some(head) = head {
                            return self.count(head, bytes, &place, beneath);
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(beneath.write(bytes, at))
    }

    /// Writes the page of a frame, and then its header with salts and checksum. SQLite has written it without them.
    #[cold]
    fn count(
        &self,
        mut head: FrameHeader,
        page: &[u8],
        place: &Place,
        beneath: &impl RawFile,
    ) -> Result<c_int, VfsError> {
        let header = stored_header(beneath)?.ok_or(VfsError::Layout)?;
        let mut chain = header.chain();
        if place.number > 1 {
            let mut checksum = [0; 8];
            let before = place.frame - header.frame_len() as u64;
            match beneath.read(&mut checksum, before + CHECKSUM_AT as u64) {
                SQLITE_OK => chain = header.chain_after(WalChecksum::from_bytes(checksum)),
                code => return Err(VfsError::unreadable(code)),
            }
        }
        head[8..CHECKSUM_AT].copy_from_slice(&header.salts().bytes());
        let checksum = chain.extend(&head, page);
        head[CHECKSUM_AT..].copy_from_slice(&checksum.to_bytes());
        self.recount.has_counted.store(true, Relaxed);
        match beneath.write(page, place.frame + FRAME_HEADER_LEN as u64) {
            SQLITE_OK => Ok(beneath.write(&head, place.frame)),
            code => Ok(code),
        }
    }

    /// Turns what was read at `at` of a plain log into what SQLite is handed.
    ///
    /// At the commit SQLite reads the checksum that it continues from. If all frames of the transaction precede the one that
    /// was overwritten, that checksum is of a frame that was rolled back. The last frame's is returned instead.
    pub(super) fn after_plain_read(
        &self,
        bytes: &mut [u8],
        at: u64,
        code: c_int,
        beneath: &impl RawFile,
    ) -> c_int {
        if !is_needed() {
            return code;
        }
        let page_size = self.page_size(beneath).map_or(0, |size| size as usize);
        let place = Place::of(at, page_size).filter(|place| page_size > 0 && place.inside == CHECKSUM_AT);
        let last = self.recount.state(self.database.transactions()).last;
        let (Some(place), Some(last), 8) = (place, last, bytes.len()) else { return code };
        if !self.is_recounted() || place.number <= last {
            return code;
        }
        let frame_len = (FRAME_HEADER_LEN + page_size) as u64;
        let frame = wal::HEADER_LEN as u64 + u64::from(last - 1) * frame_len;
        beneath.read(bytes, frame + CHECKSUM_AT as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::{
        cipher::{Cipher, EncryptionKey, Nonces},
        page::{self, PageCodec, PageFormat, Seal},
        units::WalChecksum,
        vfs::{NoPolicy, Sealing, database::Database, raw_file::memory::Memory},
        wal::{Chain, Header},
    };

    const PAGE: usize = 4096;
    const FRAME: u64 = (FRAME_HEADER_LEN + PAGE) as u64;

    fn frame_at(number: u32) -> u64 {
        wal::HEADER_LEN as u64 + u64::from(number - 1) * FRAME
    }

    /// SQLite's writer of a log, with the fault of 3.49.2.
    struct Writer<'a> {
        wal: &'a Wal,
        memory: &'a Memory,
        chain: Chain,
        header: Header,
        /// The first frame to be counted at the commit, or 0.
        recount: u32,
        last: u32,
    }

    impl<'a> Writer<'a> {
        fn begin(wal: &'a Wal, memory: &'a Memory) -> Self {
            let mut header = [0; wal::HEADER_LEN];
            header[..4].copy_from_slice(&0x377f_0682_u32.to_be_bytes());
            header[4..8].copy_from_slice(&3_007_000_u32.to_be_bytes());
            header[8..12].copy_from_slice(&4096_u32.to_be_bytes());
            header[16..24].copy_from_slice(b"saltsalt");
            let sum = wal::header_checksum(&header);
            header[24..].copy_from_slice(&sum.to_bytes());
            assert_eq!(wal.write(&header, 0, memory), Ok(SQLITE_OK));
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
            assert_eq!(self.wal.write(&head, at, self.memory), Ok(SQLITE_OK));
            assert_eq!(self.wal.write(&page, at + FRAME_HEADER_LEN as u64, self.memory), Ok(SQLITE_OK));
        }

        fn overwrite(&mut self, frame: u32, number: u32, word: u8) {
            let at = frame_at(frame) + FRAME_HEADER_LEN as u64;
            assert_eq!(self.wal.write(&Self::page(number, word), at, self.memory), Ok(SQLITE_OK));
            self.recount = if self.recount == 0 { frame } else { self.recount.min(frame) };
        }

        /// `ROLLBACK TO` what the log was after this frame. The fault is that `recount` stays.
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
                assert_eq!(self.wal.write(head, frame_at(number), self.memory), Ok(SQLITE_OK));
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

    fn plain() -> Wal {
        let data = Memory::default();
        Wal::new(Arc::new(Database::open(Path::new("/none"), None, &data).unwrap()))
    }

    fn sealed() -> Wal {
        let key = EncryptionKey::generate(Cipher::Aegis256).unwrap();
        let seal = Seal::new(PageFormat::Native, Cipher::Aegis256, &key).unwrap();
        let codec = PageCodec::new(seal, 4096, &key).unwrap();
        let (mut page, plain) = (vec![0; PAGE], page::empty_database(48));
        codec.seal_page(1, &plain, &mut page, &mut Nonces::new().unwrap()).unwrap();
        let data = Memory::default();
        data.write(&page, 0);
        let governor = NoPolicy::making(Some(Sealing::new(key, Cipher::Aegis256)));
        let database = Database::open(Path::new("/none"), Some(Arc::new(governor)), &data).unwrap();
        // In a write transaction SQLite reads whole frames to count them again.
        database.writes_now();
        Wal::new(Arc::new(database))
    }

    /// A transaction whose pages spill, one of which is written over and then rolled back, and that ends with so many frames.
    fn forgetful(wal: &Wal, appended: u32) -> u32 {
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
        // What the next transaction appends goes on from there.
        writer.append(40, b'e', 40);
        assert_eq!(writer.last, 3 + appended + 1);
        recovered(&memory)
    }

    #[test]
    fn frames_that_sqlite_forgets_after_a_rollback_to_are_counted() {
        for wal in [plain, sealed] {
            // Before the frame that was written over, up to it, and beyond.
            for appended in 1..=5 {
                assert_eq!(forgetful(&wal(), appended), 3 + appended + 1, "{appended}");
            }
        }
    }

    #[test]
    fn frames_that_the_commit_counts_are_left_to_it() {
        for wal in [plain(), sealed()] {
            let memory = Memory::default();
            let mut writer = Writer::begin(&wal, &memory);
            (1..=4).for_each(|number| writer.append(number, b'a', 0));
            writer.overwrite(3, 3, b'b');
            writer.append(5, b'c', 5);
            assert_eq!(memory.bytes()[usize::try_from(frame_at(5)).unwrap() + 8..][..16], [0; 16]);
            writer.commit();
            assert_eq!(recovered(&memory), 5);
            assert!(!wal.is_recounted());
        }
    }
}
