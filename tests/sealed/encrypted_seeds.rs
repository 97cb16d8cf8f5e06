//! Encrypted databases created from others: imported, forked, or resealed under another key or cipher, never in
//! plaintext on disk.

use std::{fs, io::Cursor, path::Path, sync::Arc};

use litefleet::{
    AttachOptions, Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, ErrorKind, PageFormat,
    RemoteEncryption, Seed, Upload, UploadOptions,
    rusqlite::Connection,
    testing::{DiskOp, FaultHook},
};

use crate::{
    encryption::{NEEDLE, another_key, formats, holds, key, with_key},
    support::{Fleet, assert_no_debris, contents, count, refused},
};

fn encryption(cipher: Cipher) -> RemoteEncryption {
    RemoteEncryption::new(key(cipher), cipher).unwrap()
}

/// Creates a plain file that contains the needle and reserves `reserved` bytes at the end of each page.
fn plain_file(path: &Path, page_size: u32, reserved: u8) {
    let make = Connection::open(path.with_extension("make")).unwrap();
    make.execute_batch(&format!(
        "PRAGMA page_size={page_size}; CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT); CREATE INDEX i ON t(word);
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 700)
         INSERT INTO t SELECT i, '{NEEDLE} ' || i FROM n;
         CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f SELECT word FROM t;"
    ))
    .unwrap();
    make.execute("VACUUM INTO ?1", [format!("file:{}?reserve={reserved}", path.display())]).unwrap();
}

/// A plane that searches the root for the needle before every disk operation.
fn plane_that_checks_for_plaintext(fleet: &Fleet) -> ControlPlane {
    let root = fleet.plane.root().to_owned();
    let hook: Arc<FaultHook> = Arc::new(move |step: DiskOp, path: &Path| {
        assert!(!holds(&root, NEEDLE), "before {step:?} {}", path.display());
        Ok(())
    });
    ControlPlane::builder().fault_hook(hook).open(fleet.plane.root()).unwrap()
}

#[test]
fn import_encrypts_a_plain_file() {
    for cipher in &[Cipher::ChaCha20Poly1305, Cipher::Aegis128X2, Cipher::Aegis256X4] {
        for (format, page_size, reserved) in [
            (PageFormat::Native, 4096, 0),
            (PageFormat::Native, 4096, cipher.reserved_bytes()),
            (PageFormat::Native, 1024, 8),
            (PageFormat::Native, 65536, 64),
            (PageFormat::Turso, 4096, 0),
            (PageFormat::Turso, 8192, cipher.reserved_bytes()),
        ] {
            if !formats(*cipher).contains(&format) {
                continue;
            }
            let fleet = Fleet::new();
            let file = fleet.dir.path().join("plain.sqlite");
            plain_file(&file, page_size, reserved);
            let expected = contents(&Connection::open(&file).unwrap());
            let plane = plane_that_checks_for_plaintext(&fleet);
            let encryption = encryption(*cipher).with_page_format(format);
            let input =
                |name: &str| CreateDatabaseInput::new(name, "default").with_encryption(encryption.clone());
            plane.import_database(input("path"), file.as_path()).unwrap();
            let bytes = fs::read(&file).unwrap();
            plane.import_database(input("stream"), Upload::Reader(&mut Cursor::new(&bytes))).unwrap();
            let draft = input("draft").with_seed(Seed::DatabaseUpload);
            plane.create_database(draft).unwrap();
            let (kind, _) =
                refused(plane.upload_database("draft", &mut Cursor::new(&bytes), UploadOptions::default()));
            assert_eq!(kind, ErrorKind::KeyRequired);
            plane
                .upload_database(
                    "draft",
                    file.as_path(),
                    UploadOptions::default()
                        .encryption(encryption.clone())
                        .progress(|_| std::ops::ControlFlow::Continue(())),
                )
                .unwrap();
            for name in ["path", "stream", "draft"] {
                let connection = plane.connect(name, with_key(key(*cipher))).unwrap();
                assert!(contents(&connection) == expected, "{name} {cipher} {format} {page_size} {reserved}");
                assert_eq!(
                    count(&connection, "SELECT page_size FROM pragma_page_size"),
                    i64::from(page_size)
                );
                assert_eq!(plane.get_database(name).unwrap().cipher, Some(*cipher));
                connection.execute_batch("INSERT INTO t(word) VALUES ('one more')").unwrap();
            }
            assert!(!holds(plane.root(), NEEDLE));
            assert_no_debris(&plane);
        }
    }
}

