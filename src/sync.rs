//! A mutex with a rank, which latches when a panic interrupts its holder.
//!
//! # Lock order
//!
//! A thread takes locks in increasing [`Rank`]. Debug builds assert this with a stack for each thread: [`Mutex::lock`] panics
//! if the thread holds a lock of an equal or higher rank, and the message names both. Release builds do not check.
//!
//! The nestings that exist, outermost first:
//!
//! | held | taken | where |
//! |---|---|---|
//! | [`Sessions`](Rank::Sessions) | [`SessionUsage`](Rank::SessionUsage) | a server ends uploads that are idle |
//! | [`CatalogWriter`](Rank::CatalogWriter) | [`Changes`](Rank::Changes), the ranks of the VFS, [`CatalogReaders`](Rank::CatalogReaders) | a catalog transaction acts on files |
//! | [`OpenDatabases`](Rank::OpenDatabases) | [`Connection`](Rank::Connection) | a database file opens |
//! | [`Wal`](Rank::Wal) | [`Capture`](Rank::Capture), [`Frames`](Rank::Frames), [`Seal`](Rank::Seal), [`Limits`](Rank::Limits), [`WalIndex`](Rank::WalIndex) | a frame is written |
//! | [`Capture`](Rank::Capture) | [`Peers`](Rank::Peers), [`Unsynced`](Rank::Unsynced), [`Frames`](Rank::Frames), [`Connection`](Rank::Connection), the ranks of an image | a generation begins or ends |
//! | [`Peers`](Rank::Peers) | [`Connection`](Rank::Connection), [`WalIndex`](Rank::WalIndex), SQLite's inode mutex | a lock of the database file changes |
//! | [`Wal`](Rank::Wal), [`Journal`](Rank::Journal) | [`Seal`](Rank::Seal) | a page is sealed |
//! | [`Seal`](Rank::Seal) | [`Move`](Rank::Move) | a checkpoint writes a page |
//! | [`Wal`](Rank::Wal), [`Capture`](Rank::Capture) | `WalIndexFile`, where SQLite's VFS reads wal-indexes | a generation is read up to the last visible commit |
//!
//! SQLite's own mutexes rank below all of these when SQLite calls the VFS (it holds the connection's), and above all of them
//! when the VFS calls the VFS below (which takes its inode mutex and makes no callbacks). A progress callback runs under no
//! lock. A [`FaultHook`](crate::testing::FaultHook) and a [`ClockFn`](crate::testing::ClockFn) run under any lock, and therefore
//! must not use the fleet.
//!
//! Locks of files come before mutexes, except where the table says otherwise:
//!
//! 1. the root directory (`flock`), while a control plane opens or recovers;
//! 2. a staging directory (`flock`), for as long as a database is being built in it;
//! 3. the directory of a database (`flock`), while its history is maintained;
//! 4. the write lock of the catalog (SQLite's), under [`CatalogWriter`](Rank::CatalogWriter);
//! 5. the locks of a database file and its wal-index (SQLite's): the VFS is called under them;
//! 6. the directory of a history (`flock`), under [`Capture`](Rank::Capture): shared while its files are read, exclusive while
//!    they are compressed or pruned. The exclusive holder waits for no other lock;
//! 7. `.changes` (`fcntl`), under [`Changes`](Rank::Changes).
//!
//! # Latches
//!
//! A panic in a holder may leave the value half changed. [`Mutex::lock`] fails with [`Latched`] from then on.
//! [`Mutex::lock_or_recover`] and [`Mutex::lock_or_clear`] are for values that a panic cannot leave half changed, or that can be
//! discarded.

#[cfg(debug_assertions)]
use std::cell::RefCell;
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{self, PoisonError},
    time::Duration,
};

use crate::error::{Error, ErrorKind};

