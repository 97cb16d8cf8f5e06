//! Imports: files as users have them are imported completely, and anything but an intact database is refused with one
//! sentence.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use litefleet::{
    Cipher, ConnectOptions, CreateDatabaseInput, EncryptionKey, ErrorKind, RemoteEncryption, SizeLimit,
    Upload,
    rusqlite::{self, Connection},
};

use crate::{
    fork::SetOnDrop,
    support::{Fleet, contents, count, names, refused},
};

const ROWS: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b BLOB); CREATE INDEX i ON t(a);
    CREATE VIEW v AS SELECT a FROM t; CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t WHERE id < 0; END;
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
    INSERT INTO t SELECT i, 'row ' || i, randomblob(i * 3) FROM n;";

pub(crate) fn input(name: &str) -> CreateDatabaseInput {
    CreateDatabaseInput::new(name, "default")
}

/// A file created with `pragmas` and then filled.
pub(crate) fn file(fleet: &Fleet, name: &str, pragmas: &str) -> PathBuf {
    let path = fleet.dir.path().join(name);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(pragmas).unwrap();
    connection.execute_batch(ROWS).unwrap();
    path
}

pub(crate) fn assert_imported(fleet: &Fleet, name: &str, original: &Path) {
    let theirs = Connection::open(original).unwrap();
    let ours = fleet.connect(name);
    assert_eq!(contents(&ours), contents(&theirs), "{name}");
    assert_eq!(ours.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    assert_eq!(ours.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0)).unwrap(), "wal");
    for pragma in ["page_size", "auto_vacuum", "user_version", "application_id"] {
        let pragma = format!("PRAGMA {pragma}");
        assert_eq!(count(&ours, &pragma), count(&theirs, &pragma), "{name}: {pragma}");
    }
}

#[test]
fn import_accepts_every_kind_of_sqlite_file() {
    let fleet = Fleet::new();
    for (name, pragmas) in [
        ("page-512", "PRAGMA page_size=512"),
        ("page-1024", "PRAGMA page_size=1024"),
        ("page-65536", "PRAGMA page_size=65536; PRAGMA user_version=7; PRAGMA application_id=9"),
        ("rollback", ""),
        ("persist", "PRAGMA journal_mode=PERSIST"),
        ("wal", "PRAGMA journal_mode=WAL"),
        ("wal-512", "PRAGMA page_size=512; PRAGMA journal_mode=WAL"),
        ("auto-vacuum", "PRAGMA auto_vacuum=FULL"),
        ("incremental", "PRAGMA auto_vacuum=INCREMENTAL"),
        ("utf-16le", "PRAGMA encoding='UTF-16le'"),
        ("utf-16be", "PRAGMA encoding='UTF-16be'; PRAGMA journal_mode=WAL"),
        ("legacy", "PRAGMA legacy_file_format=ON"),
    ] {
        let path = file(&fleet, name, pragmas);
        let before = fs::read(&path).unwrap();
        fleet.plane.import_database(input(name), path.as_path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), before, "{name}: the source was changed");
        assert_imported(&fleet, name, &path);
        // From a stream.
        let stream = format!("{name}-stream");
        fleet.plane.import_database(input(&stream), Upload::Reader(&mut Cursor::new(before))).unwrap();
        assert_imported(&fleet, &stream, &path);
    }
    fleet.assert_no_debris();
}

#[test]
fn import_accepts_files_of_another_sqlite_version() {
    let fleet = Fleet::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sqlite");
    for (name, file) in
        [("rollback", "rollback.db"), ("small", "page-512.db"), ("utf-16", "utf-16.db"), ("wal", "wal.db")]
    {
        fleet.plane.import_database(input(name), fixtures.join(file).as_path()).unwrap();
        assert_eq!(count(&fleet.connect(name), "SELECT sum(id) FROM t"), 55, "{file}");
        assert_eq!(count(&fleet.connect(name), "SELECT count(*) FROM t WHERE a > ''"), 10, "{file}");
    }
    assert!(!fixtures.join("wal.db-shm").exists());
    let truncated = fleet.plane.import_database(input("a"), fixtures.join("truncated.db").as_path());
    assert_eq!(refused(truncated).0, ErrorKind::Corrupt);
    let (_, text) = refused(fleet.plane.import_database(input("a"), fixtures.join("dump.sql").as_path()));
    assert!(
        text.ends_with("is a sqlite3 dump, not a sqlite3 database. Please import a sqlite database"),
        "{text}"
    );
}

