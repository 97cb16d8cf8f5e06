//! A power loss damages the snapshot at which a history begins and keeps its stamps: the snapshot was not flushed yet. Later
//! commits must be restorable.

use std::{fs, path::Path};

use litefleet::{ConnectOptions, ControlPlane, Synchronous, VerifyOptions, rusqlite::Connection};

use crate::{
    crash_image::copy_dir,
    power::checkpoint,
    support::{Ledger, now},
};

/// Damages the snapshot before generation 1 in a directory.
type Damage = fn(&Path);

/// Acts on the database through an open connection, which may be replaced.
type Action = fn(&ControlPlane, &mut Connection);

const DAMAGES: [(&str, Damage); 4] = [
    ("a page of zeros", |archive| {
        let snapshot = archive.join("000000000001.db");
        fs::write(&snapshot, vec![0; fs::read(&snapshot).unwrap().len()]).unwrap();
    }),
    ("an empty snapshot", |archive| fs::write(archive.join("000000000001.db"), "").unwrap()),
    ("a missing snapshot", |archive| fs::remove_file(archive.join("000000000001.db")).unwrap()),
    ("empty checksums", |archive| fs::write(archive.join("000000000001.sum"), "").unwrap()),
];

/// What happens before the next commit.
const ACTIONS: [(&str, Action); 5] = [
    ("nothing", |_, _| {}),
    ("a restart of the WAL", |_, connection| checkpoint(connection, "RESTART")),
    ("a truncation of the WAL", |_, connection| checkpoint(connection, "TRUNCATE")),
    ("a rolled-back transaction", |_, connection| {
        connection.execute_batch("BEGIN; INSERT INTO t VALUES (9); ROLLBACK").unwrap();
    }),
    ("a close", |plane, connection| {
        *connection = Connection::open_in_memory().unwrap();
        *connection = plane.connect("orders", ConnectOptions::default()).unwrap();
    }),
];

fn count(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

#[test]
fn commits_after_loss_of_an_unflushed_snapshot_are_restorable() {
    let ledger = Ledger::plain();
    let options = ConnectOptions::default().synchronous(Synchronous::Normal);
    let open = ledger.plane.connect("orders", options).unwrap();
    open.execute_batch("CREATE TABLE t(a)").unwrap();
    let temporary = tempfile::tempdir().unwrap();
    for (damage, damages) in DAMAGES {
        for (action, acts) in ACTIONS {
            let root = temporary.path().join(format!("{damage}, {action}"));
            copy_dir(ledger.plane.root(), &root);
            let dir = root.join("default/orders");
            fs::remove_file(dir.join("data.db-shm")).unwrap();
            damages(&dir.join("archive"));
            let plane = ControlPlane::open(&root).unwrap();
            let mut connection = plane.connect("orders", ConnectOptions::default()).unwrap();
            acts(&plane, &mut connection);
            let mut instants = Vec::new();
            for rows in 1..4 {
                connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
                instants.push((rows, now()));
                checkpoint(&connection, "RESTART");
            }
            drop(connection);
            for (rows, at) in instants {
                let (view, _) = plane
                    .connect_at("orders", at, ConnectOptions::default())
                    .unwrap_or_else(|error| panic!("{damage}, {action}, {rows}: {error}"));
                assert_eq!(count(&view), rows, "{damage}, {action}");
            }
            let verified = plane.verify_database("orders", VerifyOptions::default()).unwrap();
            let findings: Vec<_> = verified.findings.iter().map(ToString::to_string).collect();
            let is_named = |finding: &String| finding.contains("000000000001");
            assert!(findings.iter().any(is_named), "{damage}, {action}: {findings:?}");
        }
    }
}
