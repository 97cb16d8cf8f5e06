//! A foreign process has the database open when the last connection of the fleet closes, and closes later. SQLite
//! then deletes the WAL; every commit of the fleet must stay restorable.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, EncryptionKey, ErrorKind, Result, Timestamp, VerifyOptions,
    rusqlite::{Connection, config::DbConfig},
    testing::DiskOp,
};

use crate::{
    crash_image::copy_dir,
    maintain::set_window,
    support::{Ledger, State, contains, foreign_connection, now},
};

fn verify(ledger: &Ledger) -> Vec<String> {
    let verified = ledger.plane.verify_database("orders", VerifyOptions::default()).unwrap();
    verified.findings.iter().map(ToString::to_string).collect()
}

/// A connection of the fleet that makes one commit and closes.
fn session(ledger: &mut Ledger, sql: &str) {
    let connection = ledger.connect();
    ledger.commit(&connection, sql);
}

fn with_table() -> Ledger {
    let mut ledger = Ledger::plain();
    session(&mut ledger, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    ledger
}

fn viewer(ledger: &Ledger) -> Connection {
    let viewer = foreign_connection(ledger);
    viewer.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    viewer
}

/// Closes the foreign connection as the last one, which deletes the WAL.
fn close_last(ledger: &Ledger, viewer: Connection) {
    assert!(ledger.database_dir().join("data.db-wal").exists());
    drop(viewer);
    assert!(!ledger.database_dir().join("data.db-wal").exists());
}

fn windows(ledger: &Ledger) -> usize {
    ledger.plane.points("orders", ..).unwrap().windows.len()
}

/// The last stamp.
fn last_stamp(ledger: &Ledger) -> Timestamp {
    ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at
}

/// Checks that every state is restorable, in one range, without findings.
fn assert_whole(ledger: &mut Ledger) {
    ledger.check_all();
    ledger.check_windows();
    assert_eq!((windows(ledger), verify(ledger)), (1, vec![]));
}

#[test]
fn commits_stay_restorable_if_a_foreign_reader_closes_last() {
    let mut ledger = with_table();
    for round in 0..2 {
        let viewer = viewer(&ledger);
        for size in [10, 9000, 500] {
            session(&mut ledger, &format!("INSERT INTO t(value) VALUES (randomblob({size}))"));
            assert_whole(&mut ledger);
        }
        close_last(&ledger, viewer);
        assert_whole(&mut ledger);
        // In the first round a commit follows, in the second another foreign reader opens and closes.
        if round == 0 {
            session(&mut ledger, "DELETE FROM t WHERE id = 2");
        } else {
            drop(self::viewer(&ledger));
        }
        assert_whole(&mut ledger);
    }
}

#[test]
fn each_close_appends_new_frames_to_the_same_segment() {
    let mut ledger = with_table();
    let viewer = viewer(&ledger);
    let segment = ledger.database_dir().join("archive/000000000002.wal");
    let (mut inode, mut len) = (None, 0);
    for _ in 0..4 {
        session(&mut ledger, "INSERT INTO t(value) VALUES (randomblob(6000))");
        let found = fs::metadata(&segment).unwrap();
        assert!(found.len() > len && inode.is_none_or(|inode| inode == found.ino()));
        (inode, len) = (Some(found.ino()), found.len());
        let log = fs::read(ledger.database_dir().join("data.db-wal")).unwrap();
        assert!(fs::read(&segment).unwrap() == log[..usize::try_from(len).unwrap()]);
    }
    // A connection without commits copies nothing.
    let changed = fs::metadata(&segment).unwrap().modified().unwrap();
    drop(ledger.connect());
    assert_eq!(fs::metadata(&segment).unwrap().modified().unwrap(), changed);
    // A WAL restart appends to the segment too.
    let connection = ledger.connect();
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (1)");
    connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (2)");
    assert_eq!(fs::metadata(&segment).unwrap().ino(), inode.unwrap());
    drop(connection);
    close_last(&ledger, viewer);
    assert_whole(&mut ledger);
}

#[test]
fn foreign_checkpoints_lose_no_commit_of_closed_connections() {
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        let mut ledger = with_table();
        let viewer = viewer(&ledger);
        for _ in 0..3 {
            session(&mut ledger, "INSERT INTO t(value) VALUES (randomblob(5000))");
            viewer.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
            assert_whole(&mut ledger);
        }
        drop(viewer);
        assert_whole(&mut ledger);
        session(&mut ledger, "INSERT INTO t(value) VALUES (1)");
        assert_whole(&mut ledger);
    }
}

