//! Restores that read every byte from disk: the page cache of the operating system holds none of the archive.

use std::fs::{self, File};

use litefleet::Cipher;
use rustix::fs::{Advice, fadvise};

use crate::support::{Ledger, is_index};

/// Drops the archive from the page cache.
fn drop_page_cache(ledger: &Ledger) {
    for entry in fs::read_dir(ledger.database_dir().join("archive")).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
}

fn remove_indexes(ledger: &Ledger) {
    for entry in fs::read_dir(ledger.database_dir().join("archive")).unwrap() {
        let entry = entry.unwrap();
        if is_index(entry.file_name().to_str().unwrap()) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn restore_with_cold_cache_equals_restore_with_warm_cache() {
    for cipher in [None, Some(Cipher::Aegis128L)] {
        let mut ledger = Ledger::new(cipher);
        let connection = ledger.connect();
        ledger.commit(
            &connection,
            "BEGIN; CREATE TABLE t(id INTEGER PRIMARY KEY, value);
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO t SELECT i, randomblob(3000) FROM n; COMMIT",
        );
        // Consecutive pages have their newest versions in different segments, so that reads are scattered.
        for log in 1..10 {
            connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
            let update = format!("UPDATE t SET value = randomblob(3000) WHERE id * 7 % 10 = {log}");
            ledger.commit(&connection, &update);
        }
        drop(connection);
        let instants: Vec<_> = ledger.states.iter().skip(1).map(|state| state.from).collect();
        for at in [instants[9], instants[5], instants[1]] {
            let expected = ledger.states.iter().find(|state| state.from == at).unwrap().contents.clone();
            for keeps_indexes in [false, true] {
                if !keeps_indexes {
                    remove_indexes(&ledger);
                }
                drop_page_cache(&ledger);
                assert!(ledger.viewed_at(at).unwrap() == expected, "viewed, with indexes: {keeps_indexes}");
                drop_page_cache(&ledger);
                assert!(
                    ledger.restored_at(at).unwrap() == expected,
                    "restored, with indexes: {keeps_indexes}"
                );
            }
        }
    }
}
