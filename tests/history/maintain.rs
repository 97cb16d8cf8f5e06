//! Maintenance changes no answer within the retention window, with concurrent readers and writers and wherever it
//! stops.

use std::{
    fs, io,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use litefleet::{
    Cipher, ControlPlane, ControlPlaneBuilder, DatabaseChanges, ErrorKind, ExportOptions, MaintainOptions,
    MaintenanceReport, Result, Retention, Timestamp, VerifyOptions, rusqlite::Connection, testing::DiskOp,
};

use crate::support::{Contents, Ledger, contents, files, is_index, now};

pub(crate) const CIPHERS: [Option<Cipher>; 2] = [None, Some(Cipher::Aegis256)];

pub(crate) fn set_window(ledger: &Ledger, window: &str) {
    let window: Retention = window.parse().unwrap();
    ledger.plane.configure_database("orders", DatabaseChanges::default().history_window(window)).unwrap();
}

pub(crate) fn maintain(ledger: &Ledger) -> MaintenanceReport {
    ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap()
}

/// Sets the clock 25 hours ahead, so that existing commits are old enough to be compressed, and still within the
/// window of [`with_history`].
pub(crate) fn a_day_later(builder: ControlPlaneBuilder) -> ControlPlaneBuilder {
    const HOURS: i64 = 25;
    builder.clock(Arc::new(|| {
        Timestamp::from_micros(Timestamp::now().as_micros() + HOURS * 3_600_000_000).unwrap()
    }))
}

pub(crate) fn maintain_a_day_later(ledger: &Ledger) -> MaintenanceReport {
    let plane = a_day_later(ControlPlane::builder()).open(ledger.plane.root()).unwrap();
    plane.maintain_database("orders", MaintainOptions::default()).unwrap()
}

pub(crate) fn restart_wal(connection: &Connection) {
    checkpoint(connection, "RESTART");
}

fn checkpoint(connection: &Connection, mode: &str) {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
}

/// Makes commits, ten of which fill a WAL large enough to justify a snapshot.
pub(crate) fn write(ledger: &mut Ledger, connection: &Connection, commits: usize) {
    for _ in 0..commits {
        let sql = "UPDATE t SET value = hex(randomblob(60000)) WHERE id = 1 + abs(random() % 4)";
        ledger.commit(connection, sql);
    }
}

/// A database with a history of `logs` segments and a commit in the live WAL.
pub(crate) fn with_history(cipher: Option<Cipher>, logs: usize) -> (Ledger, Connection) {
    let mut ledger = Ledger::new(cipher);
    set_window(&ledger, "7d");
    let connection = ledger.connect();
    let rows = "CREATE TABLE t(id INTEGER PRIMARY KEY, value);
        INSERT INTO t(value) VALUES (zeroblob(120000)), (1), (2), (3)";
    ledger.commit(&connection, rows);
    for _ in 0..logs {
        write(&mut ledger, &connection, 6);
        restart_wal(&connection);
    }
    write(&mut ledger, &connection, 1);
    ledger.states.last_mut().unwrap().to = now();
    (ledger, connection)
}

/// Reads both ends of every state. Instants before `cutoff` may fail as too old; returns how many did.
fn check(ledger: &mut Ledger, cutoff: Option<Timestamp>) -> usize {
    let mut refused = 0;
    for (number, state) in ledger.states.clone().into_iter().enumerate() {
        for at in [state.from, state.to] {
            match ledger.contents_at(at) {
                Ok(contents) => assert!(contents == state.contents, "state {number} at {at}"),
                Err(error) => {
                    assert!(cutoff.is_some_and(|cutoff| at < cutoff), "state {number} at {at}: {error}");
                    assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{error}");
                    let earliest = ledger.plane.points("orders", ..).unwrap().windows[0].from;
                    assert!(error.to_string().ends_with(&earliest.to_string()), "{error}");
                    assert!(at < earliest);
                    refused += 1;
                }
            }
        }
    }
    refused
}

#[test]
fn maintenance_adds_snapshot_when_logs_outgrow_database() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_history(cipher, 5);
        let archive = ledger.database_dir().join("archive");
        let files = || files(&archive).into_iter().filter(|name| !is_index(name)).collect();
        let before: Vec<String> = files();
        let done = maintain(&ledger);
        assert_eq!((done.snapshots, done.generations, done.deferred), (1, 0, false));
        let after: Vec<String> = files();
        let is_new = |name: &&String| !before.contains(name);
        let new: Vec<_> = after.iter().filter(is_new).collect();
        // The snapshot precedes the newest ended log; the live one is still written.
        assert_eq!(new, ["000000000005.db", "000000000005.sum"]);
        assert_eq!(check(&mut ledger, None), 0);
        // Nothing is due.
        assert_eq!(maintain(&ledger), empty_report(&done));
        assert_eq!(files(), after);
        // Instants after the snapshot do not depend on earlier logs.
        for sequence in 1..5 {
            fs::remove_file(ledger.database_dir().join(format!("archive/{sequence:012}.wal"))).unwrap();
        }
        let last = ledger.states.last().unwrap().clone();
        assert_eq!(ledger.contents_at(last.from).unwrap(), last.contents);
        drop(connection);
    }
}

