//! The connections of this process, through this VFS, to one database file.
//!
//! SQLite's exclusive lock on a database file proves that no other connection has it open, of this process or of another one.
//! Peers exclude each other from this test: while one of them requests that lock, the others release their shared locks. Any lock
//! that still conflicts is held by a foreign process. No other connection gets the exclusive lock during the test, because the
//! connection that requests it keeps its shared lock.
//!
//! After a WAL is moved under that lock, each peer opens the new file at its next call to the WAL. No peer is within such a call
//! during the move: SQLite restarts a WAL only while no connection reads from it, and none reads from it before its next commit.

use std::{
    ffi::c_int,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::Arc,
    thread,
    time::Duration,
};

use rusqlite::ffi::{
    SQLITE_BUSY, SQLITE_LOCK_EXCLUSIVE, SQLITE_LOCK_NONE, SQLITE_LOCK_SHARED, SQLITE_OK,
    SQLITE_SHM_EXCLUSIVE, SQLITE_SHM_LOCK, SQLITE_SHM_SHARED, SQLITE_SHM_UNLOCK,
};

use super::{
    frame_table::FrameTable,
    known_files::KnownFiles,
    raw_file::{FIRST_READ_LOCK, FileLocks, WRITE_LOCK},
};
use crate::sync::{Guard, Mutex, Rank};

/// How often lost locks are asked for again, all of them each time.
const ATTEMPTS: u32 = 1_000;
const PAUSE: Duration = Duration::from_millis(1);

/// A connection to a database file, as its peers see it. Its methods are called with the list of peers locked.
pub(super) trait Peer: Send + Sync {
    /// The locks of the open file. `None` if the file is closed.
    fn locks(&self) -> Option<Arc<dyn FileLocks>>;

    /// Whether the connection holds the shared lock of the file and no higher one.
    fn is_shared(&self) -> bool;

    /// Records that the shared lock could not be taken again.
    fn lose_lock(&self);

    fn has_lost_lock(&self) -> bool;

    /// Records that the shared lock was taken again.
    fn regain_lock(&self);

    /// Records that the WAL was moved into the archive and that a new file is at its path.
    fn wal_moves(&self);

    /// Whether the connection will copy committed frames into the archive when it closes.
    fn keeps_log_at_close(&self) -> bool;
}

/// Whether a connection is the only one that has a database open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exclusive {
    No,
    Yes,
    /// Only this connection and its peers have it open.
    WithPeers,
}

/// The peers of one database file.
///
/// The list is locked while a peer takes or releases a lock of the file, opens or closes the file or its WAL, and while one of
/// them runs [exclusively](Self::exclusively).
pub(super) struct Peers {
    open: Mutex<Vec<Arc<dyn Peer>>>,
    known_files: Arc<KnownFiles>,
    frames: FrameTable,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            open: Mutex::new(Rank::Peers, Vec::new()),
            known_files: Arc::default(),
            frames: FrameTable::default(),
        }
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    pub(super) fn lock(&self) -> Guard<'_, Vec<Arc<dyn Peer>>> {
        // The list changes by one insertion or removal at a time.
        self.open.lock_or_recover()
    }

    /// What the peers know of the files of the history.
    pub(super) fn known_files(&self) -> &Arc<KnownFiles> {
        &self.known_files
    }

    /// The frames that the peers have written to the WAL.
    pub(super) fn frames(&self) -> &FrameTable {
        &self.frames
    }

    /// Removes a connection whose file is about to be closed.
    pub(super) fn remove(&self, own: &dyn Peer) {
        self.lock().retain(|other| !is_same(other, own));
    }

    /// Runs `run`, which moves the WAL away, if no foreign process has the database open. `own` is in a write transaction.
    ///
    /// `run` returns whether it moved the WAL. If so, the peers are notified.
    pub(super) fn exclusively(&self, own: &dyn Peer, run: &mut dyn FnMut() -> bool) -> Exclusive {
        let Some(own_locks) = own.locks() else { return Exclusive::No };
        let open = self.lock();
        let others = || open.iter().filter(|other| !is_same(other, own));
        let sharing: Vec<_> = others().filter(|other| other.is_shared()).cloned().collect();
        for locks in sharing.iter().filter_map(|other| other.locks()) {
            locks.unlock(SQLITE_LOCK_NONE);
        }
        let is_exclusive = own_locks.lock(SQLITE_LOCK_EXCLUSIVE) == SQLITE_OK;
        // The locks are restored even if `run` panics.
        let moved = if is_exclusive { catch_unwind(AssertUnwindSafe(run)) } else { Ok(false) };
        if matches!(moved, Ok(true)) {
            others().for_each(|other| other.wal_moves());
        }
        own_locks.unlock(SQLITE_LOCK_SHARED);
        let has_peers = !sharing.is_empty();
        let lost: Vec<_> = sharing.into_iter().filter(|other| !takes_shared(other)).collect();
        for other in &lost {
            other.lose_lock();
        }
        drop(open);
        self.regain(lost);
        if let Err(panic) = moved {
            resume_unwind(panic);
        }
        match is_exclusive {
            false => Exclusive::No,
            true if has_peers => Exclusive::WithPeers,
            true => Exclusive::Yes,
        }
    }

    /// Takes the lost shared locks again. The number of attempts is bounded, however many locks are lost, and other connections
    /// open, lock and close their files in between. A connection that does not get its lock back fails to read until it has
    /// taken the lock itself.
    fn regain(&self, mut lost: Vec<Arc<dyn Peer>>) {
        for _ in 0..ATTEMPTS {
            if lost.is_empty() {
                return;
            }
            thread::sleep(PAUSE);
            let open = self.lock();
            lost.retain(|other| {
                // A closed connection has no file. One that has released its lock no longer needs it.
                let is_open = open.iter().any(|open| Arc::ptr_eq(open, other));
                if !is_open || !other.has_lost_lock() {
                    return false;
                }
                let is_taken = takes_shared(other);
                if is_taken {
                    other.regain_lock();
                }
                !is_taken
            });
        }
    }
}