/// The position of a lock in the lock order: a thread takes locks in increasing rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    not(all(feature = "http", feature = "internals")),
    expect(dead_code, reason = "some locks are in optional modules")
)]
pub(crate) enum Rank {
    /// The uploads in chunks of a server.
    Sessions,
    /// The requests that use one upload.
    SessionUsage,
    /// The digests of the chunks of one upload.
    Chunks,
    /// The connections of a server.
    Connections,
    /// The database of revoked tokens.
    Rotations,
    /// The state of a maintenance thread.
    Maintainer,
    /// The connection that writes to the catalog.
    CatalogWriter,
    /// The counters of finished changes.
    Changes,
    /// The table of granted leases.
    Leases,
    /// The table of the open database files.
    OpenDatabases,
    /// The table of the open historical views.
    OpenViews,
    /// One WAL file handle.
    Wal,
    /// One rollback journal handle.
    Journal,
    /// One temporary file handle.
    Temp,
    /// The live stamps of one connection.
    Capture,
    /// The connections of this process to one database file.
    Peers,
    /// The files that must be flushed before the WAL is.
    Unsynced,
    /// The frames that the connections of this process have written to one WAL.
    Frames,
    /// The nonces and the buffer with which one connection seals pages.
    Seal,
    /// The sealed page that a checkpoint moves.
    Move,
    /// The pages that one connection read ahead.
    Readahead,
    /// The policy of a database as one connection knows it.
    Limits,
    /// The state of one connection to a database.
    Connection,
    /// The mapped regions of one wal-index.
    WalIndex,
    /// The right to open a wal-index.
    #[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
    WalIndexFile,
    /// The reason of the last refusal of one file handle.
    Refusal,
    /// The segments that a historical image has open.
    ImageFiles,
    /// The decompressed pages of a historical image.
    ImagePages,
    /// The extent that a historical image has asked the system to read.
    Prefetch,
    /// The packs of a history that a reader knows.
    Packs,
    /// The decompressed frames of one pack.
    PackFrames,
    /// The pool of connections that read the catalog.
    CatalogReaders,
    /// The storages that tests have mounted.
    Mounts,
}

impl Rank {
    /// What the lock protects, as a noun.
    const fn object(self) -> &'static str {
        match self {
            Self::Sessions => "the table of uploads",
            Self::SessionUsage => "the usage of an upload",
            Self::Chunks => "the chunks of an upload",
            Self::Connections => "the table of connections",
            Self::Rotations => "the database of revoked tokens",
            Self::Maintainer => "the state of the maintenance thread",
            Self::CatalogWriter => "the catalog's writer",
            Self::Changes => "the counters of changes",
            Self::Leases => "the table of leases",
            Self::OpenDatabases => "the table of open databases",
            Self::OpenViews => "the table of open views",
            Self::Wal => "the state of the WAL",
            Self::Journal => "the state of the rollback journal",
            Self::Temp => "the state of a temporary file",
            Self::Capture => "the capture of the history",
            Self::Peers => "the table of peers",
            Self::Unsynced => "the list of unflushed files",
            Self::Frames => "the frames that this process has written to a WAL",
            Self::Seal => "the state of page encryption",
            Self::Move => "the page of the checkpoint",
            Self::Readahead => "the readahead buffer",
            Self::Limits => "the policy of the database",
            Self::Connection => "the state of the connection",
            Self::WalIndex => "the wal-index",
            #[cfg(not(all(target_os = "linux", not(litefleet_posix))))]
            Self::WalIndexFile => "the wal-index file",
            Self::Refusal => "the reason of a refusal",
            Self::ImageFiles => "the open segments of a view",
            Self::ImagePages => "the page cache of a view",
            Self::Prefetch => "the prefetch state of a view",
            Self::Packs => "the list of packs",
            Self::PackFrames => "the frames of a pack",
            Self::CatalogReaders => "the catalog's readers",
            Self::Mounts => "the table of mounted storages",
        }
    }

    /// What a caller does about a [latched](Latched) lock.
    const fn remedy(self) -> &'static str {
        match self {
            Self::Sessions | Self::SessionUsage | Self::Chunks => "start the upload again",
            Self::Connections | Self::Rotations => "restart the server",
            Self::Maintainer => "start the maintenance thread again",
            Self::CatalogWriter | Self::Changes | Self::CatalogReaders => "open the control plane again",
            _ => "close the connection and open it again",
        }
    }
}

