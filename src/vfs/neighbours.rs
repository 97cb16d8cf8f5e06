//! The connections of this process that have the same database file open.
//!
//! SQLite's exclusive lock on a database file says that nobody else has it open: no other connection of this process, and no
//! other program. Connections of this VFS can do better among themselves. For as long as one of them asks for that lock, the
//! others give up the lock by which they have the file open; so whoever is left in its way is a stranger, who knows nothing
//! of this. Nobody gets the exclusive lock meanwhile, since the one that asks keeps the lock that it has.
//!
//! When a WAL was moved away under that lock, the others go on with the new file at their next call to it. None of them is
//! within such a call then: SQLite begins a WAL anew only when nobody reads from it, and nobody will before its next commit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::database::Database;

/// The list is locked while a connection takes or gives back a lock of the file, opens or leaves it or its WAL, and for as
/// long as one of them is alone.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    open: Mutex<Vec<Arc<Database>>>,
}

impl Neighbours {
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Arc<Database>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
