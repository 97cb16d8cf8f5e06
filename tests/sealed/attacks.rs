//! Attacks found in a security review: attached files, planted journals, keys in pragmas and requests.

use std::{fs, os::unix::fs::PermissionsExt};

use litefleet::{
    AttachOptions, Cipher, ConnectOptions, CreateDatabaseInput, Error, ErrorKind, PageFormat,
    RemoteEncryption,
};

use crate::{
    encryption::{NEEDLE, holds, key, with_key},
    support::{Fleet, refused},
};

#[test]
fn attach_by_path_is_given_no_key() {
    let fleet = Fleet::new();
    fleet.create_sealed("vault", Cipher::Aegis256, PageFormat::Native);
    fleet.create("plain");
    let vault = fleet.unlock("vault", Cipher::Aegis256);
    vault.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let path = fleet.plane.database_path("vault").unwrap();
    let plain = fleet.plane.connect("plain", ConnectOptions::default().unfenced()).unwrap();
    let unfenced = fleet.unlock_unfenced("vault", Cipher::Aegis256);
    for connection in [&plain, &vault, &unfenced] {
        assert!(connection.execute("ATTACH ?1 AS v", [path.to_str().unwrap()]).is_err());
    }
}

#[test]
fn planted_rollback_journal_is_refused() {
    let fleet = Fleet::new();
    fleet.create_sealed("vault", Cipher::Aegis256, PageFormat::Native);
    fleet.unlock("vault", Cipher::Aegis256).execute_batch("CREATE TABLE t(a)").unwrap();
    let data = fleet.plane.database_path("vault").unwrap();
    let before = fs::read(&data).unwrap();
    // A journal header that claims a database size of 50 pages, without any record.
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for word in [0_u32, 7, 50, 512, 4096] {
        journal.extend(word.to_be_bytes());
    }
    journal.resize(512, 0);
    let beside = data.with_file_name("data.db-journal");
    fs::write(&beside, journal).unwrap();
    let (kind, text) = refused(fleet.plane.connect("vault", with_key(key(Cipher::Aegis256))));
    assert!(kind == ErrorKind::Corrupt && text.contains("rollback journal"), "{kind}: {text}");
    assert!(fs::read(&data).unwrap() == before);
    fs::remove_file(beside).unwrap();
    fleet.unlock("vault", Cipher::Aegis256);
}

#[test]
fn vacuum_into_with_several_keys_writes_no_plaintext() {
    let fleet = Fleet::new();
    fleet.create_sealed("a", Cipher::Aegis256, PageFormat::Native);
    fleet.create_sealed("b", Cipher::Aegis128L, PageFormat::Native);
    let connection = fleet.unlock("a", Cipher::Aegis256);
    fleet
        .plane
        .attach(&connection, "b", "b", AttachOptions::default().encryption_key(key(Cipher::Aegis128L)))
        .unwrap();
    connection.execute_batch(&format!("CREATE TABLE b.t(a); INSERT INTO b.t VALUES ('{NEEDLE}')")).unwrap();
    for schema in ["main", "b"] {
        let copy = fleet.dir.path().join(format!("{schema}.db"));
        let error = connection.execute(&format!("VACUUM {schema} INTO ?1"), [copy.to_str().unwrap()]);
        let error = Error::from_sqlite(&connection, error.unwrap_err());
        assert!(!holds(fleet.dir.path(), NEEDLE), "{error}");
    }
}

#[test]
fn key_pragmas_fail_and_name_the_way_to_supply_keys() {
    const SECRET: &str = "q6urq6urq6urq6ur";
    let fleet = Fleet::new();
    fleet.create_sealed("vault", Cipher::Aegis256, PageFormat::Native);
    fleet.create("plain");
    let vault = fleet.unlock("vault", Cipher::Aegis256);
    vault.execute_batch("CREATE TABLE t(a)").unwrap();
    let now = litefleet::Timestamp::now();
    let (view, _) = fleet.plane.connect_at("vault", now, with_key(key(Cipher::Aegis256))).unwrap();
    // On a plain database, a key that is silently ignored would be mistaken for encryption.
    for connection in [&vault, &view, &fleet.connect("plain")] {
        for pragma in ["key", "rekey", "hexkey", "main.key", "cipher", "cipher_compatibility", "KDF_ITER"] {
            let error = connection.execute_batch(&format!("PRAGMA {pragma} = '{SECRET}'")).unwrap_err();
            let error = Error::from_sqlite(connection, error);
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Sql, "{pragma}: {text}");
            assert!(text.contains("encryption_key") && text.contains("--key-file"), "{pragma}: {text}");
            assert!(!format!("{error:?} {text}").contains(SECRET), "{pragma}: {error:?}");
        }
        // Programs use this query to detect SQLCipher.
        let mut statement = connection.prepare("PRAGMA cipher_version").unwrap();
        assert!(statement.query([]).unwrap().next().unwrap().is_none());
    }
}

#[test]
fn directory_of_encrypted_database_is_private() {
    let fleet = Fleet::new();
    fleet.create_sealed("vault", Cipher::Aegis256, PageFormat::Native);
    let mode = fs::metadata(fleet.database_dir("vault")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn error_of_invalid_request_omits_its_key() {
    let secret = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=";
    for body in [
        format!(r#"{{"name":"a","remote_encryption":"{secret}"}}"#),
        format!(
            r#"{{"name":"a","remote_encryption":{{"encryption_key":"{secret}","encryption_cipher":"{secret}"}}}}"#
        ),
        format!(
            r#"{{"name":"a","remote_encryption":{{"encryption_key":"{secret}!","encryption_cipher":"aegis256"}}}}"#
        ),
    ] {
        let error = CreateDatabaseInput::read(&mut serde_json::Deserializer::from_str(&body)).unwrap_err();
        assert!(!error.to_string().contains("q6ur"), "{error}");
    }
}

#[test]
fn vacuum_into_keeps_the_page_format() {
    for format in [PageFormat::Native, PageFormat::Turso] {
        let fleet = Fleet::new();
        fleet.create_sealed("vault", Cipher::Aegis256, format);
        let connection = fleet.unlock("vault", Cipher::Aegis256);
        connection.execute_batch("CREATE TABLE t(a)").unwrap();
        let copy = fleet.dir.path().join("copy.db");
        connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
        let magic: &[u8] = if format == PageFormat::Native { b"LFleet" } else { b"Turso" };
        assert!(fs::read(copy).unwrap().starts_with(magic), "{format}");
    }
}

#[test]
fn resealing_fork_names_the_damaged_page_of_its_source() {
    let fleet = Fleet::new();
    fleet.create_sealed("vault", Cipher::Aegis256, PageFormat::Native);
    fleet
        .unlock("vault", Cipher::Aegis256)
        .execute_batch("CREATE TABLE t AS SELECT zeroblob(50000) AS a")
        .unwrap();
    let data = fleet.plane.database_path("vault").unwrap();
    let mut bytes = fs::read(&data).unwrap();
    bytes[5 * 4096 + 17] ^= 1;
    fs::write(&data, bytes).unwrap();
    let encryption = RemoteEncryption::new(key(Cipher::Aegis128L), Cipher::Aegis128L).unwrap();
    let input = CreateDatabaseInput::fork("a", "vault").with_encryption(encryption);
    let answer = fleet.plane.create_database(input.with_source_key(key(Cipher::Aegis256)));
    let (kind, text) = refused(answer);
    assert!(kind == ErrorKind::Corrupt && text.contains("page 6 in"), "{kind}: {text}");
    fleet.assert_no_debris();
}
