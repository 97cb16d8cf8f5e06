//! Indexes that a writer stores when a log ends: each equals the one that a reader derives from the log.

use std::{collections::BTreeMap, fs};

use litefleet::{Cipher, ConnectOptions, rusqlite::Connection};

use crate::{
    deltas::archive,
    power::checkpoint,
    support::{Ledger, files, foreign_connection, is_index},
};

/// Minimum length of a log for which a writer stores an index, with pages of 4 KiB.
const INDEXED_MIN: u64 = 32 + 16 * (24 + 4096);

/// The names of the segments without an index that are long enough for one.
fn without_index(ledger: &Ledger) -> Vec<String> {
    let archive = archive(ledger);
    let mut segments = files(&archive);
    segments.retain(|name| {
        name.strip_suffix(".wal").is_some_and(|number| {
            fs::metadata(archive.join(name)).unwrap().len() >= INDEXED_MIN
                && !archive.join(format!("{number}.index")).exists()
        })
    });
    segments
}

/// The contents of all indexes.
fn indexes(ledger: &Ledger) -> BTreeMap<String, Vec<u8>> {
    let names = files(&archive(ledger)).into_iter().filter(|name| is_index(name));
    names.map(|name| (name.clone(), fs::read(archive(ledger).join(name)).unwrap())).collect()
}

/// Checks that each index equals the one that the next reader derives from the log. Returns the number of indexes.
fn check_indexes(ledger: &mut Ledger) -> usize {
    let written = indexes(ledger);
    for name in written.keys() {
        fs::remove_file(archive(ledger).join(name)).unwrap();
    }
    ledger.check_all();
    let derived = indexes(ledger);
    for (name, index) in &written {
        assert!(derived.get(name) == Some(index), "{name} differs from the one that a reader derives");
    }
    written.len()
}

/// Transactions that spill their pages, write them again, and roll back to savepoints; and some that fail as a whole.
fn write_variously(ledger: &mut Ledger, connections: &[Connection]) {
    for connection in connections {
        connection.execute_batch("PRAGMA cache_size = 8; PRAGMA cache_spill = 8").unwrap();
    }
    ledger.commit(
        &connections[0],
        "BEGIN; CREATE TABLE t(id INTEGER PRIMARY KEY, value);
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 60)
         INSERT INTO t SELECT i, randomblob(2500) FROM n; COMMIT",
    );
    for round in 0..6 {
        let connection = &connections[round % connections.len()];
        ledger.commit(
            connection,
            "BEGIN; UPDATE t SET value = randomblob(2500); SAVEPOINT s; UPDATE t SET value = randomblob(2600) WHERE id % 3 = 0;
             ROLLBACK TO s; UPDATE t SET value = randomblob(2700) WHERE id % 2 = 0; UPDATE t SET value = randomblob(2500);
             COMMIT",
        );
        connection
            .execute_batch("BEGIN; UPDATE t SET value = randomblob(2400); DELETE FROM t; ROLLBACK")
            .unwrap();
        ledger.commit(connection, "UPDATE t SET value = randomblob(2500) WHERE id < 20");
        match round {
            1 => checkpoint(connection, "RESTART"),
            3 => checkpoint(connection, "TRUNCATE"),
            _ => {}
        }
    }
}

#[test]
fn writer_stores_the_index_that_a_reader_would_derive() {
    for cipher in [None, Some(Cipher::Aegis256)] {
        for count in [1, 2] {
            let mut ledger = Ledger::new(cipher);
            let connections: Vec<_> = (0..count).map(|_| ledger.connect()).collect();
            write_variously(&mut ledger, &connections);
            drop(connections);
            assert_eq!(without_index(&ledger), Vec::<String>::new(), "{cipher:?}, {count} connections");
            assert!(check_indexes(&mut ledger) >= 3, "{cipher:?}, {count} connections");
        }
    }
}

#[test]
fn writer_stores_no_index_of_frames_that_another_program_wrote() {
    let update = "UPDATE t SET value = randomblob(2500) WHERE id < 30";
    for checkpoint_mode in ["RESTART", "TRUNCATE"] {
        let mut ledger = Ledger::plain();
        let own = ledger.connect();
        write_variously(&mut ledger, std::slice::from_ref(&own));
        checkpoint(&own, checkpoint_mode);
        ledger.commit(&own, update);
        let foreign = foreign_connection(&ledger);
        // A transaction that is rolled back leaves frames in the place of the commits of the other program.
        own.execute_batch("BEGIN; UPDATE t SET value = randomblob(2400); DELETE FROM t; ROLLBACK").unwrap();
        foreign.execute_batch(update).unwrap();
        drop(foreign);
        ledger.commit(&own, update);
        checkpoint(&own, checkpoint_mode);
        // The next log is indexed again.
        ledger.commit(&own, update);
        drop(own);
        assert_eq!(without_index(&ledger).len(), 1, "{checkpoint_mode}");
    }
}

#[test]
fn short_logs_get_no_index_from_the_writer() {
    let ledger = Ledger::plain();
    for row in 0..5 {
        let connection = ledger.plane.connect("orders", ConnectOptions::default()).unwrap();
        connection
            .execute_batch(&format!("CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES ({row})"))
            .unwrap();
    }
    assert!(indexes(&ledger).is_empty());
}