pub(crate) fn empty_report(done: &MaintenanceReport) -> MaintenanceReport {
    let mut nothing = MaintenanceReport::default();
    nothing.windows.clone_from(&done.windows);
    nothing
}

#[test]
fn pruning_removes_only_what_no_window_needs() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_history(cipher, 4);
        set_window(&ledger, "1s");
        assert_eq!(maintain(&ledger).snapshots, 1);
        thread::sleep(Duration::from_millis(1200));
        // The first snapshot is outside the window, the next one inside.
        write(&mut ledger, &connection, 1);
        for _ in 0..4 {
            write(&mut ledger, &connection, 6);
            restart_wal(&connection);
        }
        write(&mut ledger, &connection, 1);
        let archive = ledger.database_dir().join("archive");
        let size = |dir: &Path| -> u64 {
            files(dir).iter().map(|name| fs::metadata(dir.join(name)).unwrap().len()).sum()
        };
        ledger.states.last_mut().unwrap().to = now();
        let (all, cutoff) = (size(&archive), now().as_micros() - 1_000_000);
        let done = maintain(&ledger);
        assert!(done.generations >= 3 && !done.deferred, "{done:?}");
        let snapshot = if done.snapshots > 0 { 1 << 20 } else { 0 };
        assert!(
            size(&archive) + done.bytes_freed + done.bytes_saved >= all && size(&archive) < all + snapshot,
            "{done:?}"
        );
        let cutoff = Timestamp::from_micros(cutoff).unwrap();
        let refused = check(&mut ledger, Some(cutoff));
        assert!(refused > 20, "{refused}");
        assert!(done.windows.len() == 1 && done.windows[0].to.is_none());
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows, done.windows);
        // The instant that the error names is the earliest restorable one.
        let earliest = done.windows[0].from;
        ledger.contents_at(earliest).unwrap();
        let before = Timestamp::from_micros(earliest.as_micros() - 1).unwrap();
        assert_eq!(ledger.restore(before).unwrap_err().kind(), ErrorKind::OutsideWindow);

        // Equal results after another run, in a copy of the fleet, and through another handle.
        set_window(&ledger, "1h");
        assert_eq!(maintain(&ledger).generations, 0);
        assert_eq!(check(&mut ledger, Some(cutoff)), refused);
        drop(connection);
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = elsewhere.path().join("copy");
        assert!(Command::new("cp").arg("-r").arg(ledger.plane.root()).arg(&copy).status().unwrap().success());
        ledger.plane = ControlPlane::open(&copy).unwrap();
        assert_eq!(check(&mut ledger, Some(cutoff)), refused);
        assert!(!maintain(&ledger).deferred);
        assert!(check(&mut ledger, Some(cutoff)) >= refused);
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t(value) VALUES ('goes on')");
        assert!(check(&mut ledger, Some(cutoff)) >= refused);
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1);
    }
}

/// How a hook interrupts a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stop {
    /// One step fails; later steps succeed.
    Fails,
    /// The process dies: no further step is executed.
    Dies,
}

