//! No write to any file contains text of a row, a table name or a key.

use std::{collections::BTreeMap, fs, sync::Arc};

use litefleet::{Cipher, PageFormat, rusqlite::Connection};

use crate::{
    fault_vfs::{self, Kind},
    recorder::{Recorder, Seen},
    support::{Fleet, copy_files, exclusive_turn, key_bytes, query, run},
};

const NEEDLE: &str = "needle-7f3a-in-the-clear";

/// Statements that make SQLite write to every kind of file, and whether they write to unnamed files.
const WORK: &[(&str, bool)] = &[
    ("PRAGMA cache_size=10; PRAGMA cache_spill=5; PRAGMA temp.cache_size=10; PRAGMA wal_autocheckpoint=400", false),
    (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE, bytes BLOB CHECK (length(bytes) < 900000))",
        false,
    ),
    (
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 2500) INSERT INTO t
         SELECT i, (i * 7919 % 2503) || ' needle-7f3a-in-the-clear ' || i, printf('%.*c', 600, 'x') FROM n",
        false,
    ),
    // Sorts that exceed memory, with and without threads, and materialized results of DISTINCT and joins.
    ("SELECT * FROM t ORDER BY bytes, word DESC", true),
    ("PRAGMA threads=2; SELECT * FROM t ORDER BY word || bytes; PRAGMA threads=0", true),
    ("SELECT DISTINCT word || bytes FROM t", true),
    ("SELECT word FROM t UNION SELECT bytes || word FROM t ORDER BY 1", true),
    ("WITH v AS MATERIALIZED (SELECT word, bytes || bytes FROM t) SELECT count(*) FROM v JOIN v AS w USING (word)", true),
    // Temporary tables and their journal.
    ("CREATE TEMP TABLE x AS SELECT word, bytes FROM t; CREATE INDEX temp.ix ON x(word)", true),
    ("UPDATE x SET word = word || '!'; BEGIN; DELETE FROM x WHERE rowid % 2; ROLLBACK", true),
    // Statement journals.
    ("BEGIN; UPDATE t SET word = word || '!'; COMMIT", true),
    ("BEGIN; INSERT INTO t SELECT id + 5000, word || '?', bytes FROM t; COMMIT", true),
    (
        "SAVEPOINT a; UPDATE t SET word = 'needle-7f3a-in-the-clear ' || id; SAVEPOINT b; DELETE FROM t WHERE id % 3;
         ROLLBACK TO b; UPDATE t SET bytes = bytes || word; ROLLBACK TO a; RELEASE a",
        true,
    ),
    ("CREATE INDEX i ON t(bytes, word); REINDEX", true),
    ("PRAGMA wal_checkpoint(PASSIVE); UPDATE t SET word = word || '.' WHERE id % 5 = 0", false),
    ("PRAGMA wal_checkpoint(RESTART); DELETE FROM t WHERE id % 7 = 0; PRAGMA wal_checkpoint(TRUNCATE)", false),
    // Overflow pages.
    (
        "INSERT INTO t SELECT 20000 + id, 'big ' || word, replace(printf('%.*c', 300, 'x'), 'x', word || bytes)
         FROM t LIMIT 5",
        false,
    ),
    ("CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f SELECT word FROM t", false),
    ("INSERT INTO f(f) VALUES ('optimize')", false),
    ("DELETE FROM t WHERE id % 2 = 0; VACUUM", true),
    ("CREATE TABLE [needle-7f3a-in-the-clear](a); INSERT INTO [needle-7f3a-in-the-clear] VALUES (1)", false),
];

