//! A database file that is truncated to nothing while a connection is open must not be mistaken for a new database.

use std::{fs, path::Path, process::Command};

use litefleet::{Cipher, Error, ErrorKind, PageFormat, rusqlite::Connection};

use crate::{
    encryption::{copy_files, key, with_key},
    support::{Fleet, count, refused},
};

const CIPHER: Cipher = Cipher::Aegis256;

/// Truncates a file in another process: closing a descriptor here would release SQLite's locks.
fn truncate(path: &Path) {
    assert!(Command::new("truncate").arg("--size=0").arg(path).status().unwrap().success());
}

fn kind(connection: &Connection, sql: &str) -> Option<ErrorKind> {
    connection.execute_batch(sql).err().map(|error| Error::from_sqlite(connection, error).kind())
}

fn assert_not_opened(fleet: &Fleet) {
    let (kind, text) = refused(fleet.plane.connect("vault", with_key(key(CIPHER))));
    assert!(kind == ErrorKind::Corrupt && text.contains("put back the one that was here"), "{kind}: {text}");
}

/// A database with a table in the file and, with `logged`, another in the WAL; and a connection with an empty cache.
fn fleet(format: PageFormat, logged: bool) -> (Fleet, Connection) {
    let fleet = Fleet::new();
    fleet.create_sealed("vault", CIPHER, format);
    fleet.unlock("vault", CIPHER).execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let connection = fleet.unlock("vault", CIPHER);
    if logged {
        connection.execute_batch("CREATE TABLE u(a); INSERT INTO u VALUES (1)").unwrap();
    }
    connection.execute_batch("PRAGMA shrink_memory").unwrap();
    (fleet, connection)
}

#[test]
fn file_emptied_under_an_open_database_is_corruption() {
    for format in [PageFormat::Native, PageFormat::Turso] {
        for sql in [
            "SELECT * FROM t",
            "SELECT * FROM sqlite_schema",
            "INSERT INTO t VALUES (2)",
            "CREATE TABLE u(a)",
            "PRAGMA user_version=4",
            "PRAGMA integrity_check",
            "VACUUM",
        ] {
            for logged in [false, true] {
                let (fleet, connection) = fleet(format, logged);
                let dir = fleet.database_dir("vault");
                let copy = fleet.dir.path().join("copy");
                copy_files(&dir, &copy, &["data.db"]);
                truncate(&dir.join("data.db"));
                // With a WAL, page 1 and the newest pages are still readable. Pages in neither file are missing.
                if !logged {
                    assert_eq!(kind(&connection, sql), Some(ErrorKind::Corrupt), "{format} {sql}");
                }
                assert_eq!(kind(&connection, "SELECT * FROM t"), Some(ErrorKind::Corrupt), "{format} {sql}");
                assert_not_opened(&fleet);
                let _may_fail = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
                drop(connection);
                // Closing the last connection writes nothing, so restoring the file restores the database.
                assert_eq!(fs::metadata(dir.join("data.db")).unwrap().len(), 0, "{format} {sql} {logged}");
                assert_not_opened(&fleet);
                copy_files(&copy, &dir, &["data.db"]);
                let again = fleet.unlock("vault", CIPHER);
                assert_eq!(count(&again, "SELECT count(*) FROM t"), 1);
                let tables = count(&again, "SELECT count(*) FROM sqlite_schema");
                assert_eq!(tables, 1 + i64::from(logged), "{format} {sql}");
            }
        }
    }
}
