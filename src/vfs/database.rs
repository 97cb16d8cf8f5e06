//! One connection's view of one database, which the handles of the database file, its WAL and its journal share.

use std::{
    ffi::{c_int, c_void},
    path::{Path, PathBuf},
    ptr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use rusqlite::ffi::{
    SQLITE_FCNTL_CHUNK_SIZE, SQLITE_FCNTL_POWERSAFE_OVERWRITE, SQLITE_LOCK_NONE, SQLITE_LOCK_SHARED,
    SQLITE_OK,
};

use super::{
    NOT_OPENED, PolicySource, Sealing, VfsError,
    capture::Capture,
    closing::Closing,
    ffi,
    limits::Limits,
    peers::Peers,
    raw_file::{CHECKPOINT_LOCK, FIRST_READ_LOCK, RawFile, ShmLock, WRITE_LOCK},
    sealed::Sealed,
};
use crate::{
    disk::Disk,
    result_codes,
    sys::wal_index::WalIndex,
    units::Salts,
    wal::{self, LastCommit, SeenFrames},
};

/// SQLite uses a connection from one thread at a time, so the atomics are there for safety's sake alone, and order
/// nothing.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// The file that is open, which may be at that path no longer.
    inode: Option<(u64, u64)>,
    /// Nothing for a file that SQL opened by its path.
    rules: Option<Limits>,
    /// Nothing where no history is ever kept.
    pub(super) capture: Option<Capture>,
    /// Nothing for a plain file.
    sealed: OnceLock<Sealed>,
    /// SQLite's file that this is, which the C side alone looks into.
    file: AtomicPtr<c_void>,
    /// The address of the connection, by which a file that it opens is told to be its own.
    connection: AtomicUsize,
    wal_index: WalIndex,
    /// The connections of this process to the same file. Its lock guards the three that follow.
    neighbours: OnceLock<Arc<Peers>>,
    /// The lock of the file that SQLite believes to hold.
    lock_level: AtomicI32,
    /// Whether another file stands at the WAL's path than the one that is open.
    wal_was_moved: AtomicBool,
    /// Whether it does not hold the lock that SQLite believes to hold.
    lost_lock: AtomicBool,
    pub(super) closing: Closing,
    /// Whether it was to be sealed, and could not be.
    refuses_writes: AtomicBool,
    /// Whether it is the target of `VACUUM INTO`.
    is_target: bool,
    /// The read locks that this connection holds in the shared memory, one bit each.
    reading: AtomicU8,
    checkpointing: AtomicBool,
    /// Whether this connection has begun a write transaction.
    writing: AtomicBool,
    /// Write transactions that began so far.
    transactions: AtomicU64,
    /// The write transaction in which the WAL was about to end, and what it ended with.
    ending: Mutex<Option<(u64, LastCommit)>>,
    refused: AtomicBool,
    refusal: Mutex<Option<VfsError>>,
}

impl Database {
    /// A database file that is being opened.
    pub(super) fn open(
        path: &Path,
        governor: Option<Arc<dyn PolicySource>>,
        beneath: &impl RawFile,
    ) -> Result<Self, VfsError> {
        let sealed = OnceLock::new();
        if let Some(sealing) = governor.as_ref().and_then(|governor| governor.sealing()) {
            let _first = sealed.set(Sealed::open(path, sealing, beneath)?);
        }
        let inode = Disk::inode(path);
        Ok(Self {
            path: path.to_owned(),
            inode,
            capture: governor
                .as_ref()
                .and_then(|governor| governor.history())
                .map(|history| Capture::new(history, path, inode)),
            rules: governor.map(Limits::new),
            sealed,
            file: AtomicPtr::new(ptr::null_mut()),
            connection: AtomicUsize::new(0),
            wal_index: WalIndex::default(),
            neighbours: OnceLock::new(),
            lock_level: AtomicI32::new(SQLITE_LOCK_NONE),
            wal_was_moved: AtomicBool::new(false),
            lost_lock: AtomicBool::new(false),
            closing: Closing::default(),
            refuses_writes: AtomicBool::new(false),
            is_target: false,
            reading: AtomicU8::new(0),
            checkpointing: AtomicBool::new(false),
            writing: AtomicBool::new(false),
            transactions: AtomicU64::new(0),
            ending: Mutex::default(),
            refused: AtomicBool::new(false),
            refusal: Mutex::new(None),
        })
    }

