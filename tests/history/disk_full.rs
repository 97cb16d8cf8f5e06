//! Full disks and failing capture steps: the statement fails with `DiskFull`, no commit is lost, and writes continue
//! once there is space.

use std::{
    fs::{self, File},
    io,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, ErrorKind, Seed, Timestamp,
    rusqlite::{Connection, config::DbConfig},
    testing::DiskOp,
};
use tempfile::TempDir;

use crate::support::{Contents, contents, now, skipped};

/// A small tmpfs, if this process may mount one.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(dir.path()).stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        skipped("mounting a file system is not permitted");
        None
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _best_effort = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Known states of a database: the contents after each commit that returned, and an instant after it.
struct KnownStates {
    states: Vec<(Timestamp, Contents)>,
    restored: u32,
}

impl KnownStates {
    fn record(&mut self, connection: &Connection) {
        let contents = contents(connection);
        self.states.push((now(), contents));
    }

    /// Restores each state, and checks that there is no recovery point for a failed commit.
    fn check(&mut self, plane: &ControlPlane, context: &str) {
        for (number, (at, expected)) in self.states.iter().enumerate() {
            self.restored += 1;
            let name = format!("restored-{}", self.restored);
            let input =
                CreateDatabaseInput::new(&name, "default").with_seed(Seed::database_at("orders", *at));
            plane.create_database(input).unwrap_or_else(|error| panic!("{context}: state {number}: {error}"));
            let connection = plane.connect(&name, ConnectOptions::default()).unwrap();
            let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok");
            assert!(contents(&connection) == *expected, "{context}: wrong contents for state {number}");
            drop(connection);
            plane.destroy_database(&name).unwrap();
        }
        let points = plane.points("orders", ..).unwrap();
        assert_eq!((points.points.len(), points.windows.len()), (self.states.len(), 1), "{context}");
        for (point, (at, _)) in points.points.iter().zip(&self.states) {
            assert!(point.at < *at, "{context}");
        }
    }
}

#[test]
fn full_disk_refuses_commits_and_loses_none() {
    let Some(disk) = Tmpfs::new("size=64m") else { return };
    let plane = ControlPlane::open(disk.0.path().join("root")).unwrap();
    plane.create_group("default").unwrap();
    plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
    let connect = || plane.connect("orders", ConnectOptions::default()).unwrap();
    let mut connection = connect();
    connection.execute_batch("PRAGMA wal_autocheckpoint=20; CREATE TABLE t(a)").unwrap();
    let mut known = KnownStates { states: Vec::new(), restored: 0 };
    known.record(&connection);
    let filler = disk.0.path().join("filler");
    let mut refused = 0;
    for round in 0..12_u64 {
        for value in 0..4 {
            let sql = format!("INSERT INTO t VALUES ('{round} {value}' || hex(randomblob(2000)))");
            connection.execute_batch(&sql).unwrap();
            known.record(&connection);
        }
        // Leave less space than the next statements need, a different amount in each round.
        fs::write(&filler, b"").unwrap();
        let mut full = File::options().append(true).open(&filler).unwrap();
        let _full = io::copy(&mut io::repeat(1), &mut full);
        let len = full.metadata().unwrap().len();
        full.set_len(len.saturating_sub(round * 8192)).unwrap();
        drop(full);
        for value in 0..60 {
            let sql = format!("INSERT INTO t VALUES ('full {round} {value}' || hex(randomblob(2000)))");
            match connection.execute_batch(&sql) {
                Ok(()) => known.record(&connection),
                Err(error) => {
                    let error = litefleet::Error::from_sqlite(&connection, error);
                    assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
                    refused += 1;
                    break;
                }
            }
            if value % 3 == 0 {
                let mode = ["PASSIVE", "RESTART", "TRUNCATE"][value % 9 / 3];
                let checkpoint =
                    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
                if let Err(error) = checkpoint {
                    let error = litefleet::Error::from_sqlite(&connection, error);
                    assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
                }
            }
        }
        assert!(contents(&connection) == known.states.last().unwrap().1, "round {round}");
        if round % 3 == 2 {
            drop(connection);
            fs::remove_file(&filler).unwrap();
            connection = connect();
            connection.execute_batch("PRAGMA wal_autocheckpoint=20").unwrap();
        }
        let _may_be_missing = fs::remove_file(&filler);
        connection.execute_batch("DELETE FROM t WHERE rowid % 2").unwrap();
        known.record(&connection);
        if round % 4 == 3 {
            known.check(&plane, &format!("round {round}"));
        }
    }
    assert!(refused > 6, "{refused}");
    drop(connection);
    known.check(&plane, "at rest");
}

const OFF: usize = usize::MAX;

/// A statement that is run with each of its disk operations failing in turn.
type Statement = fn(&Connection) -> litefleet::rusqlite::Result<()>;

fn insert(connection: &Connection) -> litefleet::rusqlite::Result<()> {
    connection.execute_batch("INSERT INTO t VALUES ('tried')")
}