/// A file made like [`file`] whose pages reserve `reserve` bytes each.
fn reserving_file(fleet: &Fleet, name: &str, reserve: u8) -> PathBuf {
    let path = fleet.dir.path().join(name);
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version=1").unwrap();
    // No SQL sets the number of reserved bytes in every supported version. The only page is an empty leaf, so patching the
    // header and the start of the cell content area is enough.
    let mut page = fs::read(&path).unwrap();
    page[20] = reserve;
    page[105..107].copy_from_slice(&(4096 - u16::from(reserve)).to_be_bytes());
    fs::write(&path, page).unwrap();
    Connection::open(&path).unwrap().execute_batch(ROWS).unwrap();
    assert_eq!(fs::read(&path).unwrap()[20], reserve);
    path
}

#[test]
fn import_preserves_reserved_bytes() {
    let fleet = Fleet::new();
    for reserve in [12, 48, 255] {
        let name = format!("reserve-{reserve}");
        let path = reserving_file(&fleet, &name, reserve);
        fleet.plane.import_database(input(&name), path.as_path()).unwrap();
        assert_imported(&fleet, &name, &path);
        assert_eq!(fs::read(fleet.plane.database_path(&name).unwrap()).unwrap()[20], reserve);
    }
}

#[test]
fn import_into_an_encrypted_database_sets_the_reserved_bytes_of_its_cipher() {
    let fleet = Fleet::new();
    let (cipher, key) = (Cipher::Aegis256, EncryptionKey::generate(Cipher::Aegis256).unwrap());
    for reserve in [0, 12, 48, 255] {
        let name = format!("reserve-{reserve}");
        let path = reserving_file(&fleet, &name, reserve);
        let sealed = input(&name).with_encryption(RemoteEncryption::new(key.clone(), cipher).unwrap());
        let imported = fleet.plane.import_database(sealed, path.as_path());
        // SQLite reduces them since 3.53, by a parameter of `VACUUM INTO`.
        if reserve > cipher.reserved_bytes() && rusqlite::version_number() < 3_053_000 {
            let (kind, text) = refused(imported);
            assert_eq!(kind, ErrorKind::Unsupported);
            assert!(text.contains("255 bytes in each page") && text.contains("SQLite 3.53"), "{text}");
            continue;
        }
        imported.unwrap();
        let options = ConnectOptions::default().encryption_key(key.clone());
        let ours = fleet.plane.connect(&name, options.clone()).unwrap();
        assert_eq!(contents(&ours), contents(&Connection::open(&path).unwrap()), "{name}");
        let stored = fs::read(fleet.plane.database_path(&name).unwrap()).unwrap();
        assert_eq!(stored[20], cipher.reserved_bytes());
    }
}

#[test]
fn import_includes_rows_in_the_wal() {
    let fleet = Fleet::new();
    let path = file(&fleet, "live", "PRAGMA journal_mode=WAL");
    let writer = Connection::open(&path).unwrap();
    writer
        .execute_batch("PRAGMA wal_autocheckpoint=0; DELETE FROM t WHERE id > 100; CREATE TABLE late(a)")
        .unwrap();
    writer.execute_batch("INSERT INTO late VALUES (1); BEGIN; INSERT INTO late VALUES (2)").unwrap();
    let beside = names(fleet.dir.path());
    fleet.plane.import_database(input("live"), path.as_path()).unwrap();
    assert_eq!(names(fleet.dir.path()), beside, "the import left files beside the source");
    assert_eq!(count(&fleet.connect("live"), "SELECT count(*) FROM t"), 100);
    assert_eq!(count(&fleet.connect("live"), "SELECT count(*) FROM late"), 1);
    writer.execute_batch("COMMIT").unwrap();

    // The files of a crashed program: a copy without the wal-index.
    let crashed = fleet.dir.path().join("crashed");
    fs::copy(&path, &crashed).unwrap();
    fs::copy(fleet.dir.path().join("live-wal"), fleet.dir.path().join("crashed-wal")).unwrap();
    fleet.plane.import_database(input("crashed"), crashed.as_path()).unwrap();
    assert_eq!(count(&fleet.connect("crashed"), "SELECT count(*) FROM late"), 2);
    assert!(!fleet.dir.path().join("crashed-shm").exists());
    fleet.assert_no_debris();
}