    /// The target of `VACUUM INTO`.
    pub(super) fn target(path: &Path, beneath: &impl RawFile) -> Result<Self, VfsError> {
        Ok(Self { is_target: true, ..Self::open(path, None, beneath)? })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the fleet: `<root>/<group>/<database>/data.db` is three below it. `None` for a file that is not a
    /// database of one.
    pub(super) fn root(&self) -> Option<&Path> {
        self.capture.is_some().then(|| self.path.ancestors().nth(3)).flatten()
    }

    pub(super) fn rules(&self) -> Option<&Limits> {
        self.rules.as_ref()
    }

    /// What keeps the history, if that is kept now.
    pub(super) fn capture(&self) -> Option<&Capture> {
        let (capture, rules) = (self.capture.as_ref()?, self.rules.as_ref()?);
        if !rules.keeps_history() {
            return None;
        }
        capture.obey(rules.version(), rules.keeps_since_birth());
        Some(capture)
    }

    /// The same where no transaction of this connection has asked for the rules, which may have changed since the last one.
    pub(super) fn capture_now(&self) -> Result<Option<&Capture>, VfsError> {
        self.rules.as_ref().map_or(Ok(()), Limits::refresh)?;
        Ok(self.capture())
    }

    pub(super) fn sealed(&self) -> Option<&Sealed> {
        self.sealed.get()
    }

    pub(super) fn wal_index(&self) -> &WalIndex {
        &self.wal_index
    }

    /// Whether this connection has begun a write transaction.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.load(Relaxed)
    }

    /// Behaves as within a write transaction.
    #[cfg(test)]
    pub(super) fn writes_now(&self) {
        self.writing.store(true, Relaxed);
    }

    /// Write transactions that began so far: whatever was known of the WAL before is to be looked at anew.
    pub(super) fn transactions(&self) -> u64 {
        self.transactions.load(Relaxed)
    }

    /// The last committed frame of the WAL with these salts, which ends now.
    ///
    /// The wal-index alone says which commit was the last one. A process that was killed before it wrote there leaves a
    /// commit in the WAL that nobody ever saw and nobody will, unless the WAL is recovered.
    pub(super) fn last_frame(&self, salts: Salts) -> SeenFrames {
        let ending = *self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let ending =
            ending.filter(|(transaction, _)| *transaction == self.transactions()).map(|(_, last)| last);
        let said = [self.wal_index.last_commit(), ending].into_iter().flatten();
        let of_this = said.clone().find(|last| last.salts == salts);
        let last = of_this.or_else(|| said.clone().next());
        last.map_or(SeenFrames::Unknown, |last| wal::seen_frames(last, salts))
    }

    /// SQLite may begin the WAL anew now, or leave the wal-index: what it says is gone then.
    fn note_ending(&self) {
        let last = self.wal_index.last_commit().map(|last| (self.transactions(), last));
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// Whether this connection runs a checkpoint.
    pub(super) fn is_checkpointing(&self) -> bool {
        self.checkpointing.load(Relaxed)
    }

    /// Forgets how the database file was: from here on others may write to it.
    pub(super) fn forget(&self) {
        if let Some(sealed) = self.sealed() {
            sealed.forget();
        }
    }

    /// Whether SQLite cannot ask the database file for a page without that it is there.
    ///
    /// In WAL mode each page that a commit left stands there or in the log. What a transaction has added may be asked
    /// for when that is rolled back. Outside of WAL mode SQLite itself compares the size of the file with what page 1 says.
    pub(super) fn must_have(&self, page: u32) -> bool {
        self.wal_index.page_count().is_some_and(|count| !self.is_writing() || page <= count)
    }

    pub(super) fn connection(&self) -> usize {
        self.connection.load(Relaxed)
    }

    /// SQLite's file, for the C side.
    pub(super) fn file(&self) -> *mut c_void {
        self.file.load(Relaxed)
    }

    /// This is SQLite's file.
    pub(super) fn is_in(&self, file: *mut c_void) {
        self.file.store(file, Relaxed);
    }

    /// The connections of this process to the same file, of which this is one until it closes.
    pub(super) fn neighbours(&self) -> &Peers {
        self.neighbours.get_or_init(Arc::default)
    }

    /// The file is open, perhaps by some of these connections too. One at its path may be to another file, which was there
    /// before this one.
    pub(super) fn join<'a>(self: &Arc<Self>, open: impl IntoIterator<Item = &'a Arc<Self>>) {
        let is_same = |other: &&Arc<Self>| self.inode.is_some() && other.inode == self.inode;
        let same = open.into_iter().find(is_same);
        let neighbours = same.and_then(|other| other.neighbours.get().cloned()).unwrap_or_default();
        self.neighbours.get_or_init(|| neighbours).lock().push(Arc::clone(self));
    }

    /// The file is about to be closed.
    pub(super) fn leave(&self) {
        self.neighbours().lock().retain(|other| !ptr::eq(Arc::as_ptr(other), self));
    }

    /// Whether the file that is open is still the one at its path.
    pub(super) fn is_in_place(&self) -> bool {
        Disk::is_at(&self.path, self.inode)
    }

