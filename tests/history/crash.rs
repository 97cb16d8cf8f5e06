//! The history after a process is killed before any disk operation, and after a power failure that loses part of a
//! file.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use litefleet::{
    ConnectOptions, ControlPlane, ErrorKind, Synchronous, Timestamp, VerifyOptions,
    rusqlite::config::DbConfig, testing::DiskOp,
};

use crate::support::{Ledger, foreign_connection, now};

const ROLE: &str = "LITEFLEET_CRASH_CHILD";

/// Commits rows while the WAL ends in every way, and aborts before disk operation `step`, or, with `after`, right
/// after the stamps of a new generation are renamed into place.
fn write(args: &str) -> ! {
    let [root, step, after, others] = args.split('|').collect::<Vec<_>>()[..] else { unreachable!() };
    let (step, after, others): (u64, bool, usize) =
        (step.parse().unwrap(), after == "true", others.parse().unwrap());
    let (count, armed) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let is_armed = Arc::clone(&armed);
    let hook = move |kind: DiskOp, path: &Path| {
        let begins = path.ends_with("archive/live.new") && kind == DiskOp::Rename;
        if is_armed.load(Ordering::Relaxed)
            && (!after || begins)
            && count.fetch_add(1, Ordering::Relaxed) == step
        {
            if after {
                fs::rename(path, path.with_file_name("live.stamps"))?;
            }
            std::process::abort();
        }
        Ok(())
    };
    let plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(root).unwrap();
    armed.store(true, Ordering::Relaxed);
    let connect = || plane.connect("orders", ConnectOptions::default()).unwrap();
    let mut connection = connect();
    // They have the WAL open, and continue with a new one when it is moved.
    let mut others: Vec<_> = (0..others).map(|_| connect()).collect();
    for round in 0..9 {
        for other in &others {
            let rows: u32 = other.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
            assert_eq!(rows as usize, round);
        }
        connection.execute_batch("INSERT INTO t(value) VALUES (randomblob(6000))").unwrap();
        println!("\nDONE {}", now());
        let mode = ["RESTART", "TRUNCATE", "RESTART", "PASSIVE"][round % 4];
        connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
        if round % 4 == 3 {
            drop(connection);
            connection = connect();
        }
        if let Some(other) = others.first_mut() {
            std::mem::swap(other, &mut connection);
        }
    }
    drop((connection, others));
    println!("\nEND");
    std::process::exit(0)
}

/// Runs a writer in a child process. Returns the instant after each commit that returned, and whether the child
/// finished.
fn run(root: &Path, step: u64, after: bool, others: usize) -> (Vec<Timestamp>, bool) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([
        "--exact",
        "crash::process_killed_before_any_disk_operation_loses_no_commit",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env(ROLE, format!("{}|{step}|{after}|{others}", root.display()));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines: Vec<_> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    child.wait().unwrap();
    let done = lines.iter().filter_map(|line| line.strip_prefix("DONE ")).map(|at| at.parse().unwrap());
    (done.collect(), lines.iter().any(|line| line == "END"))
}

fn rows_at(ledger: &mut Ledger, at: Timestamp) -> usize {
    ledger.contents_at(at).unwrap_or_else(|error| panic!("{at}: {error}"))["t"].len()
}

#[test]
fn process_killed_before_any_disk_operation_loses_no_commit() {
    if let Ok(args) = env::var(ROLE) {
        write(&args);
    }
    for (after, others) in [(false, 0), (true, 0), (false, 1)] {
        for step in 0.. {
            let mut ledger = Ledger::plain();
            let connection = ledger.connect();
            ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
            drop(connection);
            let (done, ended) = run(ledger.plane.root(), step, after, others);
            let context = format!("step {step}, after {after}, {others} other connections");
            let verify = |ledger: &Ledger| {
                let verified = ledger.plane.verify_database("orders", VerifyOptions::default());
                assert_eq!(verified.unwrap().findings, vec![], "{context}");
            };
            verify(&ledger);
            let check = |ledger: &mut Ledger| {
                // A crash could lose the last commits only.
                for (rows, at) in (1..).zip(&done).skip(done.len().saturating_sub(2)) {
                    let found = ledger.contents_at(*at).unwrap_or_else(|error| panic!("{context}: {error}"));
                    assert_eq!(found["t"].len(), rows, "{context}");
                }
                assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1, "{context}");
            };
            check(&mut ledger);
            // The database accepts writes and has lost no commit.
            let connection = ledger.connect();
            ledger.commit(&connection, "INSERT INTO t(value) VALUES ('after')");
            verify(&ledger);
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            ledger.commit(&connection, "INSERT INTO t(value) VALUES ('later')");
            let last = now();
            assert!(rows_at(&mut ledger, last) >= done.len() + 2, "{context}");
            check(&mut ledger);
            drop(connection);
            verify(&ledger);
            if ended {
                assert!(step > 5, "{context}");
                break;
            }
        }
    }
}

