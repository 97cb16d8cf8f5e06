//! Limits on the size of a history: they prune the oldest instants, and nothing that a retained instant needs.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use litefleet::{
    Cipher, ControlPlane, CreateDatabaseInput, DatabaseChanges, ErrorKind, GroupChanges, HistoryLimit,
    MaintainOptions, PruneReason, Timestamp, VerifyOptions, rusqlite::Connection, testing::DiskOp,
};

use crate::{
    maintain::{
        CIPHERS, Stop, empty_report, exported_at, maintain, maintain_copy, restart_wal, set_window,
        with_history, write,
    },
    support::{Ledger, contents, files, now},
};

fn set_limit(ledger: &Ledger, limit: &str) {
    let limit: HistoryLimit = limit.parse().unwrap();
    ledger.plane.configure_database("orders", DatabaseChanges::default().history_limit(limit)).unwrap();
}

fn bytes(limit: &str) -> u64 {
    limit.parse::<HistoryLimit>().unwrap().bytes().unwrap()
}

fn size(ledger: &Ledger) -> u64 {
    ledger.plane.history_size("orders").unwrap()
}

fn verify(ledger: &Ledger) {
    let mut options = VerifyOptions::default();
    if let Some(key) = &ledger.key {
        options = options.encryption_key(key.clone());
    }
    let report = ledger.plane.verify_database("orders", options).unwrap();
    assert_eq!(report.findings, vec![]);
}

/// Checks every state: it is restored if it is in the restorable range, and refused otherwise. Returns the number of states
/// that are restored.
fn check(ledger: &mut Ledger) -> usize {
    ledger.states.last_mut().unwrap().to = now();
    let points = ledger.plane.points("orders", ..).unwrap();
    assert_eq!((points.windows.len(), points.windows[0].to), (1, None), "{points:?}");
    assert_eq!(points.pruned_by, Some(PruneReason::Limit));
    let from = points.windows[0].from;
    let mut restored = 0;
    for (number, state) in ledger.states.clone().into_iter().enumerate() {
        match ledger.contents_at(state.from) {
            Ok(found) => {
                assert!(state.from >= from && found == state.contents, "state {number}");
                restored += 1;
            }
            Err(error) => {
                assert!(state.from < from, "state {number}: {error}");
                assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{error}");
                let text = error.to_string();
                assert!(text.contains("history limit") && text.ends_with(&from.to_string()), "{text}");
            }
        }
    }
    restored
}

#[test]
fn limit_prunes_oldest_instants_of_the_window() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_history(cipher, 6);
        assert_eq!(ledger.plane.points("orders", ..).unwrap().pruned_by, None);
        let before = size(&ledger);
        set_limit(&ledger, "3mb");
        let done = maintain(&ledger);
        assert!(done.generations > 0 && !done.deferred, "{done:?}");
        assert!(size(&ledger) <= 3 << 20 && size(&ledger) + done.bytes_freed > before, "{}", size(&ledger));
        // No more than a log and a snapshot below the limit.
        assert!(size(&ledger) > 3 << 19, "{}", size(&ledger));
        let restored = check(&mut ledger);
        assert!(restored > 6 && restored < ledger.states.len(), "{restored}");
        verify(&ledger);
        assert_eq!(maintain(&ledger), empty_report(&done));
        for _ in 0..5 {
            write(&mut ledger, &connection, 6);
            restart_wal(&connection);
            maintain(&ledger);
            assert!(size(&ledger) <= 3 << 20);
        }
        assert!(check(&mut ledger) > 6);
        verify(&ledger);
        // Without a limit, nothing more is pruned, and the reason remains.
        set_limit(&ledger, "none");
        write(&mut ledger, &connection, 6);
        restart_wal(&connection);
        assert_eq!(maintain(&ledger).generations, 0);
        check(&mut ledger);
        // The window prunes next.
        set_window(&ledger, "1s");
        thread::sleep(Duration::from_millis(1100));
        assert!(maintain(&ledger).generations > 0);
        let points = ledger.plane.points("orders", ..).unwrap();
        assert_eq!(points.pruned_by, Some(PruneReason::Window));
    }
}

