//! No text of a row, no name of a table and no key stands in any write to any file, whatever SQLite does.

use std::{collections::BTreeMap, fs, sync::Arc};

use litefleet::{Cipher, PageFormat, rusqlite::Connection};

use crate::{
    disk::{self, Kind},
    recorder::{Recorder, Seen},
    vault::{Fleet, alone, ask, copy_files, key_bytes, run},
};

const NEEDLE: &str = "needle-7f3a-in-the-clear";

/// Statements that take SQLite to every file that it makes, and whether they write to files without a name.
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
    // Sorts that do not fit into memory, alone and with threads, and what is kept aside for DISTINCT and joins.
    ("SELECT * FROM t ORDER BY bytes, word DESC", true),
    ("PRAGMA threads=2; SELECT * FROM t ORDER BY word || bytes; PRAGMA threads=0", true),
    ("SELECT DISTINCT word || bytes FROM t", true),
    ("SELECT word FROM t UNION SELECT bytes || word FROM t ORDER BY 1", true),
    ("WITH v AS MATERIALIZED (SELECT word, bytes || bytes FROM t) SELECT count(*) FROM v JOIN v AS w USING (word)", true),
    // Temporary tables, and their own journal.
    ("CREATE TEMP TABLE x AS SELECT word, bytes FROM t; CREATE INDEX temp.ix ON x(word)", true),
    ("UPDATE x SET word = word || '!'; BEGIN; DELETE FROM x WHERE rowid % 2; ROLLBACK", true),
    // Statement journals: what a statement changed is kept until it is known to have succeeded.
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

/// Runs it all, and answers with what is in the database in the end.
fn work(fleet: &Fleet, recorder: &Recorder) -> (i64, i64) {
    let nameless = || recorder.seen().writes.get(&Kind::Nameless).copied().unwrap_or(0);
    let connection = fleet.connect_unfenced();
    for (sql, is_nameless) in WORK {
        let before = nameless();
        run(&connection, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(!is_nameless || nameless() > before + 5, "{sql}");
    }
    // A statement that fails when it has changed much already.
    run(&connection, "BEGIN; UPDATE t SET word = word || ' again'").unwrap();
    let before = nameless();
    run(
        &connection,
        "INSERT INTO t SELECT -id, CASE id WHEN 20001 THEN NULL ELSE 'new ' || word END, bytes FROM t",
    )
    .unwrap_err();
    run(&connection, "COMMIT").unwrap();
    assert!(nameless() > before + 5);

    // A copy, which is in rollback mode and so has a journal.
    let copy = fleet.dir.path().join("copy.db");
    connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    connection.execute("ATTACH ?1 AS copy", [copy.to_str().unwrap()]).unwrap();
    run(&connection, "PRAGMA copy.cache_size=10; PRAGMA copy.cache_spill=5").unwrap();
    run(&connection, "UPDATE copy.t SET word = word || '!'; BEGIN; DELETE FROM copy.t; ROLLBACK").unwrap();
    run(&connection, "INSERT INTO copy.t(id, word) VALUES (-1, 'in the copy'); DETACH copy").unwrap();

    crash_and_recover(fleet, connection);
    let connection = fleet.connect();
    assert_eq!(ask::<String>(&connection, "PRAGMA integrity_check").unwrap(), "ok");
    let sum = "SELECT sum(id) + sum(length(word)) + sum(length(bytes)) FROM t";
    (ask(&connection, "SELECT count(*) FROM t").unwrap(), ask(&connection, sum).unwrap())
}

/// Leaves the files as a process that dies would, in the middle of a transaction, and opens them again.
fn crash_and_recover(fleet: &Fleet, connection: Connection) {
    let crashed = fleet.dir.path().join("crashed");
    run(&connection, "BEGIN; UPDATE t SET word = word || ' lost'").unwrap();
    copy_files(&fleet.place(), &crashed, &["data.db", "data.db-wal"]);
    assert!(fs::metadata(crashed.join("data.db-wal")).unwrap().len() > 100_000);
    drop(connection);
    copy_files(&crashed, &fleet.place(), &["data.db", "data.db-wal"]);
    let recovered = fleet.connect();
    assert_eq!(ask::<i64>(&recovered, "SELECT count(*) FROM t WHERE word LIKE '% lost'").unwrap(), 0);
    run(&recovered, "UPDATE t SET word = word || ' found'").unwrap();
}

/// What was written meanwhile.
fn recorded(cipher: Option<Cipher>, format: PageFormat) -> (Seen, (i64, i64)) {
    let fleet = Fleet::new(cipher, format);
    let mut needles = vec![NEEDLE.as_bytes()];
    needles.extend(cipher.map(key_bytes));
    let recorder = Arc::new(Recorder::new(fleet.dir.path(), &needles));
    let watch = disk::watch(Arc::clone(&recorder) as _);
    let rows = work(&fleet, &recorder);
    drop(watch);
    let seen = std::mem::take(&mut *recorder.seen());
    for kind in [Kind::Data, Kind::Wal, Kind::Journal, Kind::Nameless] {
        assert!(seen.writes.get(&kind).is_some_and(|writes| *writes > 100), "{cipher:?}: {:?}", seen.writes);
    }
    (seen, rows)
}

#[test]
fn nothing_is_written_in_the_clear() {
    let _turn = alone();
    // Of a plain database everything is, in every kind of file: so the recorder would see it.
    let (plain, expected) = recorded(None, PageFormat::Native);
    for kind in [Kind::Data, Kind::Wal, Kind::Journal, Kind::Nameless] {
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
        // What is written again is sealed anew.
        assert_eq!(seen.same_blocks, 0, "{cipher} {format}: {:?}", seen.writes);
    }
}