#[test]
fn import_encrypts_rows_in_the_wal() {
    let fleet = Fleet::new();
    let file = fleet.dir.path().join("live.sqlite");
    let live = Connection::open(&file).unwrap();
    live.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
    live.execute_batch(&format!("CREATE TABLE t(a); INSERT INTO t VALUES ('{NEEDLE}')")).unwrap();
    let input = CreateDatabaseInput::new("vault", "default").with_encryption(encryption(Cipher::Aegis256));
    plane_that_checks_for_plaintext(&fleet).import_database(input, file.as_path()).unwrap();
    let expected = contents(&live);
    assert!(contents(&fleet.unlock("vault", Cipher::Aegis256)) == expected);
}

#[test]
fn refused_import_leaves_nothing() {
    let fleet = Fleet::new();
    let plane = plane_that_checks_for_plaintext(&fleet);
    let file = fleet.dir.path().join("plain.sqlite");
    plain_file(&file, 4096, 0);
    let mut bytes = fs::read(&file).unwrap();
    let input = || CreateDatabaseInput::new("a", "default").with_encryption(encryption(Cipher::Aegis128X2));
    let refuse = |bytes: &[u8], kind: ErrorKind, says: &str| {
        let answer = plane.import_database(input(), Upload::Reader(&mut Cursor::new(bytes)));
        let (found, text) = refused(answer);
        assert!(found == kind && text.contains(says), "{found}: {text}");
        assert_no_debris(&plane);
    };
    refuse(b"", ErrorKind::Invalid, "is empty");
    refuse(b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;", ErrorKind::Invalid, "is a sqlite3 dump");
    refuse(&[7; 5000], ErrorKind::Invalid, "not a sqlite3 database");
    refuse(&bytes[..bytes.len() / 2], ErrorKind::Corrupt, "is truncated");
    let small = input().with_size_limit("8kb".parse().unwrap());
    let (kind, _) = refused(plane.import_database(small, file.as_path()));
    assert_eq!(kind, ErrorKind::TooLarge);
    for page in 2..6 {
        bytes[page * 4096 + 1..page * 4096 + 9].fill(0xff);
    }
    refuse(&bytes, ErrorKind::Corrupt, "is damaged");
    // An application-defined collation, which SQLite does not know here and cannot sort by.
    let odd = Connection::open(fleet.dir.path().join("odd.sqlite")).unwrap();
    odd.create_collation("mine", |a: &str, b: &str| b.cmp(a)).unwrap();
    odd.execute_batch(
        "CREATE TABLE t(a COLLATE mine); CREATE INDEX i ON t(a); INSERT INTO t VALUES (1), (2)",
    )
    .unwrap();
    let (kind, text) = refused(plane.import_database(input(), fleet.dir.path().join("odd.sqlite").as_path()));
    assert!(kind == ErrorKind::Unsupported && text.contains("32 reserved bytes"), "{kind}: {text}");
    assert!(text.contains("index i of table t") && !text.contains(['\n', '\\']), "{text:?}");
    assert_no_debris(&plane);
}

#[test]
fn fork_keeps_its_key_or_gets_another() {
    for from in [Cipher::Aes256Gcm, Cipher::Aegis128L, Cipher::Aegis256] {
        let fleet = Fleet::new();
        fleet.create_sealed("source", from, PageFormat::Native);
        let source = fleet.unlock("source", from);
        source
            .execute_batch(&format!(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT); CREATE INDEX i ON t(word);
                 WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                 INSERT INTO t SELECT i, '{NEEDLE} ' || i FROM n;"
            ))
            .unwrap();
        let expected = contents(&source);
        let plane = plane_that_checks_for_plaintext(&fleet);
        let fork = |name: &str| CreateDatabaseInput::fork(name, "source");

        let (kind, text) = refused(plane.create_database(fork("a")));
        assert!(kind == ErrorKind::KeyRequired && text.contains(from.as_str()), "{kind}: {text}");
        let wrong = RemoteEncryption::inherit_cipher(another_key(from));
        assert_eq!(refused(plane.create_database(fork("a").with_encryption(wrong))).0, ErrorKind::WrongKey);
        assert_no_debris(&plane);

        // Under the same key, pages are copied unchanged, and the cipher is that of the source.
        let same = RemoteEncryption::inherit_cipher(key(from));
        plane.create_database(fork("same").with_encryption(same)).unwrap();
        assert!(contents(&fleet.unlock("same", from)) == expected);
        for (at, to) in Cipher::ALL.iter().enumerate() {
            let name = format!("other-{at}");
            let encryption = RemoteEncryption::new(another_key(*to), *to).unwrap();
            let input = fork(&name).with_encryption(encryption).with_source_key(key(from));
            plane.create_database(input).unwrap();
            let connection = plane.connect(&name, with_key(another_key(*to))).unwrap();
            assert!(contents(&connection) == expected, "{from} to {to}");
            assert_eq!(refused(plane.connect(&name, with_key(key(*to)))).0, ErrorKind::WrongKey);
        }
        if from != Cipher::ChaCha20Poly1305 {
            let turso = RemoteEncryption::inherit_cipher(key(from)).with_page_format(PageFormat::Turso);
            plane.create_database(fork("turso").with_encryption(turso)).unwrap();
            assert!(contents(&fleet.unlock("turso", from)) == expected);
            assert!(fs::read(plane.database_path("turso").unwrap()).unwrap().starts_with(b"Turso"));
        }
        assert!(!holds(plane.root(), NEEDLE));
        assert_no_debris(&plane);
    }
}

