//! WAL restarts while several connections have the database open: whether the WAL is moved or copied, and what peers
//! see.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use litefleet::{
    Cipher, CreateDatabaseInput, VerifyOptions,
    rusqlite::{Connection, ffi},
};

use crate::{
    fault_vfs::{self, Call, Opened, Verdict, Watcher},
    random::Random,
    support::{Ledger, foreign_connection, now},
};

fn restart_wal(connection: &Connection) {
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0);
}

fn count(connection: &Connection) -> u32 {
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

/// Restarts the WAL with a commit of `writer`. Returns the inodes of the old WAL and of the segment.
fn inodes(ledger: &mut Ledger, writer: &Connection, segment: &str) -> (u64, u64) {
    let dir = ledger.database_dir();
    let log = fs::metadata(dir.join("data.db-wal")).unwrap().ino();
    restart_wal(writer);
    ledger.commit(writer, "INSERT INTO t(value) VALUES (randomblob(3000))");
    (log, fs::metadata(dir.join("archive").join(segment)).unwrap().ino())
}

fn check(ledger: &mut Ledger) {
    ledger.check_all();
    let verified = ledger.plane.verify_database("orders", VerifyOptions::default());
    assert_eq!(verified.unwrap().findings, vec![]);
}

#[test]
fn wal_is_moved_while_peers_have_it_open() {
    for cipher in [None, Some(Cipher::Aegis256)] {
        let mut ledger = Ledger::new(cipher);
        let [one, two, idle] = [ledger.connect(), ledger.connect(), ledger.connect()];
        ledger.commit(&one, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
        for connection in [&two, &idle] {
            assert_eq!(count(connection), 0);
        }
        for (number, writer) in (1..).zip([&one, &two, &one, &one, &two]) {
            let (log, segment) = inodes(&mut ledger, writer, &format!("{number:012}.wal"));
            assert_eq!(log, segment, "log {number} was copied");
            let (rows, readers) =
                (number, if number == 5 { vec![&one, &two, &idle] } else { vec![&one, &two] });
            for reader in readers {
                assert_eq!(count(reader), rows, "log {number}");
            }
        }
        // A new connection sees the new WAL.
        let late = ledger.connect();
        assert_eq!(count(&late), 5);
        ledger.commit(&idle, "DELETE FROM t WHERE id = 1");
        assert_eq!([&one, &two, &late].map(count), [4; 3]);
        drop((one, late, idle));
        ledger.commit(&two, "DELETE FROM t WHERE id = 2");
        drop(two);
        check(&mut ledger);
    }
}

#[test]
fn wal_open_in_a_foreign_process_is_copied() {
    let mut ledger = Ledger::plain();
    let [one, two] = [ledger.connect(), ledger.connect()];
    ledger.commit(&one, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    let foreign = foreign_connection(&ledger);
    assert_eq!([&two, &foreign].map(count), [0; 2]);
    let (log, segment) = inodes(&mut ledger, &one, "000000000001.wal");
    assert_ne!(log, segment);
    assert_eq!([&two, &foreign].map(count), [1; 2]);
    // Every connection continues to use the WAL that was copied.
    ledger.commit(&two, "INSERT INTO t(value) VALUES (2)");
    assert_eq!([&one, &foreign].map(count), [2; 2]);
    drop(foreign);
    let (log, segment) = inodes(&mut ledger, &one, "000000000002.wal");
    assert_eq!(log, segment);
    assert_eq!([&one, &two].map(count), [3; 2]);
    drop((one, two));
    check(&mut ledger);
}

/// Invariants: the sum of all balances is constant, and the number of the last transfer never decreases.
#[test]
fn concurrent_threads_see_whole_commits_while_wals_are_moved() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(
        &connection,
        "BEGIN; CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER, filler);
         CREATE TABLE transfer(number INTEGER PRIMARY KEY);
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO account SELECT i, 1000, zeroblob(500) FROM n; COMMIT",
    );
    drop(connection);
    let (done, newest) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let ledger = &ledger;
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            scope.spawn(move || {
                let mut random = Random::new(thread);
                let connect = || {
                    let connection = ledger.connect();
                    connection.execute_batch("PRAGMA wal_autocheckpoint=20; PRAGMA synchronous=OFF").unwrap();
                    connection
                };
                let mut connection = connect();
                while !done.load(SeqCst) {
                    let seen = newest.load(SeqCst);
                    if thread < 2 {
                        let [from, to] = [(); 2].map(|()| random.below(200) + 1);
                        connection
                            .execute_batch(&format!(
                                "BEGIN IMMEDIATE;
                                 UPDATE account SET balance = balance - 7 WHERE id = {from};
                                 UPDATE account SET balance = balance + 7 WHERE id = {to};
                                 INSERT INTO transfer DEFAULT VALUES"
                            ))
                            .unwrap();
                        let number = connection.last_insert_rowid().cast_unsigned();
                        connection.execute_batch("COMMIT").unwrap();
                        newest.fetch_max(number, SeqCst);
                    }
                    let (total, last): (i64, u64) = connection
                        .query_row(
                            "SELECT (SELECT sum(balance) FROM account), (SELECT coalesce(max(number), 0) FROM transfer)",
                            [],
                            |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())),
                        )
                        .unwrap();
                    assert_eq!(total, 200_000);
                    assert!(last >= seen, "{last} is older than {seen}");
                    if random.below(40) == 0 {
                        drop(connection);
                        connection = connect();
                    }
                }
            });
        }
        let started = Instant::now();
        let mut seen = Vec::new();
        while started.elapsed() < Duration::from_secs(3) {
            thread::sleep(Duration::from_millis(50));
            let before = newest.load(SeqCst);
            seen.push((before, now(), newest.load(SeqCst)));
        }
        done.store(true, SeqCst);
        for (before, at, after) in seen {
            let (view, _) = ledger.plane.connect_at("orders", at, ledger.options()).unwrap();
            let (total, last): (i64, i64) = view
                .query_row(
                    "SELECT (SELECT sum(balance) FROM account), (SELECT coalesce(max(number), 0) FROM transfer)",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .unwrap();
            assert_eq!(total, 200_000);
            // Every commit that returned before the instant is included, and at most the two in flight afterwards.
            assert!(((before)..=(after + 2)).contains(&last.cast_unsigned()), "{before} {last} {after}");
        }
    });
    let connection = ledger.connect();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let verified = ledger.plane.verify_database("orders", VerifyOptions::default());
    assert_eq!(verified.unwrap().findings, vec![]);
}

