//! Imports of files from other programs and engines: what this SQLite does not know is reported, and what it would
//! refuse is refused.

use std::{fs, io::Cursor, path::Path};

use litefleet::{
    Cipher, CreateDatabaseInput, EncryptionKey, ErrorKind, RemoteEncryption, Seed, Upload, UploadOptions,
    rusqlite::{Connection, functions::FunctionFlags},
};

use crate::{
    import::{file, input},
    support::{Fleet, count, refused},
};

fn sealed(name: &str) -> CreateDatabaseInput {
    let key = EncryptionKey::from_bytes(&[0x5a; 32]).unwrap();
    input(name).with_encryption(RemoteEncryption::new(key, Cipher::Aegis256X2).unwrap())
}

/// Full-text tables with tokenizers that only their own programs provide.
fn with_tokenizers(path: &Path) {
    let connection = Connection::open(path).unwrap();
    for (name, made, declared) in [
        ("f5", "fts5(a)", "fts5(a, tokenize=''signal_tokenizer'')"),
        ("f4", "fts4(a)", "fts4(a, tokenize=icu tr_TR)"),
        ("known", "fts5(a)", "fts5(a)"),
    ] {
        connection
            .execute_batch(&format!(
                "CREATE VIRTUAL TABLE {name} USING {made}; INSERT INTO {name} VALUES ('hello world');
                 PRAGMA writable_schema=ON;
                 UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE {name} USING {declared}' WHERE name = '{name}';
                 PRAGMA writable_schema=OFF"
            ))
            .unwrap();
    }
    connection
        .execute_batch(
            "PRAGMA writable_schema=ON;
             INSERT INTO sqlite_schema VALUES ('table', 'ghost', 'ghost', 0, 'CREATE VIRTUAL TABLE ghost USING absent(a)');
             CREATE TABLE m(b); INSERT INTO m VALUES (1)",
        )
        .unwrap();
}

#[test]
fn import_reports_unknown_tokenizers_and_modules() {
    let fleet = Fleet::new();
    let path = fleet.dir.path().join("signal");
    with_tokenizers(&path);
    for made in [input("plain"), sealed("vault")] {
        let name = made.name.clone();
        let mut unchecked = fleet.plane.import_database(made, path.as_path()).unwrap().unchecked;
        unchecked.sort();
        assert_eq!(unchecked.len(), 3, "{unchecked:?}");
        assert!(
            unchecked[0].starts_with("the virtual table f4, USING fts4(a, tokenize=icu tr_TR): "),
            "{unchecked:?}"
        );
        assert!(
            unchecked[1].starts_with("the virtual table f5, USING fts5(a, tokenize='signal_tokenizer'): "),
            "{unchecked:?}"
        );
        assert!(
            unchecked[2].starts_with("the virtual table ghost, USING absent(a): no such module"),
            "{unchecked:?}"
        );
        if name == "plain" {
            assert_eq!(count(&fleet.connect("plain"), "SELECT count(*) FROM known('hello')"), 1);
            assert_eq!(count(&fleet.connect("plain"), "SELECT count(*) FROM f5_content"), 1);
        }
    }
    // An upload to a draft reports them too.
    fleet.plane.create_database(input("draft").with_seed(Seed::DatabaseUpload)).unwrap();
    let uploaded = fleet
        .plane
        .upload_database("draft", &mut fs::File::open(&path).unwrap(), UploadOptions::default())
        .unwrap();
    assert_eq!(uploaded.unchecked.len(), 3);

    // Other tables are still checked.
    Connection::open(&path).unwrap().execute_batch("DELETE FROM known_data WHERE id > 10").unwrap();
    for made in [input("a"), sealed("a")] {
        assert_eq!(refused(fleet.plane.import_database(made, path.as_path())).0, ErrorKind::Corrupt);
    }
    fleet.assert_no_debris();
}

#[test]
fn import_reports_indexes_with_unknown_collations_and_functions() {
    let fleet = Fleet::new();
    let path = fleet.dir.path().join("program");
    let connection = Connection::open(&path).unwrap();
    connection.create_collation("mine", |a: &str, b: &str| b.cmp(a)).unwrap();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("own", 1, flags, |_| Ok(7)).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE c(a COLLATE mine); CREATE INDEX ci ON c(a); INSERT INTO c VALUES ('x'), ('a');
             CREATE TABLE f(a); CREATE INDEX fi ON f(own(a)); INSERT INTO f VALUES (1);
             CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES ('known')",
        )
        .unwrap();
    drop(connection);
    let mut unchecked = fleet.plane.import_database(input("plain"), path.as_path()).unwrap().unchecked;
    unchecked.sort();
    assert_eq!(unchecked.len(), 2, "{unchecked:?}");
    assert!(unchecked[0].contains("table c: no such collation sequence: mine"), "{unchecked:?}");
    assert!(unchecked[1].contains("table f: ") && unchecked[1].contains("own()"), "{unchecked:?}");

    // Its rows cannot be rewritten, and the error names the index that prevents it.
    let (kind, text) = refused(fleet.plane.import_database(sealed("vault"), path.as_path()));
    assert_eq!(kind, ErrorKind::Unsupported, "{text}");
    assert!(text.contains("index ci of table c") || text.contains("index fi of table f"), "{text}");
    assert!(!text.contains(['\n', '\\']) && !text.contains("  "), "{text:?}");

    // The index of another table is still checked.
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE t(a COLLATE NOCASE UNIQUE)'
             WHERE name = 't'; PRAGMA writable_schema=RESET; INSERT INTO t VALUES ('a'), ('B');
             PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE t(a UNIQUE)' WHERE name = 't'",
        )
        .unwrap();
    drop(connection);
    assert_eq!(refused(fleet.plane.import_database(input("a"), path.as_path())).0, ErrorKind::Corrupt);
    fleet.assert_no_debris();
}

