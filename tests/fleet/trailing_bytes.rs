//! Bytes after the last page that the header counts: SQLite ignores them, and they are not part of the database.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
};

use litefleet::{
    Cipher, ConnectOptions, CreateDatabaseInput, EncryptionKey, ErrorKind, MaintainOptions, RemoteEncryption,
    RestoreOptions, SizeLimit, Timestamp, Upload, VerifyOptions, rusqlite::Connection,
};

use crate::{
    import::{file, input},
    support::{Fleet, contents, count, refused},
};

/// One byte, almost a page, one page, and more than two pages.
const EXTRA: [usize; 4] = [1, 4095, 4096, 10_000];

fn append(path: &Path, bytes: usize) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(&vec![0x78; bytes]).unwrap();
}

/// Checks views, forks, restores, maintenance and verification around a commit.
fn assert_restorable(fleet: &Fleet, name: &str) {
    let plain = ConnectOptions::default();
    let before = contents(&fleet.connect(name));
    let at = Timestamp::now();
    fleet.run(name, "CREATE TABLE later(a); INSERT INTO later VALUES (randomblob(20000))");
    let after = contents(&fleet.connect(name));
    let (view, _) = fleet.plane.connect_at(name, at, plain.clone()).unwrap();
    assert_eq!(contents(&view), before);
    drop(view);
    let fork = format!("{name}-fork");
    fleet.plane.create_database(CreateDatabaseInput::fork(&fork, name)).unwrap();
    assert_eq!(contents(&fleet.connect(&fork)), after);
    let then = format!("{name}-then");
    let made = CreateDatabaseInput::fork(&then, name).with_seed(litefleet::Seed::database_at(name, at));
    fleet.plane.create_database(made).unwrap();
    assert_eq!(contents(&fleet.connect(&then)), before);
    let undo =
        fleet.plane.restore_database(name, at, RestoreOptions::from(plain.clone())).unwrap().undo.unwrap();
    assert_eq!(contents(&fleet.connect(name)), before);
    fleet.plane.restore_database(name, undo, RestoreOptions::from(plain.clone())).unwrap();
    assert_eq!(contents(&fleet.connect(name)), after);
    fleet.plane.maintain_database(name, MaintainOptions::default()).unwrap();
    for name in [name, &fork, &then] {
        let verified = fleet.plane.verify_database(name, VerifyOptions::default()).unwrap();
        assert_eq!(verified.findings, [], "{name}");
    }
}

#[test]
fn import_drops_bytes_after_the_last_page() {
    let fleet = Fleet::new();
    for extra in EXTRA {
        for mode in ["DELETE", "WAL"] {
            let path = file(&fleet, &format!("{mode}-{extra}"), &format!("PRAGMA journal_mode={mode}"));
            let original = fs::metadata(&path).unwrap().len();
            let theirs = contents(&Connection::open(&path).unwrap());
            append(&path, extra);
            let bytes = fs::read(&path).unwrap();
            let name = format!("{}-{extra}", mode.to_ascii_lowercase());
            // The bytes do not count against the size limit.
            let limit = SizeLimit::from_bytes(original).unwrap();
            fleet.plane.import_database(input(&name).with_size_limit(limit), path.as_path()).unwrap();
            let stream = format!("{name}-stream");
            let reader = Upload::Reader(&mut &bytes[..]);
            fleet.plane.import_database(input(&stream).with_size_limit(limit), reader).unwrap();
            for name in [name, stream] {
                let data = fleet.plane.database_path(&name).unwrap();
                assert_eq!(fs::metadata(data).unwrap().len(), original, "{name}");
                fleet
                    .plane
                    .configure_database(&name, litefleet::DatabaseChanges::default().remove_size_limit())
                    .unwrap();
                assert_eq!(contents(&fleet.connect(&name)), theirs, "{name}");
                assert_restorable(&fleet, &name);
            }
        }
    }
}

