//! A database that is damaged or gone, and whose history is whole: what it was can be had all the same.

use std::{fs, os::unix::fs::FileExt, path::Path};

use litefleet::{Cipher, ConnectOptions, EncryptionKey, ErrorKind, ExportOptions, no_progress};

use crate::support::{Ledger, contents};

/// What becomes of the database file.
type Loss = (&'static str, fn(&Path));

const LOSSES: &[Loss] = &[
    ("the first page is written over", |data| {
        fs::File::options().write(true).open(data).unwrap().write_all_at(&[0x5a; 4096], 0).unwrap();
    }),
    ("all pages but the first are", |data| {
        let file = fs::File::options().write(true).open(data).unwrap();
        let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
        file.write_all_at(&vec![0x5a; len - 4096], 4096).unwrap();
    }),
    ("it is cut off", |data| fs::File::options().write(true).open(data).unwrap().set_len(1000).unwrap()),
    ("it is emptied", |data| fs::File::options().write(true).open(data).unwrap().set_len(0).unwrap()),
    ("it is removed", |data| fs::remove_file(data).unwrap()),
];

#[test]
fn what_a_database_was_is_had_when_it_is_damaged_or_gone() {
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
                let out = ledger.place().with_file_name("out.db");
                let mut options = ExportOptions::default().at(state.from);
                if let Some(key) = &ledger.key {
                    options = options.encryption_key(key.clone()).decrypt(true);
                }
                ledger.plane.export_database("orders", &out, &options, &mut no_progress).unwrap();
                let exported = litefleet::rusqlite::Connection::open(&out).unwrap();
                assert!(contents(&exported) == state.contents, "{context}");
                drop(exported);
                fs::remove_file(out).unwrap();
            }
            // A wrong key stays one.
            if let Some(cipher) = cipher {
                let wrong = EncryptionKey::from_bytes(&vec![8; cipher.key_len()]).unwrap();
                let options = ConnectOptions::default().encryption_key(wrong);
                let error = ledger.plane.connect_at("orders", ledger.states[2].from, &options).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WrongKey, "{context}");
            }
        }
    }
}

#[test]
fn an_instant_that_the_first_stamps_told_of_is_refused_by_their_name() {
    let mut ledger = Ledger::plain();
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    for _ in 0..2 {
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        ledger.commit(&connection, "INSERT INTO t(value) VALUES (1)");
    }
    drop(connection);
    let stamps = "archive/000000000001.stamps";
    fs::remove_file(ledger.place().join(stamps)).unwrap();
    let error = ledger.viewed_at(ledger.states[0].from).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(stamps), "{error}");
}
