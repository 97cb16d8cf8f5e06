//! A history that was off for a time: commits in that time are a gap, and verification reports no finding.

use std::{fs, os::unix::fs::FileExt};

use litefleet::{Cipher, VerifyOptions};

use crate::{
    maintain::{maintain, set_window},
    support::Ledger,
};

const CIPHERS: [Option<Cipher>; 2] = [None, Some(Cipher::Aegis256)];

fn verify(ledger: &Ledger) -> Vec<String> {
    let options = match &ledger.key {
        Some(key) => VerifyOptions::default().encryption_key(key.clone()),
        None => VerifyOptions::default(),
    };
    let verified = ledger.plane.verify_database("orders", options).unwrap();
    verified.findings.iter().map(ToString::to_string).collect()
}

fn with_table(cipher: Option<Cipher>) -> Ledger {
    let mut ledger = Ledger::new(cipher);
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    ledger.commit(&connection, "INSERT INTO t(value) VALUES (randomblob(3000))");
    ledger
}

#[test]
fn commits_while_history_is_off_are_no_finding() {
    for cipher in CIPHERS {
        for is_open in [false, true] {
            let mut ledger = with_table(cipher);
            let mut connection = ledger.connect();
            ledger.commit(&connection, "INSERT INTO t(value) VALUES ('kept')");
            if !is_open {
                drop(connection);
                connection = ledger.connect();
            }
            set_window(&ledger, "off");
            for step in ["", "PRAGMA wal_checkpoint(RESTART)", "", "PRAGMA wal_checkpoint(TRUNCATE)", ""] {
                if !step.is_empty() {
                    connection.query_row(step, [], |_| Ok(())).unwrap();
                }
                connection.execute_batch("INSERT INTO t(value) VALUES (randomblob(5000))").unwrap();
                assert_eq!(verify(&ledger), [""; 0], "{cipher:?}, open {is_open}: {step}");
            }
            drop(connection);
            assert_eq!(verify(&ledger), [""; 0], "{cipher:?}, open {is_open}");
            set_window(&ledger, "1h");
            assert_eq!(verify(&ledger), [""; 0], "{cipher:?}, open {is_open}");
            let connection = ledger.connect();
            ledger.commit(&connection, "INSERT INTO t(value) VALUES ('on')");
            assert_eq!(verify(&ledger), [""; 0], "{cipher:?}, open {is_open}");
            drop(connection);
            assert_eq!(verify(&ledger), [""; 0], "{cipher:?}, open {is_open}");
            let last = ledger.states.last().unwrap().clone();
            assert!(ledger.contents_at(last.from).unwrap() == last.contents);
        }
    }
}

#[test]
fn fully_pruned_history_is_no_finding() {
    for cipher in CIPHERS {
        for writes in [false, true] {
            let mut ledger = with_table(cipher);
            set_window(&ledger, "off");
            maintain(&ledger);
            assert_eq!(verify(&ledger), [""; 0], "{cipher:?}");
            if writes {
                ledger.connect().execute_batch("INSERT INTO t(value) VALUES ('off')").unwrap();
                assert_eq!(verify(&ledger), [""; 0], "{cipher:?}");
            }
            set_window(&ledger, "1h");
            let connection = ledger.connect();
            ledger.commit(&connection, "INSERT INTO t(value) VALUES ('on')");
            drop(connection);
            assert_eq!(verify(&ledger), [""; 0], "{cipher:?}");
        }
    }
}

#[test]
fn damage_is_found_after_history_was_off() {
    for cipher in CIPHERS {
        let mut ledger = with_table(cipher);
        let connection = ledger.connect();
        set_window(&ledger, "off");
        connection.execute_batch("INSERT INTO t(value) VALUES ('off')").unwrap();
        drop(connection);
        set_window(&ledger, "1h");
        let connection = ledger.connect();
        ledger.commit(&connection, "INSERT INTO t(value) VALUES (randomblob(5000))");
        drop(connection);
        assert_eq!(verify(&ledger), [""; 0], "{cipher:?}");
        // Damage that leaves the modification time unchanged, as a failing disk does.
        for file in ["data.db", "archive/000000000001.wal", "archive/000000000002.db"] {
            let path = ledger.database_dir().join(file);
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            let bytes = fs::read(&path).unwrap();
            let damaged = fs::File::options().write(true).open(&path).unwrap();
            damaged.write_all_at(&[bytes[5000] ^ 1], 5000).unwrap();
            damaged.set_modified(changed).unwrap();
            let found = verify(&ledger);
            assert!(found.iter().any(|finding| finding.contains(file)), "{cipher:?}: {file}: {found:?}");
            damaged.write_all_at(&bytes[5000..5001], 5000).unwrap();
            damaged.set_modified(changed).unwrap();
        }
        assert_eq!(verify(&ledger), [""; 0], "{cipher:?}");
    }
}
