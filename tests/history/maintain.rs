//! Maintenance changes no answer within the window, whatever else is going on, and wherever it stops.

use std::{
    fs, io,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use litefleet::{
    Cipher, ControlPlane, DatabaseChanges, ErrorKind, ExportOptions, HistoryWindow, Maintained, Step,
    Timestamp, rusqlite::Connection, unwatched,
};

use crate::support::{Ledger, files, now};

const CIPHERS: [Option<Cipher>; 2] = [None, Some(Cipher::Aegis256)];

fn set_window(ledger: &Ledger, window: &str) {
    let window: HistoryWindow = window.parse().unwrap();
    ledger
        .plane
        .configure_database("orders", DatabaseChanges::default().history_window(Some(window)))
        .unwrap();
}

fn maintain(ledger: &Ledger) -> Maintained {
    ledger.plane.maintain_database("orders", &mut unwatched).unwrap()
}

fn restart(connection: &Connection) {
    connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
}

/// Commits of which ten fill a log that is worth a snapshot.
fn write(ledger: &mut Ledger, connection: &Connection, commits: usize) {
    for _ in 0..commits {
        ledger.commit(connection, "UPDATE t SET value = randomblob(120000) WHERE id = 1 + abs(random() % 4)");
    }
}

/// A database with a history of several logs.
fn with_history(cipher: Option<Cipher>, logs: usize) -> (Ledger, Connection) {
    let mut ledger = Ledger::new(cipher);
    let connection = ledger.connect();
    let rows = "CREATE TABLE t(id INTEGER PRIMARY KEY, value);
        INSERT INTO t(value) VALUES (zeroblob(120000)), (1), (2), (3)";
    ledger.commit(&connection, rows);
    for _ in 0..logs {
        write(&mut ledger, &connection, 6);
        restart(&connection);
    }
    write(&mut ledger, &connection, 1);
    ledger.states.last_mut().unwrap().to = now();
    (ledger, connection)
}

/// Restores every state at both of its ends: right, or, before `cutoff`, refused as too old. Says how many were refused.
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
fn a_snapshot_is_made_where_the_logs_outgrow_the_database() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_history(cipher, 5);
        let before = files(&ledger.place().join("archive"));
        let done = maintain(&ledger);
        assert_eq!((done.snapshots, done.generations, done.deferred), (1, 0, false));
        let after = files(&ledger.place().join("archive"));
        let new: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
        // Before the newest log that has ended: the one after that is still written.
        assert_eq!(new, ["000000000005.db", "000000000005.sum"]);
        assert_eq!(check(&mut ledger, None), 0);
        // Nothing is due.
        assert_eq!(maintain(&ledger), done_nothing(&done));
        assert_eq!(files(&ledger.place().join("archive")), after);
        // The snapshot leads where it says: what was before it is not needed for what comes after.
        for sequence in 1..5 {
            fs::remove_file(ledger.place().join(format!("archive/{sequence:012}.wal"))).unwrap();
        }
        let last = ledger.states.last().unwrap().clone();
        assert_eq!(ledger.contents_at(last.from).unwrap(), last.contents);
        drop(connection);
    }
}

fn done_nothing(done: &Maintained) -> Maintained {
    let mut nothing = Maintained::default();
    nothing.windows.clone_from(&done.windows);
    nothing
}

