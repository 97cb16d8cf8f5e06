//! A commit whose frames are complete in the WAL but whose flush failed: it never becomes visible, and the next
//! commit overwrites its frames.

use std::{
    env,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use litefleet::{
    Cipher, CreateDatabaseInput, DatabaseChanges, ErrorKind, Synchronous, Timestamp, VerifyOptions, rusqlite,
};

use crate::{
    fault_vfs::{self, Call, Opened, Verdict, Watcher},
    support::{Contents, Ledger, contents, difference, foreign_connection, now},
};

/// Set in the child process, in which the fault-injecting VFS is installed before SQLite opens a file.
const ROLE: &str = "LITEFLEET_FAILED_COMMIT_CHILD";

/// Fails one flush of the WAL, after the given number of successful ones.
struct Flush(AtomicUsize);

const NEVER: usize = usize::MAX;

impl Watcher for Flush {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_some_and(|path| path.ends_with("orders/data.db-wal"))
    }

    fn see(&self, _: &Opened, call: Call<'_>) -> Verdict {
        match (call, self.0.load(SeqCst)) {
            (Call::Sync, 0) => {
                self.0.store(NEVER, SeqCst);
                Verdict::Fail(rusqlite::ffi::SQLITE_IOERR_FSYNC)
            }
            (Call::Sync, NEVER) => Verdict::Pass,
            (Call::Sync, remaining) => {
                self.0.store(remaining - 1, SeqCst);
                Verdict::Pass
            }
            _ => Verdict::Pass,
        }
    }
}

/// The contents of a new fork of the current database.
fn forked(ledger: &Ledger, name: &str) -> Contents {
    let mut input = CreateDatabaseInput::fork(name, "orders");
    if let Some(key) = &ledger.key {
        input = input.with_encryption(litefleet::RemoteEncryption::inherit_cipher(key.clone()));
    }
    ledger.plane.create_database(input).unwrap();
    contents(&ledger.plane.connect(name, ledger.options()).unwrap())
}

fn check(cipher: Option<Cipher>, is_first_log: bool, ends: bool, flush: &Flush) {
    let mut ledger = Ledger::new(cipher);
    let options = ledger.options().synchronous(Synchronous::Full);
    let mut connection = ledger.plane.connect("orders", options.clone()).unwrap();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    ledger.commit(&connection, "INSERT INTO t VALUES (1)");
    if is_first_log {
        // A new wal-index does not contain the salts of the WAL before its first commit.
        drop(connection);
        connection = ledger.plane.connect("orders", options.clone()).unwrap();
    }
    // In that case the header of the new WAL is flushed first.
    flush.0.store(usize::from(is_first_log), SeqCst);
    // Keeps the WAL open.
    let other = (!ends).then(|| ledger.plane.connect("orders", options.clone()).unwrap());
    connection.execute_batch("INSERT INTO t VALUES ('failed'), (zeroblob(50000))").unwrap_err();
    assert_eq!(flush.0.load(SeqCst), NEVER);
    let state = ledger.states.last().unwrap().clone();
    let assert_unchanged =
        |found: Contents| assert!(found == state.contents, "{}", difference(&found, &state.contents));
    assert_unchanged(contents(&connection));
    let after: Timestamp = now();
    assert_unchanged(ledger.contents_at(after).unwrap());
    assert_unchanged(forked(&ledger, "at-once"));
    let assert_no_findings = |ledger: &Ledger| {
        let verified = ledger.plane.verify_database("orders", VerifyOptions::default()).unwrap();
        assert_eq!(verified.findings, []);
    };
    assert_no_findings(&ledger);
    // The failed flush has latched the connection.
    drop(connection);
    assert_no_findings(&ledger);
    connection = other.unwrap_or_else(|| ledger.plane.connect("orders", options.clone()).unwrap());
    assert_unchanged(contents(&connection));
    // Shorter than the failed commit, so frames of that remain after it.
    ledger.commit(&connection, "INSERT INTO t VALUES (2)");
    let found = forked(&ledger, "later");
    assert!(found == ledger.states.last().unwrap().contents);
    ledger.commit(&connection, "INSERT INTO t VALUES (3)");
    drop(connection);
    ledger.check_all();
    ledger.check_windows();
    assert_no_findings(&ledger);
    assert_eq!(ledger.plane.points("orders", ..).unwrap().points.len(), 4);
}