#[test]
fn foreign_commits_are_a_gap() {
    // The foreign process closes after its commits, or restarts the WAL with them.
    for (closes, restarts) in [(true, false), (true, true), (false, true)] {
        let mut ledger = with_table();
        let viewer = viewer(&ledger);
        session(&mut ledger, "INSERT INTO t(value) VALUES ('fleet')");
        let (stamp, last) = (last_stamp(&ledger), now());
        if restarts {
            viewer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        }
        viewer.execute_batch("INSERT INTO t(value) VALUES ('viewer')").unwrap();
        let within = now();
        let viewer = if closes {
            drop(viewer);
            None
        } else {
            Some(viewer)
        };
        let context = format!("closes {closes}, restarts {restarts}");
        ledger.states.last_mut().unwrap().from = stamp;
        let states = ledger.states.clone();
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t(value) VALUES ('later')");
        ledger.states.last_mut().unwrap().to = now();
        drop(connection);
        for state in states.iter().chain(ledger.states.clone().last()) {
            let found = ledger.contents_at(state.from).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(found == state.contents, "{context}");
        }
        let error = ledger.contents_at(within).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{context}: {error}");
        assert_eq!(windows(&ledger), 2, "{context}");
        assert!(last < within);
        assert_eq!(verify(&ledger), [""; 0], "{context}");
        drop(viewer);
        assert_eq!(verify(&ledger), [""; 0], "{context}");
    }
}

/// A foreign process commits to the WAL after the fleet has closed. Commits of the fleet stay restorable throughout.
#[test]
fn foreign_commits_after_the_copy_hide_no_earlier_commit() {
    let mut ledger = with_table();
    let viewer = viewer(&ledger);
    session(&mut ledger, "INSERT INTO t(value) VALUES ('fleet')");
    let state = State { from: last_stamp(&ledger), ..ledger.states.last().unwrap().clone() };
    for _ in 0..3 {
        viewer.execute_batch("INSERT INTO t(value) VALUES ('viewer')").unwrap();
        assert!(ledger.contents_at(state.from).unwrap() == state.contents);
        assert_eq!(verify(&ledger), [""; 0]);
        // A fleet connection that closes copies the foreign commits too, as unstamped ones.
        drop(ledger.connect());
        assert!(ledger.contents_at(state.from).unwrap() == state.contents);
    }
    // Their times are unknown, but an instant in the future includes all of them.
    let last = Timestamp::from_micros(now().as_micros() + 3_600_000_000).unwrap();
    let rows: u32 = viewer.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    close_last(&ledger, viewer);
    assert!(ledger.contents_at(state.from).unwrap() == state.contents);
    assert_eq!(ledger.contents_at(last).unwrap()["t"].len(), rows as usize);
    assert_eq!(verify(&ledger), [""; 0]);
}

#[test]
fn open_foreign_transaction_does_not_prevent_the_copy() {
    let mut ledger = with_table();
    let viewer = viewer(&ledger);
    for _ in 0..2 {
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t(value) VALUES (randomblob(4000))");
        viewer.execute_batch("BEGIN IMMEDIATE; INSERT INTO t(value) VALUES ('undone')").unwrap();
        drop(connection);
        viewer.execute_batch("ROLLBACK").unwrap();
    }
    close_last(&ledger, viewer);
    assert_whole(&mut ledger);
    session(&mut ledger, "INSERT INTO t(value) VALUES (1)");
    assert_whole(&mut ledger);
}

#[test]
fn last_of_several_connections_archives_the_wal() {
    let mut ledger = with_table();
    let viewer = viewer(&ledger);
    let [writer, idle, unused] = [ledger.connect(), ledger.connect(), ledger.connect()];
    idle.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    ledger.commit(&writer, "INSERT INTO t(value) VALUES (1)");
    drop(writer);
    drop(idle);
    drop(unused);
    // A host may suppress the checkpoint on close.
    let connection = ledger.connect();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (2)");
    drop(connection);
    close_last(&ledger, viewer);
    assert_whole(&mut ledger);
}

#[test]
fn close_archives_nothing_while_history_is_off() {
    let mut ledger = with_table();
    let viewer = viewer(&ledger);
    session(&mut ledger, "INSERT INTO t(value) VALUES (1)");
    set_window(&ledger, "off");
    let segment = ledger.database_dir().join("archive/000000000002.wal");
    let before = fs::read(&segment).unwrap();
    let connection = ledger.connect();
    connection.execute_batch("INSERT INTO t(value) VALUES ('off')").unwrap();
    drop(connection);
    assert!(fs::read(&segment).unwrap() == before);
    set_window(&ledger, "1h");
    let kept = State { from: last_stamp(&ledger), ..ledger.states.last().unwrap().clone() };
    session(&mut ledger, "INSERT INTO t(value) VALUES ('on')");
    let last = State { from: last_stamp(&ledger), ..ledger.states.last().unwrap().clone() };
    close_last(&ledger, viewer);
    for state in [kept, last] {
        assert!(ledger.contents_at(state.from).unwrap() == state.contents);
    }
    assert_eq!(verify(&ledger), [""; 0]);
}

