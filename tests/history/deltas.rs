//! Snapshots that have only the pages that differ from an older one: they take less space, and give equal results.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, ErrorKind, HistoryLimit,
    VerifyOptions,
    rusqlite::{Connection, config::DbConfig},
};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    maintain::{CIPHERS, empty_report, maintain, restart_wal, set_window},
    packs::verified,
    support::{Ledger, State, contents, files, foreign_connection, has_extension, now},
};

pub(crate) fn archive(ledger: &Ledger) -> PathBuf {
    ledger.database_dir().join("archive")
}

/// The names of the snapshots in the archive, without leading zeros.
pub(crate) fn snapshots(ledger: &Ledger) -> Vec<String> {
    let names = files(&archive(ledger)).into_iter();
    let is_snapshot = |name: &String| has_extension(name, "db") || has_extension(name, "delta");
    names.filter(is_snapshot).map(|name| name.trim_start_matches('0').to_owned()).collect()
}

/// Requests a snapshot, which the next commit takes.
pub(crate) fn request(ledger: &Ledger, connection: &Connection) {
    fs::write(archive(ledger).join("wanted"), b"").unwrap();
    restart_wal(connection);
}

/// A database of about 100 pages, with a full snapshot before generation 2, and an open connection.
pub(crate) fn with_base(cipher: Option<Cipher>) -> (Ledger, Connection) {
    let mut ledger = Ledger::new(cipher);
    set_window(&ledger, "7d");
    let connection = ledger.connect();
    let rows = "CREATE TABLE t(id INTEGER PRIMARY KEY, value);
        WITH RECURSIVE k(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM k WHERE i < 100)
        INSERT INTO t(value) SELECT randomblob(3900) FROM k";
    ledger.commit(&connection, rows);
    request(&ledger, &connection);
    update(&mut ledger, &connection, 7);
    assert_eq!(snapshots(&ledger), ["1.db", "2.db"]);
    (ledger, connection)
}

/// Updates one row of each `every` in one commit.
pub(crate) fn update(ledger: &mut Ledger, connection: &Connection, every: u32) {
    ledger.commit(connection, &format!("UPDATE t SET value = randomblob(3900) WHERE id % {every} = 0"));
}

/// Takes a snapshot, then updates rows.
pub(crate) fn snapshot(ledger: &mut Ledger, connection: &Connection, every: u32) {
    request(ledger, connection);
    update(ledger, connection, every);
}

/// Makes a commit without this crate's VFS, and then one of the fleet. The only instant before it that is certain to be restorable
/// is the last stamp.
pub(crate) fn alternate(ledger: &mut Ledger, foreign: &str, own: &str) {
    let stamp = ledger.plane.points("orders", ..).unwrap().points.last().map(|point| point.at);
    let last = ledger.states.last_mut().unwrap();
    (last.from, last.to) = stamp.map_or((last.from, last.from), |stamp| (stamp, stamp));
    foreign_connection(ledger).execute_batch(foreign).unwrap();
    let connection = ledger.connect();
    connection.execute_batch(own).unwrap();
    let from = now();
    ledger.states.push(State { from, to: from, contents: contents(&connection) });
}

fn len_of(dir: &Path) -> u64 {
    files(dir).iter().map(|name| fs::metadata(dir.join(name)).unwrap().len()).sum()
}

fn digest(connection: &Connection) -> u64 {
    let mut hasher = Xxh3::new();
    let mut statement = connection.prepare("SELECT value FROM t ORDER BY id").unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        hasher.update(row.get_ref(0).unwrap().as_blob().unwrap());
    }
    hasher.digest()
}