/// Reruns the test in a child process and returns `None`; in the child, installs the VFS and returns the flush to
/// fail.
fn in_child(name: &str) -> Option<(Arc<Flush>, fault_vfs::WatchGuard)> {
    if env::var_os(ROLE).is_none() {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, "1");
        assert!(child.status().unwrap().success());
        return None;
    }
    fault_vfs::install();
    let flush = Arc::new(Flush(AtomicUsize::new(NEVER)));
    let watch = fault_vfs::watch(Arc::clone(&flush) as _);
    Some((flush, watch))
}

/// A commit without a stamp, by a connection with its history off or by a foreign process, overwrites the frames of a
/// failed commit that has one.
#[test]
fn stamp_of_failed_commit_is_not_used_for_a_later_commit() {
    let name = "failed_commit::stamp_of_failed_commit_is_not_used_for_a_later_commit";
    let Some((flush, _watch)) = in_child(name) else { return };
    let window = |ledger: &Ledger, window: &str| {
        let window = DatabaseChanges::default().history_window(window.parse().unwrap());
        ledger.plane.configure_database("orders", window).unwrap();
    };
    for (cipher, by_foreign, ends) in [
        (None, false, false),
        (None, false, true),
        (None, true, false),
        (None, true, true),
        (Some(Cipher::Aegis256), false, false),
        (Some(Cipher::Aegis256), false, true),
    ] {
        let context = format!("{cipher:?}, by a foreign process: {by_foreign}, the WAL ends: {ends}");
        let mut ledger = Ledger::new(cipher);
        let options = ledger.options().synchronous(Synchronous::Full);
        let connection = ledger.plane.connect("orders", options.clone()).unwrap();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        ledger.commit(&connection, "INSERT INTO t VALUES (1)");
        // The failed flush latches its connection.
        let other = ledger.plane.connect("orders", options.clone()).unwrap();
        flush.0.store(0, SeqCst);
        connection.execute_batch("INSERT INTO t VALUES ('failed')").unwrap_err();
        drop(connection);
        let connection = other;
        let state = ledger.states.last().unwrap().clone();
        let after = now();
        if by_foreign {
            foreign_connection(&ledger).execute_batch("INSERT INTO t VALUES ('unkept')").unwrap();
        } else {
            window(&ledger, "0");
            connection.execute_batch("INSERT INTO t VALUES ('unkept')").unwrap();
            window(&ledger, "1h");
        }
        if ends {
            // The unstamped commit is the last one of its WAL.
            connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        }
        let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 2, "{context}");
        let later = now();
        connection.execute_batch("INSERT INTO t VALUES (5)").unwrap();
        let last = now();
        // A restore either fails or returns what the database contained at that instant.
        for (at, rows) in [(after, 1), (later, 2)] {
            match ledger.contents_at(at) {
                Ok(found) => assert_eq!(found["t"].len(), rows, "{context}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{context}: {error}"),
            }
        }
        assert!(ledger.contents_at(state.from).unwrap() == state.contents, "{context}");
        assert_eq!(ledger.contents_at(last).unwrap()["t"].len(), 3, "{context}");
    }
}

#[test]
fn commit_that_failed_to_flush_is_never_restored() {
    let name = "failed_commit::commit_that_failed_to_flush_is_never_restored";
    let Some((flush, _watch)) = in_child(name) else { return };
    for cipher in [None, Some(Cipher::Aegis256)] {
        for (is_first_log, ends) in [(false, false), (false, true), (true, false), (true, true)] {
            check(cipher, is_first_log, ends, &flush);
        }
    }
}