#[test]
fn what_no_window_needs_is_removed_and_nothing_else() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_history(cipher, 4);
        set_window(&ledger, "1s");
        assert_eq!(maintain(&ledger).snapshots, 1);
        thread::sleep(Duration::from_millis(1200));
        // The first snapshot is out of the window, and the next one within.
        write(&mut ledger, &connection, 1);
        for _ in 0..4 {
            write(&mut ledger, &connection, 6);
            restart(&connection);
        }
        write(&mut ledger, &connection, 1);
        let archive = ledger.place().join("archive");
        let size = |dir: &Path| -> u64 {
            files(dir).iter().map(|name| fs::metadata(dir.join(name)).unwrap().len()).sum()
        };
        ledger.states.last_mut().unwrap().to = now();
        let (all, cutoff) = (size(&archive), now().as_micros() - 1_000_000);
        let done = maintain(&ledger);
        assert!(done.generations >= 3 && !done.deferred, "{done:?}");
        let snapshot = if done.snapshots > 0 { 1 << 20 } else { 0 };
        assert!(size(&archive) + done.bytes_freed >= all && size(&archive) < all + snapshot, "{done:?}");
        let cutoff = Timestamp::from_micros(cutoff).unwrap();
        let refused = check(&mut ledger, Some(cutoff));
        assert!(refused > 20, "{refused}");
        assert!(done.windows.len() == 1 && done.windows[0].to.is_none());
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows, done.windows);
        // The instant that is named is the earliest one, and works.
        let earliest = done.windows[0].from;
        ledger.contents_at(earliest).unwrap();
        let before = Timestamp::from_micros(earliest.as_micros() - 1).unwrap();
        assert_eq!(ledger.restore(before).unwrap_err().kind(), ErrorKind::OutsideWindow);

        // The same after another one, in a copy of the fleet, and by another handle.
        assert_eq!(maintain(&ledger).generations, 0);
        assert_eq!(check(&mut ledger, Some(cutoff)), refused);
        drop(connection);
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = elsewhere.path().join("copy");
        assert!(Command::new("cp").arg("-r").arg(ledger.plane.root()).arg(&copy).status().unwrap().success());
        ledger.plane = ControlPlane::open(&copy).unwrap();
        assert_eq!(check(&mut ledger, Some(cutoff)), refused);
        assert_eq!(maintain(&ledger).deferred, false);
        assert!(check(&mut ledger, Some(cutoff)) >= refused);
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t(value) VALUES ('goes on')");
        assert!(check(&mut ledger, Some(cutoff)) >= refused);
        assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1);
    }
}

/// What a hook does at one of the steps of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    /// This step fails, and those that follow do not.
    Fails,
    /// The process ends there: neither this step nor any other one is done.
    Ends,
}

