//! Several processes write to one database and are killed at random moments; every instant must be restored exactly.
//!
//! The test runs its own binary as child processes, which take their arguments from the environment. Each transaction
//! takes the next number, so numbers follow commit order, and the contents after commit `n` are a function of `n`.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, EncryptionKey, ErrorKind, RemoteEncryption,
    Seed, Timestamp,
    rusqlite::{Connection, ErrorCode, config::DbConfig},
};

use crate::{random::Random, support::Ledger};

const ROLE: &str = "LITEFLEET_HISTORY_CHILD";
const NAME: &str = "killed::killed_processes_leave_every_instant_restorable";

/// Duration of the test in seconds, unless `LITEFLEET_SOAK` overrides it.
const SECONDS: u64 = 20;

/// Pairs of writing processes and connections per process. A WAL is moved only if all connections belong to one
/// process; otherwise it is copied.
const WRITERS: &[(u64, u64)] = &[(3, 1), (1, 3), (2, 2)];

/// A transaction updates rows among this many last ones.
const AGAIN: u64 = 70;

/// The body of a row as an SQL expression.
const BODY: &str = "printf('%.*c', (n * 31 + again * 17) % 1900, char(97 + again % 26))";

const SCHEMA: &str = "BEGIN; CREATE TABLE counter(n INTEGER); INSERT INTO counter VALUES (0);
    CREATE TABLE t(n INTEGER PRIMARY KEY, again INTEGER, body TEXT); CREATE INDEX i ON t(body); COMMIT";

/// One transaction without its COMMIT; it takes the next number.
fn transaction() -> String {
    format!(
        "BEGIN IMMEDIATE; UPDATE counter SET n = n + 1;
         INSERT INTO t(n, again) SELECT n, n FROM counter;
         UPDATE t SET again = (SELECT n FROM counter)
            WHERE n > (SELECT n FROM counter) - {AGAIN} AND n % 7 = (SELECT n FROM counter) % 7;
         UPDATE t SET body = {BODY} WHERE n > (SELECT n FROM counter) - {AGAIN} AND again = (SELECT n FROM counter)"
    )
}

/// The number of the transaction that wrote row `n` last, out of `last` transactions.
fn written_last(n: u64, last: u64) -> u64 {
    let last = last.min(n + AGAIN - 1);
    last - (last - n) % 7
}

fn key() -> EncryptionKey {
    EncryptionKey::from_bytes(&[7; 32]).unwrap()
}

fn options(sealed: bool) -> ConnectOptions {
    if sealed { ConnectOptions::default().encryption_key(key()) } else { ConnectOptions::default() }
}

fn query(connection: &Connection, sql: &str) -> u64 {
    connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap().cast_unsigned()
}

/// Runs a statement. Returns `false` if a lock of another process prevents it; any other error fails the test.
fn run(connection: &Connection, sql: &str) -> bool {
    match connection.execute_batch(sql) {
        Ok(()) => true,
        Err(error) => {
            let code = error.sqlite_error_code();
            assert_eq!(
                code,
                Some(ErrorCode::DatabaseBusy),
                "{sql}: {}",
                litefleet::Error::from_sqlite(connection, error)
            );
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK").unwrap();
            }
            false
        }
    }
}

/// Connects with random settings that a host may choose.
fn connect(plane: &ControlPlane, sealed: bool, random: &mut Random) -> Connection {
    let connection = plane.connect("orders", options(sealed)).unwrap();
    let synchronous = random.one_of(&["NORMAL", "FULL", "OFF"]);
    let cache = random.one_of(&[3, 10, 2000]);
    let autocheckpoint = random.one_of(&[0, 5, 50, 1000]);
    let limit = random.one_of(&[-1, 0, 30_000]);
    let pragmas = format!(
        "PRAGMA synchronous={synchronous}; PRAGMA cache_size={cache}; PRAGMA cache_spill=2;
         PRAGMA wal_autocheckpoint={autocheckpoint}; PRAGMA journal_size_limit={limit}"
    );
    connection.execute_batch(&pragmas).unwrap();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, random.below(4) == 0).unwrap();
    connection
}

/// The writers of one process, until it is killed or the stop file appears.
fn write_all(args: &str) {
    let [root, writers, sealed, seed] = args.split('|').collect::<Vec<_>>()[..] else { unreachable!() };
    let (first, count) = writers.split_once('+').unwrap();
    let (first, count): (u64, u64) = (first.parse().unwrap(), count.parse().unwrap());
    let (root, sealed, seed) = (Path::new(root), sealed == "sealed", seed.parse().unwrap());
    let plane = &ControlPlane::open(root).unwrap();
    thread::scope(|scope| {
        for writer in first..first + count {
            scope.spawn(move || write(plane, writer, sealed, seed));
        }
    });
}

