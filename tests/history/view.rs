//! Read-only connections to the database as of an instant.

use std::{fs, os::unix::fs::FileExt};

use litefleet::{Cipher, ConnectOptions, EncryptionKey, Error, ErrorKind};

use crate::support::{Ledger, contents, now};

fn with_rows(cipher: Option<Cipher>) -> Ledger {
    let mut ledger = Ledger::new(cipher);
    let connection = ledger.connect();
    ledger.commit(&connection, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    for _ in 0..20 {
        ledger.commit(&connection, "INSERT INTO t(value) VALUES (randomblob(3000))");
    }
    ledger
}

#[test]
fn view_is_stable_across_checkpoints() {
    for cipher in [None, Some(Cipher::Aegis128X2)] {
        let mut ledger = with_rows(cipher);
        let connections = [ledger.connect(), ledger.connect()];
        let states = ledger.states.clone();
        let views: Vec<_> = states
            .iter()
            .map(|state| ledger.plane.connect_at("orders", state.from, ledger.options()).unwrap().0)
            .collect();
        for round in 0..12 {
            let writer = &connections[round % 2];
            ledger.commit(writer, "UPDATE t SET value = randomblob(2900)");
            let mode = ["RESTART", "TRUNCATE", "PASSIVE"][round % 3];
            writer.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
        }
        drop(connections);
        for (view, state) in views.iter().zip(&states) {
            assert!(contents(view) == state.contents);
            let check: String = view.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok");
        }
    }
}

#[test]
fn view_is_read_only() {
    for cipher in [None, Some(Cipher::Aegis256)] {
        let ledger = with_rows(cipher);
        let (view, _) = ledger.plane.connect_at("orders", now(), ledger.options()).unwrap();
        for sql in ["INSERT INTO t(value) VALUES (1)", "DROP TABLE t", "VACUUM"] {
            let error = view.execute_batch(sql).unwrap_err().to_string();
            assert!(error.contains("readonly"), "{sql}: {error}");
        }
        // Temporary tables and sorts work.
        view.execute_batch("CREATE TEMP TABLE mine AS SELECT * FROM t").unwrap();
        let sorted: i64 = view
            .query_row("SELECT count(*) FROM (SELECT * FROM mine ORDER BY value)", [], |row| row.get(0))
            .unwrap();
        assert_eq!(sorted, 20);
    }
}

#[test]
fn view_of_encrypted_database_requires_its_key() {
    let ledger = with_rows(Some(Cipher::Aegis256));
    let none = ledger.plane.connect_at("orders", now(), ConnectOptions::default());
    assert_eq!(none.unwrap_err().kind(), ErrorKind::KeyRequired);
    let other = ConnectOptions::default().encryption_key(EncryptionKey::from_bytes(&[8; 32]).unwrap());
    let wrong = ledger.plane.connect_at("orders", now(), other.clone());
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::WrongKey);
}

#[test]
fn damaged_page_error_names_its_frame() {
    for cipher in [None, Some(Cipher::Aegis256)] {
        let mut ledger = with_rows(cipher);
        // Read the segment once while it is intact, so that its index exists.
        let at = ledger.states.last().unwrap().from;
        drop(ledger.plane.connect_at("orders", at, ledger.options()).unwrap());
        let segment = ledger.database_dir().join("archive/000000000001.wal");
        let file = fs::OpenOptions::new().write(true).read(true).open(&segment).unwrap();
        let middle = file.metadata().unwrap().len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, middle).unwrap();
        file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
        let (view, _) = ledger.plane.connect_at("orders", at, ledger.options()).unwrap();
        let error = view.query_row("SELECT sum(length(value)) FROM t", [], |_| Ok(())).unwrap_err();
        let error = Error::from_sqlite(&view, error);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("000000000001.wal is damaged: the checksum of frame"), "{error}");
        let error = ledger.restore(at).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("the checksum of frame"), "{error}");
    }
}
