//! Files from outside that need a second look: functions of their own programs, logs that are damaged, locks.

use std::fs;

use litefleet::{ErrorKind, rusqlite::Connection, rusqlite::functions::FunctionFlags};

use crate::{
    import::input,
    support::{Fleet, count, refused},
};

/// A connection with the functions and the collation of some program.
fn program(path: &std::path::Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    for name in ["myf", "other f"] {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        connection
            .create_scalar_function(name, 1, flags, |context| {
                Ok(format!("f{}", context.get::<String>(0).unwrap_or_default()))
            })
            .unwrap();
    }
    connection.create_collation("backwards", |a: &str, b: &str| b.cmp(a)).unwrap();
    connection
}

const FILL: &str = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
    INSERT INTO t(a) SELECT 'row ' || i FROM n";

#[test]
fn functions_of_other_programs_do_not_stand_in_the_way() {
    let fleet = Fleet::new();
    for (name, schema) in [
        ("expression", "CREATE TABLE t(a TEXT); CREATE INDEX i ON t(myf(a))"),
        ("partial", "CREATE TABLE t(a TEXT); CREATE INDEX i ON t(a) WHERE myf(a) > 'f'"),
        ("check", "CREATE TABLE t(a TEXT CHECK (myf(a) > 'f'))"),
        (
            "check-and-index",
            "CREATE TABLE t(a TEXT, CHECK (myf(a) > 'f')); CREATE INDEX i ON t(\"other f\"(a))",
        ),
        ("strict", "CREATE TABLE t(a TEXT CHECK (myf(a) > 'f')) STRICT"),
        ("keyed", "CREATE TABLE t(a TEXT PRIMARY KEY CHECK (myf(a) > 'f')) WITHOUT ROWID"),
        ("stored", "CREATE TABLE t(a TEXT, b TEXT NOT NULL AS (myf(a)) STORED)"),
        ("virtual", "CREATE TABLE t(a TEXT, b TEXT NOT NULL AS (myf(a)), c INT AS (\"other f\"(b) + 1))"),
        (
            "collation",
            "CREATE TABLE t(a TEXT COLLATE backwards CHECK (myf(a) > 'f')); CREATE INDEX i ON t(a);
             CREATE INDEX j ON t(\"other f\"(a) COLLATE backwards) WHERE myf(a) > 'f'",
        ),
    ] {
        let path = fleet.dir.path().join(name);
        let connection = program(&path);
        connection.execute_batch(schema).unwrap();
        connection.execute_batch(FILL).unwrap();
        drop(connection);
        fleet.plane.import_database(input(name), path.as_path()).unwrap();
        assert_eq!(count(&fleet.connect(name), "SELECT count(*) FROM t NOT INDEXED"), 500, "{name}");

        // What can be found without them is found.
        let mut damaged = fs::read(&path).unwrap();
        let middle = damaged.len() / 2 / 4096 * 4096;
        damaged[middle..middle + 4096].fill(0x5a);
        fs::write(&path, damaged).unwrap();
        let (kind, text) = refused(fleet.plane.import_database(input("damaged"), path.as_path()));
        assert_eq!(kind, ErrorKind::Corrupt, "{name}: {text}");
        assert!(text.contains("is damaged: "), "{name}: {text}");
    }
    fleet.assert_no_debris();
}
