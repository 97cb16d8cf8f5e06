//! A database larger than 1 GiB: SQLite never uses the page with its lock bytes, so the page is never sealed.
//!
//! Pages of 64 KiB keep this fast. The test needs 3 GB of disk space.

use std::{fs, os::unix::fs::FileExt};

use litefleet::{Cipher, CreateDatabaseInput, RemoteEncryption, rusqlite::Connection};

use crate::{
    encryption::{another_key, key, with_key},
    support::{Fleet, count},
};

const LOCK_BYTES: u64 = 1 << 30;

/// Adds rows until the file extends beyond the lock bytes, with rows to check before and after them.
fn fill(connection: &Connection) {
    connection
        .execute_batch(
            "PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, body BLOB);
             INSERT INTO t VALUES (1, 'before', zeroblob(1000000)), (2, 'filler', zeroblob(530000000)),
                 (3, 'filler', zeroblob(530000000))",
        )
        .unwrap();
    // Small rows across the boundary, and long ones after it, with recognisable contents.
    connection
        .execute_batch(
            "WITH RECURSIVE n(i) AS (VALUES (10) UNION ALL SELECT i + 1 FROM n WHERE i < 400)
             INSERT INTO t SELECT i, 'row ' || i, CAST(printf('%.*c', 40000 + i, char(65 + i % 26)) AS BLOB) FROM n",
        )
        .unwrap();
}

/// Checks every row, and the integrity of the file.
fn check(connection: &Connection) {
    let rows = "SELECT count(*) FROM t
                WHERE body = CAST(printf('%.*c', 40000 + id, char(65 + id % 26)) AS BLOB) AND word = 'row ' || id";
    assert_eq!(count(connection, rows), 391);
    assert_eq!(count(connection, "SELECT sum(length(body)) FROM t WHERE id < 10"), 1_061_000_000);
    let pages = count(connection, "SELECT page_count FROM pragma_page_count");
    assert!(pages * 65_536 > 1 << 30, "{pages}");
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

/// Checks that the lock-byte page contains only zeros.
fn lock_page_is_empty(fleet: &Fleet, name: &str) {
    let mut page = vec![1; 65_536];
    let file = fs::File::open(fleet.plane.database_path(name).unwrap()).unwrap();
    file.read_exact_at(&mut page, LOCK_BYTES).unwrap();
    assert!(page.iter().all(|byte| *byte == 0), "{name}");
}

#[test]
fn database_larger_than_1_gib_skips_the_lock_byte_page() {
    let cipher = Cipher::Aegis128X2;
    let fleet = Fleet::new();
    let seed = fleet.dir.path().join("seed.db");
    Connection::open(&seed).unwrap().execute_batch("PRAGMA page_size=65536; VACUUM").unwrap();
    let encryption = RemoteEncryption::new(key(cipher), cipher).unwrap();
    let input = CreateDatabaseInput::new("big", "default").with_encryption(encryption);
    fleet.plane.import_database(input, seed.as_path()).unwrap();
    let connection = fleet.unlock("big", cipher);
    fill(&connection);
    check(&connection);
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    let connection = fleet.unlock("big", cipher);
    check(&connection);
    drop(connection);
    lock_page_is_empty(&fleet, "big");

    // Equal reserved bytes are copied page by page; otherwise all rows are rewritten.
    for (name, to) in [("same", Cipher::Aegis128X4), ("other", Cipher::Aegis256X2)] {
        let encryption = RemoteEncryption::new(another_key(to), to).unwrap();
        let fork =
            CreateDatabaseInput::fork(name, "big").with_encryption(encryption).with_source_key(key(cipher));
        fleet.plane.create_database(fork).unwrap();
        check(&fleet.plane.connect(name, with_key(another_key(to))).unwrap());
        lock_page_is_empty(&fleet, name);
        fleet.plane.destroy_database(name).unwrap();
    }
}
