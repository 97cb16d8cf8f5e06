//! What a history is after a process was killed, or the power failed, at any step.

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
    ConnectOptions, ControlPlane, DiskOp, ErrorKind, Timestamp, VerifyOptions, no_progress,
    rusqlite::config::DbConfig,
};

use crate::support::{Ledger, now, stranger};

const ROLE: &str = "LITEFLEET_CRASH_CHILD";

/// Commits rows in a database whose log ends in every way, and dies before the given step of the file operations, or right
/// after the stamps of a new generation are in their place.
fn write(orders: &str) -> ! {
    let [root, step, after, others] = orders.split('|').collect::<Vec<_>>()[..] else { unreachable!() };
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
    let connect = || plane.connect("orders", &ConnectOptions::default()).unwrap();
    let mut connection = connect();
    // They have its log open, and go on with another one where that is moved away.
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

/// What a writer that dies there says: when each of its commits was done, and whether it came to its end.
fn run(root: &Path, step: u64, after: bool, others: usize) -> (Vec<Timestamp>, bool) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([
        "--exact",
        "crash::a_process_may_be_killed_before_any_step",
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
fn a_process_may_be_killed_before_any_step() {
    if let Ok(orders) = env::var(ROLE) {
        write(&orders);
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
                let verified =
                    ledger.plane.verify_database("orders", &VerifyOptions::default(), &mut no_progress);
                assert_eq!(verified.unwrap().findings, vec![], "{context}");
            };
            verify(&ledger);
            let check = |ledger: &mut Ledger| {
                // The last ones are those that a crash could take.
                for (rows, at) in (1..).zip(&done).skip(done.len().saturating_sub(2)) {
                    let found = ledger.contents_at(*at).unwrap_or_else(|error| panic!("{context}: {error}"));
                    assert_eq!(found["t"].len(), rows, "{context}");
                }
                assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1, "{context}");
            };
            check(&mut ledger);
            // It goes on, and has lost nothing.
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
fn a_restore_while_the_log_is_begun_anew_finds_the_last_commit() {
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
fn stamps_that_others_used_the_room_of_are_made_room_for() {
    let ledger = Ledger::plain();
    let (first, second) = (ledger.connect(), ledger.connect());
    for connection in [&first, &second] {
        connection.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    }
    first.execute_batch("CREATE TABLE t(a)").unwrap();
    // The file begins with room for 124 records, and grows by doubling: to 252.
    for _ in 0..251 {
        second.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
    first.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(ledger.plane.points("orders", ..).unwrap().points.len(), 253);
}

#[test]
fn stamps_behind_a_hole_are_not_taken_for_later_ones() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    connection.execute_batch("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)").unwrap();
    for _ in 0..299 {
        connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
    // The power fails: the log has lost its last 100 commits, and the stamps their second page, but not the third.
    let wal = ledger.place().join("data.db-wal");
    let frame = 24 + 4096;
    let frames = (fs::metadata(&wal).unwrap().len() - 32) / frame;
    fs::File::options().write(true).open(&wal).unwrap().set_len(32 + (frames - 100) * frame).unwrap();
    fs::remove_file(ledger.place().join("data.db-shm")).unwrap();
    let stamps = ledger.place().join("archive/live.stamps");
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
fn stamps_that_never_got_to_the_disk_are_a_gap_and_stop_nobody() {
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
            let stamps = ledger.place().join("archive/live.stamps");
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
            // The stamps are kept under the number that they would have got, and are named.
            let error = ledger.restore(lost).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            let set_aside = if numbered { "000000000002.stamps" } else { "000000000001.stamps" };
            assert!(error.to_string().contains(set_aside), "{error}");
            if numbered {
                assert_eq!(rows_at(&mut ledger, kept), 1);
            } else {
                // What it was when it was born is gone too, and nothing else is given for it.
                let born = ledger.states[0].from;
                assert_eq!(ledger.restore(born).unwrap_err().kind(), ErrorKind::Corrupt);
            }
            drop(connection);
            assert_eq!(rows_at(&mut ledger, now()), 3);
            drop(stranger(&ledger));
        }
    }
}

#[test]
fn a_segment_is_on_the_disk_before_its_log_is_cut() {
    let ledger = Ledger::plain();
    let wal = ledger.place().join("data.db-wal");
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
    let connection = plane.connect("orders", &ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a)").unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 1 && seen[0] > 0, "{seen:?}");
}

#[test]
fn a_snapshot_in_the_middle_of_a_strangers_log_is_on_the_disk_before_the_commit_behind_it() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    drop(connection);
    let strange = stranger(&ledger);
    strange.execute_batch("INSERT INTO t VALUES ('strange')").unwrap();
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
    let connection = plane.connect("orders", &ConnectOptions::default()).unwrap();
    connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    // Behind the stamps of the generation before. The snapshot must not outlive the frames that it holds.
    let flushed = seen.lock().unwrap().clone();
    assert!(
        flushed.ends_with(
            &["data.db-wal", "000000000002.db", "000000000002.sum", "live.stamps", "archive"].map(Into::into)
        ),
        "{flushed:?}"
    );
    // Only once.
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(*seen.lock().unwrap(), flushed);
}
