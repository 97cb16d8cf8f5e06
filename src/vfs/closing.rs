//! What a connection keeps for the history when it closes and the WAL stays.

use std::{
    ffi::c_int,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rusqlite::ffi::{SQLITE_IOERR, SQLITE_LOCK_EXCLUSIVE};

use super::{database::Database, ffi, raw_file::RawFile};

#[derive(Debug, Default)]
pub(super) struct Closing {
    /// Whether the connection is about to leave the WAL. The lock of its neighbours guards it.
    leaving: AtomicBool,
    /// Whether it asked for the exclusive lock of the file, as the last connection does that closes, and was refused.
    refused_exclusive: AtomicBool,
}

impl Database {
    /// SQLite asked for a lock of the database file that somebody else has.
    pub(super) fn after_refused_lock(&self, level: c_int) {
        if level == SQLITE_LOCK_EXCLUSIVE {
            self.closing.refused_exclusive.store(true, Relaxed);
        }
    }

    /// This connection closes and the WAL stays. What is committed there is copied into the archive if no other connection of
    /// this process will do so when it closes, and somebody else has the database open: another program may delete the WAL.
    ///
    /// A close cannot fail, so what goes wrong is logged.
    pub(super) fn keep_log(&self, beneath: &impl RawFile) {
        if self.capture.is_none() || self.wal_index().page_count().is_none() || !self.is_shared() {
            return;
        }
        let is_last = {
            let open = self.neighbours().lock();
            self.closing.leaving.store(true, Relaxed);
            let stays = |other: &&Arc<Self>| {
                let is_open = other.capture.is_some() && other.wal_index().page_count().is_some();
                is_open && !other.closing.leaving.load(Relaxed)
            };
            // A connection that is not to checkpoint when it closes does not ask for that lock.
            !open.iter().any(|other| stays(&other))
                && (self.closing.refused_exclusive.load(Relaxed) || beneath.has_company())
        };
        if !is_last {
            return;
        }
        let mut kept = Ok(());
        match self.capture_now() {
            Ok(None) => {}
            Ok(Some(capture)) => beneath.without_restarts(&mut |is_alone| {
                kept = capture.keep(&|salts| self.last_frame(salts), is_alone);
            }),
            Err(refusal) => ffi::log(refusal.code(), &refusal.to_string()),
        }
        if let Err(error) = kept {
            let message = format!("keeping what is committed in the log of a database: {error}");
            ffi::log(SQLITE_IOERR, &message);
        }
    }
}