/// One writer. It logs the number of each commit and the clock before and after the COMMIT statement.
fn write(plane: &ControlPlane, writer: u64, sealed: bool, seed: u64) {
    let mut random = Random::new(seed * 31 + writer);
    let root = plane.root();
    let notes = root.with_file_name(format!("notes-{seed}-{writer}"));
    let mut notes = File::options().append(true).create(true).open(notes).unwrap();
    let stop = root.with_file_name("stop");
    let mut connection = connect(plane, sealed, &mut random);
    while !stop.exists() {
        if run(&connection, &transaction()) {
            let n = query(&connection, "SELECT n FROM counter");
            let before = Timestamp::now().as_micros();
            connection.execute_batch("COMMIT").unwrap();
            let after = Timestamp::now().as_micros();
            notes.write_all(format!("{n} {before} {after}\n").as_bytes()).unwrap();
        }
        match random.below(60) {
            0..4 => {
                let mode = random.one_of(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
                run(&connection, &format!("PRAGMA wal_checkpoint({mode})"));
            }
            4 => _ = run(&connection, &format!("{}; UPDATE t SET body = 'undone'; ROLLBACK", transaction())),
            5 => {
                let undone = "SAVEPOINT s; UPDATE t SET body = 'undone'; ROLLBACK TO s; ROLLBACK";
                run(&connection, &format!("{}; {undone}", transaction()));
            }
            6..9 => thread::sleep(Duration::from_micros(random.below(20_000))),
            9 => {
                drop(connection);
                connection = connect(plane, sealed, &mut random);
            }
            _ => {}
        }
    }
}

/// A fleet with one database, and the log of its commits.
struct Harness {
    dir: tempfile::TempDir,
    plane: ControlPlane,
    sealed: bool,
    /// The clock before and after each logged commit, by its number.
    notes: BTreeMap<u64, (i64, i64)>,
    /// Restores made while others wrote: the instant, and the number of the last commit found.
    seen: Vec<(i64, u64)>,
    restored: u64,
    rounds: u64,
    logs_left: u64,
}

impl Harness {
    fn new(sealed: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::open(dir.path().join("root")).unwrap();
        plane.create_group("default").unwrap();
        let mut input = CreateDatabaseInput::new("orders", "default");
        if sealed {
            input = input.with_encryption(RemoteEncryption::new(key(), Cipher::Aegis256).unwrap());
        }
        plane.create_database(input).unwrap();
        let before = Timestamp::now().as_micros();
        plane.connect("orders", options(sealed)).unwrap().execute_batch(SCHEMA).unwrap();
        let notes = BTreeMap::from([(0, (before, Timestamp::now().as_micros()))]);
        Self { dir, plane, sealed, notes, seen: Vec::new(), restored: 0, rounds: 0, logs_left: 0 }
    }

    /// Starts a process with `count` writers, numbered from `first`.
    fn spawn(&self, first: u64, count: u64) -> Child {
        let sealed = if self.sealed { "sealed" } else { "plain" };
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture", "--test-threads=1"]);
        command
            .env(ROLE, format!("{}|{first}+{count}|{sealed}|{}", self.plane.root().display(), self.rounds));
        command.stdout(Stdio::null()).spawn().unwrap()
    }

    /// Runs writers until each is killed or told to stop.
    fn round(&mut self, random: &mut Random) {
        self.rounds += 1;
        let (processes, connections) = random.one_of(WRITERS);
        let mut children: Vec<_> =
            (0..processes).map(|process| self.spawn(process * connections, connections)).collect();
        thread::sleep(Duration::from_millis(150 + random.below(250)));
        for _ in 0..random.below(4) {
            let at = Timestamp::now();
            if let Some(n) = self.restore(at.as_micros(), true) {
                self.seen.push((at.as_micros(), n));
            }
            thread::sleep(Duration::from_millis(random.below(60)));
        }
        let killed = random.below(processes + 1);
        for child in children.drain(..usize::try_from(killed).unwrap()) {
            kill(child);
            thread::sleep(Duration::from_micros(random.below(40_000)));
        }
        let stop = self.dir.path().join("stop");
        File::create(&stop).unwrap();
        for mut child in children {
            assert!(child.wait().unwrap().success(), "a writer of round {}", self.rounds);
        }
        fs::remove_file(stop).unwrap();
        let dir = self.plane.root().join("default/orders");
        self.logs_left += u64::from(dir.join("data.db-wal").exists());
        if random.below(2) == 0 {
            let _may_be_missing = fs::remove_file(dir.join("data.db-shm"));
        }
        for writer in 0..processes * connections {
            let notes = self.dir.path().join(format!("notes-{}-{writer}", self.rounds));
            for line in fs::read_to_string(notes).unwrap_or_default().lines() {
                let [n, before, after] =
                    line.split(' ').map(|word| word.parse::<i64>().unwrap()).collect::<Vec<_>>()[..]
                else {
                    unreachable!("{line}")
                };
                assert_eq!(
                    self.notes.insert(n.cast_unsigned(), (before, after)),
                    None,
                    "two commits took the number {n}"
                );
            }
        }
    }

    /// Restores the database as of an instant, checks that the contents are those of a commit, and returns its
    /// number.
    fn restore(&mut self, at: i64, while_written: bool) -> Option<u64> {
        self.restored += 1;
        let name = format!("restored-{}", self.restored);
        let instant = Timestamp::from_micros(at).unwrap();
        let mut input =
            CreateDatabaseInput::new(&name, "default").with_seed(Seed::database_at("orders", instant));
        if self.sealed {
            input = input.with_encryption(RemoteEncryption::inherit_cipher(key()));
        }
        match self.plane.create_database(input) {
            Err(error) if while_written && error.kind() == ErrorKind::Busy => return None,
            created => _ = created.unwrap_or_else(|error| panic!("{instant}: {error}")),
        }
        let connection = self.plane.connect(&name, options(self.sealed)).unwrap();
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "{instant}");
        let last = query(&connection, "SELECT n FROM counter");
        let wrong = query(&connection, &format!("SELECT count(*) FROM t WHERE body IS NOT {BODY}"));
        assert_eq!(wrong, 0, "{instant}");
        let rows: Vec<(i64, i64)> = {
            let mut rows = connection.prepare("SELECT n, again FROM t ORDER BY n").unwrap();
            let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.map(Result::unwrap).collect()
        };
        let expected: Vec<_> =
            (1..=last).map(|n| (n.cast_signed(), written_last(n, last).cast_signed())).collect();
        assert!(rows == expected, "{instant}: not the contents after commit {last}");
        drop(connection);
        self.plane.destroy_database(&name).unwrap();
        Some(last)
    }

    /// A restore contains every commit that returned before the instant and none that began after it.
    fn check_bounds(&self, at: i64, last: u64) {
        let returned =
            self.notes.iter().filter(|(_, (_, after))| *after <= at).map(|(n, _)| *n).max().unwrap_or(0);
        assert!(returned <= last, "{at}: commit {returned} had returned, but the restore ends with {last}");
        let later = self.notes.iter().filter(|(_, (before, _))| *before > at).map(|(n, _)| *n).min();
        assert!(
            later.is_none_or(|later| last < later),
            "{at}: commit {later:?} began later, but the restore contains {last}"
        );
    }

    fn check(&mut self, restores: u64, random: &mut Random) {
        for (at, last) in std::mem::take(&mut self.seen) {
            self.check_bounds(at, last);
        }
        // Every commit has one point, in order, within the clock readings of its writer.
        let points = self.plane.points("orders", ..).unwrap();
        assert_eq!(points.windows.len(), 1, "{:?}", points.windows);
        assert_eq!(points.windows[0].to, None);
        let stamps: Vec<_> = points.points.iter().map(|point| point.at.as_micros()).collect();
        assert!(stamps.is_sorted_by(|one, next| one < next));
        let last = u64::try_from(stamps.len()).unwrap() - 1;
        assert!(self.notes.last_key_value().is_some_and(|(n, _)| *n <= last), "{last} commits have points");
        for (n, (before, after)) in &self.notes {
            let at = stamps[usize::try_from(*n).unwrap()];
            assert!(
                (*before..=*after).contains(&at),
                "commit {n} is stamped {at}, outside {before} to {after}"
            );
        }
        assert_eq!(self.restore(Timestamp::now().as_micros(), false), Some(last));
        for _ in 0..restores {
            let n = random.below(last + 1);
            let stamp = stamps[usize::try_from(n).unwrap()];
            assert_eq!(self.restore(stamp, false), Some(n), "at the stamp of commit {n}");
            let (noted, (before, after)) =
                self.notes.range(n..).next().map_or((0, self.notes[&0]), |(n, clocks)| (*n, *clocks));
            for at in [before, after] {
                // The table does not exist before the first commit.
                if noted == 0 && at == before {
                    continue;
                }
                let last = self.restore(at, false).unwrap();
                self.check_bounds(at, last);
                assert!(at == before || last >= noted);
            }
        }
    }
}