/// The contents at an instant, read from an exported file.
pub(crate) fn exported_at(ledger: &Ledger, at: Timestamp) -> Result<Contents> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("exported.db");
    ledger.plane.export_database("orders", &file, ExportOptions::default().at(at))?;
    Ok(contents(&Connection::open(&file).unwrap()))
}

/// Copies a fleet and maintains the copy, interrupted at step `nth`.
pub(crate) fn maintain_copy(
    builder: ControlPlaneBuilder,
    root: &Path,
    copy: &Path,
    stop: Stop,
    nth: usize,
) -> (ControlPlane, Vec<DiskOp>, Result<MaintenanceReport>) {
    assert!(Command::new("cp").arg("-a").arg(root).arg(copy).status().unwrap().success());
    // Indexes depend on earlier reads. Remove the index of the segment that a snapshot reads, and keep the others.
    let archive = copy.join("default/orders/archive");
    for name in files(&archive).iter().filter(|name| name.ends_with("6.index")) {
        fs::remove_file(archive.join(name)).unwrap();
    }
    let (armed, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let at_index = Arc::new(AtomicBool::new(false));
    let hook = {
        let (armed, steps, at_index) = (Arc::clone(&armed), Arc::clone(&steps), Arc::clone(&at_index));
        move |step: DiskOp, path: &Path| {
            if !armed.load(SeqCst) {
                return Ok(());
            }
            let mut steps = steps.lock().unwrap();
            steps.push(step);
            let number = steps.len() - 1;
            let name = path.file_name().unwrap().to_str().unwrap();
            if number == nth {
                at_index.store(name.starts_with("index-") || is_index(name), SeqCst);
            }
            if number == nth || (number > nth && stop == Stop::Dies) {
                return Err(io::Error::other("stopped"));
            }
            Ok(())
        }
    };
    let plane = builder.fault_hook(Arc::new(hook)).open(copy).unwrap();
    armed.store(true, SeqCst);
    let result = plane.maintain_database("orders", MaintainOptions::default());
    armed.store(false, SeqCst);
    let steps = steps.lock().unwrap().clone();
    // A missing index is not an error: its contents are read from the segment.
    if result.is_ok() && nth != usize::MAX {
        assert!(at_index.load(SeqCst) && stop == Stop::Fails, "{stop:?} at {nth}, {:?}", steps.get(nth));
    }
    (plane, steps, result)
}

#[test]
fn maintenance_stopped_at_any_step_loses_no_instant() {
    let (mut ledger, connection) = with_history(None, 4);
    assert_eq!(maintain(&ledger).snapshots, 1);
    for _ in 0..3 {
        write(&mut ledger, &connection, 6);
        restart_wal(&connection);
    }
    write(&mut ledger, &connection, 1);
    ledger.states.last_mut().unwrap().to = now();
    drop(connection);
    thread::sleep(Duration::from_millis(1100));
    set_window(&ledger, "1s");
    ledger.check_all();
    let original = ledger.plane.clone();
    let elsewhere = tempfile::tempdir().unwrap();
    let maintain_now =
        |root: &Path, copy: &Path, stop, nth| maintain_copy(ControlPlane::builder(), root, copy, stop, nth);
    let whole = maintain_now(original.root(), &elsewhere.path().join("whole"), Stop::Fails, usize::MAX);
    let (_, steps, done) = whole;
    let done = done.unwrap();
    assert!(done.snapshots == 1 && done.generations > 0, "{done:?}");
    let earliest = done.windows[0].from;
    for step in
        [DiskOp::Create, DiskOp::Write, DiskOp::SyncFile, DiskOp::SyncDir, DiskOp::Rename, DiskOp::Remove]
    {
        assert!(steps.contains(&step), "{step:?} of {steps:?}");
    }
    // The states around the pruning cutoff, and some others.
    let kept = ledger.states.iter().position(|state| state.from >= earliest).unwrap();
    let numbers = [0, 5, kept - 2, kept - 1, kept, kept + 1, kept + 5, ledger.states.len() - 1];
    let check_states = |ledger: &Ledger, may_be_pruned: bool| {
        for number in numbers {
            let state = &ledger.states[number];
            match exported_at(ledger, state.from) {
                Ok(found) => assert!(found == state.contents, "state {number}"),
                Err(error) => {
                    assert!(may_be_pruned && state.from < earliest, "state {number}: {error}");
                    assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{error}");
                    assert!(error.to_string().ends_with(&earliest.to_string()), "{error}");
                }
            }
        }
    };
    for stop in [Stop::Fails, Stop::Dies] {
        for nth in 0..steps.len() {
            // Of consecutive flushes, test the first and the last.
            let is = |at: Option<usize>| at.and_then(|at| steps.get(at)) == Some(&DiskOp::SyncFile);
            if is(nth.checked_sub(1)) && is(Some(nth)) && is(Some(nth + 1)) {
                continue;
            }
            let copy = elsewhere.path().join("copy");
            let (plane, seen, _) = maintain_now(original.root(), &copy, stop, nth);
            let at = format!("{stop:?} at {nth}, {:?}", seen.last());
            ledger.plane = plane;
            let verified = ledger.plane.verify_database("orders", VerifyOptions::default());
            assert_eq!(verified.unwrap().findings, [], "{at}");
            check_states(&ledger, true);
            // The next run completes the work and leaves no temporary file.
            assert!(!maintain(&ledger).deferred, "{at}");
            check_states(&ledger, true);
            assert_eq!(ledger.plane.points("orders", ..).unwrap().windows[0].from, earliest, "{at}");
            let names = files(&ledger.database_dir().join("archive"));
            assert!(!names.iter().any(|name| name.contains(".new")), "{at}: {names:?}");
            let count = |what: &str| names.iter().filter(|name| name.ends_with(what)).count();
            assert_eq!((count(".db"), count(".sum")), (1, 1), "{at}: {names:?}");
            assert_eq!(maintain(&ledger), empty_report(&done), "{at}");
            fs::remove_dir_all(&copy).unwrap();
        }
    }
}

#[test]
fn concurrent_writers_lose_no_commit_during_maintenance() {
    for cipher in CIPHERS {
        let mut ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        connection.execute_batch("CREATE TABLE t(n); CREATE TABLE other(x)").unwrap();
        let (root, options) =
            (ledger.plane.root().to_owned(), ledger.options().busy_timeout(Duration::from_secs(60)));
        let is_over = AtomicBool::new(false);
        let mut counts = Vec::new();
        let mut snapshots = 0;
        thread::scope(|scope| {
            // Each thread has its own handle, as another process would.
            let counting = scope.spawn(|| {
                let plane = ControlPlane::open(&root).unwrap();
                let mut counts = Vec::new();
                for n in 1..=600_u32 {
                    let connection = plane.connect("orders", options.clone()).unwrap();
                    connection.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
                    counts.push((now(), n));
                }
                counts
            });
            let other = scope.spawn(|| {
                let connection =
                    ControlPlane::open(&root).unwrap().connect("orders", options.clone()).unwrap();
                let modes = ["PASSIVE", "RESTART", "TRUNCATE", "FULL"];
                for mode in modes.iter().cycle() {
                    if is_over.load(SeqCst) {
                        break;
                    }
                    let sql = "DELETE FROM other; INSERT INTO other VALUES (randomblob(200000))";
                    connection.execute_batch(sql).unwrap();
                    checkpoint(&connection, mode);
                    thread::sleep(Duration::from_millis(2));
                }
            });
            while !counting.is_finished() && !other.is_finished() {
                snapshots += maintain(&ledger).snapshots;
            }
            let counted = counting.join();
            is_over.store(true, SeqCst);
            counts = counted.unwrap();
            other.join().unwrap();
        });
        assert!(snapshots > 1, "{snapshots}");
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1);
        for (at, n) in counts.into_iter().step_by(23) {
            let found = ledger.contents_at(at).unwrap();
            assert_eq!(found["t"].len(), n as usize, "{at}");
        }
        drop(connection);
    }
}

