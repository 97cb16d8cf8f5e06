//! The WAL as SQLite uses it: the layers that each write and read passes.
//!
//! A write passes the [assembler](super::frames), the [limits](super::limits), encryption ([`seal::wal`](super::seal::wal)) and
//! [capture](super::capture), and is then stored.

use std::{ffi::c_int, mem, sync::Arc};

use rusqlite::ffi::{SQLITE_IOERR_SHORT_READ, SQLITE_OK};

use super::{
    capture::Commits,
    connection::DbConnection,
    error::VfsError,
    file::{VfsFile, whole_pages},
    frame_offset::{FIRST_FRAME, FrameOffset, frame_len},
    frames::{FrameAssembler, WalEvent},
    raw_file::RawFile,
    rechecksum::{CHECKSUM_AT, Forgotten},
    seal::{
        pages::Sealed,
        wal::{Encryption, SealedWal, WalRead, page_number},
    },
    stored::PlainWal,
};
use crate::{
    disk::Disk,
    page,
    sync::{Guard, Mutex, Rank},
    sys::read_buf::ReadBuf,
    wal::{self, FRAME_HEADER_LEN},
};

/// The WAL of a database, opened by one connection.
#[derive(Debug)]
pub(super) struct WalFile {
    connection: Arc<DbConnection>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The write transaction that the state belongs to.
    transaction: u64,
    page_size: Option<usize>,
    assembler: FrameAssembler,
    forgotten: Forgotten,
    plain: PlainWal,
    sealed: SealedWal,
    commits: Commits,
}

impl State {
    /// Discards cached state that other connections may have changed since the last write transaction.
    fn begin_transaction(&mut self, transaction: u64) {
        if self.transaction != transaction {
            self.transaction = transaction;
            self.assembler = FrameAssembler::default();
            self.forgotten = Forgotten::default();
            self.sealed.begin_transaction();
        }
    }

    /// The page size of the WAL. `None` if it has no header.
    fn page_size(&mut self, sealed: Option<&Sealed>, raw: &dyn RawFile) -> Option<usize> {
        if let Some(codec) = sealed.and_then(Sealed::codec) {
            return Some(codec.page_size());
        }
        if self.page_size.is_none() {
            let mut word = [0; 4];
            let is_read = raw.read(&mut word, 8) == SQLITE_OK;
            self.page_size = is_read.then(|| u32::from_be_bytes(word) as usize).filter(|size| *size > 0);
        }
        self.page_size
    }
}

impl WalFile {
    pub(super) fn new(connection: Arc<DbConnection>) -> Self {
        Self { connection, state: Mutex::new(Rank::Wal, State::default()) }
    }