/// A fork keeps the page format of its source, unless it asks for another.
#[test]
fn fork_refuses_cipher_unsupported_by_page_format() {
    let fleet = Fleet::new();
    let (from, to) = (Cipher::Aegis256, Cipher::ChaCha20Poly1305);
    fleet.create_sealed("source", from, PageFormat::Turso);
    fleet.unlock("source", from).execute_batch("CREATE TABLE t(a)").unwrap();
    let encryption = RemoteEncryption::new(another_key(to), to).unwrap();
    let fork = CreateDatabaseInput::fork("a", "source").with_source_key(key(from));
    let at = fork.clone().with_seed(Seed::database_at("source", litefleet::Timestamp::now()));
    for input in [fork.clone(), at] {
        let (kind, text) = refused(fleet.plane.create_database(input.with_encryption(encryption.clone())));
        assert_eq!(kind, ErrorKind::Invalid, "{text}");
        fleet.assert_no_debris();
    }
    let native = encryption.with_page_format(PageFormat::Native);
    fleet.plane.create_database(fork.with_encryption(native)).unwrap();
    assert_eq!(
        count(&fleet.plane.connect("a", with_key(another_key(to))).unwrap(), "SELECT count(*) FROM t"),
        0
    );
}

#[test]
fn fork_encrypts_a_plain_database() {
    let fleet = Fleet::new();
    fleet.create("plain");
    fleet.run("plain", "CREATE TABLE t(a); INSERT INTO t VALUES ('in the clear')");
    for cipher in Cipher::ALL {
        let input = CreateDatabaseInput::fork(cipher.as_str(), "plain").with_encryption(encryption(*cipher));
        fleet.plane.create_database(input).unwrap();
        assert!(contents(&fleet.unlock(cipher.as_str(), *cipher)) == contents(&fleet.connect("plain")));
        assert!(!holds(&fleet.database_dir(cipher.as_str()), "in the clear"));
    }
    fleet.assert_no_debris();
}

#[test]
fn import_of_encrypted_file_requires_its_key() {
    for cipher in Cipher::ALL {
        for format in formats(*cipher) {
            let fleet = Fleet::new();
            fleet.create_sealed("source", *cipher, format);
            let source = fleet.unlock("source", *cipher);
            source.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)").unwrap();
            let expected = contents(&source);
            // In use, with all rows in the WAL.
            let file = fleet.plane.database_path("source").unwrap();
            let input = |name: &str, cipher| {
                CreateDatabaseInput::new(name, "default").with_encryption(encryption(cipher))
            };
            fleet.plane.import_database(input("same", *cipher), file.as_path()).unwrap();
            assert!(contents(&fleet.unlock("same", *cipher)) == expected, "{cipher} {format}");
            let other = input("other", Cipher::Aegis256X4).with_source_key(key(*cipher));
            fleet.plane.import_database(other, file.as_path()).unwrap();
            assert!(contents(&fleet.unlock("other", Cipher::Aegis256X4)) == expected, "{cipher} {format}");

            let wrong = input("a", *cipher).with_source_key(another_key(*cipher));
            assert_eq!(refused(fleet.plane.import_database(wrong, file.as_path())).0, ErrorKind::WrongKey);
            let no_key = CreateDatabaseInput::new("a", "default");
            assert_eq!(
                refused(fleet.plane.import_database(no_key, file.as_path())).0,
                ErrorKind::KeyRequired
            );
            fleet.assert_no_debris();
        }
    }
}

