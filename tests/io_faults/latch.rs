//! A failed flush and a panic latch the connection: it reads, and writes nothing until it is opened again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    },
};

use litefleet::{
    Cipher, ControlPlane, Error, ErrorKind, PageFormat, VerifyOptions,
    rusqlite::{Connection, ffi},
    testing::DiskOp,
};

use crate::{
    fault_vfs::{self, Call, Kind, Opened, Verdict, Watcher},
    support::{Fleet, query, run, shared_turn},
};

/// Fails the next flush of the WAL.
struct FailingFlush {
    dir: PathBuf,
    is_armed: AtomicBool,
}

impl Watcher for FailingFlush {
    fn covers(&self, file: &Opened) -> bool {
        file.kind() == Kind::Wal && file.path.as_ref().is_some_and(|path| path.starts_with(&self.dir))
    }

    fn see(&self, _: &Opened, call: Call<'_>) -> Verdict {
        match call {
            Call::Sync if self.is_armed.swap(false, SeqCst) => Verdict::Fail(ffi::SQLITE_IOERR_FSYNC),
            _ => Verdict::Pass,
        }
    }
}

fn connect(fleet: &Fleet) -> Connection {
    let connection = fleet.connect();
    run(&connection, "PRAGMA synchronous=FULL").unwrap();
    connection
}

/// Checks that the connection is latched for this reason, and that a new one is not.
fn check_latched(fleet: &Fleet, connection: Connection, reason: &str, rows: i64) {
    for sql in ["INSERT INTO t VALUES (3)", "PRAGMA wal_checkpoint(TRUNCATE)", "DELETE FROM t"] {
        let error = Error::from_sqlite(&connection, run(&connection, sql).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Io, "{sql}: {error}");
        let message = error.to_string();
        assert!(message.starts_with(reason), "{sql}: {message}");
        assert!(
            message.ends_with("; close every connection to the database and open it again"),
            "{sql}: {message}"
        );
    }
    assert_eq!(query::<i64>(&connection, "SELECT count(*) FROM t").unwrap(), rows, "reads go on");
    drop(connection);

    let connection = connect(fleet);
    // The commit whose flush failed may be recovered from the WAL.
    let found: i64 = query(&connection, "SELECT count(*) FROM t").unwrap();
    assert!((rows..=rows + 1).contains(&found), "{found}");
    run(&connection, "INSERT INTO t VALUES (4)").unwrap();
    run(&connection, "PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    run(&connection, "INSERT INTO t VALUES (5)").unwrap();
    assert_eq!(query::<String>(&connection, "PRAGMA integrity_check").unwrap(), "ok");
    check_history(fleet, found + 2);
}

/// Checks that every recovery point is a commit: that of the table, and one for each row.
fn check_history(fleet: &Fleet, rows: i64) {
    let points = fleet.plane.points("vault", ..).unwrap();
    let counts: Vec<i64> = points
        .points
        .iter()
        .map(|point| {
            let (view, _) = fleet.plane.connect_at("vault", point.at, fleet.options()).unwrap();
            query(&view, "SELECT count(*) FROM t").unwrap()
        })
        .collect();
    assert_eq!(counts, (0..=rows).collect::<Vec<_>>());
    assert_eq!(points.windows.len(), 1, "{points:?}");
    let report = fleet.plane.verify_database("vault", VerifyOptions::default()).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

#[test]
fn failed_flush_of_the_wal_latches_the_connection() {
    let _turn = shared_turn();
    for cipher in [None, Some(Cipher::Aegis256)] {
        let fleet = Fleet::new(cipher, PageFormat::Native);
        let failing = Arc::new(FailingFlush { dir: fleet.database_dir(), is_armed: AtomicBool::new(false) });
        let _watch = fault_vfs::watch(Arc::clone(&failing) as _);
        let connection = connect(&fleet);
        run(&connection, "CREATE TABLE t(a)").unwrap();
        run(&connection, "INSERT INTO t VALUES (1)").unwrap();
        failing.is_armed.store(true, SeqCst);
        let error = run(&connection, "INSERT INTO t VALUES (2)").unwrap_err();
        assert_eq!(error.sqlite_extended_error_code(), Some(ffi::SQLITE_IOERR_FSYNC));
        assert!(!failing.is_armed.load(SeqCst), "the WAL was not flushed");
        check_latched(&fleet, connection, "an earlier flush of the WAL failed", 1);
    }
}

const PASS: u8 = 0;
const FAIL: u8 = 1;
const PANIC: u8 = 2;

/// A fleet in which the next flush of stamps fails or panics, as the value says.
fn fleet_with_hook(cipher: Option<Cipher>) -> (Fleet, Arc<AtomicU8>) {
    let mut fleet = Fleet::new(cipher, PageFormat::Native);
    let action = Arc::new(AtomicU8::new(PASS));
    let hook = {
        let action = Arc::clone(&action);
        move |op: DiskOp, path: &Path| {
            let is_stamps = op == DiskOp::SyncFile && path.ends_with("archive/live.stamps");
            match if is_stamps { action.swap(PASS, SeqCst) } else { PASS } {
                FAIL => Err(io::Error::other("a failed flush of this test")),
                PANIC => panic!("a panic of this test"),
                _ => Ok(()),
            }
        }
    };
    fleet.plane =
        ControlPlane::builder().fault_hook(Arc::new(hook)).open(fleet.dir.path().join("root")).unwrap();
    (fleet, action)
}

/// Arms the hook and restarts the WAL, so that the next commit flushes new stamps.
fn fail_commit(fleet: &Fleet, action: &AtomicU8, how: u8) -> Connection {
    let connection = connect(fleet);
    run(&connection, "CREATE TABLE t(a)").unwrap();
    run(&connection, "INSERT INTO t VALUES (1)").unwrap();
    run(&connection, "PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    action.store(how, SeqCst);
    run(&connection, "INSERT INTO t VALUES (2)").unwrap_err();
    assert_eq!(action.load(SeqCst), PASS, "no stamps were flushed");
    connection
}

#[test]
fn failed_flush_of_stamps_latches_the_connection() {
    let _turn = shared_turn();
    for cipher in [None, Some(Cipher::Aegis256)] {
        let (fleet, action) = fleet_with_hook(cipher);
        let connection = fail_commit(&fleet, &action, FAIL);
        check_latched(&fleet, connection, "an earlier flush of the history failed", 1);
    }
}

#[test]
fn panic_in_the_vfs_latches_the_connection() {
    let _turn = shared_turn();
    for cipher in [None, Some(Cipher::Aegis256)] {
        let (fleet, action) = fleet_with_hook(cipher);
        let connection = fail_commit(&fleet, &action, PANIC);
        check_latched(&fleet, connection, "an earlier call to the database failed with a panic", 1);
    }
}