#[test]
fn import_copies_a_sparse_file_up_to_its_last_page() {
    let fleet = Fleet::new();
    let path = file(&fleet, "sparse", "");
    let original = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(20 << 30).unwrap();
    let limit = SizeLimit::from_bytes(original).unwrap();
    fleet.plane.import_database(input("plain").with_size_limit(limit), path.as_path()).unwrap();
    assert_eq!(fs::metadata(fleet.plane.database_path("plain").unwrap()).unwrap().len(), original);
    let key = EncryptionKey::from_bytes(&[7; 32]).unwrap();
    let encryption = RemoteEncryption::new(key, Cipher::Aegis256).unwrap();
    fleet.plane.import_database(input("vault").with_encryption(encryption), path.as_path()).unwrap();
    assert!(fs::metadata(fleet.plane.database_path("vault").unwrap()).unwrap().len() < 2 * original);
}

/// If the change counter does not validate the header's page count, SQLite uses the file size, and so does the
/// import.
#[test]
fn file_size_counts_if_header_page_count_is_stale() {
    let fleet = Fleet::new();
    let path = fleet.dir.path().join("old");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[95] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let theirs = contents(&Connection::open(&path).unwrap());
    fleet.plane.import_database(input("old"), path.as_path()).unwrap();
    assert_eq!(contents(&fleet.connect("old")), theirs);
    append(&path, 4096);
    let found = Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))
        .unwrap();
    assert!(found.contains("never used"), "{found}");
    assert_eq!(refused(fleet.plane.import_database(input("a"), path.as_path())).0, ErrorKind::Corrupt);
}

/// Pages that an interrupted transaction appended are removed by its rollback.
#[test]
fn import_truncates_pages_of_an_interrupted_transaction() {
    let fleet = Fleet::new();
    let path = file(&fleet, "live", "");
    let original = fs::metadata(&path).unwrap().len();
    let theirs = contents(&Connection::open(&path).unwrap());
    let writer = Connection::open(&path).unwrap();
    writer
        .execute_batch("PRAGMA cache_size=2; PRAGMA cache_spill=2; BEGIN; UPDATE t SET b = zeroblob(9000)")
        .unwrap();
    let (crashed, journal) = (fleet.dir.path().join("crashed"), fleet.dir.path().join("crashed-journal"));
    fs::copy(&path, &crashed).unwrap();
    let mut bytes = fs::read(fleet.dir.path().join("live-journal")).unwrap();
    bytes[..8].copy_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    fs::write(journal, &bytes).unwrap();
    assert!(fs::metadata(&crashed).unwrap().len() > original, "the transaction has not spilled");
    File::options().write(true).open(&crashed).unwrap().set_len(20 << 30).unwrap();
    fleet.plane.import_database(input("crashed"), crashed.as_path()).unwrap();
    assert_eq!(contents(&fleet.connect("crashed")), theirs);
    assert_eq!(fs::metadata(fleet.plane.database_path("crashed").unwrap()).unwrap().len(), original);
}

/// Earlier versions imported such bytes into the database file and into the first snapshot of the history.
#[test]
fn databases_with_trailing_bytes_restore_and_verify() {
    let fleet = Fleet::new();
    for extra in EXTRA {
        let path = file(&fleet, &format!("file-{extra}"), "");
        let name = format!("a{extra}");
        fleet.plane.import_database(input(&name), path.as_path()).unwrap();
        let data = fleet.plane.database_path(&name).unwrap();
        append(&data, extra);
        // An empty mark makes any file pristine, as in those versions.
        fs::write(data.with_file_name("unwritten"), "").unwrap();
        assert_restorable(&fleet, &name);
    }
    // A snapshot with less than a page of trailing bytes.
    let path = file(&fleet, "file", "");
    fleet.plane.import_database(input("old"), path.as_path()).unwrap();
    let at = Timestamp::now();
    let before = contents(&fleet.connect("old"));
    fleet.run("old", "INSERT INTO t(a) VALUES ('one more')");
    append(&fleet.plane.database_path("old").unwrap().with_file_name("archive").join("000000000001.db"), 1);
    fleet.plane.restore_database("old", at, RestoreOptions::default()).unwrap();
    assert_eq!(contents(&fleet.connect("old")), before);
    assert_eq!(count(&fleet.connect("old"), "SELECT count(*) FROM t WHERE a = 'one more'"), 0);
    let verified = fleet.plane.verify_database("old", VerifyOptions::default()).unwrap();
    assert_eq!(verified.findings, []);
}