/// A program in a journal mode without a journal file has written half of a transaction and holds its lock.
#[test]
fn import_of_uncommitted_pages_without_journal_is_busy() {
    let fleet = Fleet::new();
    for mode in ["MEMORY", "OFF"] {
        let path = file(&fleet, mode, "");
        let writer = Connection::open(&path).unwrap();
        writer.query_row(&format!("PRAGMA journal_mode={mode}"), [], |_| Ok(())).unwrap();
        writer.execute_batch("PRAGMA cache_size=2; BEGIN; UPDATE t SET b = zeroblob(900)").unwrap();
        assert_eq!(
            refused(fleet.plane.import_database(input("a"), path.as_path())).0,
            ErrorKind::Busy,
            "{mode}"
        );
        writer.execute_batch("COMMIT").unwrap();
        let name = mode.to_ascii_lowercase();
        fleet.plane.import_database(input(&name), path.as_path()).unwrap();
        assert_eq!(count(&fleet.connect(&name), "SELECT count(*) FROM t WHERE b = zeroblob(900)"), 500);
    }
    fleet.assert_no_debris();
}

#[test]
fn import_refuses_a_pipe_without_blocking() {
    let fleet = Fleet::new();
    let path = file(&fleet, "some", "");
    let pipe = |name: &str| {
        let pipe = fleet.dir.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        pipe
    };
    assert_eq!(
        refused(fleet.plane.import_database(input("a"), pipe("pipe").as_path())).0,
        ErrorKind::Invalid
    );
    for beside in ["some-wal", "some-journal"] {
        let pipe = pipe(beside);
        assert_eq!(refused(fleet.plane.import_database(input("a"), path.as_path())).0, ErrorKind::Invalid);
        fs::remove_file(pipe).unwrap();
    }
}

/// SQLite resolves symbolic links before it derives the name of the WAL, so the import must too.
#[test]
fn import_finds_the_wal_through_a_symbolic_link() {
    let fleet = Fleet::new();
    let path = file(&fleet, "app", "PRAGMA journal_mode=WAL");
    let link = fleet.dir.path().join("current");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let writer = Connection::open(&link).unwrap();
    writer
        .execute_batch("PRAGMA wal_autocheckpoint=0; CREATE TABLE late(a); INSERT INTO late VALUES (1)")
        .unwrap();
    fleet.plane.import_database(input("a"), link.as_path()).unwrap();
    assert_eq!(count(&fleet.connect("a"), "SELECT count(*) FROM late"), 1);
}

/// A staging directory of a ready database is a leftover and does not prevent the root from opening.
#[test]
fn open_removes_staging_leftover_of_a_ready_database() {
    let fleet = Fleet::new();
    fleet.create("a");
    fleet.run("a", "CREATE TABLE t(a)");
    let id = fleet.plane.get_database("a").unwrap().id;
    let leftover = fleet.plane.root().join(".staging").join(id);
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join("data.db"), b"half").unwrap();
    let plane = litefleet::ControlPlane::open(fleet.plane.root()).unwrap();
    assert_eq!(
        count(&plane.connect("a", ConnectOptions::default()).unwrap(), "SELECT count(*) FROM sqlite_schema"),
        1
    );
    fleet.assert_no_debris();
}

#[test]
fn import_rolls_back_interrupted_transaction_in_its_copy() {
    let fleet = Fleet::new();
    let path = file(&fleet, "live", "");
    let writer = Connection::open(&path).unwrap();
    writer
        .execute_batch("PRAGMA cache_size=2; PRAGMA cache_spill=2; BEGIN; UPDATE t SET b = zeroblob(900)")
        .unwrap();
    let journal = fleet.dir.path().join("live-journal");
    let crashed = fleet.dir.path().join("crashed");
    fs::copy(&path, &crashed).unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    assert!(bytes.len() > 4096, "the transaction has not spilled");
    bytes[..8].copy_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    fs::write(fleet.dir.path().join("crashed-journal"), &bytes).unwrap();
    writer.execute_batch("ROLLBACK").unwrap();
    fleet.plane.import_database(input("crashed"), crashed.as_path()).unwrap();
    assert_eq!(contents(&fleet.connect("crashed")), contents(&Connection::open(&path).unwrap()));
    assert!(fleet.dir.path().join("crashed-journal").exists(), "the source was changed");
    fleet.assert_no_debris();
}

