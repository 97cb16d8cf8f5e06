//! A database file that is cut to nothing while a connection is open: nobody may take it for a new one.

use std::{fs, path::Path, process::Command};

use litefleet::{Cipher, ErrorKind, PageFormat, explain, rusqlite::Connection};

use crate::{
    support::{Fleet, count, refused},
    vault::{copy_files, key, with_key},
};

const CIPHER: Cipher = Cipher::Aegis256;

/// Cuts a file, as a process of its own: this one must not close what SQLite has locked.
fn cut(path: &Path) {
    assert!(Command::new("truncate").arg("--size=0").arg(path).status().unwrap().success());
}

fn kind(connection: &Connection, sql: &str) -> Option<ErrorKind> {
    connection.execute_batch(sql).err().map(|error| explain(connection, error).kind())
}

fn assert_not_opened(fleet: &Fleet) {
    let (kind, text) = refused(fleet.plane.connect("vault", &with_key(key(CIPHER))));
    assert!(kind == ErrorKind::Corrupt && text.contains("put back the one that was here"), "{kind}: {text}");
}

/// A table in the file, and a row in the log if there is to be one; and a connection with nothing in its cache.
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
fn a_file_that_was_emptied_under_an_open_database_is_not_a_new_one() {
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
                let place = fleet.place("vault");
                let copy = fleet.dir.path().join("copy");
                copy_files(&place, &copy, &["data.db"]);
                cut(&place.join("data.db"));
                // Page 1 and what was made last are in the log, if there is one. What is in neither is missed.
                if !logged {
                    assert_eq!(kind(&connection, sql), Some(ErrorKind::Corrupt), "{format} {sql}");
                }
                assert_eq!(kind(&connection, "SELECT * FROM t"), Some(ErrorKind::Corrupt), "{format} {sql}");
                assert_not_opened(&fleet);
                let _may_fail = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
                drop(connection);
                // The last to close wrote nothing, so that all is there again with the file.
                assert_eq!(fs::metadata(place.join("data.db")).unwrap().len(), 0, "{format} {sql} {logged}");
                assert_not_opened(&fleet);
                copy_files(&copy, &place, &["data.db"]);
                let again = fleet.unlock("vault", CIPHER);
                assert_eq!(count(&again, "SELECT count(*) FROM t"), 1);
                let tables = count(&again, "SELECT count(*) FROM sqlite_schema");
                assert_eq!(tables, 1 + i64::from(logged), "{format} {sql}");
            }
        }
    }
}
