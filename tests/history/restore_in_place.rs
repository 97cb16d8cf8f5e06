//! Restores in place: one transaction, which a second restore can undo.

use std::{fs, ops::ControlFlow, time::Duration};

use litefleet::{
    Cipher, DatabaseChanges, ErrorKind, InstantPosition, RestoreOptions, SizeLimit,
    rusqlite::config::DbConfig,
};

use crate::support::{Ledger, contents, now};

/// A database whose file grows and shrinks and whose schema changes.
fn with_varied_history(cipher: Option<Cipher>) -> Ledger {
    let mut ledger = Ledger::new(cipher);
    let connection = ledger.connect();
    for sql in [
        "CREATE TABLE t(id INTEGER PRIMARY KEY, value)",
        "INSERT INTO t(value) VALUES (randomblob(200000))",
        "CREATE TABLE u(a); INSERT INTO u VALUES (1), (2)",
        "ALTER TABLE u ADD COLUMN b",
        "DELETE FROM t; VACUUM",
        "DROP TABLE u; CREATE INDEX i ON t(value)",
        "INSERT INTO t(value) VALUES (randomblob(90000))",
    ] {
        ledger.commit(&connection, sql);
    }
    ledger
}

#[test]
fn restore_in_place_is_one_commit_and_can_be_undone() {
    for cipher in [None, Some(Cipher::Aes256Gcm), Some(Cipher::Aegis256)] {
        let ledger = with_varied_history(cipher);
        let (connection, reader) = (ledger.connect(), ledger.connect());
        let last = ledger.states.last().unwrap().contents.clone();
        for state in &ledger.states {
            let count = ledger.plane.points("orders", ..).unwrap().points.len();
            reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
            let restored = ledger
                .plane
                .restore_database("orders", state.from, RestoreOptions::from(ledger.options()))
                .unwrap();
            // An open reader keeps its snapshot; a connection with a cached schema sees the restored contents.
            assert!(contents(&reader) == last);
            reader.execute_batch("COMMIT").unwrap();
            for connection in [&reader, &connection] {
                assert!(contents(connection) == state.contents);
                let check: String =
                    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
                assert_eq!(check, "ok");
            }
            assert_eq!(ledger.plane.points("orders", ..).unwrap().points.len(), count + 1);
            let undo = restored.undo.unwrap();
            let undone = ledger
                .plane
                .restore_database("orders", undo, RestoreOptions::from(ledger.options()))
                .unwrap();
            assert!(contents(&connection) == last);
            // The undo can be undone too.
            let (again, _) =
                ledger.plane.connect_at("orders", undone.undo.unwrap(), ledger.options()).unwrap();
            assert!(contents(&again) == state.contents);
        }
        // Earlier instants are still restorable.
        for state in &ledger.states {
            let (view, _) = ledger.plane.connect_at("orders", state.from, ledger.options()).unwrap();
            assert!(contents(&view) == state.contents);
        }
    }
}

#[test]
fn failed_restore_in_place_changes_nothing() {
    let ledger = with_varied_history(None);
    let plane = &ledger.plane;
    let last = ledger.states.last().unwrap().contents.clone();
    let large = ledger.states[2].from;
    let points = plane.points("orders", ..).unwrap().points.len();
    let refused = |restored: litefleet::Result<litefleet::Restored>, kind: ErrorKind| {
        let error = restored.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(contents(&ledger.connect()) == last);
        assert_eq!(plane.points("orders", ..).unwrap().points.len(), points);
    };
    let options = ledger.options().busy_timeout(Duration::from_millis(20));
    let before = plane.get_database("orders").unwrap().created_at;
    let before = litefleet::Timestamp::from_micros(before.as_micros() - 1).unwrap();
    refused(
        plane.restore_database("orders", before, RestoreOptions::from(options.clone())),
        ErrorKind::OutsideWindow,
    );
    let stop = |_| ControlFlow::Break(());
    refused(
        plane.restore_database("orders", large, RestoreOptions::from(options.clone()).progress(stop)),
        ErrorKind::Cancelled,
    );

    let writer = ledger.connect();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    refused(plane.restore_database("orders", large, RestoreOptions::from(options.clone())), ErrorKind::Busy);
    writer.execute_batch("ROLLBACK").unwrap();

    let limited = DatabaseChanges::default().size_limit(SizeLimit::from_bytes(150_000).unwrap());
    plane.configure_database("orders", limited).unwrap();
    refused(
        plane.restore_database("orders", large, RestoreOptions::from(options.clone())),
        ErrorKind::TooLarge,
    );
    plane.configure_database("orders", DatabaseChanges::default().remove_size_limit()).unwrap();

    plane.configure_database("orders", DatabaseChanges::default().block_writes(true)).unwrap();
    refused(
        plane.restore_database("orders", large, RestoreOptions::from(options.clone())),
        ErrorKind::Blocked,
    );
    plane.configure_database("orders", DatabaseChanges::default().block_writes(false)).unwrap();
    plane.restore_database("orders", large, RestoreOptions::from(options.clone())).unwrap();
    assert!(contents(&ledger.connect()) == ledger.states[2].contents);
}

#[test]
fn restore_in_place_leaves_pristine_database_unchanged() {
    let ledger = Ledger::new(None);
    let restored =
        ledger.plane.restore_database("orders", now(), RestoreOptions::from(ledger.options())).unwrap();
    assert_eq!((restored.reached.kind, restored.undo), (InstantPosition::BeforeFirst, None));
}

#[test]
fn restore_in_place_undoes_commits_with_lost_stamps() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
    let stamps = ledger.database_dir().join("archive/live.stamps");
    let mut bytes = fs::read(&stamps).unwrap();
    bytes[128..].fill(0);
    fs::write(&stamps, bytes).unwrap();
    assert!(ledger.plane.points("orders", ..).unwrap().points.is_empty());
    let first = ledger.states[0].clone();
    let restored =
        ledger.plane.restore_database("orders", first.from, RestoreOptions::from(ledger.options())).unwrap();
    assert_eq!(restored.reached.kind, InstantPosition::BeforeFirst);
    assert!(restored.undo.is_some());
    assert_eq!(contents(&ledger.connect()), first.contents);
}