/// SQLite then writes other pages of the new file before page 1.
#[test]
fn rewrite_larger_than_the_cache_is_correct() {
    let fleet = Fleet::new();
    let file = fleet.dir.path().join("plain.sqlite");
    let plain = Connection::open(&file).unwrap();
    plain
        .execute_batch(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, bytes BLOB);
             WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
             INSERT INTO t SELECT i, randomblob(1000) FROM n",
        )
        .unwrap();
    let expected = contents(&plain);
    let input = CreateDatabaseInput::new("vault", "default").with_encryption(encryption(Cipher::Aegis256));
    fleet.plane.import_database(input, file.as_path()).unwrap();
    let connection = fleet.unlock_unfenced("vault", Cipher::Aegis256);
    assert!(contents(&connection) == expected);
    let copy = fleet.dir.path().join("copy.db");
    connection.execute_batch("PRAGMA cache_size=5; PRAGMA cache_spill=1").unwrap();
    connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    connection.execute("ATTACH ?1 AS copy", [copy.to_str().unwrap()]).unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM t JOIN copy.t AS c USING (id, bytes)"), 6000);
    assert_eq!(
        connection.query_row("PRAGMA copy.integrity_check", [], |row| row.get::<_, String>(0)).unwrap(),
        "ok"
    );
}

#[test]
fn vacuum_into_and_attach_write_no_plaintext() {
    let fleet = Fleet::new();
    fleet.create_sealed("vault", Cipher::Aegis256X2, PageFormat::Native);
    fleet.create_sealed("other", Cipher::Aes128Gcm, PageFormat::Native);
    fleet.create("plain");
    let connection = fleet.unlock_unfenced("vault", Cipher::Aegis256X2);
    connection.execute_batch(&format!("CREATE TABLE t(a); INSERT INTO t VALUES ('{NEEDLE}')")).unwrap();
    let copy = fleet.dir.path().join("copy.db");
    connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    assert!(!holds(fleet.dir.path(), NEEDLE));
    // The copy is sealed under the same key, so this connection can read it.
    connection.execute("ATTACH ?1 AS copy", [copy.to_str().unwrap()]).unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM copy.t"), 1);
    connection.execute_batch("INSERT INTO copy.t VALUES (2)").unwrap();
    assert!(!holds(fleet.dir.path(), NEEDLE));
    // SQL creates no other file. A file without room for tags cannot be sealed, so it is not written.
    let new = fleet.dir.path().join("new.db");
    assert!(connection.execute("ATTACH ?1 AS new", [new.to_str().unwrap()]).is_err());
    fs::write(&new, "").unwrap();
    connection.execute("ATTACH ?1 AS new", [new.to_str().unwrap()]).unwrap();
    assert!(connection.execute_batch("CREATE TABLE new.t AS SELECT * FROM main.t").is_err());
    assert!(!holds(fleet.dir.path(), NEEDLE));

    // Each database has its own key.
    fleet
        .plane
        .attach(
            &connection,
            "other",
            "other",
            AttachOptions::default().encryption_key(key(Cipher::Aes128Gcm)),
        )
        .unwrap();
    connection.execute_batch("CREATE TABLE other.t AS SELECT * FROM main.t").unwrap();
    assert_eq!(count(&fleet.unlock("other", Cipher::Aes128Gcm), "SELECT count(*) FROM t"), 1);
    assert!(!holds(fleet.dir.path(), NEEDLE));
    fleet.plane.attach(&connection, "plain", "plain", AttachOptions::default()).unwrap();
    let answer = fleet.plane.attach(&connection, "vault", "again", AttachOptions::default());
    assert_eq!(refused(answer).0, ErrorKind::KeyRequired);
    let plain = fleet.plane.connect("plain", ConnectOptions::default()).unwrap();
    let answer = fleet.plane.attach(
        &plain,
        "vault",
        "v",
        AttachOptions::default().encryption_key(key(Cipher::Aegis256X2)),
    );
    let (kind, text) = refused(answer);
    assert!(kind == ErrorKind::Invalid && text.contains("attach the plain one"), "{text}");
}