#[test]
fn alternating_writers_leave_little_more_than_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("import.db");
    let rows = "CREATE TABLE t(id INTEGER PRIMARY KEY, value);
        WITH RECURSIVE k(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM k WHERE i < 12500)
        INSERT INTO t(value) SELECT randomblob(3900) FROM k";
    Connection::open(&file).unwrap().execute_batch(rows).unwrap();
    let plane = ControlPlane::open(dir.path().join("root")).unwrap();
    plane.create_group("default").unwrap();
    plane.import_database(CreateDatabaseInput::new("orders", "default"), file.as_path()).unwrap();
    let data = plane.database_path("orders").unwrap();
    let mut states = Vec::new();
    for round in 0..8 {
        let update = |row| format!("UPDATE t SET value = randomblob(3900) WHERE id % 1000 = {row}");
        Connection::open(&data).unwrap().execute_batch(&update(round)).unwrap();
        let connection = plane.connect("orders", ConnectOptions::default()).unwrap();
        connection.execute_batch(&update(500 + round)).unwrap();
        states.push((now(), digest(&connection)));
    }
    let database = fs::metadata(&data).unwrap().len();
    let history = len_of(&data.with_file_name("archive"));
    eprintln!("a history of {history} bytes beside a database of {database} bytes");
    assert!(database > 50_000_000 && history * 10 <= database * 13, "{history} of {database}");
    assert_eq!(plane.history_size("orders").unwrap(), history);
    // A gap ends at the stamp of the next commit, so the state before it is read at the instant of its stamp.
    let stamps = plane.points("orders", ..).unwrap().points;
    assert_eq!(stamps.len(), states.len());
    for (number, ((_, expected), stamp)) in states.iter().zip(&stamps).enumerate() {
        let (view, _) = plane.connect_at("orders", stamp.at, ConnectOptions::default()).unwrap();
        assert_eq!(digest(&view), *expected, "state {number}");
    }
    assert_eq!(plane.verify_database("orders", VerifyOptions::default()).unwrap().findings, []);
}

#[test]
fn delta_has_at_most_half_of_the_pages() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_base(cipher);
        snapshot(&mut ledger, &connection, 11);
        snapshot(&mut ledger, &connection, 13);
        assert_eq!(snapshots(&ledger), ["1.db", "2.db", "3.delta", "4.delta"]);
        // The second delta has the pages of both, since deltas refer to full snapshots.
        let len = |name: &str| fs::metadata(archive(&ledger).join(name)).unwrap().len();
        assert!(len("000000000003.delta") < len("000000000004.delta"));
        assert!(len("000000000004.delta") < len("000000000002.db") / 3);
        update(&mut ledger, &connection, 1);
        snapshot(&mut ledger, &connection, 50);
        snapshot(&mut ledger, &connection, 50);
        assert_eq!(snapshots(&ledger), ["1.db", "2.db", "3.delta", "4.delta", "5.db", "6.delta"]);
        // A database that has become shorter, and one that has become longer.
        ledger.commit(&connection, "DELETE FROM t WHERE id > 60; VACUUM");
        snapshot(&mut ledger, &connection, 50);
        let rows = "INSERT INTO t(id, value) SELECT id + 60, randomblob(3900) FROM t WHERE id <= 20";
        ledger.commit(&connection, rows);
        snapshot(&mut ledger, &connection, 50);
        drop(connection);
        assert_eq!(verified(&ledger), [""; 0]);
        ledger.check_all();
        ledger.check_windows();
    }
}

#[test]
fn delta_of_an_equal_database_has_one_page() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("import.db");
    let rows = "CREATE TABLE t(a); INSERT INTO t VALUES (1); CREATE TABLE other(a)";
    Connection::open(&file).unwrap().execute_batch(rows).unwrap();
    let mut ledger = Ledger::plain();
    ledger.plane.destroy_database("orders").unwrap();
    ledger.plane.import_database(CreateDatabaseInput::new("orders", "default"), file.as_path()).unwrap();
    let connection = ledger.connect();
    ledger.states = vec![State { from: now(), to: now(), contents: contents(&connection) }];
    ledger.commit(&connection, "UPDATE t SET a = 2");
    ledger.commit(&connection, "UPDATE t SET a = 1");
    request(&ledger, &connection);
    ledger.commit(&connection, "UPDATE t SET a = 3");
    assert_eq!(snapshots(&ledger), ["1.db", "2.delta"]);
    assert_eq!(fs::metadata(archive(&ledger).join("000000000002.delta")).unwrap().len(), 32 + 24 + 4096);
    assert_eq!(verified(&ledger), [""; 0]);
    ledger.check_all();
}