#[test]
fn restore_during_wal_restarts_finds_last_commit() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    let stop = AtomicBool::new(false);
    let done = Mutex::new((0_usize, now()));
    let (stop, done) = (&stop, &done);
    thread::scope(|scope| {
        scope.spawn(move || {
            connection.execute_batch("PRAGMA wal_autocheckpoint=8").unwrap();
            for rows in 1.. {
                connection.execute_batch("INSERT INTO t(value) VALUES (randomblob(3000))").unwrap();
                *done.lock().unwrap() = (rows, now());
                if stop.load(Ordering::Relaxed) || rows > 4000 {
                    break;
                }
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..12 {
                let (rows, at) = *done.lock().unwrap();
                assert_eq!(rows_at(&mut ledger, at), rows);
                assert_eq!(ledger.plane.points("orders", ..).unwrap().windows[0].to, None);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn stamp_file_grows_after_another_connection_filled_it() {
    let ledger = Ledger::plain();
    let (first, second) = (ledger.connect(), ledger.connect());
    for connection in [&first, &second] {
        connection.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    }
    first.execute_batch("CREATE TABLE t(a)").unwrap();
    // The file starts with room for 124 records and doubles in size, which makes room for 252.
    for _ in 0..251 {
        second.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
    first.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(ledger.plane.points("orders", ..).unwrap().points.len(), 253);
}

#[test]
fn stale_stamps_after_a_hole_are_ignored() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    connection.execute_batch("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)").unwrap();
    for _ in 0..299 {
        connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
    // A power failure: the WAL lost its last 100 commits, and the stamp file lost its second page but not its third.
    let wal = ledger.database_dir().join("data.db-wal");
    let frame = 24 + 4096;
    let frames = (fs::metadata(&wal).unwrap().len() - 32) / frame;
    fs::File::options().write(true).open(&wal).unwrap().set_len(32 + (frames - 100) * frame).unwrap();
    fs::remove_file(ledger.database_dir().join("data.db-shm")).unwrap();
    let stamps = ledger.database_dir().join("archive/live.stamps");
    let mut bytes = fs::read(&stamps).unwrap();
    assert_eq!(bytes.len(), 16384);
    bytes[4096..8192].fill(0);
    fs::write(&stamps, bytes).unwrap();
    let connection = ledger.connect();
    connection.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    let mut known = Vec::new();
    let rows = |connection: &litefleet::rusqlite::Connection| -> usize {
        let rows: u32 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        rows as usize
    };
    for _ in 0..200 {
        connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        known.push((now(), rows(&connection)));
    }
    for (at, rows) in known.into_iter().step_by(13) {
        assert_eq!(rows_at(&mut ledger, at), rows);
    }
}

#[test]
fn unflushed_stamp_header_leaves_a_gap_and_writes_continue() {
    for (zeros, numbered) in [(true, true), (true, false), (false, true), (false, false)] {
        for at_rest in [true, false] {
            let mut ledger = Ledger::plain();
            let connection = ledger.connect();
            ledger.commit(&connection, "CREATE TABLE t(a); INSERT INTO t VALUES (0)");
            if numbered {
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            }
            let kept = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at;
            ledger.commit(&connection, "INSERT INTO t VALUES (1)");
            let lost = now();
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !at_rest).unwrap();
            drop(connection);
            let stamps = ledger.database_dir().join("archive/live.stamps");
            let mut bytes = fs::read(&stamps).unwrap();
            if zeros {
                bytes.fill(0);
            } else {
                bytes[9] ^= 1;
            }
            fs::write(&stamps, bytes).unwrap();
            let connection = ledger.connect();
            ledger.commit(&connection, "INSERT INTO t VALUES (2)");
            assert_eq!(rows_at(&mut ledger, now()), 3);
            // The damaged stamp file is kept under its number, and the error names it.
            let error = ledger.restore(lost).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            let set_aside = if numbered { "000000000002.stamps" } else { "000000000001.stamps" };
            assert!(error.to_string().contains(set_aside), "{error}");
            if numbered {
                assert_eq!(rows_at(&mut ledger, kept), 1);
            } else {
                // The initial state is lost too, and no other state is returned for it.
                let born = ledger.states[0].from;
                assert_eq!(ledger.restore(born).unwrap_err().kind(), ErrorKind::Corrupt);
            }
            drop(connection);
            assert_eq!(rows_at(&mut ledger, now()), 3);
            drop(foreign_connection(&ledger));
        }
    }
}

#[test]
fn segment_is_flushed_before_wal_is_truncated() {
    let ledger = Ledger::plain();
    let wal = ledger.database_dir().join("data.db-wal");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (seen, wal) = (Arc::clone(&seen), wal.clone());
        move |step: DiskOp, path: &Path| {
            if step == DiskOp::SyncFile && path.extension().is_some_and(|extension| extension == "wal") {
                seen.lock().unwrap().push(fs::metadata(&wal).unwrap().len());
            }
            Ok(())
        }
    };
    let plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(ledger.plane.root()).unwrap();
    let connection = plane.connect("orders", ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 1 && seen[0] > 0, "{seen:?}");
}

/// Otherwise a power loss could keep the record and lose the copied frames. The next copy would then append to a damaged
/// segment.
#[test]
fn copied_segment_is_flushed_before_its_end_record() {
    for synchronous in [Synchronous::Off, Synchronous::Normal, Synchronous::Full] {
        let ledger = Ledger::plain();
        let archive = ledger.database_dir().join("archive");
        let foreign = foreign_connection(&ledger);
        foreign.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let hook = {
            let seen = Arc::clone(&seen);
            move |step: DiskOp, path: &Path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                if name == "000000000001.wal" && step == DiskOp::SyncFile || name == "live.new" {
                    let has_end =
                        ["live.stamps", "000000000001.stamps"].map(|of| has_end_record(&archive.join(of)));
                    seen.lock().unwrap().push((step, has_end.contains(&true)));
                }
                Ok(())
            }
        };
        let plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(ledger.plane.root()).unwrap();
        let connect = || plane.connect("orders", ConnectOptions::default().synchronous(synchronous)).unwrap();
        let first = connect();
        first.execute_batch("CREATE TABLE t(a)").unwrap();
        foreign.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        seen.lock().unwrap().clear();
        // A connection that has not flushed anything restarts the WAL.
        let second = connect();
        second.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.first(), Some(&(DiskOp::SyncFile, false)), "{synchronous:?}: {seen:?}");
        assert!(seen.len() > 1 && seen[1..].iter().all(|(_, has_end)| *has_end), "{synchronous:?}: {seen:?}");
    }
}

/// Whether a file of stamps has an end record.
fn has_end_record(stamps: &Path) -> bool {
    let records = fs::read(stamps).unwrap_or_default();
    records.get(128..).unwrap_or_default().chunks(32).any(|record| record[..8] == (1_u64 << 63).to_le_bytes())
}

#[test]
fn snapshot_after_foreign_commits_is_flushed_before_next_commit() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    drop(connection);
    let foreign = foreign_connection(&ledger);
    foreign.execute_batch("INSERT INTO t VALUES ('foreign')").unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let seen = Arc::clone(&seen);
        move |step: DiskOp, path: &Path| {
            if matches!(step, DiskOp::SyncFile | DiskOp::SyncDir) {
                seen.lock().unwrap().push(path.file_name().unwrap().to_owned());
            }
            Ok(())
        }
    };
    let plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(ledger.plane.root()).unwrap();
    let connection = plane.connect("orders", ConnectOptions::default()).unwrap();
    connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    // A snapshot must not reach the disk before the frames that it includes. Earlier flushes belong to the stamps of
    // the previous generation.
    let flushed = seen.lock().unwrap().clone();
    assert!(
        flushed.ends_with(
            &["data.db-wal", "000000000002.db", "000000000002.sum", "live.stamps", "archive"].map(Into::into)
        ),
        "{flushed:?}"
    );
    // The snapshot is flushed once only.
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(*seen.lock().unwrap(), flushed);
}