#[test]
fn pruning_is_deferred_while_a_reader_is_open() {
    let (mut ledger, connection) = with_history(None, 4);
    assert_eq!(maintain(&ledger).snapshots, 1);
    set_window(&ledger, "1s");
    thread::sleep(Duration::from_millis(1100));
    let first = ledger.states[1].clone();
    // A view blocks pruning while it is open.
    let (view, _) = ledger.plane.connect_at("orders", first.from, ledger.options()).unwrap();
    let done = maintain(&ledger);
    assert_eq!((done.generations, done.bytes_freed, done.deferred), (0, 0, true));
    assert_eq!(contents(&view), first.contents);
    drop(view);
    let options = ExportOptions::default().at(first.from);
    let file = ledger.plane.root().join("exported.db");
    let mut deferred = None;
    let plane = ledger.plane.clone();
    let export = plane.export_database(
        "orders",
        &file,
        options.progress(|_| {
            if deferred.is_none() {
                let done = maintain(&ledger);
                assert_eq!((done.generations, done.bytes_freed), (0, 0));
                deferred = Some(done.deferred);
            }
            std::ops::ControlFlow::Continue(())
        }),
    );
    export.unwrap();
    assert_eq!(deferred, Some(true));
    let exported = Connection::open(&file).unwrap();
    assert_eq!(contents(&exported), first.contents);
    assert!(maintain(&ledger).generations > 0);
    assert_eq!(ledger.restore(first.from).unwrap_err().kind(), ErrorKind::OutsideWindow);
    drop(connection);
}

