//! A commit that is whole in the log and that failed all the same: nobody has seen it, and the next one is written over it.

use std::{
    env,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use litefleet::{
    Cipher, CreateDatabaseInput, DatabaseChanges, ErrorKind, Synchronous, Timestamp, VerifyOptions,
    no_progress, rusqlite,
};

use crate::{
    disk::{self, Call, Opened, Verdict, Watcher},
    support::{Contents, Ledger, contents, difference, now, stranger},
};

/// The part of this test that runs in a process of its own: there the VFS beneath is in its place from the beginning.
const ROLE: &str = "LITEFLEET_UNSEEN_CHILD";

/// Lets one flush of a log fail: the one behind so many others.
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
            (Call::Sync, behind) => {
                self.0.store(behind - 1, SeqCst);
                Verdict::Pass
            }
            _ => Verdict::Pass,
        }
    }
}

/// What a fork has, as the database is now.
fn forked(ledger: &Ledger, name: &str) -> Contents {
    let mut input = CreateDatabaseInput::fork(name, "orders");
    if let Some(key) = &ledger.key {
        input = input.with_encryption(litefleet::RemoteEncryption::inherit_cipher(key.clone()));
    }
    ledger.plane.create_database(input).unwrap();
    contents(&ledger.plane.connect(name, &ledger.options()).unwrap())
}

fn check(cipher: Option<Cipher>, is_first_log: bool, ends: bool, flush: &Flush) {
    let mut ledger = Ledger::new(cipher);
    let options = ledger.options().synchronous(Synchronous::Full);
    let mut connection = ledger.plane.connect("orders", &options).unwrap();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    ledger.commit(&connection, "INSERT INTO t VALUES (1)");
    if is_first_log {
        // The next log is the first one of its wal-index, which does not know the log's salts before the commit.
        drop(connection);
        connection = ledger.plane.connect("orders", &options).unwrap();
    }
    // The header of a new log is flushed first.
    flush.0.store(usize::from(is_first_log), SeqCst);
    connection.execute_batch("INSERT INTO t VALUES ('failed'), (zeroblob(50000))").unwrap_err();
    assert_eq!(flush.0.load(SeqCst), NEVER);
    let state = ledger.states.last().unwrap().clone();
    let is_as_before =
        |found: Contents| assert!(found == state.contents, "{}", difference(&found, &state.contents));
    is_as_before(contents(&connection));
    let after: Timestamp = now();
    is_as_before(ledger.contents_at(after).unwrap());
    is_as_before(forked(&ledger, "at-once"));
    let is_well = |ledger: &Ledger| {
        let verified =
            ledger.plane.verify_database("orders", &VerifyOptions::default(), &mut no_progress).unwrap();
        assert_eq!(verified.findings, []);
    };
    is_well(&ledger);
    if ends {
        drop(connection);
        is_well(&ledger);
        connection = ledger.plane.connect("orders", &options).unwrap();
    }
    // Shorter than what failed, of which frames remain behind it.
    ledger.commit(&connection, "INSERT INTO t VALUES (2)");
    let found = forked(&ledger, "later");
    assert!(found == ledger.states.last().unwrap().contents);
    ledger.commit(&connection, "INSERT INTO t VALUES (3)");
    drop(connection);
    ledger.check_all();
    ledger.check_windows();
    is_well(&ledger);
    assert_eq!(ledger.plane.points("orders", ..).unwrap().points.len(), 4);
}

/// Runs a test in a process of its own, with a flush that can be failed; nothing where that was done.
fn in_child(name: &str) -> Option<(Arc<Flush>, disk::ProgressFn)> {
    if env::var_os(ROLE).is_none() {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, "1");
        assert!(child.status().unwrap().success());
        return None;
    }
    disk::slide_beneath();
    let flush = Arc::new(Flush(AtomicUsize::new(NEVER)));
    let watch = disk::watch(Arc::clone(&flush) as _);
    Some((flush, watch))
}

/// The commit of a connection that keeps no history, or of another program, takes the frames of one that failed and has
/// its stamp.
#[test]
fn a_stamp_is_not_taken_for_that_of_a_later_commit() {
    let name = "failed_commit::a_stamp_is_not_taken_for_that_of_a_later_commit";
    let Some((flush, _watch)) = in_child(name) else { return };
    let window = |ledger: &Ledger, window: &str| {
        let window = DatabaseChanges::default().history_window(Some(window.parse().unwrap()));
        ledger.plane.configure_database("orders", window).unwrap();
    };
    for (cipher, by_stranger, ends) in [
        (None, false, false),
        (None, false, true),
        (None, true, false),
        (None, true, true),
        (Some(Cipher::Aegis256), false, false),
        (Some(Cipher::Aegis256), false, true),
    ] {
        let context = format!("{cipher:?}, by a stranger: {by_stranger}, the log ends: {ends}");
        let mut ledger = Ledger::new(cipher);
        let options = ledger.options().synchronous(Synchronous::Full);
        let connection = ledger.plane.connect("orders", &options).unwrap();
        ledger.commit(&connection, "CREATE TABLE t(a)");
        ledger.commit(&connection, "INSERT INTO t VALUES (1)");
        flush.0.store(0, SeqCst);
        connection.execute_batch("INSERT INTO t VALUES ('failed')").unwrap_err();
        let state = ledger.states.last().unwrap().clone();
        let after = now();
        if by_stranger {
            stranger(&ledger).execute_batch("INSERT INTO t VALUES ('unkept')").unwrap();
        } else {
            window(&ledger, "0");
            connection.execute_batch("INSERT INTO t VALUES ('unkept')").unwrap();
            window(&ledger, "1h");
        }
        if ends {
            // It is the last one in its log.
            connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        }
        let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 2, "{context}");
        let later = now();
        connection.execute_batch("INSERT INTO t VALUES (5)").unwrap();
        let last = now();
        // What a restore holds that is answered: what the database had then.
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
fn a_commit_that_failed_when_it_was_flushed_is_in_no_answer() {
    let name = "failed_commit::a_commit_that_failed_when_it_was_flushed_is_in_no_answer";
    let Some((flush, _watch)) = in_child(name) else { return };
    for cipher in [None, Some(Cipher::Aegis256)] {
        for (is_first_log, ends) in [(false, false), (false, true), (true, false), (true, true)] {
            check(cipher, is_first_log, ends, &flush);
        }
    }
}
