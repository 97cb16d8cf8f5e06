//! Files from outside that need a second look: functions of their own programs, logs that are damaged, locks.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use litefleet::{
    ControlPlane, CreateDatabaseInput, DiskOp, ErrorKind, FaultHook,
    rusqlite::{Connection, functions::FunctionFlags},
};

use crate::{
    import::{file, input},
    support::{Fleet, count, refused},
};

/// A connection with the functions and the collation of some program.
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

/// A database whose log has a transaction for each of ten rows, and its path and that of the log.
fn logged(fleet: &Fleet, name: &str) -> (PathBuf, PathBuf) {
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
fn a_log_that_is_damaged_before_a_commit_is_refused() {
    let fleet = Fleet::new();
    let (path, log) = logged(&fleet, "some");
    let whole = fs::read(&log).unwrap();
    assert_eq!(whole.len(), 32 + 12 * FRAME);
    let import = |name: &str| fleet.plane.import_database(input(name), path.as_path());
    // In the page of a frame, in its salts, in its checksum; in the first frame and in a later one.
    for (at, frame) in [(100, 1), (4 * FRAME + 2000, 5), (4 * FRAME + 9, 5), (4 * FRAME + 17, 5)] {
        let mut damaged = whole.clone();
        damaged[32 + at] ^= 0x10;
        fs::write(&log, &damaged).unwrap();
        let (kind, text) = refused(import("a"));
        assert_eq!(kind, ErrorKind::Corrupt, "{at}: {text}");
        assert!(text.contains(&format!("frame {frame} ")) && text.contains("sqlite3"), "{text}");
    }
    fleet.assert_no_debris();

    // What ends in a torn transaction is whole up to there.
    let mut torn = whole.clone();
    *torn.last_mut().unwrap() ^= 0x10;
    fs::write(&log, &torn).unwrap();
    import("torn").unwrap();
    assert_eq!(count(&fleet.connect("torn"), "SELECT count(*) FROM t"), 9);

    // The way out that the message tells.
    let mut damaged = whole;
    damaged[32 + 4 * FRAME + 2000] ^= 0x10;
    fs::write(&log, &damaged).unwrap();
    let accepts = Connection::open(&path).unwrap();
    accepts.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    import("accepted").unwrap();
    assert_eq!(count(&fleet.connect("accepted"), "SELECT count(*) FROM t"), 2);
}

/// A transaction that spilled and was rolled back leaves frames with the salts of the log, behind what is committed.
#[test]
fn what_a_rollback_left_in_a_log_is_no_damage() {
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
    // The next commit takes the place of the first of them.
    writer.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(import("behind"), 1);
    // Older frames have other salts.
    writer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    writer.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert!(fs::metadata(&log).unwrap().len() > 50 * 4096);
    assert_eq!(import("anew"), 2);
    fleet.assert_no_debris();
}

#[test]
fn a_fork_of_a_database_whose_log_is_damaged_is_refused() {
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

/// A signal handler of the host that writes to a descriptor (as those of `tokio` and `ctrlc` do) would write to
/// whatever has that number on the thread that copies: the database that is being made, say.
#[test]
fn no_signal_is_handled_where_descriptors_are_private() {
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
fn a_file_that_another_program_locks_is_not_said_to_be_written() {
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