#[test]
fn maintenance_leaves_an_idle_database_unchanged() {
    let (ledger, connection) = with_history(None, 1);
    drop(connection);
    let archive = ledger.database_dir().join("archive");
    let seen = || -> Vec<_> {
        let of = |name: &String| {
            let found = fs::metadata(archive.join(name)).unwrap();
            (name.clone(), found.len(), found.modified().unwrap())
        };
        files(&archive).iter().map(of).collect()
    };
    let before = (seen(), files(&ledger.database_dir()));
    for _ in 0..2 {
        assert_eq!(maintain(&ledger), empty_report(&maintain(&ledger)));
        assert_eq!((seen(), files(&ledger.database_dir())), before);
    }
}

#[test]
fn archive_size_stays_bounded_under_sustained_load() {
    let mut ledger = Ledger::plain();
    set_window(&ledger, "1s");
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (zeroblob(100000)), (1), (2), (3)");
    connection.execute_batch("PRAGMA wal_autocheckpoint=200").unwrap();
    let archive = ledger.database_dir().join("archive");
    let size = || -> u64 {
        files(&archive).iter().map(|name| fs::metadata(archive.join(name)).unwrap().len()).sum()
    };
    let (mut written, mut largest, mut most, mut pruned) = (0_u64, 0, u64::MAX / 4, 0);
    // The bytes written per second vary, so they are recorded.
    let mut added: Vec<(i64, u64)> = Vec::new();
    // Until four times the largest window was written.
    while pruned < 5 || written < 4 * most {
        for _ in 0..10 {
            connection
                .execute_batch("UPDATE t SET value = randomblob(100000) WHERE id = 1 + abs(random() % 4)")
                .unwrap();
            written += 105_000;
            added.push((now().as_micros(), written));
        }
        thread::sleep(Duration::from_millis(5));
        let done = maintain(&ledger);
        pruned += u32::from(done.generations > 0);
        assert!(written < 1 << 30, "{pruned} {most}");
        let before = now().as_micros() - 1_200_000;
        let in_window = written - added.iter().rev().find(|(at, _)| *at < before).map_or(0, |(_, sum)| *sum);
        largest = largest.max(size());
        if done.generations > 0 {
            most = if pruned > 1 { most.max(in_window) } else { in_window };
        }
        // The logs of the window, one snapshot per stretch of logs, and one more stretch.
        assert!(size() < 2 * in_window + 10 * (1 << 20), "{} with {in_window} in the window", size());
    }
    assert!(largest * 2 < written, "archive of {largest} bytes for {written} written");
    ledger.states.truncate(0);
    let at = now();
    assert_eq!(ledger.contents_at(at).unwrap(), contents(&connection));
}
