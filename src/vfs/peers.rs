//! The connections of this process that have the same database file open.
//!
//! SQLite's exclusive lock on a database file says that nobody else has it open: no other connection of this process, and no
//! other program. Connections of this VFS can do better among themselves. For as long as one of them asks for that lock, the
//! others give up the lock by which they have the file open; so whoever is left in its way is a stranger, who knows nothing
//! of this. Nobody gets the exclusive lock meanwhile, since the one that asks keeps the lock that it has.
//!
//! When a WAL was moved away under that lock, the others go on with the new file at their next call to it. None of them is
//! within such a call then: SQLite begins a WAL anew only when nobody reads from it, and nobody will before its next commit.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::database::Database;

/// How often locks are asked for again that somebody else has, all of them each time.
const ATTEMPTS: u32 = 1_000;
const PAUSE: Duration = Duration::from_millis(1);

/// The list is locked while a connection takes or gives back a lock of the file, opens or leaves it or its WAL, and for as
/// long as one of them is alone.
#[derive(Debug, Default)]
pub(super) struct Peers {
    open: Mutex<Vec<Arc<Database>>>,
}

impl Peers {
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Arc<Database>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the locks again that connections have lost, which `take` tries once. The whole of it is bounded, however many they
    /// are, and others open, lock and close their files meanwhile. A connection that does not get its lock back reads nothing
    /// until it has taken it itself.
    pub(super) fn regain(&self, mut lost: Vec<Arc<Database>>, take: impl Fn(&Database) -> bool) {
        for _ in 0..ATTEMPTS {
            if lost.is_empty() {
                return;
            }
            thread::sleep(PAUSE);
            let open = self.lock();
            lost.retain(|other| {
                // One that was closed has no file any more, and one that gave its lock back wants none.
                let is_open = open.iter().any(|open| Arc::ptr_eq(open, other));
                if !is_open || !other.has_lost_lock() {
                    return false;
                }
                let is_taken = take(other);
                if is_taken {
                    other.regains_lock();
                }
                !is_taken
            });
        }
    }
}
