//! Archives the WAL when a connection closes without deleting it.

use rusqlite::ffi::SQLITE_IOERR;

use super::{
    connection::DbConnection,
    peers::{has_foreign_process, without_restarts},
};
use crate::sys::sqlite_log;

/// Copies the committed frames of the WAL into the archive, if no peer will do so later and a foreign process has the database
/// open: that process may delete the WAL.
///
/// A close cannot fail, so an error is logged.
pub(super) fn keep_log(connection: &DbConnection) {
    if !connection.captures_wal() || connection.latch().is_set() {
        return;
    }
    let locks = {
        let peers = connection.peers().lock();
        let Some((locks, was_refused)) = connection.leaves_wal() else { return };
        // A connection that does not checkpoint when it closes does not ask for the exclusive lock.
        let is_needed = !peers.iter().any(|peer| peer.keeps_log_at_close())
            && (was_refused || has_foreign_process(&*locks));
        if !is_needed {
            return;
        }
        locks
    };
    let mut kept = Ok(());
    match connection.capture_now() {
        Ok(None) => {}
        Ok(Some(capture)) => {
            let archive = &mut |is_exclusive| kept = capture.keep(connection, is_exclusive);
            if let Err(code) = without_restarts(&*locks, archive) {
                let message = "closing a database without archiving its last commits: other programs keep its WAL locked; if \
                               they delete the WAL, the history has a gap";
                sqlite_log::log(code, message);
            }
        }
        Err(refusal) => sqlite_log::log(refusal.code(), &refusal.to_string()),
    }
    if let Err(error) = kept {
        let message = format!("archiving the committed frames of a closing database: {error}");
        sqlite_log::log(SQLITE_IOERR, &message);
    }
}
