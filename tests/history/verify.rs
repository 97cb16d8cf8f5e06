//! Verification finds what is not as it was written, says where, and changes nothing.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime},
};

use litefleet::{
    Cipher, ControlPlane, ErrorKind, Finding, VerifyOptions, VerifyReport, no_progress,
    rusqlite::{Connection, config::DbConfig},
};

use crate::support::{Ledger, stranger};

const CIPHERS: [Option<Cipher>; 2] = [None, Some(Cipher::Aegis256X2)];

fn verify(ledger: &Ledger) -> VerifyReport {
    let options = match &ledger.key {
        Some(key) => VerifyOptions::default().encryption_key(key.clone()),
        None => VerifyOptions::default(),
    };
    let verified = ledger.plane.verify_database("orders", &options, &mut no_progress).unwrap();
    assert_eq!(verified.tags, ledger.key.is_some());
    verified
}

fn findings(ledger: &Ledger) -> Vec<Finding> {
    verify(ledger).findings
}

/// Nothing is found, with the key or without it.
fn is_well(ledger: &Ledger) {
    let without =
        ledger.plane.verify_database("orders", &VerifyOptions::default(), &mut no_progress).unwrap();
    assert_eq!((without.findings, findings(ledger)), (vec![], vec![]));
}

fn checkpoint(connection: &Connection, mode: &str) {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
}

/// Closes a connection as a process that dies leaves it: with its log.
fn abandon(connection: Connection) {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
}

/// A history with segments that were copied and one that was moved, a gap, and commits in a log that was left.
fn history(cipher: Option<Cipher>) -> Ledger {
    let mut ledger = Ledger::new(cipher);
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    for round in 0..3 {
        for size in [10, 3000, 9000] {
            ledger.commit(&connection, &format!("INSERT INTO t(value) VALUES (randomblob({size}))"));
        }
        checkpoint(&connection, ["RESTART", "TRUNCATE", "TRUNCATE"][round]);
    }
    ledger.commit(&connection, "UPDATE t SET value = 'closed' WHERE id = 2");
    drop(connection);
    if cipher.is_none() {
        stranger(&ledger).execute_batch("INSERT INTO t(value) VALUES ('strange')").unwrap();
    }
    let connection = ledger.connect();
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (randomblob(5000))");
    checkpoint(&connection, "TRUNCATE");
    ledger.commit(&connection, "DELETE FROM t WHERE id = 3");
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (randomblob(7000))");
    abandon(connection);
    ledger
}

#[test]
fn nothing_is_found_in_a_history_that_is_well() {
    for cipher in CIPHERS {
        let mut ledger = Ledger::new(cipher);
        is_well(&ledger);
        let mut connection = ledger.connect();
        is_well(&ledger);
        ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
        for round in 0..24 {
            ledger.commit(&connection, &format!("INSERT INTO t(value) VALUES (randomblob({}))", round * 900));
            ledger.commit(&connection, "UPDATE t SET value = 'changed' WHERE id % 3 = 0");
            match round % 8 {
                0 => ledger.commit(&connection, "DELETE FROM t WHERE id % 5 = 1; VACUUM"),
                1 => checkpoint(&connection, "PASSIVE"),
                2 => checkpoint(&connection, "RESTART"),
                3 => checkpoint(&connection, "TRUNCATE"),
                4 => {
                    drop(connection);
                    is_well(&ledger);
                    connection = ledger.connect();
                }
                5 => {
                    abandon(connection);
                    is_well(&ledger);
                    connection = ledger.connect();
                }
                6 => connection.execute_batch("BEGIN; UPDATE t SET value = 'undone'; ROLLBACK").unwrap(),
                _ => {}
            }
            is_well(&ledger);
        }
        let verified = verify(&ledger);
        let points = ledger.plane.points("orders", ..).unwrap().points;
        assert_eq!(verified.commits, u64::try_from(points.len()).unwrap());
        assert!(verified.logs > 8 && verified.snapshots == 1 && verified.bytes > 100_000, "{verified:?}");
        drop(connection);
        is_well(&ledger);
        is_well(&history(cipher));
    }
}

#[test]
fn a_gap_that_is_known_is_no_finding() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    // Into the log, past it, and with the log.
    stranger(&ledger).execute_batch("INSERT INTO t VALUES (1)").unwrap();
    is_well(&ledger);
    ledger.commit(&connection, "INSERT INTO t VALUES (2)");
    drop(connection);
    is_well(&ledger);
    for left in [false, true] {
        stranger(&ledger).execute_batch("INSERT INTO t VALUES (3)").unwrap();
        // What is not known yet is one.
        let found = findings(&ledger);
        assert!(found.iter().all(|finding| finding.file.ends_with("data.db")), "{found:?}");
        assert!(!found.is_empty());
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t VALUES (4)");
        is_well(&ledger);
        if left {
            let strange = stranger(&ledger);
            strange.execute_batch("INSERT INTO t VALUES (5)").unwrap();
            ledger.commit(&connection, "INSERT INTO t VALUES (6)");
        }
        drop(connection);
        is_well(&ledger);
    }
}

