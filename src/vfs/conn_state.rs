//! The state of a connection: what SQLite does with it, and the locks that it holds.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    error::VfsError,
    raw_file::{FIRST_READ_LOCK, FileLocks, ShmLock, WRITE_LOCK},
};
use crate::wal::LastCommit;

/// The state of a connection.
#[derive(Debug)]
pub(super) struct ConnState {
    /// The address of SQLite's connection; 0 until it is known.
    pub(super) connection: usize,
    /// The locks of the open file. `None` before the file is open and after it is closed.
    pub(super) locks: Option<Arc<dyn FileLocks>>,
    pub(super) file_lock: FileLock,
    /// The read locks of the shared memory that the connection holds, one bit each.
    pub(super) read_locks: u8,
    /// Whether the connection holds the write lock of the shared memory.
    pub(super) has_write_lock: bool,
    pub(super) activity: Activity,
    /// Counts how often the write lock was taken or released. Cached state of the WAL is valid for one value of this counter.
    pub(super) transaction: u64,
    /// The last commit before the wal-index changed, and the transaction in which it did.
    pub(super) ending: Option<(u64, LastCommit)>,
    pub(super) closing: Closing,
    pub(super) new_file: NewFile,
    /// Why the last refused call was refused.
    pub(super) refusal: Option<VfsError>,
    /// Whether no transaction has begun since the refusal.
    pub(super) is_refusal_current: bool,
}

/// The lock of the database file that SQLite's pager has recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileLock {
    None,
    Shared,
    /// SQLite has recorded the shared lock, but it was released for a peer and could not be taken again.
    LostShared,
    /// A higher lock.
    Writer,
}

/// The current activity of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// It reads, or does nothing.
    Idle,
    /// It holds the write lock in a write transaction.
    Writing,
    /// It holds the checkpoint lock, for a checkpoint or a recovery, or is the last connection and closes.
    Checkpointing,
}

/// How far the connection has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    Open,
    /// It asked for the exclusive lock of the file, as the last connection that closes does, and was refused.
    RefusedExclusive,
    /// It is about to unmap the shared memory without deleting the WAL.
    LeavesWal,
}

/// Whether writes to a new file are permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NewFile {
    Permitted,
    /// The file should become encrypted and cannot be.
    Refused,
}

/// An activity and the number of the write transaction, packed into a word.
#[derive(Debug, Default)]
pub(super) struct ActivityWord(AtomicU64);

impl ActivityWord {
    /// The width of the activity.
    const BITS: u32 = 2;

    pub(super) fn transaction(&self) -> u64 {
        self.0.load(Relaxed) >> Self::BITS
    }

    pub(super) fn is(&self, activity: Activity) -> bool {
        self.0.load(Relaxed) & ((1 << Self::BITS) - 1) == activity as u64
    }

    fn set(&self, activity: Activity, transaction: u64) {
        self.0.store(transaction << Self::BITS | activity as u64, Relaxed);
    }
}

impl ConnState {
    /// The state of a connection whose file is being opened.
    pub(super) fn new() -> Self {
        Self {
            connection: 0,
            locks: None,
            file_lock: FileLock::None,
            read_locks: 0,
            has_write_lock: false,
            activity: Activity::Idle,
            transaction: 0,
            ending: None,
            closing: Closing::Open,
            new_file: NewFile::Permitted,
            refusal: None,
            is_refusal_current: false,
        }
    }

    /// Whether taking a lock of the shared memory begins a write transaction: it is the second one of a read lock and the write
    /// lock. An SQLite that is built with `SQLITE_ENABLE_SETLK_TIMEOUT` may take the write lock first.
    ///
    /// Recovery and checkpoints take the write lock without a read lock.
    pub(super) fn begins_writing(&self, lock: ShmLock) -> bool {
        let is_second = match lock {
            ShmLock { take: true, shared: false, offset: WRITE_LOCK } => self.read_locks != 0,
            ShmLock { take: true, shared: true, offset: FIRST_READ_LOCK.. } => self.has_write_lock,
            _ => false,
        };
        is_second && self.activity == Activity::Idle
    }

    /// Notes that a read lock was taken or released.
    pub(super) fn set_read_lock(&mut self, offset: u32, is_held: bool) {
        let bit = 1 << (offset - FIRST_READ_LOCK);
        self.read_locks = if is_held { self.read_locks | bit } else { self.read_locks & !bit };
    }

    /// Enters an activity, and publishes it to `word`.
    pub(super) fn enter(&mut self, activity: Activity, word: &ActivityWord) {
        self.activity = activity;
        word.set(activity, self.transaction);
    }

    /// Leaves an activity if the connection is in it, and publishes that to `word`.
    pub(super) fn leave(&mut self, activity: Activity, word: &ActivityWord) {
        let next = if self.activity == activity { Activity::Idle } else { self.activity };
        self.enter(next, word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: ShmLock = ShmLock { offset: WRITE_LOCK, take: true, shared: false };
    const READ: ShmLock = ShmLock { offset: FIRST_READ_LOCK + 1, take: true, shared: true };

    #[test]
    fn write_transaction_begins_with_the_second_of_its_locks() {
        let mut state = ConnState::new();
        assert!(!state.begins_writing(READ) && !state.begins_writing(WRITE));
        state.read_locks = 2;
        assert!(state.begins_writing(WRITE) && !state.begins_writing(READ));
        let mut state = ConnState::new();
        state.has_write_lock = true;
        assert!(state.begins_writing(READ) && !state.begins_writing(WRITE));
        // A restart of the WAL changes the read lock within the transaction.
        state.activity = Activity::Writing;
        assert!(!state.begins_writing(READ));
        state.activity = Activity::Checkpointing;
        assert!(!state.begins_writing(READ) && !state.begins_writing(WRITE));
    }
}