/// A database of about 100 KB whose only snapshot is the oldest, and an open connection.
fn with_updates(cipher: Option<Cipher>, updates: usize) -> (Ledger, Connection) {
    let mut ledger = Ledger::new(cipher);
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    let rows = "WITH RECURSIVE k(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM k WHERE i < 25)
        INSERT INTO t(value) SELECT randomblob(3900) FROM k";
    ledger.commit(&connection, rows);
    for _ in 0..updates {
        connection.execute_batch("UPDATE t SET value = randomblob(3900)").unwrap();
    }
    for _ in 0..3 {
        ledger.commit(&connection, "UPDATE t SET value = randomblob(3900)");
    }
    (ledger, connection)
}

#[test]
fn limit_frees_logs_that_only_the_oldest_snapshot_precedes() {
    for (cipher, is_closed) in CIPHERS.into_iter().flat_map(|cipher| [(cipher, false), (cipher, true)]) {
        let (mut ledger, connection) = with_updates(cipher, 300);
        let mut connection = Some(connection).filter(|_| !is_closed);
        let archive = ledger.database_dir().join("archive");
        let count = |extension: &str| files(&archive).iter().filter(|name| name.ends_with(extension)).count();
        assert!(size(&ledger) > 20 << 20 && count(".db") == 1, "{}", size(&ledger));
        set_limit(&ledger, "10mb");
        let done = maintain(&ledger);
        assert!(done.snapshots > 0 && done.generations > 0, "{done:?}");
        assert!(size(&ledger) <= 10 << 20 && size(&ledger) > 4 << 20, "{}", size(&ledger));
        assert!(check(&mut ledger) >= 3);
        verify(&ledger);
        // Less than the newest log, and less than a snapshot.
        for limit in ["1mb", "4kb"] {
            set_limit(&ledger, limit);
            let done = maintain(&ledger);
            assert!(!done.deferred, "{done:?}");
            // The newest log is in the archive if the database is closed.
            let logs = if is_closed { 5 << 20 } else { 0 };
            assert!(size(&ledger) < 200_000 + logs, "{limit}: {}", size(&ledger));
            assert_eq!((count(".db"), count(".wal")), (1, usize::from(is_closed)));
            assert!(check(&mut ledger) > 0);
            verify(&ledger);
            assert_eq!(maintain(&ledger), empty_report(&done));
            // Writers go on.
            let writer = connection.take().unwrap_or_else(|| ledger.connect());
            for _ in 0..3 {
                ledger.commit(&writer, "UPDATE t SET value = randomblob(3900)");
            }
            if !is_closed {
                restart_wal(&writer);
                ledger.commit(&writer, "UPDATE t SET value = randomblob(3900)");
                connection = Some(writer);
            }
            maintain(&ledger);
            assert!(check(&mut ledger) > 0);
            verify(&ledger);
        }
        let last = ledger.states.last().unwrap().clone();
        assert_eq!(ledger.contents_at(last.from).unwrap(), last.contents);
    }
}

#[test]
fn database_inherits_group_limit_unless_it_has_its_own() {
    let ledger = Ledger::plain();
    let plane = &ledger.plane;
    let of = |name: &str| {
        let database = plane.get_database(name).unwrap();
        (database.history_limit.to_string(), database.inherits_history_limit)
    };
    let group = |limit: &str| {
        let changes = GroupChanges::default().history_limit(limit.parse().unwrap());
        plane.configure_group("default", changes).unwrap().history_limit.to_string()
    };
    let fork = |name: &str| {
        plane.create_database(CreateDatabaseInput::fork(name, "orders")).unwrap();
        of(name)
    };
    assert_eq!(of("orders"), ("none".into(), true));
    assert_eq!(group("1gb"), "1073741824");
    assert_eq!(of("orders"), ("1073741824".into(), true));
    assert_eq!(fork("before"), ("1073741824".into(), true));
    set_limit(&ledger, "1mb");
    assert_eq!(of("orders"), ("1048576".into(), false));
    // A fork inherits the limit of its source, and afterwards has its own.
    assert_eq!(fork("limited"), ("1048576".into(), false));
    set_limit(&ledger, "none");
    assert_eq!((of("orders"), of("limited")), (("none".into(), false), ("1048576".into(), false)));
    assert_eq!(fork("unlimited"), ("none".into(), false));
    plane.configure_database("orders", DatabaseChanges::default().block_writes(false)).unwrap();
    assert_eq!(of("orders"), ("none".into(), false));
    let inherits = DatabaseChanges::default().inherit_history_limit();
    plane.configure_database("orders", inherits).unwrap();
    assert_eq!(of("orders"), ("1073741824".into(), true));
    assert_eq!(group("none"), "none");
    assert_eq!(of("orders"), ("none".into(), true));
    let json = serde_json::to_value(plane.get_database("limited").unwrap()).unwrap();
    assert_eq!((&json["history_limit"], &json["inherits_history_limit"]), (&"1048576".into(), &false.into()));
}