/// The files of the database, all of them.
fn files(ledger: &Ledger) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let place = ledger.place();
    let mut found = BTreeMap::new();
    for dir in [place.clone(), place.join("archive")] {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let changed = fs::metadata(&path).unwrap().modified().unwrap();
                found.insert(path.clone(), (fs::read(&path).unwrap(), changed));
            }
        }
    }
    found
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// The bytes of a file that count: of stamps, those up to the last record.
fn counting(path: &Path, bytes: &[u8]) -> usize {
    if name(path).ends_with(".stamps") {
        return bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    }
    bytes.len()
}

#[test]
fn a_changed_byte_is_found_in_every_file_and_named() {
    for cipher in CIPHERS {
        let mut ledger = history(cipher);
        // A restore leaves indexes of what it has read.
        let last = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at;
        ledger.contents_at(last).unwrap();
        is_well(&ledger);
        let before = files(&ledger);
        assert!(before.len() > 12, "{:?}", before.keys());
        assert!(before.keys().any(|path| name(path).ends_with("index")));
        for (path, (bytes, _)) in &before {
            // SQLite makes the one anew, and the other is no part of the history.
            if ["data.db-shm", "description.json"].contains(&name(path)) {
                continue;
            }
            let len = counting(path, bytes);
            let step = (len / 40).max(1);
            for at in (0..len).step_by(step).chain([len - 1, 8, 20]).filter(|at| *at < len) {
                let mut changed = bytes.clone();
                changed[at] ^= 0x10;
                fs::write(path, &changed).unwrap();
                let found = findings(&ledger);
                assert!(
                    found.iter().any(|finding| finding.file == *path),
                    "{}: byte {at}: {found:?}",
                    path.display()
                );
                let place = found.iter().find(|finding| finding.file == *path).unwrap();
                if name(path).ends_with("wal") && at >= 32 {
                    let frame = u32::try_from((at - 32) / (24 + 4096) + 1).unwrap();
                    assert_eq!(place.frame, Some(frame), "{found:?}");
                    // A page is damaged alone, and no frame behind it is accused.
                    assert_eq!(
                        found.iter().filter(|finding| finding.frame.is_some()).count(),
                        1,
                        "{found:?}"
                    );
                }
                if path.extension().is_some_and(|extension| extension == "db") {
                    assert_eq!(place.page, Some(u32::try_from(at / 4096 + 1).unwrap()), "{found:?}");
                }
            }
            fs::write(path, bytes).unwrap();
        }
        is_well(&ledger);
    }
}

#[test]
fn a_file_that_is_gone_is_found_and_named() {
    for cipher in CIPHERS {
        for at_rest in [false, true] {
            let ledger = history(cipher);
            if at_rest {
                drop(ledger.connect());
            }
            is_well(&ledger);
            for (path, (bytes, _)) in files(&ledger) {
                // SQLite, readers and maintenance make these anew.
                if ["data.db-shm", "description.json"].contains(&name(&path))
                    || name(&path).ends_with("index")
                {
                    continue;
                }
                fs::remove_file(&path).unwrap();
                let answer =
                    ledger.plane.verify_database("orders", &VerifyOptions::default(), &mut no_progress);
                let found = answer.unwrap().findings;
                assert!(
                    found.iter().any(|finding| finding.file == path && finding.message.contains("missing")),
                    "{}: {found:?}",
                    path.display()
                );
                fs::write(&path, bytes).unwrap();
            }
            is_well(&ledger);
        }
    }
}

#[test]
fn what_belongs_to_another_history_is_found() {
    let ledger = history(None);
    let other = history(None);
    let (ours, theirs) = (files(&ledger), files(&other));
    for (path, (bytes, _)) in &ours {
        if path.parent().unwrap() == ledger.place() {
            continue;
        }
        let (foreign, _) = &theirs[&other.place().join("archive").join(name(path))];
        // Both began as the same empty database.
        if foreign == bytes {
            continue;
        }
        fs::write(path, foreign).unwrap();
        let found = findings(&ledger);
        assert!(!found.is_empty(), "{}", path.display());
        fs::write(path, bytes).unwrap();
    }
    is_well(&ledger);
}