#[test]
fn foreign_change_of_page_size_is_followed_by_a_full_snapshot() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(90000))");
    drop(connection);
    alternate(&mut ledger, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)");
    alternate(&mut ledger, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)");
    let foreign = "PRAGMA journal_mode=DELETE; PRAGMA page_size=8192; VACUUM; PRAGMA journal_mode=WAL";
    alternate(&mut ledger, foreign, "INSERT INTO t VALUES (2)");
    alternate(&mut ledger, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)");
    assert_eq!(snapshots(&ledger), ["1.db", "2.db", "3.delta", "4.db", "5.delta"]);
    assert_eq!(verified(&ledger), [""; 0]);
    ledger.check_windows();
    let states = ledger.states.split_off(1);
    ledger.states = states;
    ledger.check_all();
}

#[test]
fn base_is_kept_as_long_as_a_delta_refers_to_it() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_base(cipher);
        snapshot(&mut ledger, &connection, 11);
        snapshot(&mut ledger, &connection, 13);
        restart_wal(&connection);
        update(&mut ledger, &connection, 17);
        let kept = ledger.states.len() - 2;
        thread::sleep(Duration::from_millis(1100));
        set_window(&ledger, "1s");
        let done = maintain(&ledger);
        assert_eq!((done.generations, done.deferred), (3, false));
        let check = |ledger: &mut Ledger| {
            assert_eq!(verified(ledger), [""; 0]);
            ledger.states.last_mut().unwrap().to = now();
            for state in ledger.states.clone().into_iter().skip(kept) {
                assert!(ledger.contents_at(state.from).unwrap() == state.contents);
            }
            let error = ledger.contents_at(ledger.states[1].from).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{error}");
        };
        assert_eq!(snapshots(&ledger), ["2.db", "4.delta"]);
        assert!(!archive(&ledger).join("000000000002.sum").exists());
        check(&mut ledger);
        assert_eq!(maintain(&ledger), empty_report(&done));
        assert_eq!(ledger.plane.history_size("orders").unwrap(), len_of(&archive(&ledger)));
        // A later delta refers to the base too, although the generation of the base is pruned.
        snapshot(&mut ledger, &connection, 19);
        assert_eq!(snapshots(&ledger), ["2.db", "4.delta", "6.delta"]);
        check(&mut ledger);
        // A full snapshot becomes the first one.
        update(&mut ledger, &connection, 1);
        snapshot(&mut ledger, &connection, 23);
        restart_wal(&connection);
        update(&mut ledger, &connection, 29);
        assert_eq!(snapshots(&ledger), ["2.db", "4.delta", "6.delta", "7.db"]);
        thread::sleep(Duration::from_millis(1100));
        assert_eq!(maintain(&ledger).generations, 3);
        assert_eq!(snapshots(&ledger), ["7.db"]);
        assert_eq!(verified(&ledger), [""; 0]);
        let last = ledger.states.last().unwrap().clone();
        assert!(ledger.contents_at(last.from).unwrap() == last.contents);
    }
}

#[test]
fn limit_counts_the_base_of_a_delta() {
    let (mut ledger, connection) = with_base(None);
    for every in [11, 13, 17, 19] {
        snapshot(&mut ledger, &connection, every);
        restart_wal(&connection);
        update(&mut ledger, &connection, 50);
    }
    let size = len_of(&archive(&ledger));
    // Without the oldest snapshot and its log, the history fits. The second one is a base.
    let limit: HistoryLimit = (size - 1).to_string().parse().unwrap();
    ledger.plane.configure_database("orders", DatabaseChanges::default().history_limit(limit)).unwrap();
    let done = maintain(&ledger);
    assert!(done.generations > 0, "{done:?}");
    assert!(len_of(&archive(&ledger)) < size);
    // About the length of the base: only the deltas before the last one are removed.
    let base = fs::metadata(archive(&ledger).join("000000000002.db")).unwrap().len();
    let limit: HistoryLimit = (base + 300_000).to_string().parse().unwrap();
    ledger.plane.configure_database("orders", DatabaseChanges::default().history_limit(limit)).unwrap();
    maintain(&ledger);
    assert!(len_of(&archive(&ledger)) <= base + 300_000, "{}", len_of(&archive(&ledger)));
    assert_eq!(verified(&ledger), [""; 0]);
    let last = ledger.states.last().unwrap().clone();
    assert!(ledger.contents_at(last.from).unwrap() == last.contents);
}