const ROLE: &str = "LITEFLEET_FOREIGN_READER_CHILD";

/// A process that opens the database through the fleet, runs SQL, and closes when told to. It aborts before disk
/// operation `step` of the close.
fn open_database(args: &str) -> ! {
    let [root, sql, step] = args.split('|').collect::<Vec<_>>()[..] else { unreachable!() };
    let step: u64 = step.parse().unwrap();
    let (armed, count) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
    let is_armed = Arc::clone(&armed);
    let hook = move |_: DiskOp, _: &Path| {
        if is_armed.load(SeqCst) && count.fetch_add(1, SeqCst) == step {
            std::process::abort();
        }
        Ok(())
    };
    let plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(root.trim_end_matches('!')).unwrap();
    let mut options = ConnectOptions::default();
    if root.ends_with('!') {
        options = options.encryption_key(EncryptionKey::from_bytes(&[7; 32]).unwrap());
    }
    let connection = plane.connect("orders", options.clone()).unwrap();
    connection.execute_batch(sql).unwrap();
    armed.store(true, SeqCst);
    println!("\nREADY");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    drop(connection);
    println!("\nEND");
    std::process::exit(0)
}

/// A child process that is killed when dropped.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn spawn(ledger: &Ledger, sql: &str, step: u64) -> Other {
    let mark = if ledger.key.is_some() { "!" } else { "" };
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "foreign_reader::process_killed_at_any_step_of_the_copy_loses_no_commit"]);
    command.args(["--nocapture", "--test-threads=1"]);
    command.env(ROLE, format!("{}{mark}|{sql}|{step}", ledger.plane.root().display()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut other = Other(command.spawn().unwrap());
    let out = other.0.stdout.as_mut().unwrap();
    assert!(BufReader::new(out).lines().any(|line| line.unwrap() == "READY"));
    other
}

/// Tells a child to close. Returns whether it exited normally.
fn close(mut other: Other) -> bool {
    other.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    other.0.wait().unwrap().success()
}

#[test]
fn process_killed_at_any_step_of_the_copy_loses_no_commit() {
    if let Ok(args) = env::var(ROLE) {
        open_database(&args);
    }
    let mut steps = 0;
    // The first copy, or an extension of an existing one.
    for is_added_to in [false, true] {
        for step in 0.. {
            let context = format!("added to {is_added_to}, step {step}");
            let mut ledger = with_table();
            let viewer = viewer(&ledger);
            if is_added_to {
                session(&mut ledger, "INSERT INTO t(value) VALUES (randomblob(5000))");
            }
            let other = spawn(&ledger, "INSERT INTO t(value) VALUES ('other')", step);
            let after = now();
            let ended = close(other);
            ledger.states.last_mut().unwrap().to = ledger.states.last().unwrap().from;
            assert_eq!(verify(&ledger), [""; 0], "{context}");
            let rows = ledger.contents_at(after).unwrap()["t"].len();
            close_last(&ledger, viewer);
            let check = |ledger: &mut Ledger| {
                for state in ledger.states.clone() {
                    let found =
                        ledger.contents_at(state.from).unwrap_or_else(|error| panic!("{context}: {error}"));
                    assert!(found == state.contents, "{context}");
                }
                match ledger.contents_at(after) {
                    Ok(found) => assert_eq!(found["t"].len(), rows, "{context}"),
                    // The process was killed before the copy was complete.
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{context}: {error}");
                        assert!(!ended, "{context}");
                    }
                }
                assert_eq!(verify(ledger), [""; 0], "{context}");
            };
            check(&mut ledger);
            session(&mut ledger, "INSERT INTO t(value) VALUES ('later')");
            check(&mut ledger);
            ledger.check_windows();
            if ended {
                break;
            }
            steps += 1;
        }
    }
    assert!(steps > 6, "{steps}");
}

