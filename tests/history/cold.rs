//! A history of which the system has nothing in memory any more.

use std::fs::{self, File};

use litefleet::Cipher;
use rustix::fs::{Advice, fadvise};

use crate::support::{Ledger, is_index};

/// Lets the system forget what it has in memory of the archive.
fn forget(ledger: &Ledger) {
    for entry in fs::read_dir(ledger.place().join("archive")).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
}

fn remove_indexes(ledger: &Ledger) {
    for entry in fs::read_dir(ledger.place().join("archive")).unwrap() {
        let entry = entry.unwrap();
        if is_index(entry.file_name().to_str().unwrap()) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn what_is_read_from_the_disk_is_what_was_in_memory() {
    for cipher in [None, Some(Cipher::Aegis128L)] {
        let mut ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        ledger.commit(
            &connection,
            "BEGIN; CREATE TABLE t(id INTEGER PRIMARY KEY, value);
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO t SELECT i, randomblob(3000) FROM n; COMMIT",
        );
        // The versions of each page's neighbours are in other logs.
        for log in 1..10 {
            connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
            let update = format!("UPDATE t SET value = randomblob(3000) WHERE id * 7 % 10 = {log}");
            ledger.commit(&connection, &update);
        }
        drop(connection);
        let instants: Vec<_> = ledger.states.iter().skip(1).map(|state| state.from).collect();
        for at in [instants[9], instants[5], instants[1]] {
            let wanted = ledger.states.iter().find(|state| state.from == at).unwrap().contents.clone();
            for keeps_indexes in [false, true] {
                if !keeps_indexes {
                    remove_indexes(&ledger);
                }
                forget(&ledger);
                assert!(ledger.viewed_at(at).unwrap() == wanted, "viewed, with indexes: {keeps_indexes}");
                forget(&ledger);
                assert!(ledger.restored_at(at).unwrap() == wanted, "restored, with indexes: {keeps_indexes}");
            }
        }
    }
}