/// A lock is unusable because a panic interrupted an earlier holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Latched(Rank);

impl fmt::Display for Latched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(rank) = self;
        write!(f, "{} is unusable after a panic; {}", rank.object(), rank.remedy())
    }
}

impl std::error::Error for Latched {}

impl From<Latched> for Error {
    fn from(latched: Latched) -> Self {
        Self::new(ErrorKind::Io, latched.to_string()).caused_by(latched)
    }
}

/// A mutex with a [`Rank`]. See the [module documentation](self) for the lock order and latches.
pub(crate) struct Mutex<T> {
    rank: Rank,
    inner: sync::Mutex<T>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: sync::Mutex::new(value) }
    }

    /// Locks the mutex.
    ///
    /// # Errors
    ///
    /// Fails with [`Latched`] if an earlier holder panicked.
    pub(crate) fn lock(&self) -> Result<Guard<'_, T>, Latched> {
        let held = Held::push(self.rank);
        match self.inner.lock() {
            Ok(inner) => Ok(Guard { inner, held }),
            Err(_) => Err(Latched(self.rank)),
        }
    }

    /// Locks the mutex, whether or not an earlier holder panicked.
    ///
    /// Allowed only if the invariants of the value hold wherever its holders can panic: `()`, a statistic, a table that is
    /// changed by a single insertion or removal, a connection whose transaction rolls back when it is dropped.
    pub(crate) fn lock_or_recover(&self) -> Guard<'_, T> {
        let held = Held::push(self.rank);
        let inner = self.inner.lock().unwrap_or_else(|poisoned| self.unpoison(poisoned));
        Guard { inner, held }
    }

    /// Locks the mutex, and replaces the value with its default if an earlier holder panicked.
    ///
    /// For caches, which may be empty at any time.
    pub(crate) fn lock_or_clear(&self) -> Guard<'_, T>
    where
        T: Default,
    {
        let held = Held::push(self.rank);
        let inner = self.inner.lock().unwrap_or_else(|poisoned| {
            let mut inner = self.unpoison(poisoned);
            *inner = T::default();
            inner
        });
        Guard { inner, held }
    }

    /// Consumes the mutex, whether or not a holder panicked. [`lock_or_recover`](Self::lock_or_recover) states when this is
    /// allowed.
    pub(crate) fn into_inner_or_recover(self) -> T {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn unpoison<'a>(&self, poisoned: PoisonError<sync::MutexGuard<'a, T>>) -> sync::MutexGuard<'a, T> {
        self.inner.clear_poison();
        poisoned.into_inner()
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("rank", &self.rank).field("inner", &self.inner).finish()
    }
}

/// A locked [`Mutex`], which unlocks when it is dropped.
#[derive(Debug)]
#[must_use = "the mutex unlocks when the guard is dropped"]
pub(crate) struct Guard<'a, T> {
    inner: sync::MutexGuard<'a, T>,
    held: Held,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A condition variable of a [`Mutex`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

impl Condvar {
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits at most `time`, while `condition` holds. Treats a panic as [`Mutex::lock_or_recover`] does.
    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        guard: Guard<'a, T>,
        time: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Guard<'a, T> {
        let Guard { inner, held } = guard;
        let waited = self.0.wait_timeout_while(inner, time, condition);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Guard { inner, held }
    }
}

#[cfg(debug_assertions)]
thread_local! {
    /// The ranks of the locks that this thread holds, in increasing order.
    static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
}

