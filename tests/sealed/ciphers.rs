//! Every cipher in every page format: rows are read back, also after a crash, and no plaintext reaches the disk.

use litefleet::{Cipher, ConnectOptions, Error, ErrorKind, PageFormat, rusqlite::Connection};

use crate::{
    encryption::{NEEDLE, another_key, copy_files, formats, holds, key, with_key},
    support::{Fleet, contents, count, refused},
};

/// Statements that exercise the WAL: spills of a small cache, frames rewritten within their transaction, savepoints,
/// checkpoints, growth and shrinking.
const WORK: &[&str] = &[
    "PRAGMA cache_size=5; PRAGMA cache_spill=2",
    "CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, bytes BLOB); CREATE INDEX i ON t(word)",
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 600)
     INSERT INTO t SELECT i, 'needle-7f3a-in-the-clear ' || i, randomblob(i % 300) FROM n",
    "BEGIN; UPDATE t SET word = word || '!' WHERE id % 3 = 0; UPDATE t SET word = word || '?' WHERE id % 2 = 0;
     SAVEPOINT s; DELETE FROM t WHERE id < 100; ROLLBACK TO s; UPDATE t SET bytes = zeroblob(5000) WHERE id = 7; COMMIT",
    "PRAGMA wal_checkpoint(PASSIVE)",
    "BEGIN; DELETE FROM t WHERE id > 500; INSERT INTO t SELECT id + 1000, word, bytes FROM t; ROLLBACK",
    "INSERT INTO t SELECT id + 1000, word, bytes FROM t WHERE id < 50",
    "PRAGMA wal_checkpoint(RESTART)",
    "CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f SELECT word FROM t",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "DELETE FROM t WHERE id % 5 = 0; VACUUM",
    "CREATE VIRTUAL TABLE r USING rtree(id, a, b); INSERT INTO r SELECT id, id, id + 1 FROM t",
];

fn run_workload(connection: &Connection) {
    for sql in WORK {
        for statement in sql.split(';') {
            let mut prepared = connection.prepare(statement).unwrap();
            let mut rows = prepared.query([]).unwrap();
            while rows.next().unwrap().is_some() {}
        }
    }
}

#[test]
fn rows_survive_a_crash_and_never_reach_disk_in_plaintext() {
    for cipher in Cipher::ALL {
        for format in formats(*cipher) {
            let fleet = Fleet::new();
            fleet.create_sealed("vault", *cipher, format);
            let connection = fleet.unlock("vault", *cipher);
            run_workload(&connection);
            connection.execute_batch("INSERT INTO t(word) VALUES ('the last one')").unwrap();
            let (before, dir) = (contents(&connection), fleet.database_dir("vault"));
            assert!(before["t"].len() > 400);

            // A crash at this moment: recovery restores every committed row.
            let crashed = fleet.dir.path().join("crashed");
            copy_files(&dir, &crashed, &["data.db", "data.db-wal"]);
            assert!(!holds(fleet.dir.path(), NEEDLE), "{cipher} {format}");
            drop(connection);
            assert!(!holds(fleet.dir.path(), NEEDLE), "{cipher} {format}");
            assert!(contents(&fleet.unlock("vault", *cipher)) == before, "{cipher} {format}");
            copy_files(&crashed, &dir, &["data.db", "data.db-wal"]);
            let recovered = fleet.unlock("vault", *cipher);
            assert!(contents(&recovered) == before, "{cipher} {format}");
            assert_eq!(
                recovered.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(),
                "ok"
            );
            assert!(count(&recovered, "SELECT count(*) FROM f WHERE f MATCH 'needle'") > 400);
        }
    }
}

#[test]
fn missing_and_wrong_keys_are_distinguished() {
    for cipher in Cipher::ALL {
        for format in formats(*cipher) {
            let fleet = Fleet::new();
            fleet.create_sealed("vault", *cipher, format);
            fleet.unlock("vault", *cipher).execute_batch("CREATE TABLE t(a)").unwrap();
            let (kind, text) = refused(fleet.plane.connect("vault", ConnectOptions::default()));
            assert_eq!((kind, text.contains(cipher.as_str())), (ErrorKind::KeyRequired, true), "{text}");
            let (kind, text) = refused(fleet.plane.connect("vault", with_key(another_key(*cipher))));
            assert_eq!(kind, ErrorKind::WrongKey, "{cipher} {format}: {text}");
            let other = Cipher::ALL.iter().find(|other| other.key_len() != cipher.key_len()).unwrap();
            let (kind, text) = refused(fleet.plane.connect("vault", with_key(key(*other))));
            assert_eq!(kind, ErrorKind::Invalid);
            assert!(text.contains(&format!("expected {} bytes", cipher.key_len())), "{text}");
            // Plain SQLite cannot read it.
            let foreign = Connection::open(fleet.plane.database_path("vault").unwrap()).unwrap();
            let error = foreign.query_row("SELECT * FROM sqlite_schema", [], |_| Ok(())).unwrap_err();
            assert!(error.to_string().contains("not a database"), "{error}");
        }
    }
}