#[test]
fn peer_process_killed_as_last_opener_loses_no_commit() {
    for cipher in [None, Some(Cipher::Aegis256)] {
        let mut ledger = Ledger::new(cipher);
        session(&mut ledger, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
        let viewer = cipher.is_none().then(|| viewer(&ledger));
        let other = spawn(&ledger, "SELECT count(*) FROM t", u64::MAX);
        for _ in 0..3 {
            session(&mut ledger, "INSERT INTO t(value) VALUES (randomblob(3000))");
            assert_whole(&mut ledger);
        }
        let log = fs::read(ledger.database_dir().join("data.db-wal")).unwrap();
        let segment = fs::read(ledger.database_dir().join("archive/000000000002.wal")).unwrap();
        assert!(log.starts_with(&segment) && segment.len() > 10_000);
        drop(other);
        if let Some(viewer) = viewer {
            close_last(&ledger, viewer);
        } else {
            // Another connection of the fleet closes last.
            drop(ledger.connect());
        }
        assert_whole(&mut ledger);
        session(&mut ledger, "INSERT INTO t(value) VALUES (1)");
        assert_whole(&mut ledger);
    }
}

#[test]
fn wal_of_killed_process_deleted_by_reader_is_a_gap_not_a_finding() {
    let mut ledger = with_table();
    let viewer = viewer(&ledger);
    let other = spawn(&ledger, "INSERT INTO t(value) VALUES ('killed')", u64::MAX);
    let within = now();
    drop(other);
    close_last(&ledger, viewer);
    assert_eq!(verify(&ledger), [""; 0]);
    let error = ledger.contents_at(within).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutsideWindow, "{error}");
    ledger.states.last_mut().unwrap().to = ledger.states.last().unwrap().from;
    session(&mut ledger, "INSERT INTO t(value) VALUES ('later')");
    for state in ledger.states.clone() {
        assert!(ledger.contents_at(state.from).unwrap() == state.contents);
    }
    assert_eq!((windows(&ledger), verify(&ledger)), (2, vec![]));
}

/// The state after a power failure in which the end record reached the disk and the rename of the WAL did not.
#[test]
fn unmoved_wal_deleted_by_foreign_process_is_a_gap() {
    for commits in [false, true] {
        let mut ledger = with_table();
        session(&mut ledger, "INSERT INTO t(value) VALUES (randomblob(5000))");
        let (segment, log) = (
            ledger.database_dir().join("archive/000000000002.wal"),
            ledger.database_dir().join("data.db-wal"),
        );
        let changed = fs::metadata(ledger.database_dir().join("data.db")).unwrap().modified().unwrap();
        fs::rename(&segment, &log).unwrap();
        // The database is unchanged, so the history continues.
        ledger.check_windows();
        let foreign = foreign_connection(&ledger);
        let sql = if commits { "INSERT INTO t(value) VALUES ('foreign')" } else { "SELECT count(*) FROM t" };
        foreign.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
        if commits {
            foreign.execute_batch(sql).unwrap();
        }
        drop(foreign);
        assert!(!log.exists());
        assert_ne!(fs::metadata(ledger.database_dir().join("data.db")).unwrap().modified().unwrap(), changed);
        ledger.states.truncate(2);
        ledger.check_windows();
        let found = verify(&ledger);
        // Until the next write, the segment may be reported as missing.
        assert!(found.iter().all(|finding| finding.contains("000000000002.wal: it is missing")), "{found:?}");
        session(&mut ledger, "INSERT INTO t(value) VALUES ('later')");
        ledger.check_windows();
        for state in [ledger.states[1].clone(), ledger.states.last().unwrap().clone()] {
            assert!(ledger.contents_at(state.from).unwrap() == state.contents);
        }
        assert_eq!((windows(&ledger), verify(&ledger)), (2, vec![]));
    }
}

/// A close beside another process flushes the copy in the archive. The WAL is not flushed with `synchronous=NORMAL`.
#[test]
fn commits_that_a_power_loss_undid_are_not_restored_from_the_archive() {
    let ledger = with_table();
    let viewer = viewer(&ledger);
    let survived = last_stamp(&ledger);
    let connection = ledger.plane.connect("orders", ledger.options()).unwrap();
    connection.execute_batch("INSERT INTO t(value) VALUES ('undone')").unwrap();
    drop(connection);
    let undone = now();
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("root");
    copy_dir(ledger.plane.root(), &root);
    drop(viewer);
    let dir = root.join("default/orders");
    fs::remove_file(dir.join("data.db-shm")).unwrap();
    fs::File::options().write(true).open(dir.join("data.db-wal")).unwrap().set_len(32).unwrap();
    let plane = ControlPlane::open(&root).unwrap();
    let rows = |at| -> Result<i64> {
        let (view, _) = plane.connect_at("orders", at, ConnectOptions::default())?;
        Ok(view.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
    };
    assert_eq!(rows(survived).unwrap(), 0);
    assert_eq!(rows(undone).unwrap_err().kind(), ErrorKind::OutsideWindow);
    let windows = plane.points("orders", ..).unwrap().windows;
    assert!(!contains(&windows, undone), "{windows:?}");
    // The next commit shows that the database ended before.
    let connection = plane.connect("orders", ConnectOptions::default()).unwrap();
    connection.execute_batch("INSERT INTO t(value) VALUES ('new')").unwrap();
    let new = now();
    assert_eq!((rows(survived).unwrap(), rows(new).unwrap()), (0, 1));
}
