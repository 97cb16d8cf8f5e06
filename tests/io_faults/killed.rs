//! Several processes write to one encrypted database and are killed at random moments.
//!
//! The test runs its own binary as child processes, which take their arguments from the environment.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, PageFormat,
    rusqlite::{Connection, ErrorCode},
};

use crate::{
    model::Random,
    support::{Fleet, key, query, run, shared_turn},
};

const ROLE: &str = "LITEFLEET_IO_FAULTS_CHILD";
const ROUNDS: u64 = 30;
const WRITERS: u64 = 3;

/// A transaction updates rows among this many last ones of its writer.
const AGAIN: u64 = 150;

/// Each transaction increments its writer's counter, adds a row, and updates some of the writer's last rows.
const SCHEMA: &str = "CREATE TABLE writer(id INTEGER PRIMARY KEY, n INTEGER);
    CREATE TABLE t(writer INTEGER, n INTEGER, again INTEGER, body TEXT, PRIMARY KEY (writer, n)) WITHOUT ROWID;
    CREATE INDEX i ON t(body)";

/// The body of a row as an SQL expression.
const BODY: &str = "writer || '-' || n || '-' || again || '-' || printf('%.*c', (n * 31 + again * 17) % 1200, char(97 + again % 26))";

fn transaction(writer: u64, n: u64) -> String {
    format!(
        "BEGIN IMMEDIATE; UPDATE writer SET n = {n} WHERE id = {writer};
         INSERT INTO t(writer, n, again) VALUES ({writer}, {n}, {n});
         UPDATE t SET again = {n}, body = {BODY} WHERE writer = {writer} AND n % 7 = {n} % 7 AND n > {n} - {AGAIN};
         UPDATE t SET body = {BODY} WHERE writer = {writer} AND again = {n}; COMMIT"
    )
}

/// The number of the transaction that wrote row `n` last, out of `last` transactions.
fn written_last(n: u64, last: u64) -> u64 {
    let last = last.min(n + AGAIN - 1);
    last - (last - n) % 7
}

/// Writes until it is killed, and prints the number of each committed transaction.
fn write(args: &str) -> ! {
    let [root, writer, synchronous, cache] = args.split('|').collect::<Vec<_>>()[..] else { unreachable!() };
    let writer: u64 = writer.parse().unwrap();
    let plane = ControlPlane::open(root).unwrap();
    let options = ConnectOptions::default().encryption_key(key(Cipher::Aegis256X2));
    let connection = plane.connect("vault", options.clone()).unwrap();
    let settings = "PRAGMA wal_autocheckpoint=50; PRAGMA cache_spill=2";
    run(&connection, &format!("PRAGMA synchronous={synchronous}; PRAGMA cache_size={cache}; {settings}"))
        .unwrap();
    let n: i64 = query(&connection, &format!("SELECT n FROM writer WHERE id = {writer}")).unwrap();
    let mut random = Random::new(writer + n.cast_unsigned());
    println!("\nREADY");
    for n in n.cast_unsigned() + 1.. {
        while let Err(error) = run(&connection, &transaction(writer, n)) {
            // With three writers, one may wait longer than the busy timeout.
            assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy), "{error}");
        }
        println!("\nDONE {n}");
        match random.below(40) {
            0 => _ = run(&connection, "PRAGMA wal_checkpoint(RESTART)"),
            1 => _ = run(&connection, "PRAGMA wal_checkpoint(TRUNCATE)"),
            2 => run(&connection, "BEGIN; UPDATE t SET body = 'undone'; ROLLBACK").unwrap_or_default(),
            _ => {}
        }
    }
    unreachable!("the writer runs until it is killed")
}