#[test]
fn key_for_a_plain_database_is_refused() {
    let fleet = Fleet::new();
    fleet.create("plain");
    let (kind, text) = refused(fleet.plane.connect("plain", with_key(key(Cipher::Aegis256))));
    assert_eq!(
        (kind, text.as_str()),
        (ErrorKind::Invalid, "database plain is not encrypted: leave the encryption key out")
    );
}

#[test]
fn invalid_file_of_encrypted_database_is_not_opened() {
    let fleet = Fleet::new();
    fleet.create("plain");
    fleet.run("plain", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    fleet.create_sealed("vault", Cipher::Aegis256, Default::default());
    fleet.create_sealed("other", Cipher::Aes256Gcm, Default::default());
    let data = fleet.plane.database_path("vault").unwrap();
    let original = std::fs::read(&data).unwrap();
    let plain = std::fs::read(fleet.plane.database_path("plain").unwrap()).unwrap();
    let other = std::fs::read(fleet.plane.database_path("other").unwrap()).unwrap();
    let mut newer = original.clone();
    newer[6] = 9;
    for (bytes, says) in [
        (plain, "plain SQLite file"),
        (other, "header says aes256gcm"),
        (Vec::new(), "empty"),
        (original[..50].to_vec(), "shorter than a header"),
        (newer, "version 9 of the native page format"),
        (vec![7; 4096], "not a SQLite database"),
    ] {
        std::fs::write(&data, bytes).unwrap();
        let (kind, text) = refused(fleet.plane.connect("vault", with_key(key(Cipher::Aegis256))));
        assert_eq!(kind, ErrorKind::Corrupt, "{text}");
        assert!(text.contains(says), "{text}");
    }
    std::fs::write(&data, original).unwrap();
    fleet.unlock("vault", Cipher::Aegis256);
}

#[test]
fn error_names_the_damaged_page() {
    let fleet = Fleet::new();
    fleet.create_sealed("vault", Cipher::Aegis256X2, Default::default());
    let connection = fleet.unlock("vault", Cipher::Aegis256X2);
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(50000))").unwrap();
    drop(connection);
    let data = fleet.plane.database_path("vault").unwrap();
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[4 * 4096 + 17] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let connection = fleet.unlock("vault", Cipher::Aegis256X2);
    let error = connection.query_row("SELECT a FROM t", [], |row| row.get::<_, Vec<u8>>(0)).unwrap_err();
    let error = Error::from_sqlite(&connection, error);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.to_string().contains("page 5 in") && error.to_string().contains("data.db is damaged"),
        "{error}"
    );
}

#[test]
fn truncated_file_beside_a_wal_is_corruption_not_zeros() {
    for format in [PageFormat::Native, PageFormat::Turso] {
        let fleet = Fleet::new();
        fleet.create_sealed("vault", Cipher::Aegis256, format);
        let connection = fleet.unlock("vault", Cipher::Aegis256);
        connection
            .execute_batch(
                "CREATE TABLE t(a); INSERT INTO t VALUES (replace(hex(zeroblob(9000)), '00', 'word'));
                 PRAGMA wal_checkpoint(TRUNCATE); CREATE TABLE other(a)",
            )
            .unwrap();
        let (dir, crashed) = (fleet.database_dir("vault"), fleet.dir.path().join("crashed"));
        copy_files(&dir, &crashed, &["data.db", "data.db-wal"]);
        drop(connection);
        // The last overflow page of the row is the last page of the file. Its next-page number is zero, as it would
        // be in a page of zeros.
        let whole = std::fs::read(crashed.join("data.db")).unwrap();
        for (cut, zeros) in [(4096, 0), (4096, 100), (4096, 4096), (1, 0)] {
            let mut bytes = whole[..whole.len() - cut].to_vec();
            bytes.extend(vec![0; zeros]);
            std::fs::write(crashed.join("data.db"), &bytes).unwrap();
            copy_files(&crashed, &dir, &["data.db", "data.db-wal"]);
            let connection = fleet.unlock("vault", Cipher::Aegis256);
            let is_whole = "SELECT a = replace(hex(zeroblob(9000)), '00', 'word') FROM t";
            let error = connection.query_row(is_whole, [], |row| row.get::<_, bool>(0)).unwrap_err();
            assert_eq!(
                Error::from_sqlite(&connection, error).kind(),
                ErrorKind::Corrupt,
                "{format} {cut} {zeros}"
            );
        }
    }
}