#[test]
fn collision_of_checksums_does_not_share_a_page() {
    // The sums of the base claim that a page of it has the checksum of the new version.
    let (mut ledger, connection) = with_base(None);
    restart_wal(&connection);
    drop(connection);
    let data = fs::read(ledger.plane.database_path("orders").unwrap()).unwrap();
    let sum = archive(&ledger).join("000000000002.sum");
    let whole = fs::read(&sum).unwrap();
    let mut forged = whole.clone();
    for (page, contents) in data.chunks_exact(4096).enumerate() {
        let checksum = xxhash_rust::xxh3::xxh3_64(contents).to_le_bytes();
        if let Some(word) = forged.get_mut(16 + page * 8..24 + page * 8) {
            word.copy_from_slice(&checksum);
        }
    }
    let end = forged.len() - 8;
    let check = xxhash_rust::xxh3::xxh3_64(&forged[..end]).to_le_bytes();
    forged[end..].copy_from_slice(&check);
    assert!(forged != whole);
    fs::write(&sum, forged).unwrap();
    let connection = ledger.connect();
    request(&ledger, &connection);
    update(&mut ledger, &connection, 50);
    fs::write(&sum, whole).unwrap();
    assert!(has_extension(snapshots(&ledger).last().unwrap(), "delta"));
    assert_eq!(verified(&ledger), [""; 0]);
    ledger.check_all();
}

/// What makes a commit take a snapshot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cause {
    Request,
    Gap,
}

const OFF: usize = usize::MAX;

/// Fails the disk operation `step` of a commit that takes a delta, and if `dies`, all later ones. Returns whether the commit has
/// fewer operations.
fn fail_step(cipher: Option<Cipher>, cause: Cause, dies: bool, step: usize) -> bool {
    let context = format!("{cipher:?}, {cause:?}, step {step}, dies {dies}");
    let (mut ledger, connection) = with_base(cipher);
    match cause {
        Cause::Request => {
            request(&ledger, &connection);
            drop(connection);
        }
        Cause::Gap => {
            drop(connection);
            let stamp = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at;
            let last = ledger.states.last_mut().unwrap();
            (last.from, last.to) = (stamp, stamp);
            foreign_connection(&ledger).execute_batch("UPDATE t SET value = 'x' WHERE id = 3").unwrap();
        }
    }
    let countdown = Arc::new(AtomicUsize::new(OFF));
    let armed = Arc::clone(&countdown);
    let hook = move |_, path: &Path| {
        let next = |left: usize| match left {
            OFF => None,
            0 => Some(if dies { 0 } else { OFF }),
            left => Some(left - 1),
        };
        let is_in_archive = path.components().any(|part| part.as_os_str() == "archive");
        match is_in_archive.then(|| armed.fetch_update(SeqCst, SeqCst, next)) {
            Some(Ok(0)) => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => Ok(()),
        }
    };
    let original = ledger.plane.clone();
    ledger.plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(original.root()).unwrap();
    let connection = ledger.connect();
    let was = contents(&connection);
    countdown.store(step, SeqCst);
    let answer = connection.execute_batch("UPDATE t SET value = 'tried' WHERE id = 5");
    let left = countdown.swap(OFF, SeqCst);
    if let Err(error) = &answer {
        assert!(contents(&connection) == was, "{context}: {error}");
    } else if !dies {
        // Whatever failed, no incomplete file is left.
        let names = files(&archive(&ledger));
        assert!(!names.iter().any(|name| name.contains("snapshot.new")), "{context}: {names:?}");
    }
    if contents(&connection) != was {
        let from = now();
        ledger.states.push(State { from, to: from, contents: contents(&connection) });
    }
    // A failed flush latches the connection. A process that died checkpoints nothing.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
    ledger.plane = original;
    // Until the fleet commits, a foreign commit is a finding.
    if cause == Cause::Request || answer.is_ok() {
        assert_eq!(verified(&ledger), [""; 0], "{context}");
    }
    let connection = ledger.connect();
    for every in [40, 41] {
        let sql = format!("UPDATE t SET value = randomblob(3900) WHERE id % {every} = 0");
        connection.execute_batch(&sql).unwrap();
        let from = now();
        ledger.states.push(State { from, to: from, contents: contents(&connection) });
        restart_wal(&connection);
    }
    drop(connection);
    assert_eq!(verified(&ledger), [""; 0], "{context}");
    for (number, state) in ledger.states.clone().into_iter().enumerate() {
        let found =
            ledger.viewed_at(state.from).unwrap_or_else(|error| panic!("{context}: {number}: {error}"));
        assert!(found == state.contents, "{context}: state {number}");
    }
    maintain(&ledger);
    assert!(!files(&archive(&ledger)).iter().any(|name| name.contains(".new")), "{context}");
    left != OFF && left > 0
}

