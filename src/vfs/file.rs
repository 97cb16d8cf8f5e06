//! What the calls that reach a governed file mean, in safe Rust. The C side is in `ffi`.

use std::{
    cell::RefCell,
    ffi::c_int,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use super::{Governor, Refusal, Rules};
use crate::{disk::Disk, page, size::SizeLimit, wal};

/// Locks in the shared memory, by their offsets (<https://www.sqlite.org/walformat.html>).
const WRITE_LOCK: u32 = 0;
const CHECKPOINT_LOCK: u32 = 1;
const FIRST_READ_LOCK: u32 = 3;

/// Stands for "no stamp seen": the governors' stamps count up from 0 and never get there.
const NEVER: u64 = u64::MAX;

/// Stands for a size that nobody asked for yet.
const UNKNOWN: u64 = u64::MAX;

/// Stands for "no limit".
const UNLIMITED: u64 = u64::MAX;

thread_local! {
    static WAITING: RefCell<Option<Arc<dyn Governor>>> = const { RefCell::new(None) };
}

/// A governor that waits for the next main database to be opened on this thread; dropped, it waits no longer.
pub(super) struct Waiting;

impl Waiting {
    pub(super) fn new(governor: Arc<dyn Governor>) -> Self {
        WAITING.set(Some(governor));
        Self
    }

    /// Takes the governor that waits, if one does.
    pub(super) fn take() -> Option<Arc<dyn Governor>> {
        WAITING.take()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.set(None);
    }
}

/// One connection's view of its database: shared by the handles of the database file and of its WAL.
///
/// SQLite uses a connection from one thread at a time, so the atomics are there for safety's sake alone, and
/// order nothing.
#[derive(Debug)]
pub(super) struct Governed {
    governor: Arc<dyn Governor>,
    path: PathBuf,
    seen: AtomicU64,
    limit: AtomicU64,
    block_reads: AtomicBool,
    block_writes: AtomicBool,
    destroyed: AtomicBool,
    /// The read locks that this connection holds in the shared memory, one bit each.
    reading: AtomicU8,
    checkpointing: AtomicBool,
    /// Whether this connection has begun a write transaction.
    writing: AtomicBool,
    read_only: AtomicBool,
    /// The size in pages that the last commit left, once the write transaction that runs has asked for it.
    committed: AtomicU64,
    refused: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
}

/// A lock of the shared memory, taken or given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShmLock {
    pub(super) offset: u32,
    pub(super) take: bool,
    pub(super) shared: bool,
}

impl Governed {
    pub(super) fn new(governor: Arc<dyn Governor>, path: PathBuf) -> Self {
        let first = governor.first_rules();
        let governed = Self {
            governor,
            path,
            seen: AtomicU64::new(NEVER),
            limit: AtomicU64::new(UNLIMITED),
            block_reads: AtomicBool::new(false),
            block_writes: AtomicBool::new(false),
            destroyed: AtomicBool::new(false),
            reading: AtomicU8::new(0),
            checkpointing: AtomicBool::new(false),
            writing: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            committed: AtomicU64::new(UNKNOWN),
            refused: AtomicBool::new(false),
            refusal: Mutex::new(None),
        };
        if let Some((stamp, rules)) = first {
            governed.keep(Some(stamp), rules);
        }
        governed
    }

    /// Keeps the rules, which hold for as long as the stamp stays the same.
    fn keep(&self, stamp: Option<u64>, rules: Rules) {
        self.limit.store(rules.size_limit.map_or(UNLIMITED, SizeLimit::bytes), Relaxed);
        self.block_reads.store(rules.block_reads, Relaxed);
        self.block_writes.store(rules.block_writes, Relaxed);
        self.read_only.store(rules.read_only, Relaxed);
        // It may come back: one that could not be destroyed after all.
        self.destroyed.store(false, Relaxed);
        self.seen.store(stamp.unwrap_or(NEVER), Relaxed);
    }

    /// Another connection's view of the same database.
    pub(super) fn another(&self) -> Self {
        Self::new(Arc::clone(&self.governor), self.path.clone())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the fleet: `<root>/<group>/<database>/data.db` is three below it.
    pub(super) fn root(&self) -> Option<&Path> {
        self.path.ancestors().nth(3)
    }

    /// Why the call was refused that answered with `code`. It is told once: it explains one error.
    pub(super) fn take_refusal(&self, code: c_int) -> Option<Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take_if(|refusal| refusal.code() == code)
    }