/// A connection to a destroyed database has the path of its successor. It must not count as a peer of connections to
/// that.
#[test]
fn wal_is_not_moved_while_a_destroyed_namesake_is_open() {
    let ledger = Ledger::plain();
    let fill = |connection: &Connection, what: &str| {
        let sql = format!(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, value);
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300)
             INSERT INTO t(value) SELECT '{what}' || hex(zeroblob(700)) FROM n"
        );
        connection.execute_batch(&sql).unwrap();
    };
    let old = ledger.connect();
    old.execute_batch("PRAGMA cache_size=3").unwrap();
    fill(&old, "old");
    old.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
    ledger.plane.destroy_database("orders").unwrap();
    ledger.plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
    let [one, two] = [ledger.connect(), ledger.connect()];
    fill(&one, "new");
    assert_eq!(count(&two), 300);
    let log = ledger.database_dir().join("data.db-wal");
    let before = fs::metadata(&log).unwrap().ino();
    restart_wal(&one);
    one.execute_batch("UPDATE t SET value = 'newer' || value").unwrap();
    assert_ne!(fs::metadata(&log).unwrap().ino(), before, "the WAL was not replaced");
    let seen = old.query_row("SELECT count(*) FROM t WHERE value LIKE 'old%'", [], |row| row.get(0));
    assert_eq!(seen, Ok(300));
    drop(old);
    assert_eq!([&one, &two].map(count), [300; 2]);
    let check: String = two.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

/// Set in the child process, in which the fault-injecting VFS is installed before SQLite opens a file.
const ROLE: &str = "LITEFLEET_PEERS_CHILD";

/// Denies one thread the shared lock of the database file, as a foreign process may do briefly.
#[derive(Default)]
struct Contended {
    thread: Mutex<Option<ThreadId>>,
    was_asked: AtomicBool,
}

impl Watcher for Contended {
    fn covers(&self, file: &Opened) -> bool {
        file.path.as_ref().is_some_and(|path| path.ends_with("orders/data.db"))
    }

    fn see(&self, _: &Opened, call: Call<'_>) -> Verdict {
        let is_kept = *self.thread.lock().unwrap() == Some(thread::current().id());
        match call {
            Call::Lock { level: ffi::SQLITE_LOCK_SHARED } if is_kept => {
                self.was_asked.store(true, SeqCst);
                Verdict::Fail(ffi::SQLITE_BUSY)
            }
            _ => Verdict::Pass,
        }
    }
}

/// A connection that waits for locks of its peers lets others open the database, and releases the locks once it has
/// them.
#[test]
fn waiting_for_locks_of_peers_does_not_block_opens() {
    let name = "peers::waiting_for_locks_of_peers_does_not_block_opens";
    if env::var_os(ROLE).is_none() {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, "1");
        assert!(child.status().unwrap().success());
        return;
    }
    fault_vfs::install();
    let contended = Arc::new(Contended::default());
    let _watch = fault_vfs::watch(Arc::clone(&contended) as _);
    let mut ledger = Ledger::plain();
    let [one, two, three] = [ledger.connect(), ledger.connect(), ledger.connect()];
    ledger.commit(&one, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    assert_eq!([&two, &three].map(count), [0; 2]);
    restart_wal(&one);
    let log = fs::metadata(ledger.database_dir().join("data.db-wal")).unwrap().ino();
    *contended.thread.lock().unwrap() = Some(thread::current().id());
    thread::scope(|scope| {
        let (ledger, contended) = (&ledger, &contended);
        scope.spawn(move || {
            while !contended.was_asked.load(SeqCst) {
                thread::yield_now();
            }
            let late = ledger.connect();
            late.query_row("SELECT 1 FROM sqlite_schema", [], |_| Ok(())).unwrap();
            *contended.thread.lock().unwrap() = None;
        });
        one.execute_batch("INSERT INTO t(value) VALUES (1)").unwrap();
    });
    assert!(contended.was_asked.load(SeqCst));
    assert_ne!(
        fs::metadata(ledger.database_dir().join("data.db-wal")).unwrap().ino(),
        log,
        "the WAL was not replaced"
    );
    assert_eq!([&one, &two, &three].map(count), [1; 3]);
}
