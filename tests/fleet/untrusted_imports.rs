//! Imports of untrusted files: schemas that use functions of other programs, damaged WALs, locked files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use litefleet::{
    ControlPlane, CreateDatabaseInput, ErrorKind,
    rusqlite::{Connection, functions::FunctionFlags},
    testing::{DiskOp, FaultHook},
};

use crate::{
    import::{file, input},
    support::{Fleet, count, refused},
};

/// A connection with application-defined functions and a collation.
fn program(path: &Path) -> Connection {
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
fn import_accepts_schemas_with_unknown_functions() {
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

        // Damage that is detectable without the functions is found.
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

/// A database whose WAL has one transaction for each of ten rows. Returns its path and that of the WAL.
fn with_wal(fleet: &Fleet, name: &str) -> (PathBuf, PathBuf) {
    let (live, path) = (fleet.dir.path().join("live"), fleet.dir.path().join(name));
    let writer = Connection::open(&live).unwrap();
    writer.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
    writer.execute_batch("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)").unwrap();
    for row in 0..10 {
        writer.execute("INSERT INTO t VALUES (?1)", [row]).unwrap();
    }
    let log = fleet.dir.path().join(format!("{name}-wal"));
    fs::copy(&live, &path).unwrap();
    fs::copy(fleet.dir.path().join("live-wal"), &log).unwrap();
    drop(writer);
    fs::remove_file(live).unwrap();
    (path, log)
}

const FRAME: usize = 24 + 4096;

#[test]
fn import_refuses_wal_damaged_before_a_commit() {
    let fleet = Fleet::new();
    let (path, log) = with_wal(&fleet, "some");
    let whole = fs::read(&log).unwrap();
    assert_eq!(whole.len(), 32 + 12 * FRAME);
    let import = |name: &str| fleet.plane.import_database(input(name), path.as_path());
    // In a page, in the salts, in the checksum; in the first frame and in a later one.
    for (at, frame) in [(100, 1), (4 * FRAME + 2000, 5), (4 * FRAME + 9, 5), (4 * FRAME + 17, 5)] {
        let mut damaged = whole.clone();
        damaged[32 + at] ^= 0x10;
        fs::write(&log, &damaged).unwrap();
        let (kind, text) = refused(import("a"));
        assert_eq!(kind, ErrorKind::Corrupt, "{at}: {text}");
        assert!(text.contains(&format!("frame {frame} ")) && text.contains("sqlite3"), "{text}");
    }
    fleet.assert_no_debris();

    // A WAL that ends in a torn transaction is valid up to there.
    let mut torn = whole.clone();
    *torn.last_mut().unwrap() ^= 0x10;
    fs::write(&log, &torn).unwrap();
    import("torn").unwrap();
    assert_eq!(count(&fleet.connect("torn"), "SELECT count(*) FROM t"), 9);

    // The remedy that the message names.
    let mut damaged = whole;
    damaged[32 + 4 * FRAME + 2000] ^= 0x10;
    fs::write(&log, &damaged).unwrap();
    let accepts = Connection::open(&path).unwrap();
    accepts.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    import("accepted").unwrap();
    assert_eq!(count(&fleet.connect("accepted"), "SELECT count(*) FROM t"), 2);
}

/// A rolled-back transaction that spilled leaves frames with current salts after the last commit frame.
#[test]
fn rolled_back_frames_in_a_wal_are_no_damage() {
    let fleet = Fleet::new();
    let path = fleet.dir.path().join("live");
    let writer = Connection::open(&path).unwrap();
    writer.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
    writer.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=2; CREATE TABLE t(a)").unwrap();
    let log = fleet.dir.path().join("live-wal");
    let committed = fs::metadata(&log).unwrap().len();
    writer
        .execute_batch("BEGIN; INSERT INTO t SELECT randomblob(400000); SELECT count(*) FROM t; ROLLBACK")
        .unwrap();
    assert!(fs::metadata(&log).unwrap().len() > committed + 50 * 4096, "the transaction has not spilled");
    let import = |name: &str| {
        fleet.plane.import_database(input(name), path.as_path()).unwrap();
        count(&fleet.connect(name), "SELECT count(*) FROM t")
    };
    assert_eq!(import("before"), 0);
    // The next commit overwrites the first of them.
    writer.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(import("behind"), 1);
    // After a restart, older frames have other salts.
    writer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    writer.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert!(fs::metadata(&log).unwrap().len() > 50 * 4096);
    assert_eq!(import("restarted"), 2);
    fleet.assert_no_debris();
}

#[test]
fn fork_refuses_a_damaged_wal() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let connection = fleet.connect("orders");
    connection.execute_batch("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)").unwrap();
    for row in 0..10 {
        connection.execute("INSERT INTO t VALUES (?1)", [row]).unwrap();
    }
    let data = fleet.plane.database_path("orders").unwrap();
    let log = data.with_file_name("data.db-wal");
    let mut damaged = fs::read(&log).unwrap();
    damaged[32 + 4 * FRAME + 2000] ^= 0x10;
    fs::write(&log, &damaged).unwrap();
    let fork = fleet.plane.create_database(CreateDatabaseInput::fork("copy", "orders"));
    assert_eq!(refused(fork).0, ErrorKind::Corrupt);
    fleet.assert_no_debris();
}

/// A signal handler of the host that writes to a descriptor, like those of `tokio` and `ctrlc`, would write to
/// whatever file has that number in the copying thread, such as the new database.
#[cfg_attr(not(all(target_os = "linux", not(litefleet_posix))), ignore = "no descriptors are isolated there")]
#[test]
fn signals_are_blocked_on_threads_with_isolated_descriptors() {
    let fleet = Fleet::new();
    let path = file(&fleet, "some", "");
    let blocked = Arc::new(Mutex::new(Vec::new()));
    let found = Arc::clone(&blocked);
    let hook: Arc<FaultHook> = Arc::new(move |step, path| {
        if step == DiskOp::Create && path.ends_with("data.db") {
            let status = fs::read_to_string("/proc/thread-self/status")?;
            let mask =
                status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
            found.lock().unwrap().push(u64::from_str_radix(&mask, 16).unwrap());
        }
        Ok(())
    });
    let plane = ControlPlane::builder().fault_hook(hook).open(fleet.plane.root()).unwrap();
    plane.import_database(input("a"), path.as_path()).unwrap();
    let blocked = blocked.lock().unwrap();
    assert_eq!(blocked.len(), 1);
    for (signal, name) in [(2, "SIGINT"), (10, "SIGUSR1"), (15, "SIGTERM"), (17, "SIGCHLD")] {
        assert!(blocked[0] & 1 << (signal - 1) != 0, "{name} is not blocked");
    }
}

#[test]
fn import_of_a_locked_file_reports_the_lock() {
    let fleet = Fleet::new();
    let path = file(&fleet, "some", "");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let (kind, text) = refused(fleet.plane.import_database(input("a"), path.as_path()));
    assert_eq!(kind, ErrorKind::Busy);
    assert!(text.contains("locked by another program") && text.contains(path.to_str().unwrap()), "{text}");
    other.execute_batch("COMMIT").unwrap();
    fleet.plane.import_database(input("a"), path.as_path()).unwrap();
    fleet.assert_no_debris();
}