/// Whether another connection has locked a database file. The caller holds its shared lock, and the lock on the list of peers.
pub(super) fn has_foreign_process(locks: &dyn FileLocks) -> bool {
    let is_exclusive = locks.lock(SQLITE_LOCK_EXCLUSIVE) == SQLITE_OK;
    if is_exclusive {
        locks.unlock(SQLITE_LOCK_SHARED);
    }
    !is_exclusive
}

/// The locks that prevent restarts of a WAL, in the order in which they are tried: SQLite restarts a WAL under the write lock,
/// and only while no connection holds `WAL_READ_LOCK(1)`.
const RESTART_LOCKS: [(u32, c_int); 2] =
    [(WRITE_LOCK, SQLITE_SHM_EXCLUSIVE), (FIRST_READ_LOCK + 1, SQLITE_SHM_SHARED)];

/// Runs `run` under a lock that prevents restarts of the WAL. The argument of `run` is whether writes to the WAL are prevented
/// too.
///
/// Fails with the result code of the lock if every such lock stays busy. `run` has not been called then.
pub(super) fn without_restarts(locks: &dyn FileLocks, run: &mut dyn FnMut(bool)) -> Result<(), c_int> {
    const ATTEMPTS: u32 = 50;
    let mut code = SQLITE_BUSY;
    let mut takes = |(lock, kind)| {
        (0..ATTEMPTS).any(|attempt| {
            if attempt > 0 {
                thread::sleep(PAUSE);
            }
            code = locks.shm_lock(lock, SQLITE_SHM_LOCK | kind);
            code == SQLITE_OK
        })
    };
    let Some((lock, kind)) = RESTART_LOCKS.into_iter().find(|lock| takes(*lock)) else { return Err(code) };
    let ran = catch_unwind(AssertUnwindSafe(|| run(lock == WRITE_LOCK)));
    locks.shm_lock(lock, SQLITE_SHM_UNLOCK | kind);
    ran.map_err(|panic| resume_unwind(panic))
}

/// Whether the shared lock of a peer could be taken.
fn takes_shared(peer: &Arc<dyn Peer>) -> bool {
    peer.locks().is_some_and(|locks| locks.lock(SQLITE_LOCK_SHARED) == SQLITE_OK)
}

fn is_same(peer: &Arc<dyn Peer>, own: &dyn Peer) -> bool {
    ptr::addr_eq(Arc::as_ptr(peer), ptr::from_ref(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The locks of a shared memory of which other processes hold these.
    #[derive(Debug)]
    struct Held<'a>(&'a [u32]);

    impl FileLocks for Held<'_> {
        fn lock(&self, _: c_int) -> c_int {
            SQLITE_BUSY
        }

        fn unlock(&self, _: c_int) -> c_int {
            SQLITE_OK
        }

        fn shm_lock(&self, lock: u32, _: c_int) -> c_int {
            if self.0.contains(&lock) { SQLITE_BUSY } else { SQLITE_OK }
        }
    }

    #[test]
    fn without_restarts_runs_only_under_a_lock() {
        let run = |held: &[u32]| {
            let mut ran = None;
            let result = without_restarts(&Held(held), &mut |is_exclusive| ran = Some(is_exclusive));
            (result, ran)
        };
        assert_eq!(run(&[]), (Ok(()), Some(true)));
        assert_eq!(run(&[WRITE_LOCK]), (Ok(()), Some(false)));
        assert_eq!(run(&[WRITE_LOCK, FIRST_READ_LOCK + 1]), (Err(SQLITE_BUSY), None));
    }
}