    /// Whether SQLite believes to have the file open, and nothing more.
    pub(super) fn is_shared(&self) -> bool {
        self.lock_level.load(Relaxed) == SQLITE_LOCK_SHARED && !self.lost_lock.load(Relaxed)
    }

    /// The lock that this connection had is lost.
    pub(super) fn loses_lock(&self) {
        self.lost_lock.store(true, Relaxed);
    }

    pub(super) fn has_lost_lock(&self) -> bool {
        self.lost_lock.load(Relaxed)
    }

    /// The lock that was lost is taken again.
    pub(super) fn regains_lock(&self) {
        self.lost_lock.store(false, Relaxed);
    }

    /// Another connection moved the WAL away.
    pub(super) fn wal_moves(&self) {
        self.wal_was_moved.store(true, Release);
    }

    /// Whether another file stands at the WAL's path now. It is asked before each call to the WAL.
    pub(super) fn wal_was_moved(&self) -> bool {
        self.wal_was_moved.load(Acquire)
    }

    /// The file at the WAL's path is the one that is open.
    pub(super) fn has_wal(&self) {
        self.wal_was_moved.store(false, Release);
    }

    /// The connection of this file is known from here on.
    pub(super) fn belongs_to(&self, connection: usize) {
        self.connection.store(connection, Relaxed);
    }

    /// A file that SQL opened by its path, on a connection with sealed databases: a new one becomes sealed under their
    /// key, so that `VACUUM INTO` writes no plaintext; one that is sealed under that key can be read.
    ///
    /// A new file that cannot be sealed is not written at all, nor is the target of `VACUUM INTO`. Where the databases have
    /// several keys, nobody tells whose rows are to stand in it.
    pub(super) fn adopt(&self, own: &[&Sealed], beneath: &impl RawFile) {
        let Some(first) = own.first() else { return };
        if self.rules.is_some() {
            return;
        }
        let is_old = beneath.len().is_ok_and(|len| len > 0);
        // A copy that SQL makes is like its source in all.
        let format = first.codec().map_or(first.sealing().format, |codec| codec.seal().format);
        let sealing = Sealing { may_create: true, format, identity: None, ..first.sealing().clone() };
        let one_key = own.iter().all(|other| other.sealing().is_same(first.sealing()));
        match Sealed::open(&self.path, sealing, beneath) {
            Ok(sealed) if one_key => {
                let _first = self.sealed.set(sealed);
            }
            _ => self.refuses_writes.store(self.is_target || !is_old, Relaxed),
        }
    }

    /// Whether the file is one that the VFS hands through as it is.
    pub(super) fn is_plain(&self) -> bool {
        self.sealed().is_none() && !self.refuses_writes.load(Relaxed)
    }

    /// Whether pragmas may be refused.
    pub(super) fn refuses_pragmas(&self) -> bool {
        self.rules.is_some() || self.sealed().is_some()
    }

    /// Whether the database file may be without a byte. SQLite would take it for a new database; a sealed one of a fleet has
    /// its first page from the start.
    pub(super) fn admit_empty(&self) -> c_int {
        match self.sealed() {
            Some(sealed) if !sealed.sealing().may_create => {
                self.refuse(VfsError::NotSealed("it is empty".into()))
            }
            _ => SQLITE_OK,
        }
    }

    /// Whether SQLite may open a rollback journal. A sealed database of a fleet is in WAL mode from its first page on and
    /// never has one: what lies there is somebody else's, and would be played back into it.
    pub(super) fn admit_journal(&self) -> c_int {
        match self.sealed() {
            Some(sealed) if !sealed.sealing().may_create => {
                let why = "a rollback journal lies beside it, which it never has: remove that";
                self.refuse(VfsError::NotSealed(why.into()))
            }
            _ => SQLITE_OK,
        }
    }

    /// Turns an answer into SQLite's result code, and notes why a call is refused.
    pub(super) fn answer(&self, result: Result<c_int, VfsError>) -> c_int {
        result.unwrap_or_else(|refusal| self.refuse(refusal))
    }

    #[cold]
    fn refuse(&self, refusal: VfsError) -> c_int {
        let code = refusal.result();
        if let VfsError::Damaged { .. } | VfsError::Unfit { .. } = &refusal {
            ffi::log(code, &refusal.to_string());
        }
        // The schema of a file that is made in one call is gone when somebody asks.
        NOT_OPENED.set(Some(refusal.clone()));
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        self.refused.store(true, Relaxed);
        code
    }

    /// Why the call that returned `code` was refused. Any code but [`result_codes`] explains one error before the next transaction.
    pub(super) fn take_refusal(&self, code: c_int) -> Option<VfsError> {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if result_codes::is_own(code) {
            return refusal.as_ref().filter(|refusal| refusal.result() == code).cloned();
        }
        refusal.take_if(|refusal| self.refused.load(Relaxed) && refusal.code() == code & 0xff)
    }