#[test]
fn import_refuses_format_versions_that_sqlite_refuses() {
    let fleet = Fleet::new();
    let intact = fs::read(file(&fleet, "intact", "")).unwrap();
    for (write, read, kind, text) in [
        (3, 3, ErrorKind::Invalid, "the read version 3"),
        (1, 3, ErrorKind::Invalid, "the read version 3"),
        (3, 1, ErrorKind::Unsupported, "the write version 3"),
        (255, 255, ErrorKind::Unsupported, "journal mode mvcc"),
    ] {
        let mut bytes = intact.clone();
        (bytes[18], bytes[19]) = (write, read);
        for made in [input("a"), sealed("a")] {
            let answer = fleet.plane.import_database(made, Upload::Reader(&mut Cursor::new(&bytes)));
            let (found, message) = refused(answer);
            assert_eq!(found, kind, "{write}/{read}: {message}");
            assert!(message.contains(text), "{write}/{read}: {message}");
            fleet.assert_no_debris();
        }
    }
}

#[test]
fn import_refuses_log_of_another_engine() {
    let fleet = Fleet::new();
    let path = file(&fleet, "some.db", "");
    let log = fleet.dir.path().join("some.db-log");
    // A header of 56 bytes, followed by a transaction.
    let mut bytes = b"2LML\x02\x00\x38\x00".to_vec();
    bytes.resize(240, 0);
    fs::write(&log, &bytes).unwrap();
    for made in [input("a"), sealed("a")] {
        let (kind, text) = refused(fleet.plane.import_database(made, path.as_path()));
        assert_eq!(kind, ErrorKind::Unsupported, "{text}");
        assert!(text.contains("some.db-log has commits"), "{text}");
    }
    // That engine replaces the extension of the file instead of appending to it.
    let mut other = fs::read(&path).unwrap();
    (other[18], other[19]) = (255, 255);
    let renamed = fleet.dir.path().join("some.sqlite");
    fs::write(&renamed, other).unwrap();
    let (_, text) = refused(fleet.plane.import_database(sealed("a"), renamed.as_path()));
    assert!(text.contains("some.db-log has commits"), "{text}");
    // A log without commits, and a file of another format, do not prevent the import.
    for (name, bytes) in [("empty", &bytes[..56]), ("text", &b"2026-11-30 started\n".repeat(9)[..])] {
        fs::write(&log, bytes).unwrap();
        fleet.plane.import_database(input(name), path.as_path()).unwrap();
    }
    fleet.assert_no_debris();
}

#[test]
fn import_refuses_wal_of_unknown_version() {
    let fleet = Fleet::new();
    let path = file(&fleet, "live", "PRAGMA journal_mode=WAL");
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("CREATE TABLE late(a)").unwrap();
    let copy = fleet.dir.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    let mut log = fs::read(fleet.dir.path().join("live-wal")).unwrap();
    log[7] += 1;
    let (mut one, mut two) = (0_u32, 0_u32);
    for pair in log[..24].chunks_exact(8) {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
        two = two.wrapping_add(word(&pair[4..])).wrapping_add(one);
    }
    log[24..28].copy_from_slice(&one.to_be_bytes());
    log[28..32].copy_from_slice(&two.to_be_bytes());
    let theirs = fleet.dir.path().join("theirs");
    fs::copy(&copy, &theirs).unwrap();
    for of in ["copy", "theirs"] {
        fs::write(fleet.dir.path().join(format!("{of}-wal")), &log).unwrap();
    }
    let opened = Connection::open(&theirs).unwrap();
    assert!(opened.query_row("SELECT count(*) FROM t", [], |_| Ok(())).is_err(), "SQLite opens it");
    for made in [input("a"), sealed("a")] {
        let (kind, text) = refused(fleet.plane.import_database(made, copy.as_path()));
        assert_eq!(kind, ErrorKind::Unsupported, "{text}");
        assert!(text.contains("copy-wal has the format version 3007001"), "{text}");
    }
    fleet.assert_no_debris();
}