    fn state(&self) -> Result<Guard<'_, State>, VfsError> {
        let mut state = self.state.lock()?;
        state.begin_transaction(self.connection.transaction());
        Ok(state)
    }

    /// Writes the bytes that SQLite passes at `at`.
    pub(super) fn put(&self, bytes: &[u8], at: u64, raw: &dyn RawFile) -> Result<c_int, VfsError> {
        self.connection.latch().check()?;
        let mut state = self.state()?;
        let page_size = match at {
            // The header of the WAL, which says the page size.
            0 => 0,
            _ => match state.page_size(self.connection.sealed(), raw) {
                None => return self.apply(&mut state, WalEvent::Other { at, bytes }, raw),
                Some(page_size) => page_size,
            },
        };
        let mut assembler = mem::take(&mut state.assembler);
        let mut code = SQLITE_OK;
        if let Some(event) = assembler.take_pending(at, bytes.len(), page_size) {
            code = self.apply(&mut state, event, raw)?;
        }
        if code == SQLITE_OK
            && let Some(event) = assembler.push(bytes, at, page_size)
        {
            code = self.apply(&mut state, event, raw)?;
        }
        state.assembler = assembler;
        Ok(code)
    }

    /// Passes an event through the layers and stores it.
    fn apply(
        &self,
        state: &mut State,
        mut event: WalEvent<'_>,
        raw: &dyn RawFile,
    ) -> Result<c_int, VfsError> {
        let connection = &*self.connection;
        if let Some(limits) = connection.limits() {
            limits.admit(&event, |page_size| self.committed_pages(page_size, &event, raw))?;
        }
        let State { page_size, forgotten, plain, sealed, commits, .. } = state;
        let mut is_forgotten = false;
        match &mut event {
            WalEvent::Header { header, .. } => {
                *page_size = Some(header.page_size() as usize);
                *forgotten = Forgotten::default();
            }
            WalEvent::Overwrite { position, .. } => forgotten.overwrites(position.number),
            WalEvent::Frame { position, head, page } => {
                is_forgotten = forgotten.is_forgotten(position.number, head);
                forgotten.appends(*position);
                if is_forgotten && connection.sealed().is_none() {
                    forgotten.fill_in(*position, head, page, raw)?;
                }
            }
            WalEvent::Rechecksum { .. } | WalEvent::Other { .. } => {}
        }
        let write = match connection.sealed() {
            None => plain.store(&event),
            Some(encrypted) => sealed.store(&event, is_forgotten, self.encryption(encrypted)?, raw)?,
        };
        commits.before_write(&event, &write, connection.capture(), connection, raw)?;
        let code = write.write(raw);
        if code == SQLITE_OK {
            sealed.written();
        } else {
            connection.peers().frames().forget();
        }
        Ok(code)
    }

    fn encryption<'a>(&'a self, sealed: &'a Sealed) -> Result<Encryption<'a>, VfsError> {
        let codec = sealed.codec().ok_or(VfsError::Layout)?;
        Ok(Encryption { sealed, codec, wal_index: self.connection.wal_index() })
    }

    /// The size of the database in pages after the last commit: that of the last commit frame before the frame of `event`, or of
    /// the database file if the WAL has none.
    fn committed_pages(&self, page_size: u32, event: &WalEvent<'_>, raw: &dyn RawFile) -> u64 {
        let WalEvent::Frame { position, .. } = event else { return 0 };
        let frame_len = frame_len(page_size as usize);
        let mut at = position.start;
        let mut header = [0; 8];
        while at >= FIRST_FRAME + frame_len {
            at -= frame_len;
            if raw.read(&mut header, at) != SQLITE_OK {
                return 0;
            }
            if let Some(pages) = wal::commit_size(&header) {
                return u64::from(pages.get());
            }
        }
        Disk::len(self.connection.path()).ok().flatten().unwrap_or(0) / u64::from(page_size)
    }

    /// Converts the bytes that were read at `at` with the result `code` into those that SQLite receives.
    pub(super) fn after_read(
        &self,
        bytes: &mut [u8],
        at: u64,
        code: c_int,
        raw: &dyn RawFile,
    ) -> Result<c_int, VfsError> {
        match self.connection.sealed() {
            None => self.after_plain_read(bytes, at, code, raw),
            Some(sealed) => {
                let read = self.after_sealed_read(sealed, bytes, at, code, raw);
                if read.is_err() {
                    sealed.end_move();
                    bytes.fill(0);
                }
                read
            }
        }
    }

    /// Within a write transaction, SQLite reads a whole frame to write its checksum, and a checksum to continue from it.
    fn after_plain_read(
        &self,
        bytes: &mut [u8],
        at: u64,
        code: c_int,
        raw: &dyn RawFile,
    ) -> Result<c_int, VfsError> {
        if !self.connection.is_writing() || code != SQLITE_OK {
            return Ok(code);
        }
        let mut state = self.state()?;
        let offset = state.page_size(None, raw).and_then(|size| Some((FrameOffset::of(at, size)?, size)));
        match offset {
            Some((FrameOffset { inside: 0, .. }, size)) if bytes.len() == FRAME_HEADER_LEN + size => {
                state.assembler.read_whole(at);
            }
            Some((FrameOffset { inside: CHECKSUM_AT, frame }, _)) if bytes.len() == 8 => {
                if let Some(last) = state.forgotten.continues_from(frame.number) {
                    return Ok(raw.read(bytes, last.start + CHECKSUM_AT as u64));
                }
            }
            _ => {}
        }
        Ok(code)
    }

    fn after_sealed_read(
        &self,
        sealed: &Sealed,
        bytes: &mut [u8],
        at: u64,
        code: c_int,
        raw: &dyn RawFile,
    ) -> Result<c_int, VfsError> {
        if at + bytes.len() as u64 <= FIRST_FRAME {
            return Ok(code);
        }
        // SQLite takes the page size from the WAL or the wal-index.
        let inconsistent = || sealed.inconsistent("-wal", "its pages have another size than the database's");
        let encryption = self.encryption(sealed).map_err(|_| inconsistent())?;
        let Encryption { codec, wal_index, .. } = encryption;
        let read = WalRead::of(at, bytes.len(), codec.page_size()).ok_or_else(inconsistent)?;
        if code != SQLITE_OK {
            if !matches!(read, WalRead::Header) {
                bytes.fill(0);
            }
            return Ok(code);
        }
        match read {
            WalRead::Header => {}
            WalRead::Page(position) => {
                let number = page_number(position, wal_index, raw)?;
                if self.connection.is_checkpointing() {
                    sealed.begin_move(number, bytes);
                }
                sealed.open_page(codec, number, bytes, "-wal")?;
            }
            WalRead::WholeFrame(position) if self.connection.is_writing() => {
                self.state()?.assembler.read_whole(position.start);
                let (head, page) = bytes.split_at_mut(FRAME_HEADER_LEN);
                sealed.open_page(codec, page::be32(head, 0), page, "-wal")?;
            }
            WalRead::WholeFrame(_) => self.state()?.sealed.recover(bytes, at, encryption, raw)?,
        }
        Ok(code)
    }

    /// Continues with the file at the path of this WAL, because a peer has moved the open file away.
    #[cold]
    fn follow(&self, raw: &dyn RawFile) -> Result<c_int, VfsError> {
        let _peers = self.connection.peers().lock();
        // The WAL of another database may be there if this one was destroyed.
        if !self.connection.is_in_place() {
            return Err(VfsError::Destroyed);
        }
        let code = raw.reopen();
        if code == SQLITE_OK {
            if !self.connection.is_in_place() {
                return Err(VfsError::Destroyed);
            }
            self.connection.has_wal();
        }
        Ok(code)
    }

    fn flush(&self, flags: c_int, raw: &dyn RawFile) -> Result<c_int, VfsError> {
        self.connection.latch().check()?;
        let mut state = self.state()?;
        if let Some(event) = state.assembler.take_header() {
            let code = self.apply(&mut state, event, raw)?;
            if code != SQLITE_OK {
                return Ok(code);
            }
        }
        let is_needed = match state.commits.before_sync(self.connection.capture()) {
            Ok(is_needed) => is_needed,
            Err(error) => {
                self.discard_uncommitted(&mut state, raw);
                return Err(error);
            }
        };
        if !is_needed {
            return Ok(SQLITE_OK);
        }
        let code = raw.sync(flags);
        if code != SQLITE_OK {
            self.connection.latch().flush_failed("the WAL", format!("SQLite's result code {code}"));
            self.discard_uncommitted(&mut state, raw);
        }
        Ok(code)
    }

    /// Invalidates the frames of a write transaction whose flush failed. SQLite rolls the transaction back and overwrites its
    /// frames with the next one, which a latched connection never writes. Without this, a recovery would commit the transaction.
    #[cold]
    fn discard_uncommitted(&self, state: &mut State, raw: &dyn RawFile) {
        if self.connection.is_writing()
            && let Some(page_size) = state.page_size(self.connection.sealed(), raw)
            && let Some(last) = state.commits.last_commit(&*self.connection)
        {
            // If this fails, the outcome of the transaction is unknown until the next recovery.
            let _ignored = raw.write(
                &[0; FRAME_HEADER_LEN],
                wal::len_up_to(last.frame, u32::try_from(page_size).unwrap_or(u32::MAX)),
            );
        }
    }

    fn cut(&self, len: u64, raw: &dyn RawFile) -> Result<c_int, VfsError> {
        self.connection.latch().check()?;
        if let Some(capture) = self.connection.capture_now()? {
            capture.cut(len, &*self.connection).map_err(|error| VfsError::not_kept(&error))?;
        }
        Ok(raw.truncate(len))
    }

    #[cfg(test)]
    pub(super) fn has_filled_in(&self) -> bool {
        self.state().unwrap().forgotten.has_filled_in()
    }
}

