//! The WAL of a database: where it grows, and what stands there when it is sealed.
//!
//! On the disk the WAL of a sealed database is a valid SQLite WAL over ciphertext. SQLite counts its checksums over
//! plaintext, which they would give away; so what it writes there is left out, and the running checksum of what is
//! stored takes its place. When SQLite recovers a WAL, it is handed each frame whose stored checksum and tag are right with
//! a checksum that is right for what it is handed.

use std::{
    ffi::c_int,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use rusqlite::ffi::SQLITE_OK;

use super::{
    VfsError,
    capture::commits::Commits,
    database::Database,
    raw_file::{Buffer, RawFile},
    rechecksum::Rechecksum,
    sealed::Sealed,
};
use crate::{
    disk::Disk,
    page::{self, PageCodec},
    units::WalChecksum,
    wal::{self, Chain, FRAME_HEADER_LEN, Frame, Header},
};

/// The size of the WAL's header, as an offset.
const FIRST_FRAME: u64 = wal::HEADER_LEN as u64;

/// Where in the buffer a frame begins, so that its page begins where cache lines do.
const FRAME_START: usize = 64 - FRAME_HEADER_LEN;

type FrameHeader = [u8; FRAME_HEADER_LEN];

#[derive(Debug)]
pub(super) struct Wal {
    pub(super) database: Arc<Database>,
    /// 0 until a header was seen.
    page_size: AtomicU32,
    state: Mutex<State>,
    pub(super) recount: Rechecksum,
    pub(super) stamping: Commits,
}

/// What is known of a sealed WAL within one write transaction, in which nobody else writes to it; or within one
/// recovery. The header is known for longer.
#[derive(Debug, Default)]
struct State {
    /// The write transaction that the rest is known of.
    transaction: u64,
    header: Option<Header>,
    /// A frame's header that SQLite has written, and whose page is to follow.
    pending: Option<(u64, FrameHeader)>,
    /// The place of a frame whose stored checksum is right, and the chain after it.
    last: Option<(u64, Chain)>,
    /// The frame that SQLite has read whole: in a write transaction it does so to count its checksum again.
    whole_read: Option<u64>,
    /// The frame whose header alone was written last, with its checksum.
    rewritten: Option<(u64, FrameHeader)>,
    recovery: Option<Recovery>,
    frame: Buffer,
}

/// How far SQLite has read through the log to find what is committed in it.
#[derive(Debug)]
struct Recovery {
    next: u64,
    /// The chain over what is stored.
    stored: Chain,
    /// The chain over what SQLite is handed.
    handed: Chain,
}

/// What lies at an offset of a WAL.
pub(super) struct Place {
    /// Where the frame begins.
    pub(super) frame: u64,
    /// Its number, from 1.
    pub(super) number: u32,
    /// The offset within the frame.
    pub(super) inside: usize,
}

impl Place {
    pub(super) fn of(at: u64, page_size: usize) -> Option<Self> {
        let frame_len = (FRAME_HEADER_LEN + page_size) as u64;
        let from_first = at.checked_sub(FIRST_FRAME)?;
        let inside = from_first % frame_len;
        Some(Self {
            frame: at - inside,
            number: u32::try_from(from_first / frame_len + 1).ok()?,
            inside: usize::try_from(inside).ok()?,
        })
    }
}

impl Wal {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self {
            database,
            page_size: AtomicU32::new(0),
            state: Mutex::default(),
            recount: Rechecksum::default(),
            stamping: Commits::default(),
        }
    }

    pub(super) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Writes what SQLite gives to be written.
    pub(super) fn write(&self, bytes: &[u8], at: u64, beneath: &impl RawFile) -> Result<c_int, VfsError> {
        self.admit(bytes, at, beneath)?;
        self.capture(bytes, at, beneath)?;
        let Some(sealed) = self.database.sealed() else {
            self.stamp(bytes, at)?;
            return self.write_plain(bytes, at, beneath);
        };
        let codec = sealed.codec().ok_or(VfsError::Layout)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let transaction = self.database.transactions();
        if state.transaction != transaction {
            // The header is told by its salts to be the one that is known.
            let (header, frame) = (state.header, std::mem::take(&mut state.frame));
            *state = State { transaction, header, frame, ..State::default() };
        }
        if at == 0 && bytes.len() == wal::HEADER_LEN {
            let header = bytes.first_chunk().and_then(Header::parse);
            let header = header.filter(|header| header.page_size() as usize == codec.page_size());
            *state =
                State { transaction, header, frame: std::mem::take(&mut state.frame), ..State::default() };
            return header.map_or(Err(VfsError::Layout), |_| Ok(beneath.write(bytes, at)));
        }
        let place = Place::of(at, codec.page_size()).ok_or(VfsError::Layout)?;
        let pending = state.pending.take();
        let rewritten = state.rewritten.take();
        match (place.inside, bytes.len()) {
            (0, FRAME_HEADER_LEN) => {
                let mut head = *bytes.first_chunk().ok_or(VfsError::Layout)?;
                if state.whole_read.take() == Some(at) {
                    return state.rewrite(codec, sealed, at, head, beneath);
                }
                if self.recount.is_forgotten(transaction, place.number, &head) {
                    head[8..16]
                        .copy_from_slice(&stored_header(beneath)?.ok_or(VfsError::Layout)?.salts().bytes());
                }
                state.pending = Some((at, head));
                Ok(SQLITE_OK)
            }
            (FRAME_HEADER_LEN, len) if len == codec.page_size() => {
                // A header that was taken for a rewritten one is that of an append, if its page follows.
                match pending.or(rewritten) {
                    Some((frame, head)) if frame == place.frame => {
                        state.append(codec, sealed, (frame, head), bytes, beneath, |page, at| {
                            self.stamp(page, at)
                        })
                    }
                    _ => {
                        self.recount.overwrites(transaction, place.number);
                        self.overwrite(state, codec, sealed, &place, bytes, beneath)
                    }
                }
            }
            _ => Err(VfsError::Layout),
        }
    }

    /// Turns what was read at `at` into what SQLite is handed.
    pub(super) fn after_read(
        &self,
        bytes: &mut [u8],
        at: u64,
        code: c_int,
        beneath: &impl RawFile,
    ) -> Result<c_int, VfsError> {
        let Some(sealed) = self.database.sealed() else {
            return Ok(self.after_plain_read(bytes, at, code, beneath));
        };
        let end = at + bytes.len() as u64;
        if end <= FIRST_FRAME {
            return Ok(code);
        }
        // SQLite reads the log in the layout that the log itself says, or the index of it.
        let unfit = || sealed.unfit("-wal", "its pages have another size than the database's");
        let turned = sealed.codec().ok_or_else(unfit).and_then(|codec| {
            let place = Place::of(at, codec.page_size()).ok_or_else(unfit)?;
            let frame_len = FRAME_HEADER_LEN + codec.page_size();
            match (place.inside, bytes.len()) {
                (FRAME_HEADER_LEN, len) if len == codec.page_size() => {
                    if code == SQLITE_OK {
                        let number = self.page_number(&place, beneath)?;
                        if self.database.is_checkpointing() {
                            sealed.begin_move(number, bytes);
                        }
                        sealed.open_page(codec, number, bytes, "-wal")?;
                    } else {
                        bytes.fill(0);
                    }
                    Ok(code)
                }
                (0, len) if len == frame_len => match code {
                    SQLITE_OK => self.whole_frame(codec, sealed, bytes, at, beneath),
                    code => {
                        bytes.fill(0);
                        Ok(code)
                    }
                },
                (inside, len) if inside + len <= FRAME_HEADER_LEN => Ok(code),
                _ => Err(unfit()),
            }
        });
        if turned.is_err() {
            sealed.end_move();
            bytes.fill(0);
        }
        turned
    }

    /// A frame that was read whole: by a writer that counts its checksum again, or by a recovery.
    fn whole_frame(
        &self,
        codec: &PageCodec,
        sealed: &Sealed,
        bytes: &mut [u8],
        at: u64,
        beneath: &impl RawFile,
    ) -> Result<c_int, VfsError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.database.is_writing() {
            state.whole_read = Some(at);
            let (head, page) = bytes.split_at_mut(FRAME_HEADER_LEN);
            return sealed.open_page(codec, page::be32(head, 0), page, "-wal").map(|()| SQLITE_OK);
        }
        if at == FIRST_FRAME {
            let mut header = [0; wal::HEADER_LEN];
            let code = beneath.read(&mut header, 0);
            if code != SQLITE_OK {
                return Ok(code);
            }
            state.recovery = Header::parse(&header).map(|header| Recovery {
                next: at,
                stored: header.chain(),
                handed: header.chain(),
            });
        }
        let recovery = state.recovery.as_mut().filter(|recovery| recovery.next == at);
        let followed = recovery.and_then(|recovery| Some((recovery.stored.follow(bytes)?, recovery)));
        let Some((frame, recovery)) = followed else {
            // The log ends here. SQLite looks at the page number first: no page has this one.
            bytes.fill(0);
            state.recovery = None;
            return Ok(SQLITE_OK);
        };
        // The stored checksum is right, so this is what was written; if its tag is not, somebody else wrote it.
        let (head, page) = bytes.split_at_mut(FRAME_HEADER_LEN);
        sealed.open_page(codec, frame.page_number.get(), page, "-wal")?;
        let checksum = recovery.handed.extend(head, page);
        head[16..].copy_from_slice(&checksum.to_bytes());
        recovery.next += bytes.len() as u64;
        Ok(SQLITE_OK)
    }

    /// The page that belongs into a frame. The wal-index says so, by which SQLite found the frame: a frame that was moved
    /// is noticed then. The frame itself says so where the index is not mapped.
    fn page_number(&self, place: &Place, beneath: &impl RawFile) -> Result<u32, VfsError> {
        if let Some(number) = self.database.wal_index().page_of(place.number) {
            return Ok(number);
        }
        let mut word = [0; 4];
        match beneath.read(&mut word, place.frame) {
            SQLITE_OK => Ok(u32::from_be_bytes(word)),
            code => Err(VfsError::unreadable(code)),
        }
    }

    /// A page that SQLite writes again, in place, within the transaction that appended it. Its checksum follows at the
    /// commit.
    fn overwrite(
        &self,
        state: &mut State,
        codec: &PageCodec,
        sealed: &Sealed,
        place: &Place,
        plain: &[u8],
        beneath: &impl RawFile,
    ) -> Result<c_int, VfsError> {
        state.last = None;
        let number = self.page_number(place, beneath)?;
        let page = &mut state.frame.of(64 + codec.page_size())[64..];
        codec.seal_page(number, plain, page, &mut sealed.writer().nonces)?;
        Ok(beneath.write(page, place.frame + FRAME_HEADER_LEN as u64))
    }

    /// Whether what is about to be written may be.
    fn admit(&self, bytes: &[u8], at: u64, beneath: &impl RawFile) -> Result<(), VfsError> {
        let Some(rules) = self.database.rules() else { return Ok(()) };
        if at == 0 && bytes.len() >= 12 {
            self.page_size.store(page::be32(bytes, 8), Relaxed);
            return Ok(());
        }
        // A SQLite may be built to take the write lock first of all, and then no write transaction was seen to begin.
        rules.admit_write()?;
        if !rules.is_limited() || bytes.len() < 8 {
            return Ok(());
        }
        let Some(page_size) = self.page_size(beneath) else { return Ok(()) };
        match Place::of(at, page_size as usize) {
            Some(Place { inside: 0, .. }) => match Frame::parse(bytes) {
                Some(frame) => {
                    rules.admit_frame(frame, page_size, || self.committed_pages(page_size, at, beneath))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    pub(super) fn page_size(&self, beneath: &impl RawFile) -> Option<u32> {
        let known = self.page_size.load(Relaxed);
        if known > 0 {
            return Some(known);
        }
        let mut word = [0; 4];
        let there = (beneath.read(&mut word, 8) == SQLITE_OK).then(|| u32::from_be_bytes(word))?;
        self.page_size.store(there, Relaxed);
        Some(there)
    }

    /// The size that the last commit left, in pages: it stands in that commit's frame, before the frame at `at`,
    /// or, where the WAL has none, it is that of the file itself.
    fn committed_pages(&self, page_size: u32, mut at: u64, beneath: &impl RawFile) -> u64 {
        let frame_len = u64::from(page_size) + FRAME_HEADER_LEN as u64;
        let mut header = [0; 8];
        while at >= FIRST_FRAME + frame_len {
            at -= frame_len;
            if beneath.read(&mut header, at) != SQLITE_OK {
                return 0;
            }
            if let Some(pages) = wal::commit_size(&header) {
                return u64::from(pages.get());
            }
        }
        Disk::len(self.database.path()).ok().flatten().unwrap_or(0) / u64::from(page_size)
    }
}

/// The header at the start of the log, or `None` if SQLite would not accept it.
pub(super) fn stored_header(beneath: &impl RawFile) -> Result<Option<Header>, VfsError> {
    let mut bytes = [0; wal::HEADER_LEN];
    match beneath.read(&mut bytes, 0) {
        SQLITE_OK => Ok(Header::parse(&bytes)),
        code => Err(VfsError::unreadable(code)),
    }
}

impl State {
    /// Appends a frame: header and sealed page in one write.
    fn append(
        &mut self,
        codec: &PageCodec,
        sealed: &Sealed,
        (at, head): (u64, FrameHeader),
        plain: &[u8],
        beneath: &impl RawFile,
        stamp: impl FnOnce(&[u8], u64) -> Result<(), VfsError>,
    ) -> Result<c_int, VfsError> {
        // Where an earlier frame's checksum is yet to be counted again, SQLite leaves salts and checksum empty.
        let counted = head[8..] != [0; FRAME_HEADER_LEN - 8];
        let chain = if counted { Some(self.chain_before(codec, sealed, at, &head, beneath)?) } else { None };
        self.last = None;
        let frame = &mut self.frame.of(FRAME_START + FRAME_HEADER_LEN + codec.page_size())[FRAME_START..];
        frame[..FRAME_HEADER_LEN].copy_from_slice(&head);
        let (head, page) = frame.split_at_mut(FRAME_HEADER_LEN);
        codec.seal_page(page::be32(head, 0), plain, page, &mut sealed.writer().nonces)?;
        let chain = chain.map(|mut chain| {
            let checksum = chain.extend(head, page);
            head[16..].copy_from_slice(&checksum.to_bytes());
            chain
        });
        stamp(page, at + FRAME_HEADER_LEN as u64)?;
        let code = beneath.write(frame, at);
        if code == SQLITE_OK {
            self.last = chain.map(|chain| (at, chain));
        }
        Ok(code)
    }

    /// Writes the header of a frame whose page stands there already, with its checksum.
    fn rewrite(
        &mut self,
        codec: &PageCodec,
        sealed: &Sealed,
        at: u64,
        mut head: FrameHeader,
        beneath: &impl RawFile,
    ) -> Result<c_int, VfsError> {
        let mut chain = self.chain_before(codec, sealed, at, &head, beneath)?;
        self.last = None;
        let page = &mut self.frame.of(64 + codec.page_size())[64..];
        let code = beneath.read(page, at + FRAME_HEADER_LEN as u64);
        if code != SQLITE_OK {
            return Ok(code);
        }
        let checksum = chain.extend(&head, page);
        head[16..].copy_from_slice(&checksum.to_bytes());
        let code = beneath.write(&head, at);
        if code == SQLITE_OK {
            self.last = Some((at, chain));
            self.rewritten = Some((at, head));
        }
        Ok(code)
    }

    /// The chain up to the frame at `at`.
    fn chain_before(
        &mut self,
        codec: &PageCodec,
        sealed: &Sealed,
        at: u64,
        head: &FrameHeader,
        beneath: &impl RawFile,
    ) -> Result<Chain, VfsError> {
        let known = self.header.filter(|header| header.has_salts(head));
        let header = if let Some(header) = known {
            header
        } else {
            // What SQLite knows of the log it has from a header that was right.
            stored_header(beneath)?
                .filter(|header| header.page_size() as usize == codec.page_size() && header.has_salts(head))
                .ok_or_else(|| {
                    sealed.unfit("-wal", "its header is not the one that the log was begun with")
                })?
        };
        self.header = Some(header);
        let frame_len = header.frame_len() as u64;
        match self.last {
            _ if at == FIRST_FRAME => Ok(header.chain()),
            Some((last, chain)) if last + frame_len == at => Ok(chain),
            _ => {
                let mut checksum = [0; 8];
                match beneath.read(&mut checksum, at - frame_len + 16) {
                    SQLITE_OK => Ok(header.chain_after(WalChecksum::from_bytes(checksum))),
                    code => Err(VfsError::unreadable(code)),
                }
            }
        }
    }
}