#[test]
fn wherever_maintenance_stops_every_answer_stays() {
    for stop in [Stop::Fails, Stop::Ends] {
        let (mut ledger, connection) = with_history(None, 4);
        assert_eq!(maintain(&ledger).snapshots, 1);
        for _ in 0..4 {
            write(&mut ledger, &connection, 6);
            restart(&connection);
        }
        write(&mut ledger, &connection, 1);
        ledger.states.last_mut().unwrap().to = now();
        drop(connection);
        thread::sleep(Duration::from_millis(1100));
        set_window(&ledger, "1s");
        let original = ledger.plane.clone();
        let mut stopped_at = Vec::new();
        for nth in 0.. {
            let elsewhere = tempfile::tempdir().unwrap();
            let copy = elsewhere.path().join("copy");
            let copied = Command::new("cp").arg("-a").arg(original.root()).arg(&copy).status().unwrap();
            assert!(copied.success());
            let (armed, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            let at = Arc::new(Mutex::new(None));
            let hook = {
                let (armed, count, at) = (Arc::clone(&armed), Arc::clone(&count), Arc::clone(&at));
                move |step: Step, path: &Path| {
                    if !armed.load(SeqCst) {
                        return Ok(());
                    }
                    let number = count.fetch_add(1, SeqCst);
                    if number == nth || (number > nth && stop == Stop::Ends) {
                        at.lock().unwrap().get_or_insert((step, path.to_owned()));
                        return Err(io::Error::other("stopped"));
                    }
                    Ok(())
                }
            };
            ledger.plane = ControlPlane::builder().on_step(Arc::new(hook)).open(&copy).unwrap();
            armed.store(true, SeqCst);
            let result = ledger.plane.maintain_database("orders", &mut unwatched);
            armed.store(false, SeqCst);
            let Some(at) = at.lock().unwrap().take() else {
                let done = result.unwrap();
                assert!(done.snapshots == 1 && done.generations > 0, "{done:?}");
                break;
            };
            stopped_at.push(at.0);
            let cutoff = Some(now());
            check(&mut ledger, cutoff);
            // The next one does the rest, and leaves nothing behind.
            let done = maintain(&ledger);
            assert!(!done.deferred);
            check(&mut ledger, cutoff);
            let names = files(&ledger.place().join("archive"));
            assert!(!names.iter().any(|name| name.contains(".new")), "{at:?}: {names:?}");
            // Two snapshots at the most remain, the one that is needed and one that is newer.
            let count = |what: &str| names.iter().filter(|name| name.ends_with(what)).count();
            assert_eq!(count(".db"), count(".sum"), "{at:?}: {names:?}");
            let last = ledger.states.last().unwrap().clone();
            assert_eq!(ledger.contents_at(last.from).unwrap(), last.contents, "{at:?}");
            assert_eq!(maintain(&ledger), done_nothing(&maintain(&ledger)));
        }
        for step in [Step::Create, Step::Write, Step::SyncFile, Step::SyncDir, Step::Rename, Step::Remove] {
            assert!(stopped_at.contains(&step), "{step:?} of {stopped_at:?}");
        }
    }
}

#[test]
fn nothing_is_removed_under_a_reader() {
    let (mut ledger, connection) = with_history(None, 4);
    assert_eq!(maintain(&ledger).snapshots, 1);
    set_window(&ledger, "1s");
    thread::sleep(Duration::from_millis(1100));
    let first = ledger.states[1].clone();
    let options = ExportOptions::default().at(first.from);
    let file = ledger.plane.root().join("exported.db");
    let mut deferred = None;
    let plane = ledger.plane.clone();
    let export = plane.export_database("orders", &file, &options, &mut |_| {
        if deferred.is_none() {
            let done = maintain(&ledger);
            assert_eq!((done.generations, done.bytes_freed), (0, 0));
            deferred = Some(done.deferred);
        }
        std::ops::ControlFlow::Continue(())
    });
    export.unwrap();
    assert_eq!(deferred, Some(true));
    let exported = Connection::open(&file).unwrap();
    assert_eq!(crate::support::contents(&exported), first.contents);
    assert!(maintain(&ledger).generations > 0);
    assert_eq!(ledger.restore(first.from).unwrap_err().kind(), ErrorKind::OutsideWindow);
    drop(connection);
}

#[test]
fn an_idle_database_is_left_alone() {
    let (ledger, connection) = with_history(None, 1);
    drop(connection);
    let archive = ledger.place().join("archive");
    let seen = || -> Vec<_> {
        let of = |name: &String| {
            let found = fs::metadata(archive.join(name)).unwrap();
            (name.clone(), found.len(), found.modified().unwrap())
        };
        files(&archive).iter().map(of).collect()
    };
    let before = (seen(), files(&ledger.place()));
    for _ in 0..2 {
        assert_eq!(maintain(&ledger), done_nothing(&maintain(&ledger)));
        assert_eq!((seen(), files(&ledger.place())), before);
    }
}

#[test]
fn a_damaged_snapshot_keeps_what_leads_around_it() {
    let (mut ledger, connection) = with_history(None, 4);
    assert_eq!(maintain(&ledger).snapshots, 1);
    let snapshot = ledger.place().join("archive/000000000004.db");
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    thread::sleep(Duration::from_millis(1100));
    set_window(&ledger, "1s");
    let done = maintain(&ledger);
    assert_eq!((done.generations, done.bytes_freed), (0, 0));
    assert_eq!(check(&mut ledger, None), 0);
    drop(connection);
}

#[test]
fn a_long_load_takes_bounded_room() {
    let mut ledger = Ledger::plain();
    set_window(&ledger, "1s");
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (zeroblob(100000)), (1), (2), (3)");
    connection.execute_batch("PRAGMA wal_autocheckpoint=200").unwrap();
    let archive = ledger.place().join("archive");
    let size = || -> u64 {
        files(&archive).iter().map(|name| fs::metadata(archive.join(name)).unwrap().len()).sum()
    };
    let (mut written, mut largest, mut pruned) = (0_u64, 0, 0);
    // What a second adds is not known beforehand: it is counted as it is written.
    let mut added: Vec<(i64, u64)> = Vec::new();
    while pruned < 5 {
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
        let before = now().as_micros() - 1_200_000;
        let in_window = written - added.iter().rev().find(|(at, _)| *at < before).map_or(0, |(_, sum)| *sum);
        largest = largest.max(size());
        // The logs of the window, a snapshot for each time that they are longer than the least, and one stretch more.
        assert!(size() < 2 * in_window + 10 * (1 << 20), "{} with {in_window} in the window", size());
    }
    assert!(largest * 2 < written, "{largest} of {written}");
    ledger.states.truncate(0);
    let at = now();
    assert_eq!(ledger.contents_at(at).unwrap(), crate::support::contents(&connection));
}