fn checkpoint(connection: &Connection, mode: &str) -> litefleet::rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of the steps")]
fn failed_capture_step_fails_the_statement_that_needed_it() {
    // The first commit, a commit that restarts the WAL, one that grows the stamp file, a WAL that is truncated, and a
    // commit with synchronous=FULL.
    let statements: [(&str, Statement, bool); 5] = [
        ("first", insert, true),
        ("restart", insert, true),
        ("many", insert, false),
        ("truncate", |connection| checkpoint(connection, "TRUNCATE"), false),
        (
            "full",
            |connection| connection.execute_batch("PRAGMA synchronous=FULL; INSERT INTO t VALUES ('tried')"),
            true,
        ),
    ];
    for (name, call, has_steps) in statements {
        for stops in [false, true] {
            for step in 0.. {
                let dir = tempfile::tempdir().unwrap();
                let countdown = Arc::new(AtomicUsize::new(OFF));
                let armed = Arc::clone(&countdown);
                let hook = move |_: DiskOp, _: &_| {
                    let next = |left: usize| match left {
                        OFF => None,
                        // Every step from here on fails, or only this one.
                        0 => Some(if stops { 0 } else { OFF }),
                        left => Some(left - 1),
                    };
                    match armed.fetch_update(SeqCst, SeqCst, next) {
                        Ok(0) => Err(io::Error::from(io::ErrorKind::StorageFull)),
                        _ => Ok(()),
                    }
                };
                let plane =
                    ControlPlane::builder().fault_hook(Arc::new(hook)).open(dir.path().join("root")).unwrap();
                plane.create_group("default").unwrap();
                let file = dir.path().join("import.db");
                Connection::open(&file).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
                plane.import_database(CreateDatabaseInput::new("orders", "default"), file.as_path()).unwrap();
                let connection = plane.connect("orders", ConnectOptions::default()).unwrap();
                let mut known = KnownStates { states: Vec::new(), restored: 0 };
                let before = if name == "first" { 0 } else { 130 };
                for value in 0..before {
                    connection.execute_batch(&format!("INSERT INTO t VALUES ({value})")).unwrap();
                    if !(2..122).contains(&value) {
                        known.record(&connection);
                    }
                    if (name == "restart" || name == "full") && value % 64 == 3 {
                        checkpoint(&connection, "RESTART").unwrap();
                    }
                }
                if name == "restart" || name == "full" {
                    checkpoint(&connection, "RESTART").unwrap();
                }
                let was = contents(&connection);
                countdown.store(step, SeqCst);
                let answer = call(&connection);
                let left = countdown.swap(OFF, SeqCst);
                let finished = left != OFF && left > 0;
                let context = format!("{name}, step {step}, stops {stops}");
                match answer {
                    Err(error) => {
                        let error = litefleet::Error::from_sqlite(&connection, error);
                        assert_eq!(error.kind(), ErrorKind::DiskFull, "{context}: {error}");
                        assert!(contents(&connection) == was, "{context}: the failure changed the database");
                    }
                    Ok(()) if contents(&connection) != was => known.record(&connection),
                    Ok(()) => {}
                }
                // Writes continue: on this connection, on a new one if a failed flush has latched it, or after the process has died.
                let is_latched = |connection: &Connection| {
                    let result = connection.execute_batch("PRAGMA user_version = 1");
                    let message =
                        result.map_err(|error| litefleet::Error::from_sqlite(connection, error).to_string());
                    message
                        .is_err_and(|message| message.starts_with("an earlier flush of the history failed"))
                };
                let connection = if !stops && is_latched(&connection) {
                    drop(connection);
                    plane.connect("orders", ConnectOptions::default()).unwrap()
                } else if stops {
                    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
                    drop(connection);
                    plane.connect("orders", ConnectOptions::default()).unwrap()
                } else {
                    connection
                };
                for value in 0..2 {
                    connection.execute_batch(&format!("INSERT INTO t VALUES ('later {value}')")).unwrap();
                    known.record(&connection);
                    checkpoint(&connection, "TRUNCATE").unwrap();
                }
                drop(connection);
                let points = plane.points("orders", ..).unwrap();
                assert_eq!(points.windows.len(), 1, "{context}");
                for (at, expected) in &known.states {
                    known.restored += 1;
                    let copy = format!("restored-{}", known.restored);
                    let input = CreateDatabaseInput::new(&copy, "default")
                        .with_seed(Seed::database_at("orders", *at));
                    plane.create_database(input).unwrap_or_else(|error| panic!("{context}: {error}"));
                    assert!(
                        contents(&plane.connect(&copy, ConnectOptions::default()).unwrap()) == *expected,
                        "{context}"
                    );
                }
                if finished {
                    assert!(step > 0 || !has_steps, "{name} has no disk operation");
                    break;
                }
                assert!(step < 60, "{name} does not finish");
            }
        }
    }
}