/// Kills a child, which must still be running.
fn kill(mut child: Child) {
    child.kill().unwrap();
    let ended = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{ended}");
}

#[test]
fn killed_processes_leave_every_instant_restorable() {
    if let Ok(args) = env::var(ROLE) {
        write_all(&args);
        return;
    }
    let seconds = env::var("LITEFLEET_SOAK").ok().map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let seed = env::var("LITEFLEET_SEED").ok().map_or(7, |seed| seed.parse().unwrap());
    let mut random = Random::new(seed);
    for sealed in [false, true] {
        let started = Instant::now();
        let mut killed = Harness::new(sealed);
        while started.elapsed() < Duration::from_secs(seconds) / 4 || killed.rounds < 4 {
            killed.round(&mut random);
        }
        let (commits, rounds) = (killed.notes.len() as u64, killed.rounds);
        killed.check(12 + rounds, &mut random);
        eprintln!(
            "{commits} commits in {rounds} rounds, {} logs left, {} restores",
            killed.logs_left, killed.restored
        );
        assert!(commits > rounds * 5 && killed.logs_left > 0);
        // Afterwards the database and its history continue.
        drop(connect(&killed.plane, sealed, &mut random));
        killed.round(&mut random);
        killed.check(2, &mut random);
    }
}

#[test]
fn commit_missing_from_wal_index_is_no_recovery_point() {
    for sealed in [None, Some(Cipher::Aegis256)] {
        for ending in ["", "RESTART", "TRUNCATE", "CLOSE", "RECOVER"] {
            let mut ledger = Ledger::new(sealed);
            let connection = ledger.connect();
            connection.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
            ledger.commit(&connection, "CREATE TABLE t(a)");
            ledger.commit(&connection, "INSERT INTO t VALUES (1)");
            // The state after a kill between the commit frame and the update of the wal-index header, of which there
            // are two copies.
            let shm = ledger.database_dir().join("data.db-shm");
            let index = fs::read(&shm).unwrap()[..96].to_vec();
            connection.execute_batch("INSERT INTO t VALUES ('dead')").unwrap();
            let file = File::options().write(true).open(&shm).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &index, 0).unwrap();
            let checkpoint = |mode| {
                let sql = format!("PRAGMA wal_checkpoint({mode})");
                connection.query_row(&sql, [], |_| Ok(())).unwrap();
            };
            match ending {
                "CLOSE" => drop(connection),
                "RECOVER" => {
                    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
                    drop(connection);
                }
                "" => {}
                mode => checkpoint(mode),
            }
            let connection = ledger.connect();
            let dead = query(&connection, "SELECT count(*) FROM t WHERE a = 'dead'");
            // Recovery of the wal-index makes the commit visible.
            assert_eq!(dead, u64::from(ending == "RECOVER"), "{ending}");
            if dead == 0 {
                ledger.commit(&connection, "INSERT INTO t VALUES (2)");
                ledger.check_all();
                assert_eq!(ledger.plane.points("orders", ..).unwrap().points.len(), 3, "{ending}");
            } else {
                ledger.states.truncate(2);
                ledger.commit(&connection, "INSERT INTO t VALUES (2)");
                assert_eq!(ledger.plane.points("orders", ..).unwrap().points.len(), 4, "{ending}");
            }
            drop(connection);
            let last = ledger.states.last().unwrap().clone();
            assert_eq!(ledger.contents_at(last.to).unwrap(), last.contents, "{ending}");
        }
    }
}