#[test]
fn pruning_by_limit_stopped_at_any_step_loses_no_instant() {
    // The history begins at the newest generation, or at an ended one.
    for limit in ["700kb", "2700kb"] {
        let (mut ledger, connection) = with_history(None, 3);
        drop(connection);
        ledger.states.last_mut().unwrap().to = now();
        set_limit(&ledger, limit);
        let original = ledger.plane.clone();
        let elsewhere = tempfile::tempdir().unwrap();
        let maintain_now = |root: &Path, copy: &Path, stop, nth| {
            maintain_copy(ControlPlane::builder(), root, copy, stop, nth)
        };
        let (_, steps, done) =
            maintain_now(original.root(), &elsewhere.path().join("whole"), Stop::Fails, usize::MAX);
        let done = done.unwrap();
        assert!(done.snapshots == 2 && done.generations > 0, "{done:?}");
        let earliest = done.windows[0].from;
        let kept = ledger.states.iter().position(|state| state.from >= earliest).unwrap();
        let last = ledger.states.len() - 1;
        assert!(kept > 2);
        let check_states = |ledger: &Ledger, at: &str| {
            for number in [kept - 1, kept, last] {
                let state = &ledger.states[number];
                match exported_at(ledger, state.from) {
                    Ok(found) => assert!(found == state.contents, "{at}: state {number}"),
                    Err(error) => {
                        assert!(state.from < earliest, "{at}: state {number}: {error}");
                        assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{at}: {error}");
                        let points = ledger.plane.points("orders", ..).unwrap();
                        assert_eq!(points.pruned_by, Some(PruneReason::Limit), "{at}");
                    }
                }
            }
        };
        for (stop, nth) in [Stop::Fails, Stop::Dies]
            .into_iter()
            .flat_map(|stop| (0..steps.len()).map(move |nth| (stop, nth)))
        {
            // Of consecutive flushes, test the first and the last.
            let is = |at: Option<usize>| at.and_then(|at| steps.get(at)) == Some(&DiskOp::SyncFile);
            if is(nth.checked_sub(1)) && is(Some(nth)) && is(Some(nth + 1)) {
                continue;
            }
            let copy = elsewhere.path().join("copy");
            let (plane, seen, _) = maintain_now(original.root(), &copy, stop, nth);
            let at = format!("{limit}, {stop:?} at {nth}, {:?}", seen.last());
            ledger.plane = plane;
            check_states(&ledger, &at);
            // The next run completes the work and leaves no temporary file.
            assert!(!maintain(&ledger).deferred, "{at}");
            check_states(&ledger, &at);
            assert_eq!(ledger.plane.points("orders", ..).unwrap().windows[0].from, earliest, "{at}");
            let names = files(&ledger.database_dir().join("archive"));
            assert!(!names.iter().any(|name| name.contains(".new")), "{at}: {names:?}");
            assert!(size(&ledger) <= bytes(limit), "{at}: {names:?}");
            if stop == Stop::Dies {
                verify(&ledger);
            }
            assert_eq!(maintain(&ledger), empty_report(&done), "{at}");
            fs::remove_dir_all(&copy).unwrap();
        }
    }
}