/// An entry of this thread's stack of locks, in debug builds.
#[derive(Debug)]
struct Held {
    #[cfg(debug_assertions)]
    rank: Rank,
}

impl Held {
    #[cfg(debug_assertions)]
    fn push(rank: Rank) -> Self {
        // While a thread exits, its stack may be gone already.
        let held = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            let last = held.last().copied();
            if last.is_none_or(|last| last < rank) {
                held.push(rank);
            }
            last
        });
        if let Some(last) = held.ok().flatten() {
            assert!(last < rank, "lock order violation: {rank:?} is taken while {last:?} is held");
        }
        Self { rank }
    }

    #[cfg(not(debug_assertions))]
    #[inline]
    const fn push(_: Rank) -> Self {
        Self {}
    }
}

#[cfg(debug_assertions)]
impl Drop for Held {
    fn drop(&mut self) {
        // Guards are not always dropped in reverse order.
        let _exiting = HELD.try_with(|held| held.borrow_mut().retain(|rank| *rank != self.rank));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::Arc,
        thread,
    };

    use super::*;

    /// A mutex whose holder panicked after it changed the value from 1 to 2.
    fn interrupted() -> Arc<Mutex<u32>> {
        let mutex = Arc::new(Mutex::new(Rank::Wal, 1));
        let shared = Arc::clone(&mutex);
        let holder = thread::spawn(move || {
            let mut value = shared.lock().unwrap();
            *value = 2;
            panic!("a panic of this test");
        });
        assert!(holder.join().is_err());
        mutex
    }

    #[test]
    fn lock_fails_after_a_panic_of_a_holder() {
        let mutex = interrupted();
        for _ in 0..2 {
            let error = Error::from(mutex.lock().unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Io);
            assert_eq!(
                error.to_string(),
                "the state of the WAL is unusable after a panic; close the connection and open it again"
            );
        }
    }

    #[test]
    fn lock_or_recover_keeps_the_value_and_unlatches() {
        let mutex = interrupted();
        assert_eq!(*mutex.lock_or_recover(), 2);
        assert_eq!(*mutex.lock().unwrap(), 2);
    }

    #[test]
    fn lock_or_clear_replaces_the_value_once() {
        let mutex = interrupted();
        *mutex.lock_or_clear() += 7;
        assert_eq!(*mutex.lock_or_clear(), 7);
    }

    #[test]
    fn a_failed_lock_does_not_count_as_held() {
        let mutex = interrupted();
        assert!(mutex.lock().is_err());
        drop(Mutex::new(Rank::Sessions, ()).lock().unwrap());
    }

    #[cfg(debug_assertions)]
    #[test]
    fn locks_out_of_order_panic_with_both_names() {
        let (writer, wal) = (Mutex::new(Rank::CatalogWriter, ()), Mutex::new(Rank::Wal, ()));
        {
            let _writer = writer.lock().unwrap();
            let _wal = wal.lock().unwrap();
        }
        let wal_held = wal.lock().unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| drop(writer.lock()))).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert_eq!(message, "lock order violation: CatalogWriter is taken while Wal is held");
        // Two locks of one rank have no order.
        let other = Mutex::new(Rank::Wal, ());
        assert!(catch_unwind(AssertUnwindSafe(|| drop(other.lock()))).is_err());
        drop(wal_held);
        drop(writer.lock().unwrap());
    }

    #[cfg(debug_assertions)]
    #[test]
    fn guards_may_be_dropped_in_any_order() {
        let mutexes = [Rank::Sessions, Rank::Wal, Rank::Peers].map(|rank| Mutex::new(rank, ()));
        let [first, second, third] = mutexes.each_ref().map(|mutex| mutex.lock().unwrap());
        drop(second);
        drop(first);
        assert!(catch_unwind(AssertUnwindSafe(|| drop(mutexes[1].lock()))).is_err());
        drop(third);
        drop(mutexes[1].lock().unwrap());
    }
}