    /// Notes why a call is refused.
    #[cold]
    fn refuse(&self, refusal: Refusal) -> Result<(), Refusal> {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal.clone());
        self.refused.store(true, Relaxed);
        Err(refusal)
    }

    /// Asks for the rules again if they may have changed.
    fn refresh(&self) -> Result<(), Refusal> {
        // The stamp is read before the rules: a change in between is then seen the next time.
        let stamp = self.governor.stamp();
        if stamp == Some(self.seen.load(Relaxed)) {
            return Ok(());
        }
        match self.governor.rules() {
            Ok(Some(rules)) => self.keep(stamp, rules),
            Ok(None) => {
                self.destroyed.store(true, Relaxed);
                self.seen.store(stamp.unwrap_or(NEVER), Relaxed);
            }
            // Without rules nothing is allowed: a database that may be blocked is not to be read.
            Err(error) => return self.refuse(Refusal::NoRules(error.to_string())),
        }
        Ok(())
    }

    /// A read transaction begins.
    pub(super) fn begin_read(&self) -> Result<(), Refusal> {
        self.refresh()?;
        if self.destroyed.load(Relaxed) {
            return self.refuse(Refusal::Destroyed);
        }
        if self.block_reads.load(Relaxed) {
            return self.refuse(Refusal::ReadsBlocked);
        }
        // What was refused before is over, and is not to explain an error that comes after this.
        if self.refused.swap(false, Relaxed) {
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(())
    }

    /// A write transaction begins.
    pub(super) fn begin_write(&self) -> Result<(), Refusal> {
        self.begin_read()?;
        self.admit_write()
    }

    /// Whether this connection may write.
    fn admit_write(&self) -> Result<(), Refusal> {
        if self.block_writes.load(Relaxed) {
            return self.refuse(Refusal::WritesBlocked);
        }
        if self.read_only.load(Relaxed) {
            return self.refuse(Refusal::ReadOnly);
        }
        Ok(())
    }

    /// A lock of the shared memory is about to be taken or given back.
    ///
    /// The write lock begins a write transaction only where a read transaction is open and no checkpoint runs:
    /// recovery and checkpoints take it too, and a database whose writes are blocked needs them. Within a write
    /// transaction read locks change hands when the WAL is begun anew; what was begun is not refused there.
    pub(super) fn before_shm_lock(&self, lock: ShmLock) -> Result<(), Refusal> {
        match lock {
            ShmLock { take: true, shared: true, offset: FIRST_READ_LOCK.. }
                if !self.writing.load(Relaxed) =>
            {
                self.begin_read()
            }
            ShmLock { take: true, shared: false, offset: WRITE_LOCK }
                if self.reading.load(Relaxed) != 0 && !self.checkpointing.load(Relaxed) =>
            {
                self.begin_write()
            }
            _ => Ok(()),
        }
    }

    /// The lock was taken or given back.
    pub(super) fn after_shm_lock(&self, lock: ShmLock) {
        match lock {
            ShmLock { shared: true, offset: offset @ FIRST_READ_LOCK..8, take } => {
                let bit = 1 << (offset - FIRST_READ_LOCK);
                let held = self.reading.load(Relaxed);
                self.reading.store(if take { held | bit } else { held & !bit }, Relaxed);
            }
            ShmLock { shared: false, offset: WRITE_LOCK, take } => {
                let begun = take && self.reading.load(Relaxed) != 0 && !self.checkpointing.load(Relaxed);
                self.writing.store(begun, Relaxed);
                self.committed.store(UNKNOWN, Relaxed);
            }
            ShmLock { shared: false, offset: CHECKPOINT_LOCK, take } => {
                self.checkpointing.store(take, Relaxed);
            }
            _ => {}
        }
    }

    /// Says why a pragma is not to be had, if it is one that would undo what the fleet relies on.
    pub(super) fn refused_pragma(name: &str, value: Option<&str>) -> Option<&'static str> {
        let value = value.map(|value| value.trim_matches(['\'', '"', ' ']).to_ascii_lowercase());
        match (name.to_ascii_lowercase().as_str(), value.as_deref()) {
            ("journal_mode", Some(mode)) if mode != "wal" => {
                Some("the journal mode of a database in a fleet is WAL and stays WAL")
            }
            ("locking_mode", Some(mode)) if mode != "normal" => {
                Some("the locking mode of a database in a fleet is NORMAL and stays NORMAL")
            }
            ("page_size", Some(_)) => Some("the page size of a database in a fleet cannot be changed"),
            _ => None,
        }
    }
}