#[test]
fn limit_prunes_to_existing_snapshot_on_a_full_disk() {
    let (mut ledger, connection) = with_history(None, 5);
    assert_eq!(maintain(&ledger).snapshots, 1);
    for _ in 0..2 {
        write(&mut ledger, &connection, 6);
        restart_wal(&connection);
    }
    write(&mut ledger, &connection, 1);
    // Less than the logs since the newest snapshot.
    set_limit(&ledger, "1mb");
    let before = size(&ledger);
    let is_full = Arc::new(AtomicBool::new(true));
    let hook = {
        let is_full = Arc::clone(&is_full);
        move |step: DiskOp, path: &Path| {
            if step == DiskOp::Write && path.ends_with("maintained.new") && is_full.load(SeqCst) {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            Ok(())
        }
    };
    let plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(ledger.plane.root()).unwrap();
    let error = plane.maintain_database("orders", MaintainOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
    let names = files(&ledger.database_dir().join("archive"));
    assert!(!names.contains(&"000000000004.wal".into()), "{names:?}");
    assert!(names.contains(&"000000000005.wal".into()) && size(&ledger) < before, "{names:?}");
    assert!(check(&mut ledger) > 12);
    is_full.store(false, SeqCst);
    plane.maintain_database("orders", MaintainOptions::default()).unwrap();
    assert!(size(&ledger) <= 1 << 20);
    assert!(check(&mut ledger) > 0);
    verify(&ledger);
}

#[test]
fn limit_does_not_begin_at_a_damaged_snapshot() {
    let (mut ledger, connection) = with_history(None, 5);
    assert_eq!(maintain(&ledger).snapshots, 1);
    let snapshot = ledger.database_dir().join("archive/000000000005.db");
    let mut bytes = fs::read(&snapshot).unwrap();
    bytes[5000] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    set_limit(&ledger, "1500kb");
    let maintained = ledger.plane.maintain_database("orders", MaintainOptions::default());
    assert_eq!(maintained.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(snapshot.exists());
    ledger.check_all();
    // The next log begins with a new snapshot.
    restart_wal(&connection);
    write(&mut ledger, &connection, 1);
    assert!(maintain(&ledger).generations > 0);
    assert!(!snapshot.exists() && size(&ledger) <= 1500 << 10);
    assert!(check(&mut ledger) > 0);
    verify(&ledger);
}

#[test]
fn pruning_by_limit_is_deferred_while_a_reader_is_open() {
    let (mut ledger, connection) = with_history(None, 4);
    set_limit(&ledger, "700kb");
    let first = ledger.states[1].clone();
    let (view, _) = ledger.plane.connect_at("orders", first.from, ledger.options()).unwrap();
    let done = maintain(&ledger);
    assert_eq!((done.generations, done.deferred), (0, true));
    assert_eq!(contents(&view), first.contents);
    assert_eq!(ledger.plane.points("orders", ..).unwrap().pruned_by, None);
    drop(view);
    assert!(maintain(&ledger).generations > 0);
    assert!(size(&ledger) <= 700 << 10);
    assert!(check(&mut ledger) > 0);
    drop(connection);
}

#[test]
fn concurrent_writers_lose_no_commit_to_a_limit() {
    for cipher in CIPHERS {
        let ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        connection.execute_batch("CREATE TABLE t(n); CREATE TABLE other(x)").unwrap();
        set_limit(&ledger, "300kb");
        let (root, options) =
            (ledger.plane.root().to_owned(), ledger.options().busy_timeout(Duration::from_secs(60)));
        let mut pruned = 0;
        let counts: Vec<(Timestamp, usize)> = thread::scope(|scope| {
            // The thread has its own handle, as another process would.
            let writer = scope.spawn(|| {
                let plane = ControlPlane::open(&root).unwrap();
                let mut counts = Vec::new();
                for n in 1..=500 {
                    let connection = plane.connect("orders", options.clone()).unwrap();
                    let sql = "DELETE FROM other; INSERT INTO other VALUES (randomblob(50000));
                        INSERT INTO t VALUES (1)";
                    connection.execute_batch(&format!("BEGIN IMMEDIATE; {sql}; COMMIT")).unwrap();
                    counts.push((now(), n));
                    if n % 3 > 0 {
                        let mode = ["PASSIVE", "RESTART", "TRUNCATE", "FULL"][n % 4];
                        let sql = format!("PRAGMA wal_checkpoint({mode})");
                        connection.query_row(&sql, [], |_| Ok(())).unwrap();
                    }
                }
                counts
            });
            while !writer.is_finished() {
                pruned += maintain(&ledger).generations;
            }
            writer.join().unwrap()
        });
        assert!(pruned > 20, "{pruned}");
        verify(&ledger);
        drop(connection);
        maintain(&ledger);
        assert!(size(&ledger) <= 300 << 10, "{}", size(&ledger));
        verify(&ledger);
        let points = ledger.plane.points("orders", ..).unwrap();
        assert_eq!((points.windows.len(), points.pruned_by), (1, Some(PruneReason::Limit)));
        let from = points.windows[0].from;
        assert!(counts.last().unwrap().0 >= from);
        for (at, n) in counts.into_iter().rev().take(40) {
            match ledger.viewed_at(at) {
                Ok(found) => assert!(found["t"].len() == n && at >= from, "{at}"),
                Err(error) => assert!(at < from, "{at}: {error}"),
            }
        }
    }
}