#[test]
fn stamps_that_were_lost_with_the_power_are_named_and_nothing_else_is() {
    for cipher in CIPHERS {
        let ledger = history(cipher);
        let commits = verify(&ledger).commits;
        let path = ledger.place().join("archive/000000000001.stamps");
        let whole = fs::read(&path).unwrap();
        // The last records, that of the end among them; and all of them.
        for from in [counting(&path, &whole) - 60, 128] {
            let mut bytes = whole.clone();
            bytes[from / 32 * 32..].fill(0);
            fs::write(&path, bytes).unwrap();
            let found = verify(&ledger);
            assert_eq!(found.findings.len(), 1, "{:?}", found.findings);
            assert_eq!(found.findings[0].file, path);
            assert!(found.findings[0].message.contains("were lost with the power"), "{:?}", found.findings);
            assert!(found.commits < commits);
        }
        fs::write(&path, whole).unwrap();
        is_well(&ledger);
    }
}

#[test]
fn verification_changes_nothing() {
    for cipher in CIPHERS {
        let ledger = history(cipher);
        // A leftover of a process that was killed is none of its business.
        fs::write(ledger.place().join("archive/segment.new"), "half").unwrap();
        let before = files(&ledger);
        assert!(before.keys().any(|path| name(path) == "data.db-wal"));
        is_well(&ledger);
        assert!(files(&ledger) == before);
    }
}

#[test]
fn the_key_must_be_the_one() {
    let ledger = history(Some(Cipher::Aegis256X2));
    let other = litefleet::EncryptionKey::from_bytes(&[8; 32]).unwrap();
    let options = VerifyOptions::default().encryption_key(other);
    let error = ledger.plane.verify_database("orders", &options, &mut no_progress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    // A page of ours under a checksum that fits, as somebody without the key can make it.
    let path = ledger.place().join("archive/000000000001.db");
    let sum = ledger.place().join("archive/000000000001.sum");
    fs::write(&path, fs::read(ledger.place().join("data.db")).unwrap()).unwrap();
    assert!(findings(&ledger).iter().any(|finding| finding.file == path || finding.file == sum));
}

const ROLE: &str = "LITEFLEET_VERIFY_CHILD";

/// A writer, until it is killed.
fn write(root: &str) -> ! {
    let encrypted = root.ends_with('!');
    let plane = ControlPlane::open(root.trim_end_matches('!')).unwrap();
    let mut options = litefleet::ConnectOptions::default();
    if encrypted {
        options = options.encryption_key(litefleet::EncryptionKey::from_bytes(&[7; 32]).unwrap());
    }
    let connection = plane.connect("orders", &options).unwrap();
    connection
        .execute_batch("PRAGMA wal_autocheckpoint=20; PRAGMA cache_size=10; PRAGMA synchronous=OFF")
        .unwrap();
    println!("\nREADY");
    for round in 0_u64.. {
        let sql = format!(
            "INSERT INTO t(value) VALUES (randomblob({})); DELETE FROM t WHERE id < (SELECT max(id) FROM t) - 60;
             UPDATE t SET value = randomblob(900) WHERE id % 7 = {}",
            round % 9 * 700,
            round % 7
        );
        let sql = if round % 3 == 0 { format!("BEGIN; {sql}; COMMIT") } else { sql };
        let _may_be_busy = connection.execute_batch(&sql);
        thread::sleep(Duration::from_micros(300));
        if round % 11 == 0 {
            let _may_be_busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }
    unreachable!("it writes until it is killed")
}

/// It does not outlive the test.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn spawn(ledger: &Ledger) -> Writer {
    let mark = if ledger.key.is_some() { "!" } else { "" };
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "verify::nothing_is_found_while_it_is_written_and_when_writers_are_killed"]);
    command.args(["--nocapture", "--test-threads=1"]);
    command.env(ROLE, format!("{}{mark}", ledger.plane.root().display()));
    let mut writer = Writer(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(writer.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "READY"));
    writer
}

#[test]
fn nothing_is_found_while_it_is_written_and_when_writers_are_killed() {
    if let Ok(root) = env::var(ROLE) {
        write(&root);
    }
    for cipher in CIPHERS {
        let mut ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
        drop(connection);
        for round in 0..6 {
            let writer = spawn(&ledger);
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                if round % 2 == 0 {
                    // And by a thread of this process, which opens and closes.
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            thread::sleep(Duration::from_millis(5));
                            let connection = ledger.connect();
                            let _may_be_busy =
                                connection.execute_batch("INSERT INTO t(value) VALUES (randomblob(2000))");
                        }
                    });
                }
                for _ in 0..4 {
                    let found = findings(&ledger);
                    stop.store(!found.is_empty(), Ordering::Relaxed);
                    assert_eq!(found, vec![]);
                }
                stop.store(true, Ordering::Relaxed);
            });
            drop(writer);
            assert_eq!(findings(&ledger), vec![], "round {round}");
        }
        drop(ledger.connect());
        is_well(&ledger);
    }
}