#[test]
fn wal_restart_lost_to_power_failure_continues_old_wal() {
    for sealed in [None, Some(Cipher::Aegis256)] {
        for ending in ["", "RESTART", "TRUNCATE", "CLOSE"] {
            let mut ledger = Ledger::new(sealed);
            let connection = ledger.connect();
            connection.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
            ledger.commit(&connection, "CREATE TABLE t(a)");
            ledger.commit(&connection, "INSERT INTO t VALUES (1)");
            connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
            // Of the next commit only the stamp reaches the disk.
            let wal = ledger.database_dir().join("data.db-wal");
            let before = fs::read(&wal).unwrap();
            connection.execute_batch("INSERT INTO t VALUES ('lost')").unwrap();
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
            drop(connection);
            assert_ne!(fs::read(&wal).unwrap(), before);
            fs::write(&wal, before).unwrap();
            ledger.check_all();
            let connection = ledger.connect();
            match ending {
                "" => {}
                "CLOSE" => drop(ledger.connect()),
                mode => {
                    let sql = format!("PRAGMA wal_checkpoint({mode})");
                    connection.query_row(&sql, [], |_| Ok(())).unwrap();
                }
            }
            for value in 2..4 {
                ledger.commit(&connection, &format!("INSERT INTO t VALUES ({value})"));
                ledger.check_all();
            }
            let points = ledger.plane.points("orders", ..).unwrap();
            assert_eq!((points.points.len(), points.windows.len()), (4, 1), "{ending}");
            drop(connection);
            ledger.check_all();
        }
    }
}
