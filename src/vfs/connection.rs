//! One connection to one database file, which the handles of the database file, its WAL and its journal share.

use std::{
    ffi::c_int,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
};

use rusqlite::ffi::{self, SQLITE_LOCK_EXCLUSIVE, SQLITE_LOCK_NONE, SQLITE_LOCK_SHARED};

use super::{
    capture::Capture,
    conn_state::{Activity, ActivityWord, Closing, ConnState, FileLock, NewFile},
    error::VfsError,
    hand_over,
    latch::Latch,
    limits::Limits,
    peers::{Peer, Peers},
    policy::{PolicySource, Sealing},
    raw_file::{CHECKPOINT_LOCK, FIRST_READ_LOCK, FileLocks, RawFile, ShmLock, WRITE_LOCK},
    seal::pages::Sealed,
    shim::WalIndex,
};
use crate::{
    disk::Disk,
    result_codes,
    sync::{Guard, Mutex, Rank},
    sys::sqlite_log,
    wal::LastCommit,
};

/// One connection to one database file.
pub(super) struct DbConnection {
    path: PathBuf,
    /// The open file. Another file may be at its path by now.
    inode: Option<(u64, u64)>,
    /// `None` for a file that SQL opened by its path.
    limits: Option<Limits>,
    /// `None` if no history is ever kept.
    capture: Option<Capture>,
    /// Empty for a plain file.
    sealed: OnceLock<Sealed>,
    wal_index: WalIndex,
    latch: Arc<Latch>,
    peers: OnceLock<Arc<Peers>>,
    /// Whether the file is the target of `VACUUM INTO`.
    is_vacuum_target: bool,
    state: Mutex<ConnState>,
    /// A copy of the activity and the transaction in the state, which is read for every page without a lock. Only calls of this
    /// connection write it, with the state locked, and SQLite makes one call of a connection at a time.
    activity: ActivityWord,
    /// Whether a new file is at the path of the WAL, which a peer has moved away. A peer sets it while no call to this WAL runs;
    /// every call to the WAL reads it first.
    wal_was_moved: AtomicBool,
}

