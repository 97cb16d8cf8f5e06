//! The file of another database under the same key, put in place of a database's file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use litefleet::{
    AttachOptions, Cipher, ControlPlane, CreateDatabaseInput, Error, ErrorKind, ExportOptions, PageFormat,
    RemoteEncryption, Result, Seed, UploadOptions,
    rusqlite::Connection,
    testing::{DiskOp, FaultHook},
};

use crate::{
    encryption::{another_key, key, with_key},
    support::{Fleet, refused},
};

const CIPHER: Cipher = Cipher::Aegis256;
const MESSAGE: &str = "not the file that this database was made with";

fn encryption(format: PageFormat) -> RemoteEncryption {
    RemoteEncryption::new(key(CIPHER), CIPHER).unwrap().with_page_format(format)
}

fn another() -> RemoteEncryption {
    RemoteEncryption::new(another_key(CIPHER), CIPHER).unwrap()
}

/// A fleet with a database whose only row contains its name.
fn fleet(name: &str, format: PageFormat) -> Fleet {
    let fleet = Fleet::new();
    add(&fleet, name, format);
    fleet
}

fn add(fleet: &Fleet, name: &str, format: PageFormat) {
    fleet.create_sealed(name, CIPHER, format);
    let sql = format!("CREATE TABLE t(a); INSERT INTO t VALUES ('{name}')");
    fleet.unlock(name, CIPHER).execute_batch(&sql).unwrap();
}

fn row(fleet: &Fleet, name: &str) -> String {
    fleet.unlock(name, CIPHER).query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap()
}

fn file(fleet: &Fleet, name: &str) -> PathBuf {
    fleet.plane.database_path(name).unwrap()
}

/// Overwrites the file of one database with a copy of another's.
fn put(fleet: &Fleet, from: &str, to: &str) {
    fs::copy(file(fleet, from), file(fleet, to)).unwrap();
}

/// Every operation that reads the database `vault`, with a description.
fn readings(fleet: &Fleet) -> Vec<(&'static str, Result<()>)> {
    let Fleet { plane, dir } = fleet;
    let out = dir.path().join("out.db");
    let export = |options: ExportOptions| {
        let exported = plane.export_database("vault", &out, options);
        let _may_be_missing = fs::remove_file(&out);
        exported
    };
    let fork = |encryption| {
        let input = CreateDatabaseInput::fork("fork", "vault").with_encryption(encryption);
        let forked = plane.create_database(input.with_source_key(key(CIPHER)));
        if forked.is_ok() {
            plane.destroy_database("fork").unwrap();
        }
        forked.map(|_| ())
    };
    let with_key = || ExportOptions::default().encryption_key(key(CIPHER));
    let host = fleet.unlock("host", CIPHER);
    vec![
        ("connect", plane.connect("vault", crate::encryption::with_key(key(CIPHER))).map(|_| ())),
        (
            "attach",
            plane.attach(&host, "vault", "vault", AttachOptions::default().encryption_key(key(CIPHER))),
        ),
        ("fork", fork(encryption(PageFormat::Native))),
        ("fork in turso's format", fork(encryption(PageFormat::Turso))),
        ("fork under another key", fork(another())),
        ("export as stored", export(ExportOptions::default())),
        ("export under the key", export(with_key())),
        ("export in plain", export(with_key().decrypt(true))),
        ("export in a format", export(with_key().page_format(PageFormat::Turso))),
    ]
}