    /// A read transaction begins.
    pub(super) fn begin_read(&self) -> c_int {
        if self.lost_lock.load(Relaxed) {
            return self.refuse(VfsError::LostLock);
        }
        if let Some(rules) = &self.rules
            && let Err(refusal) = rules.begin_read()
        {
            return self.refuse(refusal);
        }
        // An earlier refusal must not explain an error of this transaction, unless its result code identifies it.
        if self.refused.swap(false, Relaxed) {
            let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            let _over = refusal.take_if(|refusal| !result_codes::is_own(refusal.result()));
        }
        SQLITE_OK
    }

    /// A lock of the database file is about to be taken.
    pub(super) fn before_lock(&self, level: c_int) -> c_int {
        self.forget();
        match level {
            rusqlite::ffi::SQLITE_LOCK_SHARED => self.begin_read(),
            // In WAL mode these are the lock of the last to close. Outside of it they are the switch into it, which
            // every connection makes first of all, whether or not writes are blocked.
            _ => SQLITE_OK,
        }
    }

    /// A lock of the database file was taken. In WAL mode only the last connection to close takes the exclusive one: it
    /// checkpoints then, and takes no lock of the shared memory for that.
    pub(super) fn after_lock(&self, level: c_int) {
        self.lock_level.fetch_max(level, Relaxed);
        if level == rusqlite::ffi::SQLITE_LOCK_EXCLUSIVE && self.wal_index.page_count().is_some() {
            self.checkpointing.store(true, Relaxed);
        }
    }

    /// A lock of the database file was given back, down to this level.
    pub(super) fn after_unlock(&self, level: c_int) {
        self.lock_level.store(level, Relaxed);
        if level == SQLITE_LOCK_NONE {
            self.lost_lock.store(false, Relaxed);
        }
    }

    /// The shared memory is about to be left: the database leaves WAL mode, or is closed.
    pub(super) fn before_shm_unmap(&self) {
        self.note_ending();
        self.wal_index.unmap();
        self.checkpointing.store(false, Relaxed);
        if let Some(sealed) = self.sealed() {
            sealed.end_move();
        }
    }

    /// A lock of the shared memory is about to be taken or given back.
    ///
    /// The write lock begins a write transaction only where a read transaction is open and no checkpoint runs:
    /// recovery and checkpoints take it too, and a database whose writes are blocked needs them. Within a write
    /// transaction read locks change hands when the WAL is begun anew; what was begun is not refused there.
    pub(super) fn before_shm_lock(&self, lock: ShmLock) -> c_int {
        match lock {
            // Under this lock, and those behind it, nobody reads from the WAL, and it is begun anew.
            ShmLock { take: true, shared: false, offset } if offset == FIRST_READ_LOCK + 1 => {
                self.note_ending();
                SQLITE_OK
            }
            ShmLock { take: true, shared: true, offset: FIRST_READ_LOCK.. } if !self.is_writing() => {
                self.begin_read()
            }
            ShmLock { take: true, shared: false, offset: WRITE_LOCK } if self.begins_writing() => {
                match self.begin_read() {
                    SQLITE_OK => self
                        .answer(self.rules.as_ref().map_or(Ok(()), Limits::admit_write).map(|()| SQLITE_OK)),
                    refused => refused,
                }
            }
            _ => SQLITE_OK,
        }
    }

    fn begins_writing(&self) -> bool {
        self.reading.load(Relaxed) != 0 && !self.checkpointing.load(Relaxed)
    }

    /// The lock was taken or given back.
    pub(super) fn after_shm_lock(&self, lock: ShmLock) {
        match lock {
            ShmLock { shared: true, offset: offset @ FIRST_READ_LOCK..8, take } => {
                let bit = 1 << (offset - FIRST_READ_LOCK);
                let held = self.reading.load(Relaxed);
                self.reading.store(if take { held | bit } else { held & !bit }, Relaxed);
                self.forget();
            }
            ShmLock { shared: false, offset: WRITE_LOCK, take } => {
                self.writing.store(take && self.begins_writing(), Relaxed);
                self.transactions.fetch_add(1, Relaxed);
                if let Some(rules) = &self.rules {
                    rules.write_lock_changed();
                }
            }
            ShmLock { shared: false, offset: CHECKPOINT_LOCK, take } => {
                self.checkpointing.store(take, Relaxed);
                self.forget();
                if let Some(sealed) = self.sealed() {
                    sealed.end_move();
                }
            }
            _ => {}
        }
    }

    /// Whether a file-control would undo what sealing relies on, and is swallowed.
    pub(super) fn swallows(&self, op: c_int) -> bool {
        self.sealed().is_some() && matches!(op, SQLITE_FCNTL_CHUNK_SIZE | SQLITE_FCNTL_POWERSAFE_OVERWRITE)
    }
}