impl fmt::Debug for DbConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DbConnection")
            .field("path", &self.path)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl DbConnection {
    /// Opens a database file. `source` is `None` for a file that SQL opens by its path.
    pub(super) fn open(
        path: &Path,
        source: Option<Arc<dyn PolicySource>>,
        raw: &dyn RawFile,
    ) -> Result<Self, VfsError> {
        let sealed = OnceLock::new();
        if let Some(sealing) = source.as_ref().and_then(|source| source.sealing()) {
            let _first = sealed.set(Sealed::open(path, sealing, raw)?);
        }
        let inode = Disk::inode(path);
        let latch = Arc::<Latch>::default();
        let history = source.as_ref().and_then(|source| source.history());
        Ok(Self {
            path: path.to_owned(),
            inode,
            limits: source.map(Limits::new),
            capture: history.map(|history| Capture::new(history, path, inode, Arc::clone(&latch))),
            sealed,
            wal_index: WalIndex::default(),
            latch,
            peers: OnceLock::new(),
            is_vacuum_target: false,
            state: Mutex::new(Rank::Connection, ConnState::new()),
            activity: ActivityWord::default(),
            wal_was_moved: AtomicBool::new(false),
        })
    }

    /// Opens the target of `VACUUM INTO`.
    pub(super) fn open_vacuum_target(path: &Path, raw: &dyn RawFile) -> Result<Self, VfsError> {
        Ok(Self { is_vacuum_target: true, ..Self::open(path, None, raw)? })
    }

    fn state(&self) -> Guard<'_, ConnState> {
        // The fields are independent, so a panic leaves no inconsistent state.
        self.state.lock_or_recover()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The device and the inode of the open file. `None` if they are not known.
    pub(super) fn inode(&self) -> Option<(u64, u64)> {
        self.inode
    }

    /// The root of the fleet, which is three directories above `<root>/<group>/<database>/data.db`. `None` for a file that is
    /// not a database of a fleet.
    pub(super) fn root(&self) -> Option<&Path> {
        self.capture.is_some().then(|| self.path.ancestors().nth(3)).flatten()
    }

    pub(super) fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    pub(super) fn latch(&self) -> &Latch {
        &self.latch
    }

    pub(super) fn sealed(&self) -> Option<&Sealed> {
        self.sealed.get()
    }

    pub(super) fn wal_index(&self) -> &WalIndex {
        &self.wal_index
    }

    /// The capture of the history. `None` if no history is kept now.
    pub(super) fn capture(&self) -> Option<&Capture> {
        let (capture, limits) = (self.capture.as_ref()?, self.limits.as_ref()?);
        capture.obey(limits.history()?);
        Some(capture)
    }

    /// The capture of the history by the current policy, outside of a transaction.
    pub(super) fn capture_now(&self) -> Result<Option<&Capture>, VfsError> {
        self.limits.as_ref().map_or(Ok(()), Limits::refresh)?;
        Ok(self.capture())
    }

    /// The instant of the last commit of this connection, in microseconds of UTC.
    pub(super) fn stamped_at(&self) -> Option<i64> {
        self.capture().and_then(Capture::stamped_at)
    }

    /// The address of SQLite's connection; 0 until it is known.
    pub(super) fn connection(&self) -> usize {
        self.state().connection
    }

    /// Sets the address of the `sqlite3` handle that this connection belongs to.
    pub(super) fn belongs_to(&self, connection: usize) {
        self.state().connection = connection;
    }

    /// Encrypts a file that SQL opened by its path on a connection to encrypted databases. A new file becomes encrypted under
    /// their key, so that `VACUUM INTO` writes no plaintext. A file that is encrypted under that key can be read.
    ///
    /// If the databases have several keys, the right key for the file is unknown. Writes to a new file or to a target of
    /// `VACUUM INTO` that cannot be encrypted are refused.
    pub(super) fn adopt(&self, own: &[&Sealed], raw: &dyn RawFile) {
        let Some(first) = own.first() else { return };
        let is_old = raw.len().is_ok_and(|len| len > 0);
        let format = first.codec().map_or(first.sealing().format, |codec| codec.seal().format);
        let sealing = Sealing { may_create: true, format, identity: None, ..first.sealing().clone() };
        let is_one_key = own.iter().all(|other| other.sealing().is_same(first.sealing()));
        match Sealed::open(&self.path, sealing, raw) {
            Ok(sealed) if is_one_key => {
                let _first = self.sealed.set(sealed);
            }
            _ if self.is_vacuum_target || !is_old => self.state().new_file = NewFile::Refused,
            _ => {}
        }
    }

    /// Whether writes are refused because the file must be encrypted and cannot be.
    pub(super) fn refuses_writes(&self) -> bool {
        self.state().new_file == NewFile::Refused
    }

    /// Discards the cached state of the database file, because other connections may write to the file from now on.
    pub(super) fn forget(&self) {
        if let Some(sealed) = self.sealed() {
            sealed.forget();
        }
    }

    /// Whether a page that SQLite reads must exist in the database file.
    ///
    /// In WAL mode every page up to the page count is in the database file or in the WAL. During a rollback SQLite may read a
    /// page that the transaction has added. Outside of WAL mode SQLite itself compares the size of the file with page 1.
    pub(super) fn must_have(&self, page: u32) -> bool {
        self.wal_index.page_count().is_some_and(|count| !self.is_writing() || page <= count)
    }

    /// Whether the open file is still at its path.
    pub(super) fn is_in_place(&self) -> bool {
        Disk::is_at(&self.path, self.inode)
    }

    /// The number of the write transaction, which also changes when it ends.
    pub(super) fn transaction(&self) -> u64 {
        self.activity.transaction()
    }

    /// Whether this connection is in a write transaction.
    pub(super) fn is_writing(&self) -> bool {
        self.activity.is(Activity::Writing)
    }

    /// Whether this connection runs a checkpoint.
    pub(super) fn is_checkpointing(&self) -> bool {
        self.activity.is(Activity::Checkpointing)
    }

    /// Enters a write transaction.
    #[cfg(test)]
    pub(super) fn writes_now(&self) {
        self.state().enter(Activity::Writing, &self.activity);
    }

    /// Turns a result into SQLite's result code, and notes the error.
    pub(super) fn answer(&self, result: Result<c_int, VfsError>) -> c_int {
        result.unwrap_or_else(|refusal| self.refuse(refusal))
    }

    #[cold]
    fn refuse(&self, refusal: VfsError) -> c_int {
        let code = refusal.result();
        if let VfsError::Damaged { .. } | VfsError::Inconsistent { .. } = &refusal {
            sqlite_log::log(code, &refusal.to_string());
        }
        hand_over::note_refusal(refusal.clone());
        self.note_refusal(refusal);
        code
    }

    /// Notes why a call or a statement of the connection was refused.
    pub(super) fn note_refusal(&self, refusal: VfsError) {
        let mut state = self.state();
        state.refusal = Some(refusal);
        state.is_refusal_current = true;
    }

    /// Why the call that returned `code` was refused. A code other than those of [`result_codes`] explains one error before the
    /// next transaction.
    pub(super) fn take_refusal(&self, code: c_int) -> Option<VfsError> {
        let mut state = self.state();
        if result_codes::is_own(code) {
            return state.refusal.as_ref().filter(|refusal| refusal.result() == code).cloned();
        }
        let is_current = state.is_refusal_current;
        state.refusal.take_if(|refusal| is_current && refusal.code() == code & 0xff)
    }

    /// Admits a read transaction.
    fn begin_read(&self) -> Result<(), VfsError> {
        if self.has_lost_lock() {
            return Err(VfsError::LostLock);
        }
        self.limits.as_ref().map_or(Ok(()), Limits::begin_read)?;
        // An earlier refusal must not explain an error of this transaction, unless its result code identifies it.
        let mut state = self.state();
        if std::mem::take(&mut state.is_refusal_current) {
            state.refusal.take_if(|refusal| !result_codes::is_own(refusal.result()));
        }
        Ok(())
    }

    /// Runs before a lock of the database file is taken.
    ///
    /// In WAL mode only the last connection to close takes a lock above SHARED. Outside of WAL mode a connection takes one to
    /// switch to WAL mode. Every connection does that first, even if writes are blocked.
    pub(super) fn before_lock(&self, level: c_int) -> Result<(), VfsError> {
        self.forget();
        if level == SQLITE_LOCK_SHARED { self.begin_read() } else { Ok(()) }
    }

    /// Runs after a lock of the database file was taken. In WAL mode only the last connection to close takes the EXCLUSIVE lock.
    /// It holds that lock for its checkpoint and takes no lock of the shared memory.
    pub(super) fn after_lock(&self, level: c_int) {
        let is_wal = self.wal_index.page_count().is_some();
        let mut state = self.state();
        state.file_lock = match (state.file_lock, level) {
            (FileLock::None, SQLITE_LOCK_SHARED) => FileLock::Shared,
            (_, ffi::SQLITE_LOCK_RESERVED..) => FileLock::Writer,
            (held, _) => held,
        };
        if level == SQLITE_LOCK_EXCLUSIVE && is_wal {
            state.enter(Activity::Checkpointing, &self.activity);
        }
    }

    /// Runs after a lock of the database file was refused.
    pub(super) fn after_refused_lock(&self, level: c_int) {
        if level == SQLITE_LOCK_EXCLUSIVE {
            let mut state = self.state();
            if state.closing == Closing::Open {
                state.closing = Closing::RefusedExclusive;
            }
        }
    }

    /// Runs after a lock of the database file was lowered to `level`.
    pub(super) fn after_unlock(&self, level: c_int) {
        let mut state = self.state();
        state.file_lock = match (level, state.file_lock) {
            (SQLITE_LOCK_NONE, _) => FileLock::None,
            (_, FileLock::LostShared) => FileLock::LostShared,
            _ => FileLock::Shared,
        };
    }

    /// Runs before the shared memory is unmapped: the database leaves WAL mode or is closed.
    pub(super) fn before_shm_unmap(&self) {
        self.note_ending();
        self.wal_index.unmap();
        self.state().leave(Activity::Checkpointing, &self.activity);
        self.end_move();
    }

    /// Runs before a lock of the shared memory is taken or released.
    ///
    /// Recovery and checkpoints take the write lock too, and a database whose writes are blocked needs them. Within a write
    /// transaction, read locks change when the WAL restarts; the transaction was admitted before.
    pub(super) fn before_shm_lock(&self, lock: ShmLock) -> Result<(), VfsError> {
        match lock {
            // SQLite restarts the WAL while it holds this read lock and all later ones, so that no reader uses the WAL.
            ShmLock { take: true, shared: false, offset } if offset == FIRST_READ_LOCK + 1 => {
                self.note_ending();
                Ok(())
            }
            lock if self.state().begins_writing(lock) => {
                self.begin_read()?;
                self.limits.as_ref().map_or(Ok(()), Limits::admit_write)
            }
            ShmLock { take: true, shared: true, offset: FIRST_READ_LOCK.. } if !self.is_writing() => {
                self.begin_read()
            }
            _ => Ok(()),
        }
    }

    /// Runs after a lock of the shared memory was taken or released.
    pub(super) fn after_shm_lock(&self, lock: ShmLock) {
        let begins_writing = self.state().begins_writing(lock);
        match lock {
            ShmLock { shared: true, offset: offset @ FIRST_READ_LOCK..8, take } => {
                let mut state = self.state();
                if begins_writing {
                    state.enter(Activity::Writing, &self.activity);
                }
                state.set_read_lock(offset, take);
                drop(state);
                self.forget();
            }
            ShmLock { shared: false, offset: WRITE_LOCK, take } => {
                let mut state = self.state();
                state.transaction += 1;
                state.has_write_lock = take;
                if begins_writing {
                    state.enter(Activity::Writing, &self.activity);
                } else {
                    state.leave(Activity::Writing, &self.activity);
                }
                drop(state);
                if let Some(limits) = &self.limits {
                    limits.write_lock_changed();
                }
            }
            ShmLock { shared: false, offset: CHECKPOINT_LOCK, take } => {
                let mut state = self.state();
                if take {
                    state.enter(Activity::Checkpointing, &self.activity);
                } else {
                    state.leave(Activity::Checkpointing, &self.activity);
                }
                drop(state);
                self.forget();
                self.end_move();
            }
            _ => {}
        }
    }

    fn end_move(&self) {
        if let Some(sealed) = self.sealed() {
            sealed.end_move();
        }
    }

    /// Notes the last commit before SQLite restarts the WAL or unmaps the wal-index.
    fn note_ending(&self) {
        let last = self.wal_index.last_commit();
        let mut state = self.state();
        state.ending = last.map(|last| (state.transaction, last));
    }

    /// The connections of this process to the same file.
    pub(super) fn peers(&self) -> &Peers {
        self.peers.get_or_init(Arc::default)
    }

    /// Notes the peers and the locks of the file that was opened. `locks` are used until [`leave`](Self::leave).
    pub(super) fn open_with(&self, peers: Arc<Peers>, locks: Arc<dyn FileLocks>) {
        self.state().locks = Some(locks);
        self.capture.iter().for_each(|capture| capture.share(Arc::clone(peers.known_files())));
        self.peers.get_or_init(|| peers);
    }

    /// Adds this connection to its peers.
    pub(super) fn join(self: &Arc<Self>) {
        self.peers().lock().push(Arc::clone(self) as Arc<dyn Peer>);
    }

    /// Removes this connection from its peers before the file is closed.
    pub(super) fn leave(&self) {
        self.peers().remove(self);
        self.state().locks = None;
    }

    /// Whether a peer has moved the WAL away, and this connection has not followed it yet.
    pub(super) fn wal_was_moved(&self) -> bool {
        self.wal_was_moved.load(Acquire)
    }

    /// Records that the open WAL is the file at its path.
    pub(super) fn has_wal(&self) {
        self.wal_was_moved.store(false, Release);
    }

    /// Records that this connection closes without deleting the WAL. Returns its locks, and whether the EXCLUSIVE lock was
    /// refused. `None` if its lock is not SHARED. The caller holds the lock on the list of peers.
    pub(super) fn leaves_wal(&self) -> Option<(Arc<dyn FileLocks>, bool)> {
        let mut state = self.state();
        if state.file_lock != FileLock::Shared {
            return None;
        }
        let was_refused = state.closing == Closing::RefusedExclusive;
        state.closing = Closing::LeavesWal;
        Some((state.locks.clone()?, was_refused))
    }

    /// The last commit before SQLite restarted the WAL or unmapped the wal-index in this write transaction, if it did either.
    pub(super) fn last_commit_before_restart(&self) -> Option<LastCommit> {
        let ending = self.state().ending;
        ending.filter(|(of, _)| *of == self.transaction()).map(|(_, last)| last)
    }

    /// Whether this connection captures the commits of a WAL.
    pub(super) fn captures_wal(&self) -> bool {
        self.capture.is_some() && self.wal_index.page_count().is_some()
    }
}

impl Peer for DbConnection {
    fn locks(&self) -> Option<Arc<dyn FileLocks>> {
        self.state().locks.clone()
    }

    fn is_shared(&self) -> bool {
        self.state().file_lock == FileLock::Shared
    }

    fn lose_lock(&self) {
        self.state().file_lock = FileLock::LostShared;
    }

    fn has_lost_lock(&self) -> bool {
        self.state().file_lock == FileLock::LostShared
    }

    fn regain_lock(&self) {
        self.state().file_lock = FileLock::Shared;
    }

    fn wal_moves(&self) {
        self.wal_was_moved.store(true, Release);
    }

    fn keeps_log_at_close(&self) -> bool {
        self.captures_wal() && self.state().closing != Closing::LeavesWal
    }
}