/// Runs all statements. Returns the row count and a checksum of the final contents.
fn run_workload(fleet: &Fleet, recorder: &Recorder) -> (i64, i64) {
    let unnamed = || recorder.seen().writes.get(&Kind::Unnamed).copied().unwrap_or(0);
    let connection = fleet.connect_unfenced();
    for (sql, is_unnamed) in WORK {
        let before = unnamed();
        run(&connection, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(!is_unnamed || unnamed() > before + 5, "{sql}");
    }
    // A statement that fails after it has changed many rows.
    run(&connection, "BEGIN; UPDATE t SET word = word || ' again'").unwrap();
    let before = unnamed();
    run(
        &connection,
        "INSERT INTO t SELECT -id, CASE id WHEN 20001 THEN NULL ELSE 'new ' || word END, bytes FROM t",
    )
    .unwrap_err();
    run(&connection, "COMMIT").unwrap();
    assert!(unnamed() > before + 5);

    // A copy in rollback mode, which has a journal.
    let copy = fleet.dir.path().join("copy.db");
    connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    connection.execute("ATTACH ?1 AS copy", [copy.to_str().unwrap()]).unwrap();
    run(&connection, "PRAGMA copy.cache_size=10; PRAGMA copy.cache_spill=5").unwrap();
    run(&connection, "UPDATE copy.t SET word = word || '!'; BEGIN; DELETE FROM copy.t; ROLLBACK").unwrap();
    run(&connection, "INSERT INTO copy.t(id, word) VALUES (-1, 'in the copy'); DETACH copy").unwrap();

    crash_and_recover(fleet, connection);
    let connection = fleet.connect();
    assert_eq!(query::<String>(&connection, "PRAGMA integrity_check").unwrap(), "ok");
    let sum = "SELECT sum(id) + sum(length(word)) + sum(length(bytes)) FROM t";
    (query(&connection, "SELECT count(*) FROM t").unwrap(), query(&connection, sum).unwrap())
}

/// Leaves the files as a process that dies in a transaction would, and reopens them.
fn crash_and_recover(fleet: &Fleet, connection: Connection) {
    let crashed = fleet.dir.path().join("crashed");
    run(&connection, "BEGIN; UPDATE t SET word = word || ' lost'").unwrap();
    copy_files(&fleet.database_dir(), &crashed, &["data.db", "data.db-wal"]);
    assert!(fs::metadata(crashed.join("data.db-wal")).unwrap().len() > 100_000);
    drop(connection);
    copy_files(&crashed, &fleet.database_dir(), &["data.db", "data.db-wal"]);
    let recovered = fleet.connect();
    assert_eq!(query::<i64>(&recovered, "SELECT count(*) FROM t WHERE word LIKE '% lost'").unwrap(), 0);
    run(&recovered, "UPDATE t SET word = word || ' found'").unwrap();
}

/// The writes of one run, and its final contents.
fn recorded(cipher: Option<Cipher>, format: PageFormat) -> (Seen, (i64, i64)) {
    let fleet = Fleet::new(cipher, format);
    let mut needles = vec![NEEDLE.as_bytes()];
    needles.extend(cipher.map(key_bytes));
    let recorder = Arc::new(Recorder::new(fleet.dir.path(), &needles));
    let watch = fault_vfs::watch(Arc::clone(&recorder) as _);
    let rows = run_workload(&fleet, &recorder);
    drop(watch);
    let seen = std::mem::take(&mut *recorder.seen());
    for kind in [Kind::Data, Kind::Wal, Kind::Journal, Kind::Unnamed] {
        assert!(seen.writes.get(&kind).is_some_and(|writes| *writes > 100), "{cipher:?}: {:?}", seen.writes);
    }
    (seen, rows)
}

#[test]
fn no_plaintext_is_written_to_any_file() {
    let _turn = exclusive_turn();
    // A plain database writes plaintext to every kind of file, which shows that the recorder detects it.
    let (plain, expected) = recorded(None, PageFormat::Native);
    for kind in [Kind::Data, Kind::Wal, Kind::Journal, Kind::Unnamed] {
        assert!(plain.clear.get(&kind).is_some_and(|writes| *writes > 10), "{kind:?}: {:?}", plain.clear);
    }
    for (cipher, format) in [
        (Cipher::Aes256Gcm, PageFormat::Native),
        (Cipher::ChaCha20Poly1305, PageFormat::Native),
        (Cipher::Aegis128X2, PageFormat::Native),
        (Cipher::Aegis256, PageFormat::Native),
        (Cipher::Aegis256X2, PageFormat::Turso),
    ] {
        let (seen, rows) = recorded(Some(cipher), format);
        assert_eq!(seen.clear, BTreeMap::new(), "{cipher} {format}: {:?}", seen.example);
        assert_eq!(rows, expected, "{cipher} {format}");
        // Repeated writes of equal contents are sealed under new nonces.
        assert_eq!(seen.same_blocks, 0, "{cipher} {format}: {:?}", seen.writes);
    }
}
