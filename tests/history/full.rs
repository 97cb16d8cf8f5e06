//! A disk that is full, and steps of the capture that fail: the host is told, nothing is damaged, and all goes on.

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
    ConnectOptions, ControlPlane, CreateDatabaseInput, DiskOp, ErrorKind, Seed, Timestamp,
    rusqlite::{Connection, config::DbConfig},
};
use tempfile::TempDir;

use crate::support::{Contents, contents, now, skipped};

/// A small file system in memory, where the machine lets us have one.
struct Mounted(TempDir);

impl Mounted {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(dir.path()).stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        skipped("this machine does not let us mount a file system");
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _left_to_the_system = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// What is known of a database: an instant after each commit that returned, and the contents then.
struct Known {
    states: Vec<(Timestamp, Contents)>,
    restored: u32,
}

impl Known {
    fn note(&mut self, connection: &Connection) {
        let contents = contents(connection);
        self.states.push((now(), contents));
    }

    /// Restores each state, and checks that the database has no others: none of a commit that failed.
    fn check(&mut self, plane: &ControlPlane, context: &str) {
        for (number, (at, wanted)) in self.states.iter().enumerate() {
            self.restored += 1;
            let name = format!("restored-{}", self.restored);
            let input =
                CreateDatabaseInput::new(&name, "default").with_seed(Seed::database_at("orders", *at));
            plane.create_database(input).unwrap_or_else(|error| panic!("{context}: state {number}: {error}"));
            let connection = plane.connect(&name, &ConnectOptions::default()).unwrap();
            let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(sound, "ok");
            assert!(contents(&connection) == *wanted, "{context}: state {number} is another one");
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
fn a_full_disk_refuses_a_commit_and_loses_none() {
    let Some(disk) = Mounted::new("size=64m") else { return };
    let plane = ControlPlane::open(disk.0.path().join("root")).unwrap();
    plane.create_group("default").unwrap();
    plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
    let connect = || plane.connect("orders", &ConnectOptions::default()).unwrap();
    let mut connection = connect();
    connection.execute_batch("PRAGMA wal_autocheckpoint=20; CREATE TABLE t(a)").unwrap();
    let mut known = Known { states: Vec::new(), restored: 0 };
    known.note(&connection);
    let filler = disk.0.path().join("filler");
    let mut refused = 0;
    for round in 0..12_u64 {
        for value in 0..4 {
            let sql = format!("INSERT INTO t VALUES ('{round} {value}' || hex(randomblob(2000)))");
            connection.execute_batch(&sql).unwrap();
            known.note(&connection);
        }
        // Room for less than what comes next, and each time for something else of it.
        fs::write(&filler, b"").unwrap();
        let mut full = File::options().append(true).open(&filler).unwrap();
        let _full = io::copy(&mut io::repeat(1), &mut full);
        let len = full.metadata().unwrap().len();
        full.set_len(len.saturating_sub(round * 8192)).unwrap();
        drop(full);
        for value in 0..60 {
            let sql = format!("INSERT INTO t VALUES ('full {round} {value}' || hex(randomblob(2000)))");
            match connection.execute_batch(&sql) {
                Ok(()) => known.note(&connection),
                Err(error) => {
                    let error = litefleet::explain(&connection, error);
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
                    let error = litefleet::explain(&connection, error);
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
        let _there = fs::remove_file(&filler);
        connection.execute_batch("DELETE FROM t WHERE rowid % 2").unwrap();
        known.note(&connection);
        if round % 4 == 3 {
            known.check(&plane, &format!("round {round}"));
        }
    }
    assert!(refused > 6, "{refused}");
    drop(connection);
    known.check(&plane, "at rest");
}

const OFF: usize = usize::MAX;

/// What is tried with each of its steps failing once.
type Call = fn(&Connection) -> litefleet::rusqlite::Result<()>;

fn insert(connection: &Connection) -> litefleet::rusqlite::Result<()> {
    connection.execute_batch("INSERT INTO t VALUES ('tried')")
}

fn checkpoint(connection: &Connection, mode: &str) -> litefleet::rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

#[test]
fn a_step_of_the_capture_that_fails_refuses_what_it_was_for() {
    // The first commit of all, one that begins the log anew, one that grows the stamps, a log that is cut off, and one that
    // is closed.
    let calls: [(&str, Call, bool); 5] = [
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
    for (name, call, has_steps) in calls {
        for stops in [false, true] {
            for step in 0.. {
                let dir = tempfile::tempdir().unwrap();
                let countdown = Arc::new(AtomicUsize::new(OFF));
                let armed = Arc::clone(&countdown);
                let hook = move |_: DiskOp, _: &_| {
                    let next = |left: usize| match left {
                        OFF => None,
                        // Every step from here on fails, or this one alone.
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
                let connection = plane.connect("orders", &ConnectOptions::default()).unwrap();
                let mut known = Known { states: Vec::new(), restored: 0 };
                let before = if name == "first" { 0 } else { 130 };
                for value in 0..before {
                    connection.execute_batch(&format!("INSERT INTO t VALUES ({value})")).unwrap();
                    if !(2..122).contains(&value) {
                        known.note(&connection);
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
                let came_to_the_end = left != OFF && left > 0;
                let context = format!("{name}, step {step}, stops {stops}");
                match answer {
                    Err(error) => {
                        let error = litefleet::explain(&connection, error);
                        assert_eq!(error.kind(), ErrorKind::DiskFull, "{context}: {error}");
                        assert!(contents(&connection) == was, "{context}: it failed, and left something");
                    }
                    Ok(()) if contents(&connection) != was => known.note(&connection),
                    Ok(()) => {}
                }
                // It goes on, here or after the process has died.
                let connection = if stops {
                    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
                    drop(connection);
                    plane.connect("orders", &ConnectOptions::default()).unwrap()
                } else {
                    connection
                };
                for value in 0..2 {
                    connection.execute_batch(&format!("INSERT INTO t VALUES ('goes on {value}')")).unwrap();
                    known.note(&connection);
                    checkpoint(&connection, "TRUNCATE").unwrap();
                }
                drop(connection);
                let points = plane.points("orders", ..).unwrap();
                assert_eq!(points.windows.len(), 1, "{context}");
                for (at, wanted) in &known.states {
                    known.restored += 1;
                    let copy = format!("restored-{}", known.restored);
                    let input = CreateDatabaseInput::new(&copy, "default")
                        .with_seed(Seed::database_at("orders", *at));
                    plane.create_database(input).unwrap_or_else(|error| panic!("{context}: {error}"));
                    assert!(
                        contents(&plane.connect(&copy, &ConnectOptions::default()).unwrap()) == *wanted,
                        "{context}"
                    );
                }
                if came_to_the_end {
                    assert!(step > 0 || !has_steps, "{name} takes no step");
                    break;
                }
                assert!(step < 60, "{name} never gets through");
            }
        }
    }
}