impl VfsFile for WalFile {
    fn prepare(&self, raw: &dyn RawFile) -> c_int {
        if self.connection.wal_was_moved() {
            return self.connection.answer(self.follow(raw));
        }
        SQLITE_OK
    }

    fn read(&self, into: &mut ReadBuf<'_>, at: u64, raw: &dyn RawFile) -> c_int {
        let code = raw.read_buf(into, at);
        // A page of a plain WAL is read as it is stored. Other reads may need a closer look.
        let is_plain_page = self.connection.sealed().is_none() && into.len().is_multiple_of(512);
        if is_plain_page || (code != SQLITE_OK && code != SQLITE_IOERR_SHORT_READ) {
            return code;
        }
        self.connection.answer(self.after_read(into.bytes(), at, code, raw))
    }

    fn write(&self, bytes: &[u8], at: u64, raw: &dyn RawFile) -> c_int {
        self.connection.answer(self.put(bytes, at, raw))
    }

    fn truncate(&self, len: u64, raw: &dyn RawFile) -> c_int {
        self.connection.answer(self.cut(len, raw))
    }

    fn sync(&self, flags: c_int, raw: &dyn RawFile) -> c_int {
        self.connection.answer(self.flush(flags, raw))
    }

    fn device_characteristics(&self, raw: c_int) -> c_int {
        whole_pages(raw)
    }

    fn panicked(&self) {
        self.connection.latch().panicked();
    }
}
