//! Several processes write to one encrypted database at once, and are killed at any moment.
//!
//! The test runs this very binary again as its children, which find their orders in the environment.

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
    vault::{Fleet, among_others, ask, key, run},
};

const ROLE: &str = "LITEFLEET_BENEATH_CHILD";
const ROUNDS: u64 = 30;
const WRITERS: u64 = 3;

/// Rows that a transaction writes again are among this many last ones of its writer.
const AGAIN: u64 = 150;

/// Each writer counts its transactions, adds a row in each, and writes some of its last rows again.
const SCHEMA: &str = "CREATE TABLE writer(id INTEGER PRIMARY KEY, n INTEGER);
    CREATE TABLE t(writer INTEGER, n INTEGER, again INTEGER, body TEXT, PRIMARY KEY (writer, n)) WITHOUT ROWID;
    CREATE INDEX i ON t(body)";

/// What a row holds, in SQL.
const BODY: &str = "writer || '-' || n || '-' || again || '-' || printf('%.*c', (n * 31 + again * 17) % 1200, char(97 + again % 26))";

fn transaction(writer: u64, n: u64) -> String {
    format!(
        "BEGIN IMMEDIATE; UPDATE writer SET n = {n} WHERE id = {writer};
         INSERT INTO t(writer, n, again) VALUES ({writer}, {n}, {n});
         UPDATE t SET again = {n}, body = {BODY} WHERE writer = {writer} AND n % 7 = {n} % 7 AND n > {n} - {AGAIN};
         UPDATE t SET body = {BODY} WHERE writer = {writer} AND again = {n}; COMMIT"
    )
}

/// The transaction that wrote a row last, if there were `last` of them.
fn written_last(n: u64, last: u64) -> u64 {
    let last = last.min(n + AGAIN - 1);
    last - (last - n) % 7
}

/// A writer, until it is killed. It says which transactions it knows to be committed.
fn write(orders: &str) -> ! {
    let [root, writer, synchronous, cache] = orders.split('|').collect::<Vec<_>>()[..] else {
        unreachable!()
    };
    let writer: u64 = writer.parse().unwrap();
    let plane = ControlPlane::open(root).unwrap();
    let options = ConnectOptions::default().encryption_key(key(Cipher::Aegis256X2));
    let connection = plane.connect("vault", &options).unwrap();
    let settings = "PRAGMA wal_autocheckpoint=50; PRAGMA cache_spill=2";
    run(&connection, &format!("PRAGMA synchronous={synchronous}; PRAGMA cache_size={cache}; {settings}"))
        .unwrap();
    let n: i64 = ask(&connection, &format!("SELECT n FROM writer WHERE id = {writer}")).unwrap();
    let mut random = Random::new(writer + n.cast_unsigned());
    println!("\nREADY");
    for n in n.cast_unsigned() + 1.. {
        while let Err(error) = run(&connection, &transaction(writer, n)) {
            // Three writers in a row may make one wait for too long.
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
    unreachable!("it writes until it is killed")
}

fn spawn(fleet: &Fleet, writer: u64, synchronous: &str, cache: u64) -> Child {
    let name = "killed::processes_killed_at_any_moment_leave_what_they_committed";
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(ROLE, format!("{}|{writer}|{synchronous}|{cache}", fleet.plane.root().display()));
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// Checks that the database holds what each writer has committed, which is what it said or one transaction more.
fn check(connection: &Connection, said: &mut [u64], context: &str) {
    assert_eq!(ask::<String>(connection, "PRAGMA integrity_check").unwrap(), "ok", "{context}");
    assert_eq!(ask::<i64>(connection, &format!("SELECT count(*) FROM t WHERE body <> {BODY}")).unwrap(), 0);
    for (writer, said) in (0_i64..).zip(said) {
        let last: i64 = ask(connection, &format!("SELECT n FROM writer WHERE id = {writer}")).unwrap();
        let last = last.cast_unsigned();
        assert!(
            (*said..=*said + 1).contains(&last),
            "writer {writer}: {last}, and it said {said}; {context}"
        );
        *said = last;
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
fn processes_killed_at_any_moment_leave_what_they_committed() {
    if let Ok(orders) = env::var(ROLE) {
        write(&orders);
    }
    let _turn = among_others();
    let rounds = env::var("LITEFLEET_KILL_ROUNDS").ok().map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let fleet = Fleet::new(Some(Cipher::Aegis256X2), PageFormat::Native);
    run(&fleet.connect(), SCHEMA).unwrap();
    for writer in 0..WRITERS {
        run(&fleet.connect(), &format!("INSERT INTO writer VALUES ({writer}, 0)")).unwrap();
    }
    let mut random = Random::new(7);
    let mut said = [0; 3];
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
        // One after the other: those that live find what the dead ones left.
        for child in &mut children {
            thread::sleep(Duration::from_micros(random.below(40_000)));
            child.kill().unwrap();
            // Not one that ended by itself.
            assert_eq!(child.wait().unwrap().signal(), Some(9), "round {round}");
        }
        for (output, said) in outputs.iter_mut().zip(&mut said) {
            let mut text = String::new();
            output.read_to_string(&mut text).unwrap();
            let mut done = text.lines().filter_map(|line| line.strip_prefix("DONE ")?.parse().ok());
            *said = done.next_back().unwrap_or(*said);
        }
        let place = fleet.place();
        let removed = random.below(2) == 0;
        if removed {
            fs::remove_file(place.join("data.db-shm")).unwrap();
        }
        logs_left += u64::from(fs::metadata(place.join("data.db-wal")).is_ok_and(|found| found.len() > 5000));
        let context = format!("round {round}, synchronous {synchronous}, cache {cache}, removed {removed}");
        check(&fleet.connect(), &mut said, &context);
    }
    assert!(said.iter().all(|n| *n > rounds) && logs_left > rounds / 2, "{said:?}, {logs_left} logs");
}
