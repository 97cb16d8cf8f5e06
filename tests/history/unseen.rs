//! A commit that is whole in the log and that failed all the same: nobody has seen it, and the next one is written over it.

use std::{
    env,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use litefleet::{Cipher, CreateDatabaseInput, Synchronous, Timestamp, VerifyOptions, rusqlite, unwatched};

use crate::{
    disk::{self, Call, Opened, Verdict, Watcher},
    support::{Contents, Ledger, contents, difference, now},
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
        input = input.with_encryption(litefleet::RemoteEncryption::of_source(key.clone()));
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
            ledger.plane.verify_database("orders", &VerifyOptions::default(), &mut unwatched).unwrap();
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

#[test]
fn a_commit_that_failed_when_it_was_flushed_is_in_no_answer() {
    if env::var_os(ROLE).is_none() {
        let name = "unseen::a_commit_that_failed_when_it_was_flushed_is_in_no_answer";
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, "1");
        assert!(child.status().unwrap().success());
        return;
    }
    disk::slide_beneath();
    let flush = Arc::new(Flush(AtomicUsize::new(NEVER)));
    let _watch = disk::watch(Arc::clone(&flush) as _);
    for cipher in [None, Some(Cipher::Aegis256)] {
        for (is_first_log, ends) in [(false, false), (false, true), (true, false), (true, true)] {
            check(cipher, is_first_log, ends, &flush);
        }
    }
}