/// The WAL of a governed database, which is where it grows.
#[derive(Debug)]
pub(super) struct GovernedWal {
    governed: Arc<Governed>,
    /// 0 until a header was seen.
    page_size: AtomicU32,
}

impl GovernedWal {
    pub(super) fn new(governed: Arc<Governed>) -> Self {
        Self { governed, page_size: AtomicU32::new(0) }
    }

    /// `bytes` are about to be written at `offset`. `read` reads the file beneath, and says whether it could.
    ///
    /// The limit is enforced on the frames of the WAL, since what stands there is committed before it ever reaches
    /// the database file: refused here, the transaction is rolled back whole. Only growth is refused: where a
    /// limit was set below the present size, pages within that size can still be written, so that rows can be
    /// deleted and the database vacuumed.
    pub(super) fn before_write(
        &self,
        bytes: &[u8],
        offset: u64,
        mut read: impl FnMut(&mut [u8], u64) -> bool,
    ) -> Result<(), Refusal> {
        const HEADER_LEN: u64 = wal::HEADER_LEN as u64;
        if offset == 0 && bytes.len() >= 12 {
            self.page_size.store(page::be32(bytes, 8), Relaxed);
            return Ok(());
        }
        // A SQLite may be built to take the write lock first of all, and then no write transaction was seen to begin.
        self.governed.admit_write()?;
        let limit = self.governed.limit.load(Relaxed);
        if limit == UNLIMITED || offset < HEADER_LEN || bytes.len() < 8 {
            return Ok(());
        }
        let mut page_size = self.page_size.load(Relaxed);
        if page_size == 0 {
            let mut word = [0; 4];
            if !read(&mut word, 8) {
                return Ok(());
            }
            page_size = u32::from_be_bytes(word);
            self.page_size.store(page_size, Relaxed);
        }
        let frame_len = u64::from(page_size) + wal::FRAME_HEADER_LEN as u64;
        if !(offset - HEADER_LEN).is_multiple_of(frame_len) {
            return Ok(());
        }
        let frame = wal::frame_fields(bytes);
        let pages = u64::from(frame.page_number.max(frame.commit.unwrap_or(0)));
        if pages * u64::from(page_size) <= limit {
            return Ok(());
        }
        let mut committed = self.governed.committed.load(Relaxed);
        if committed == UNKNOWN {
            committed = self.committed_pages(page_size, offset, &mut read);
            self.governed.committed.store(committed, Relaxed);
        }
        if pages <= committed {
            return Ok(());
        }
        match SizeLimit::from_bytes(limit) {
            Ok(limit) => self.governed.refuse(Refusal::OverLimit(limit)),
            Err(error) => self.governed.refuse(Refusal::NoRules(error.to_string())),
        }
    }

    /// The size that the last commit left, in pages: it stands in that commit's frame, before the frame at `at`,
    /// or, where the WAL has none, it is that of the file itself.
    fn committed_pages(
        &self,
        page_size: u32,
        mut at: u64,
        read: &mut impl FnMut(&mut [u8], u64) -> bool,
    ) -> u64 {
        let frame_len = u64::from(page_size) + wal::FRAME_HEADER_LEN as u64;
        let mut header = [0; 8];
        while at >= wal::HEADER_LEN as u64 + frame_len {
            at -= frame_len;
            if !read(&mut header, at) {
                return 0;
            }
            if let Some(pages) = wal::frame_fields(&header).commit {
                return u64::from(pages);
            }
        }
        Disk::len(&self.governed.path).ok().flatten().unwrap_or(0) / u64::from(page_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pragmas_that_leave_wal_are_refused() {
        for (name, value) in [
            ("journal_mode", "delete"),
            ("JOURNAL_MODE", "'MEMORY'"),
            ("journal_mode", "off"),
            ("locking_mode", "exclusive"),
            ("page_size", "8192"),
        ] {
            assert!(Governed::refused_pragma(name, Some(value)).is_some(), "{name}={value}");
        }
        for (name, value) in [
            ("journal_mode", Some("WAL")),
            ("journal_mode", None),
            ("locking_mode", Some("normal")),
            ("cache_size", Some("1")),
        ] {
            assert!(Governed::refused_pragma(name, value).is_none(), "{name}");
        }
    }
}