fn spawn(fleet: &Fleet, writer: u64, synchronous: &str, cache: u64) -> Child {
    let name = "killed::commits_of_killed_processes_survive";
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(ROLE, format!("{}|{writer}|{synchronous}|{cache}", fleet.plane.root().display()));
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// Checks that the database contains every transaction that each writer confirmed, and at most one more.
fn check(connection: &Connection, confirmed: &mut [u64], context: &str) {
    assert_eq!(query::<String>(connection, "PRAGMA integrity_check").unwrap(), "ok", "{context}");
    assert_eq!(query::<i64>(connection, &format!("SELECT count(*) FROM t WHERE body <> {BODY}")).unwrap(), 0);
    for (writer, confirmed) in (0_i64..).zip(confirmed) {
        let last: i64 = query(connection, &format!("SELECT n FROM writer WHERE id = {writer}")).unwrap();
        let last = last.cast_unsigned();
        assert!(
            (*confirmed..=*confirmed + 1).contains(&last),
            "writer {writer}: {last}, but it confirmed {confirmed}; {context}"
        );
        *confirmed = last;
        let mut rows = connection.prepare("SELECT n, again FROM t WHERE writer = ?1 ORDER BY n").unwrap();
        let rows =
            rows.query_map([writer], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).unwrap();
        let mut expected = 1..=last;
        for row in rows {
            let (n, again) = row.map(|(n, again)| (n.cast_unsigned(), again.cast_unsigned())).unwrap();
            assert_eq!(
                (Some(n), again),
                (expected.next(), written_last(n, last)),
                "writer {writer}; {context}"
            );
        }
        assert_eq!(expected.next(), None, "writer {writer}; {context}");
    }
}

#[test]
fn commits_of_killed_processes_survive() {
    if let Ok(args) = env::var(ROLE) {
        write(&args);
    }
    let _turn = shared_turn();
    let rounds = env::var("LITEFLEET_KILL_ROUNDS").ok().map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let fleet = Fleet::new(Some(Cipher::Aegis256X2), PageFormat::Native);
    run(&fleet.connect(), SCHEMA).unwrap();
    for writer in 0..WRITERS {
        run(&fleet.connect(), &format!("INSERT INTO writer VALUES ({writer}, 0)")).unwrap();
    }
    let mut random = Random::new(7);
    let mut confirmed = [0; 3];
    let mut logs_left = 0;
    for round in 0..rounds {
        let synchronous = ["NORMAL", "FULL", "OFF"][random.index(3)];
        let cache = [3, 10, 2000][random.index(3)];
        let mut children: Vec<_> =
            (0..WRITERS).map(|writer| spawn(&fleet, writer, synchronous, cache)).collect();
        let mut outputs: Vec<_> =
            children.iter_mut().map(|child| BufReader::new(child.stdout.take().unwrap())).collect();
        for output in &mut outputs {
            let mut line = String::new();
            while !line.contains("READY") {
                line.clear();
                assert!(output.read_line(&mut line).unwrap() > 0, "a writer ended in round {round}");
            }
        }
        // One after the other, so that survivors encounter what killed processes left.
        for child in &mut children {
            thread::sleep(Duration::from_micros(random.below(40_000)));
            child.kill().unwrap();
            // Still running until now.
            assert_eq!(child.wait().unwrap().signal(), Some(9), "round {round}");
        }
        for (output, confirmed) in outputs.iter_mut().zip(&mut confirmed) {
            let mut text = String::new();
            output.read_to_string(&mut text).unwrap();
            let mut done = text.lines().filter_map(|line| line.strip_prefix("DONE ")?.parse().ok());
            *confirmed = done.next_back().unwrap_or(*confirmed);
        }
        let dir = fleet.database_dir();
        let removed = random.below(2) == 0;
        if removed {
            fs::remove_file(dir.join("data.db-shm")).unwrap();
        }
        logs_left += u64::from(fs::metadata(dir.join("data.db-wal")).is_ok_and(|found| found.len() > 5000));
        let context = format!("round {round}, synchronous {synchronous}, cache {cache}, removed {removed}");
        check(&fleet.connect(), &mut confirmed, &context);
    }
    assert!(
        confirmed.iter().all(|n| *n > rounds) && logs_left > rounds / 2,
        "{confirmed:?}, {logs_left} logs"
    );
}