/// When SQLite rolls back a journal that names a super-journal, it may delete the file of that name.
#[test]
fn import_refuses_journal_with_super_journal_name() {
    let fleet = Fleet::new();
    let path = file(&fleet, "victim", "");
    let target = fleet.dir.path().join("precious");
    fs::write(&target, b"precious\0").unwrap();
    let magic = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let name = target.to_str().unwrap().as_bytes();
    let mut journal = magic.to_vec();
    journal.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0]);
    journal.resize(512, 0);
    journal.extend(0x4000_0001_u32.to_be_bytes());
    journal.extend(name);
    journal.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    journal.extend(name.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte))).to_be_bytes());
    journal.extend(magic);
    fs::write(fleet.dir.path().join("victim-journal"), &journal).unwrap();
    let (kind, text) = refused(fleet.plane.import_database(input("a"), path.as_path()));
    assert_eq!(kind, ErrorKind::Unsupported, "{text}");
    assert!(target.exists());
    fleet.assert_no_debris();
}

#[test]
fn import_under_load_is_the_state_of_one_commit() {
    let fleet = Fleet::new();
    for mode in ["WAL", "DELETE", "TRUNCATE", "PERSIST"] {
        let path = fleet.dir.path().join(format!("bank-{mode}"));
        let connection = Connection::open(&path).unwrap();
        connection.query_row(&format!("PRAGMA journal_mode={mode}"), [], |_| Ok(())).unwrap();
        connection
            .execute_batch(
                "PRAGMA synchronous=OFF; CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER, filler BLOB);
                 WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
                 INSERT INTO account SELECT i, 100, randomblob(500) FROM n; PRAGMA wal_autocheckpoint=20",
            )
            .unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let done = &done;
            scope.spawn(move || {
                let mut step = 0_i64;
                while !done.load(Ordering::Relaxed) {
                    step += 7919;
                    let (from, to) = (step % 1000 + 1, step * 31 % 1000 + 1);
                    connection
                        .execute_batch(&format!(
                            "BEGIN; UPDATE account SET balance = balance - 5, filler = randomblob(600) WHERE id = {from};
                             UPDATE account SET balance = balance + 5 WHERE id = {to}; COMMIT"
                        ))
                        .unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            });
            let stop = SetOnDrop(done);
            let mut imported = 0;
            for round in 0..20 {
                let name = format!("bank-{}-{round}", mode.to_ascii_lowercase());
                match fleet.plane.import_database(input(&name), path.as_path()) {
                    Ok(_) => {
                        imported += 1;
                        assert_eq!(count(&fleet.connect(&name), "SELECT sum(balance) FROM account"), 100_000);
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
                }
            }
            drop(stop);
            assert!(imported > 0, "{mode}: never imported");
        });
    }
    fleet.assert_no_debris();
}

#[test]
fn import_refuses_invalid_files() {
    let fleet = Fleet::new();
    let intact = fs::read(file(&fleet, "intact", "")).unwrap();
    let mut damaged = intact.clone();
    let middle = damaged.len() / 2 / 4096 * 4096;
    damaged[middle..middle + 4096].fill(0x5a);
    let mut odd_page_size = intact.clone();
    odd_page_size[16] = 0x33;
    let mut newer = intact.clone();
    newer[18] = 9;
    newer[19] = 9;
    let dump = b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE t(a);\nCOMMIT;\n".to_vec();
    let cases: Vec<(&str, Vec<u8>, ErrorKind, &str)> = vec![
        (
            "dump.sql",
            dump,
            ErrorKind::Invalid,
            "is a sqlite3 dump, not a sqlite3 database. Please import a sqlite database",
        ),
        ("empty.db", Vec::new(), ErrorKind::Invalid, "is empty, not a sqlite3 database"),
        ("image.png", b"\x89PNG\r\n\x1a\n0000".repeat(1000), ErrorKind::Invalid, "is not a sqlite3 database"),
        ("short.db", intact[..50].to_vec(), ErrorKind::Corrupt, "is truncated"),
        ("half.db", intact[..intact.len() / 2].to_vec(), ErrorKind::Corrupt, "is truncated"),
        ("header.db", intact[..100].to_vec(), ErrorKind::Corrupt, "is truncated"),
        ("damaged.db", damaged, ErrorKind::Corrupt, "is damaged: "),
        ("odd.db", odd_page_size, ErrorKind::Corrupt, "a page size of"),
        ("newer.db", newer, ErrorKind::Invalid, "is not a sqlite3 database that this version can read"),
    ];
    for (name, bytes, kind, text) in cases {
        let path = fleet.dir.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let (found, message) = refused(fleet.plane.import_database(input("a"), path.as_path()));
        assert_eq!(found, kind, "{name}: {message}");
        assert!(message.contains(text) && message.contains(name), "{name}: {message}");
        let (found, message) =
            refused(fleet.plane.import_database(input("a"), Upload::Reader(&mut Cursor::new(bytes))));
        assert_eq!(found, kind, "{name}: {message}");
        assert!(message.contains(text) && message.contains("the uploaded file"), "{message}");
        assert_eq!(refused(fleet.plane.get_database("a")).0, ErrorKind::NotFound);
        fleet.assert_no_debris();
    }
    let missing = fleet.dir.path().join("missing.db");
    assert_eq!(refused(fleet.plane.import_database(input("a"), missing.as_path())).0, ErrorKind::NotFound);
    assert_eq!(refused(fleet.plane.import_database(input("a"), fleet.dir.path())).0, ErrorKind::Invalid);
    let large = input("a").with_size_limit(SizeLimit::from_bytes(8192).unwrap());
    let path = fleet.dir.path().join("intact");
    assert_eq!(refused(fleet.plane.import_database(large.clone(), path.as_path())).0, ErrorKind::TooLarge);
    let stream = fleet.plane.import_database(large, Upload::Reader(&mut Cursor::new(intact)));
    assert_eq!(refused(stream).0, ErrorKind::TooLarge);
    let both = CreateDatabaseInput::fork("a", "b");
    assert_eq!(refused(fleet.plane.import_database(both, path.as_path())).0, ErrorKind::Invalid);
    fleet.assert_no_debris();
}