#[test]
fn failed_step_of_a_delta_loses_no_commit_and_leaves_no_file() {
    let causes = [(None, Cause::Request), (Some(Cipher::Aegis256), Cause::Request), (None, Cause::Gap)];
    for (cipher, cause) in causes {
        for dies in [false, true] {
            for step in 0.. {
                if fail_step(cipher, cause, dies, step) {
                    assert!(step > 10, "{step}");
                    break;
                }
                assert!(step < 80);
            }
        }
    }
}

#[test]
fn pruning_of_a_base_that_fails_is_completed_later() {
    let (mut ledger, connection) = with_base(None);
    snapshot(&mut ledger, &connection, 11);
    snapshot(&mut ledger, &connection, 13);
    restart_wal(&connection);
    update(&mut ledger, &connection, 17);
    drop(connection);
    thread::sleep(Duration::from_millis(1100));
    set_window(&ledger, "1s");
    let last = ledger.states.last().unwrap().clone();
    let elsewhere = tempfile::tempdir().unwrap();
    let original = ledger.plane.clone();
    for stop in [crate::maintain::Stop::Fails, crate::maintain::Stop::Dies] {
        for nth in 0.. {
            let copy = elsewhere.path().join("copy");
            let (plane, steps, _) =
                crate::maintain::maintain_copy(ControlPlane::builder(), original.root(), &copy, stop, nth);
            ledger.plane = plane;
            let context = format!("{stop:?} at {nth}");
            assert_eq!(verified(&ledger), [""; 0], "{context}");
            assert!(ledger.viewed_at(last.from).unwrap() == last.contents, "{context}");
            maintain(&ledger);
            assert_eq!(snapshots(&ledger), ["2.db", "4.delta"], "{context}");
            assert_eq!(verified(&ledger), [""; 0], "{context}");
            assert!(ledger.viewed_at(last.from).unwrap() == last.contents, "{context}");
            fs::remove_dir_all(&copy).unwrap();
            if steps.len() <= nth + 1 {
                break;
            }
        }
    }
}

#[test]
fn snapshot_of_maintenance_costs_what_changed() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_base(cipher);
        for number in 3..5 {
            // Many commits change few pages.
            for _ in 0..60 {
                let sql = "UPDATE t SET value = randomblob(3900) WHERE id % 16 = 3";
                connection.execute_batch(sql).unwrap();
            }
            ledger.commit(&connection, "UPDATE t SET value = 'mark' WHERE id = 3");
            restart_wal(&connection);
            update(&mut ledger, &connection, 40);
            restart_wal(&connection);
            update(&mut ledger, &connection, 50);
            let before = len_of(&archive(&ledger));
            assert_eq!(maintain(&ledger).snapshots, 1);
            let names = snapshots(&ledger);
            assert_eq!(
                (names.len(), has_extension(names.last().unwrap(), "delta")),
                (number, true),
                "{names:?}"
            );
            let data = fs::metadata(ledger.plane.database_path("orders").unwrap()).unwrap().len();
            assert!(len_of(&archive(&ledger)) < before + data * 2 / 5);
            assert_eq!(verified(&ledger), [""; 0]);
            let last = ledger.states.last().unwrap().clone();
            assert!(ledger.contents_at(last.from).unwrap() == last.contents);
        }
        drop(connection);
        // The logs before the newest snapshot are not needed for the newest instants.
        for name in files(&archive(&ledger)).iter().filter(|name| name.ends_with("2.wal")) {
            fs::remove_file(archive(&ledger).join(name)).unwrap();
        }
        let last = ledger.states.last().unwrap().clone();
        assert!(ledger.contents_at(last.from).unwrap() == last.contents);
    }
}