#[test]
fn every_reader_refuses_the_file_of_another_database() {
    for (own, other) in [
        (PageFormat::Native, PageFormat::Native),
        (PageFormat::Native, PageFormat::Turso),
        (PageFormat::Turso, PageFormat::Native),
    ] {
        let fleet = fleet("vault", own);
        add(&fleet, "other", other);
        fleet.create_sealed("host", CIPHER, own);
        let before = fs::read(file(&fleet, "vault")).unwrap();
        for (what, reading) in readings(&fleet) {
            reading.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        put(&fleet, "other", "vault");
        let is_refused = |what: &str, (kind, text): (ErrorKind, String)| {
            assert_eq!(kind, ErrorKind::Corrupt, "{own} {other} {what}: {text}");
            assert!(text.contains(MESSAGE) && text.contains("put back the one that was here"), "{text}");
        };
        for (what, reading) in readings(&fleet) {
            is_refused(what, refused(reading));
        }
        // A wrong key is not reported if the file itself is wrong.
        let wrong = || fleet.plane.connect("vault", with_key(another_key(CIPHER)));
        is_refused("another key", refused(wrong()));
        // Replacing page 1 alone is detected too.
        let mut mixed = before.clone();
        mixed[..4096].copy_from_slice(&fs::read(file(&fleet, "other")).unwrap()[..4096]);
        fs::write(file(&fleet, "vault"), mixed).unwrap();
        for (what, reading) in readings(&fleet) {
            is_refused(what, refused(reading));
        }
        fs::write(file(&fleet, "vault"), before).unwrap();
        assert_eq!(refused(wrong()).0, ErrorKind::WrongKey);
        assert_eq!(row(&fleet, "vault"), "vault");
        fleet.assert_no_debris();
    }
}

/// Without a key, a page 1 in the WAL can be identified only by its plaintext header.
#[test]
fn export_refuses_page_1_of_another_database_in_the_wal() {
    let fleet = fleet("vault", PageFormat::Native);
    add(&fleet, "other", PageFormat::Native);
    let connection = fleet.unlock("vault", CIPHER);
    connection.execute_batch("PRAGMA user_version = 7").unwrap();
    let copy = fleet.dir.path().join("copy");
    crate::encryption::copy_files(&fleet.database_dir("vault"), &copy, &["data.db-wal"]);
    drop(connection);
    let mut log = fs::read(copy.join("data.db-wal")).unwrap();
    let newest = super::wal::versions(&mut log, 1).pop().unwrap();
    let first = fs::read(file(&fleet, "other")).unwrap()[..4096].to_vec();
    super::wal::frame(&mut log, newest)[24..].copy_from_slice(&first);
    super::wal::relink(&mut log);
    fs::write(fleet.database_dir("vault").join("data.db-wal"), log).unwrap();
    let out = fleet.dir.path().join("out.db");
    let exported = fleet.plane.export_database("vault", &out, ExportOptions::default());
    let (kind, text) = refused(exported);
    assert!(kind == ErrorKind::Corrupt && text.contains(MESSAGE), "{kind}: {text}");
    assert!(!out.exists());
}

#[test]
fn every_kind_of_database_recognises_its_file() {
    for format in [PageFormat::Native, PageFormat::Turso] {
        let fleet = fleet("source", format);
        let Fleet { plane, dir } = &fleet;
        let out = dir.path().join("out.db");
        plane.export_database("source", &out, ExportOptions::default()).unwrap();
        let plain = dir.path().join("plain.db");
        let decrypt = ExportOptions::default().encryption_key(key(CIPHER)).decrypt(true);
        plane.export_database("source", &plain, decrypt).unwrap();
        let input =
            |name: &str| CreateDatabaseInput::new(name, "default").with_encryption(encryption(format));
        plane.import_database(input("sealed"), out.as_path()).unwrap();
        plane.import_database(input("plain"), plain.as_path()).unwrap();
        plane.create_database(input("draft").with_seed(Seed::DatabaseUpload)).unwrap();
        let upload = |file: PathBuf| {
            let encryption = encryption(format);
            plane.upload_database(
                "draft",
                file.as_path(),
                UploadOptions::default().encryption(encryption.clone()),
            )
        };
        assert_eq!(refused(upload(dir.path().join("nothing"))).0, ErrorKind::NotFound);
        upload(plain).unwrap();
        let fork = |name: &str, from: &str| CreateDatabaseInput::fork(name, from);
        plane.create_database(fork("fork", "source").with_encryption(encryption(format))).unwrap();
        let resealed = fork("resealed", "source").with_encryption(another()).with_source_key(key(CIPHER));
        plane.create_database(resealed).unwrap();
        let back =
            fork("back", "resealed").with_encryption(encryption(format)).with_source_key(another_key(CIPHER));
        plane.create_database(back).unwrap();

        // One database of each format to take files from.
        for other in [PageFormat::Native, PageFormat::Turso] {
            add(&fleet, other.as_str(), other);
        }
        for name in ["source", "sealed", "plain", "draft", "fork", "back"] {
            assert_eq!(row(&fleet, name), "source", "{format} {name}");
            // The file keeps its identity through changes by SQLite.
            fleet.unlock(name, CIPHER).execute_batch("VACUUM; PRAGMA user_version = 3").unwrap();
            assert_eq!(row(&fleet, name), "source", "{format} {name}");
            for other in [PageFormat::Native, PageFormat::Turso] {
                put(&fleet, other.as_str(), name);
                let opened = plane.connect(name, with_key(key(CIPHER))).map(|_| ());
                // Turso's format has no salt, so it has no identity.
                let taken = (format, other) == (PageFormat::Turso, PageFormat::Turso);
                let kind = opened.err().map(|error: Error| error.kind());
                assert_eq!(kind, (!taken).then_some(ErrorKind::Corrupt), "{format} {name} {other}");
            }
        }
    }
}

/// The page format and salt that the catalog records for a database.
fn recorded(fleet: &Fleet, name: &str) -> (Option<String>, Option<Vec<u8>>) {
    let catalog = Connection::open(fleet.plane.root().join("control.db")).unwrap();
    let sql = "SELECT page_format, file_salt FROM database_rows WHERE name = ?1";
    catalog.query_row(sql, [name], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

#[test]
fn catalog_describes_no_file_of_a_failed_upload() {
    let fleet = fleet("source", PageFormat::Native);
    fleet.create("plain");
    let out = fleet.dir.path().join("out.db");
    fleet.plane.export_database("source", &out, ExportOptions::default()).unwrap();
    // The rename into place fails after the row was marked as complete.
    let once = AtomicBool::new(true);
    let hook: Arc<FaultHook> = Arc::new(move |step: DiskOp, _: &Path| {
        if step == DiskOp::Rename && once.swap(false, Relaxed) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(())
    });
    let faulty = ControlPlane::builder().fault_hook(hook).open(fleet.plane.root()).unwrap();
    let input = CreateDatabaseInput::new("draft", "default").with_encryption(encryption(PageFormat::Native));
    fleet.plane.create_database(input.with_seed(Seed::DatabaseUpload)).unwrap();
    let upload = |plane: &ControlPlane| {
        let encryption = encryption(PageFormat::Native);
        plane.upload_database("draft", out.as_path(), UploadOptions::default().encryption(encryption.clone()))
    };
    assert_eq!(refused(upload(&faulty)).0, ErrorKind::DiskFull);
    assert_eq!((recorded(&fleet, "draft"), recorded(&fleet, "plain")), ((None, None), (None, None)));
    upload(&fleet.plane).unwrap();
    let salt = fs::read(file(&fleet, "draft")).unwrap()[72..88].to_vec();
    assert_eq!(recorded(&fleet, "draft"), (Some("native".into()), Some(salt)));
    fleet.create_sealed("turso", CIPHER, PageFormat::Turso);
    assert_eq!(recorded(&fleet, "turso"), (Some("turso".into()), None));
}

/// Fork and source have the same pages and the same salt.
#[test]
fn fork_under_the_same_key_is_indistinguishable_from_its_source() {
    for format in [PageFormat::Native, PageFormat::Turso] {
        let fleet = fleet("vault", format);
        let input = CreateDatabaseInput::fork("fork", "vault").with_encryption(encryption(format));
        fleet.plane.create_database(input).unwrap();
        fleet.unlock("fork", CIPHER).execute_batch("UPDATE t SET a = 'fork'").unwrap();
        assert_eq!((row(&fleet, "vault"), row(&fleet, "fork")), ("vault".into(), "fork".into()));
        put(&fleet, "fork", "vault");
        assert_eq!(row(&fleet, "vault"), "fork");
    }
}
