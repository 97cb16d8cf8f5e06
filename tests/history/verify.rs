//! Verification finds every deviation from what was written, names its location, and changes no file.

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
    Cipher, ControlPlane, ErrorKind, Finding, VerifyOptions, VerifyReport,
    rusqlite::{Connection, config::DbConfig},
};

use crate::support::{Ledger, foreign_connection};

const CIPHERS: [Option<Cipher>; 2] = [None, Some(Cipher::Aegis256X2)];

fn verify(ledger: &Ledger) -> VerifyReport {
    let options = match &ledger.key {
        Some(key) => VerifyOptions::default().encryption_key(key.clone()),
        None => VerifyOptions::default(),
    };
    let verified = ledger.plane.verify_database("orders", options).unwrap();
    assert_eq!(verified.tags, ledger.key.is_some());
    verified
}

fn findings(ledger: &Ledger) -> Vec<Finding> {
    verify(ledger).findings
}

/// Checks that verification finds nothing, with the key and without it.
fn assert_no_findings(ledger: &Ledger) {
    let without = ledger.plane.verify_database("orders", VerifyOptions::default()).unwrap();
    assert_eq!((without.findings, findings(ledger)), (vec![], vec![]));
}

fn checkpoint(connection: &Connection, mode: &str) {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
}

/// Closes a connection without a checkpoint, as a killed process leaves it.
fn close_without_checkpoint(connection: Connection) {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(connection);
}

/// A history with copied and moved segments, a gap, and commits in a WAL that was left behind.
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
        foreign_connection(&ledger).execute_batch("INSERT INTO t(value) VALUES ('foreign')").unwrap();
    }
    let connection = ledger.connect();
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (randomblob(5000))");
    checkpoint(&connection, "TRUNCATE");
    ledger.commit(&connection, "DELETE FROM t WHERE id = 3");
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (randomblob(7000))");
    close_without_checkpoint(connection);
    ledger
}

#[test]
fn intact_history_has_no_findings() {
    for cipher in CIPHERS {
        let mut ledger = Ledger::new(cipher);
        assert_no_findings(&ledger);
        let mut connection = ledger.connect();
        assert_no_findings(&ledger);
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
                    assert_no_findings(&ledger);
                    connection = ledger.connect();
                }
                5 => {
                    close_without_checkpoint(connection);
                    assert_no_findings(&ledger);
                    connection = ledger.connect();
                }
                6 => connection.execute_batch("BEGIN; UPDATE t SET value = 'undone'; ROLLBACK").unwrap(),
                _ => {}
            }
            assert_no_findings(&ledger);
        }
        let verified = verify(&ledger);
        let points = ledger.plane.points("orders", ..).unwrap().points;
        assert_eq!(verified.commits, u64::try_from(points.len()).unwrap());
        assert!(verified.logs > 8 && verified.snapshots == 1 && verified.bytes > 100_000, "{verified:?}");
        drop(connection);
        assert_no_findings(&ledger);
        assert_no_findings(&history(cipher));
    }
}

#[test]
fn known_gap_is_no_finding() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(a)");
    // Foreign commits into the WAL, after it has ended, and together with it.
    foreign_connection(&ledger).execute_batch("INSERT INTO t VALUES (1)").unwrap();
    assert_no_findings(&ledger);
    ledger.commit(&connection, "INSERT INTO t VALUES (2)");
    drop(connection);
    assert_no_findings(&ledger);
    for left in [false, true] {
        foreign_connection(&ledger).execute_batch("INSERT INTO t VALUES (3)").unwrap();
        // A change that no commit has recorded yet is a finding.
        let found = findings(&ledger);
        assert!(found.iter().all(|finding| finding.file.ends_with("data.db")), "{found:?}");
        assert!(!found.is_empty());
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t VALUES (4)");
        assert_no_findings(&ledger);
        if left {
            let foreign = foreign_connection(&ledger);
            foreign.execute_batch("INSERT INTO t VALUES (5)").unwrap();
            ledger.commit(&connection, "INSERT INTO t VALUES (6)");
        }
        drop(connection);
        assert_no_findings(&ledger);
    }
}

/// Contents and modification time of every file of the database.
fn files(ledger: &Ledger) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let dir = ledger.database_dir();
    let mut found = BTreeMap::new();
    for dir in [dir.clone(), dir.join("archive")] {
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

/// The used length of a file: stamp files end with unused space.
fn used_len(path: &Path, bytes: &[u8]) -> usize {
    if name(path).ends_with(".stamps") {
        return bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    }
    bytes.len()
}

#[test]
fn verify_finds_a_changed_byte_in_every_file() {
    for cipher in CIPHERS {
        let mut ledger = history(cipher);
        // A restore creates indexes.
        let last = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at;
        ledger.contents_at(last).unwrap();
        assert_no_findings(&ledger);
        let before = files(&ledger);
        assert!(before.len() > 12, "{:?}", before.keys());
        assert!(before.keys().any(|path| name(path).ends_with("index")));
        for (path, (bytes, _)) in &before {
            // SQLite rebuilds the wal-index, and the description is not part of the history.
            if ["data.db-shm", "description.json"].contains(&name(path)) {
                continue;
            }
            let len = used_len(path, bytes);
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
                let finding = found.iter().find(|finding| finding.file == *path).unwrap();
                if name(path).ends_with("wal") && at >= 32 {
                    let frame = u32::try_from((at - 32) / (24 + 4096) + 1).unwrap();
                    assert_eq!(finding.frame, Some(frame), "{found:?}");
                    // A damaged page is one finding; later frames are not reported.
                    assert_eq!(
                        found.iter().filter(|finding| finding.frame.is_some()).count(),
                        1,
                        "{found:?}"
                    );
                }
                if path.extension().is_some_and(|extension| extension == "db") {
                    assert_eq!(finding.page, Some(u32::try_from(at / 4096 + 1).unwrap()), "{found:?}");
                }
            }
            fs::write(path, bytes).unwrap();
        }
        assert_no_findings(&ledger);
    }
}