/// A changed byte is found, unless SQLite's own integrity check accepts it.
#[test]
fn import_refuses_damage_that_integrity_check_finds() {
    let fleet = Fleet::new();
    let intact = fs::read(file(&fleet, "intact", "PRAGMA page_size=1024")).unwrap();
    let path = fleet.dir.path().join("flipped");
    let mut found = 0;
    for at in (0..intact.len()).step_by(997) {
        let mut bytes = intact.clone();
        bytes[at] ^= 0x81;
        fs::write(&path, &bytes).unwrap();
        let theirs = Connection::open(&path).and_then(|connection| {
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))
        });
        let ours = fleet.plane.import_database(input("a"), path.as_path());
        if theirs.as_deref() == Ok("ok") {
            if ours.is_ok() {
                fleet.plane.destroy_database("a").unwrap();
            }
        } else {
            found += 1;
            assert!(ours.is_err(), "byte {at}: {theirs:?}");
        }
    }
    assert!(found > 10, "{found}");
    fleet.assert_no_debris();
}

#[test]
fn import_executes_nothing_from_a_hostile_file() {
    let fleet = Fleet::new();
    let path = fleet.dir.path().join("hostile");
    let proof = fleet.dir.path().join("proof");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(ROWS).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE bait(a, b AS (abs(a)));
             INSERT INTO bait VALUES (1);
             CREATE VIEW trap AS SELECT writefile('{}', 'owned');
             CREATE TRIGGER on_read AFTER UPDATE ON bait BEGIN SELECT load_extension('/tmp/evil'); END;",
            proof.display()
        ))
        .unwrap();
    // An edited schema, with an unknown module.
    connection
        .execute_batch(
            "PRAGMA writable_schema=ON;
             INSERT INTO sqlite_schema VALUES ('table', 'ghost', 'ghost', 0, 'CREATE VIRTUAL TABLE ghost USING absent(a)');
             PRAGMA writable_schema=OFF",
        )
        .unwrap();
    drop(connection);
    let _accepted_or_refused = fleet.plane.import_database(input("hostile"), path.as_path());
    assert!(!proof.exists());
    fleet.assert_no_debris();
}

#[test]
fn import_accepts_unknown_collations_and_virtual_tables() {
    let fleet = Fleet::new();
    let path = fleet.dir.path().join("apple");
    let connection = Connection::open(&path).unwrap();
    connection.create_collation("unicode_nocase", |a: &str, b: &str| b.cmp(a)).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t(a TEXT COLLATE unicode_nocase); CREATE INDEX i ON t(a);
             INSERT INTO t VALUES ('x'), ('a'), ('m');
             CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES ('hello world');
             CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1); INSERT INTO boxes VALUES (1, 0, 1)",
        )
        .unwrap();
    drop(connection);
    fleet.plane.import_database(input("apple"), path.as_path()).unwrap();
    assert_eq!(count(&fleet.connect("apple"), "SELECT count(*) FROM t"), 3);
    assert_eq!(count(&fleet.connect("apple"), "SELECT count(*) FROM words('world')"), 1);
}
