//! A database file that is damaged or missing, with an intact history: every instant can be restored and exported.

use std::{fs, os::unix::fs::FileExt, path::Path};

use litefleet::{Cipher, ConnectOptions, EncryptionKey, ErrorKind, ExportOptions};

use crate::support::{Ledger, contents};

/// A kind of damage to the database file.
type Loss = (&'static str, fn(&Path));

const LOSSES: &[Loss] = &[
    ("first page overwritten", |data| {
        fs::File::options().write(true).open(data).unwrap().write_all_at(&[0x5a; 4096], 0).unwrap();
    }),
    ("all pages but the first overwritten", |data| {
        let file = fs::File::options().write(true).open(data).unwrap();
        let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
        file.write_all_at(&vec![0x5a; len - 4096], 4096).unwrap();
    }),
    ("truncated", |data| fs::File::options().write(true).open(data).unwrap().set_len(1000).unwrap()),
    ("emptied", |data| fs::File::options().write(true).open(data).unwrap().set_len(0).unwrap()),
    ("removed", |data| fs::remove_file(data).unwrap()),
];

#[test]
fn history_restores_a_damaged_or_missing_database() {
    for cipher in [None, Some(Cipher::Aegis256)] {
        for (loss, lose) in LOSSES {
            let context = format!("{cipher:?}: {loss}");
            let mut ledger = Ledger::new(cipher);
            let connection = ledger.connect();
            ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
            for _ in 0..3 {
                ledger.commit(&connection, "INSERT INTO t(value) VALUES (randomblob(9000))");
                connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
            }
            drop(connection);
            let data = ledger.plane.database_path("orders").unwrap();
            lose(&data);
            for state in [2, 3] {
                let state = ledger.states[state].clone();
                let restored =
                    ledger.restored_at(state.from).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(restored == state.contents, "{context}");
                let out = ledger.database_dir().with_file_name("out.db");
                let mut options = ExportOptions::default().at(state.from);
                if let Some(key) = &ledger.key {
                    options = options.encryption_key(key.clone()).decrypt(true);
                }
                ledger.plane.export_database("orders", &out, options).unwrap();
                let exported = litefleet::rusqlite::Connection::open(&out).unwrap();
                assert!(contents(&exported) == state.contents, "{context}");
                drop(exported);
                fs::remove_file(out).unwrap();
            }
            // A wrong key is still reported as one.
            if let Some(cipher) = cipher {
                let wrong = EncryptionKey::from_bytes(&vec![8; cipher.key_len()]).unwrap();
                let options = ConnectOptions::default().encryption_key(wrong);
                let error =
                    ledger.plane.connect_at("orders", ledger.states[2].from, options.clone()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WrongKey, "{context}");
            }
        }
    }
}

#[test]
fn instant_in_missing_first_stamps_names_their_file() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    for _ in 0..2 {
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        ledger.commit(&connection, "INSERT INTO t(value) VALUES (1)");
    }
    drop(connection);
    let stamps = "archive/000000000001.stamps";
    fs::remove_file(ledger.database_dir().join(stamps)).unwrap();
    let error = ledger.viewed_at(ledger.states[0].from).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(stamps), "{error}");
}