#[test]
fn verify_finds_every_missing_file() {
    for cipher in CIPHERS {
        for at_rest in [false, true] {
            let ledger = history(cipher);
            if at_rest {
                drop(ledger.connect());
            }
            assert_no_findings(&ledger);
            for (path, (bytes, _)) in files(&ledger) {
                // SQLite, readers and maintenance rebuild these.
                if ["data.db-shm", "description.json"].contains(&name(&path))
                    || name(&path).ends_with("index")
                {
                    continue;
                }
                fs::remove_file(&path).unwrap();
                let answer = ledger.plane.verify_database("orders", VerifyOptions::default());
                let found = answer.unwrap().findings;
                assert!(
                    found.iter().any(|finding| finding.file == path && finding.message.contains("missing")),
                    "{}: {found:?}",
                    path.display()
                );
                fs::write(&path, bytes).unwrap();
            }
            assert_no_findings(&ledger);
        }
    }
}

#[test]
fn verify_finds_files_of_another_history() {
    let ledger = history(None);
    let other = history(None);
    let (ours, theirs) = (files(&ledger), files(&other));
    for (path, (bytes, _)) in &ours {
        if path.parent().unwrap() == ledger.database_dir() {
            continue;
        }
        let (foreign, _) = &theirs[&other.database_dir().join("archive").join(name(path))];
        // Both histories start with the same empty database.
        if foreign == bytes {
            continue;
        }
        fs::write(path, foreign).unwrap();
        let found = findings(&ledger);
        assert!(!found.is_empty(), "{}", path.display());
        fs::write(path, bytes).unwrap();
    }
    assert_no_findings(&ledger);
}

#[test]
fn verify_reports_stamps_lost_in_power_failure_only() {
    for cipher in CIPHERS {
        let ledger = history(cipher);
        let commits = verify(&ledger).commits;
        let path = ledger.database_dir().join("archive/000000000001.stamps");
        let whole = fs::read(&path).unwrap();
        // Lose the last records including the end record, then all records.
        for from in [used_len(&path, &whole) - 60, 128] {
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
        assert_no_findings(&ledger);
    }
}

#[test]
fn verify_changes_no_file() {
    for cipher in CIPHERS {
        let ledger = history(cipher);
        // A temporary file of a killed process is not part of the history.
        fs::write(ledger.database_dir().join("archive/segment.new"), "half").unwrap();
        let before = files(&ledger);
        assert!(before.keys().any(|path| name(path) == "data.db-wal"));
        assert_no_findings(&ledger);
        assert!(files(&ledger) == before);
    }
}

#[test]
fn verify_refuses_a_wrong_key() {
    let ledger = history(Some(Cipher::Aegis256X2));
    let other = litefleet::EncryptionKey::from_bytes(&[8; 32]).unwrap();
    let options = VerifyOptions::default().encryption_key(other);
    let error = ledger.plane.verify_database("orders", options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    // A page replaced together with its checksum, as an attacker without the key could do.
    let path = ledger.database_dir().join("archive/000000000001.db");
    let sum = ledger.database_dir().join("archive/000000000001.sum");
    fs::write(&path, fs::read(ledger.database_dir().join("data.db")).unwrap()).unwrap();
    assert!(findings(&ledger).iter().any(|finding| finding.file == path || finding.file == sum));
}

const ROLE: &str = "LITEFLEET_VERIFY_CHILD";

/// Writes until it is killed.
fn write(root: &str) -> ! {
    let encrypted = root.ends_with('!');
    let plane = ControlPlane::open(root.trim_end_matches('!')).unwrap();
    let mut options = litefleet::ConnectOptions::default();
    if encrypted {
        options = options.encryption_key(litefleet::EncryptionKey::from_bytes(&[7; 32]).unwrap());
    }
    let connection = plane.connect("orders", options.clone()).unwrap();
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
    unreachable!("the writer runs until it is killed")
}

/// A child process that is killed when dropped.
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
    command.args(["--exact", "verify::verify_finds_nothing_during_writes_and_after_kills"]);
    command.args(["--nocapture", "--test-threads=1"]);
    command.env(ROLE, format!("{}{mark}", ledger.plane.root().display()));
    let mut writer = Writer(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(writer.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "READY"));
    writer
}

#[test]
fn verify_finds_nothing_during_writes_and_after_kills() {
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
                    // Another thread of this process opens and closes connections.
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
        assert_no_findings(&ledger);
    }
}
