//! Imports of arbitrary SQLite files, as plain and encrypted databases: each is refused or imported completely.

#![no_main]

use std::{io::Cursor, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, EncryptionKey, RemoteEncryption, Upload,
};

/// The plane and its directory.
static PLANE: LazyLock<(ControlPlane, tempfile::TempDir)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let plane = ControlPlane::open(dir.path()).expect("a root");
    plane.create_group("default").expect("a group");
    (plane, dir)
});

/// Imports a file and, if it is accepted, checks the database.
fn import(data: &[u8], encryption: Option<&RemoteEncryption>) {
    let plane = &PLANE.0;
    let mut input = CreateDatabaseInput::new("a", "default");
    let mut options = ConnectOptions::default();
    if let Some(encryption) = encryption {
        input = input.with_encryption(encryption.clone());
        options = options.encryption_key(encryption.key().clone());
    }
    // Most inputs are not databases and are refused.
    if plane.import_database(input, Upload::Reader(&mut Cursor::new(data))).is_err() {
        return;
    }
    let connection = plane.connect("a", options.clone()).expect("an imported database can be opened");
    // Rows may violate CHECK constraints, which an import does not evaluate.
    connection.execute_batch("PRAGMA ignore_check_constraints=ON").expect("the pragma succeeds");
    let sound = connection.query_row("PRAGMA quick_check", [], |row| row.get::<_, String>(0));
    // The check fails if the schema uses an unknown collation or function.
    assert!(sound.as_ref().map_or(true, |sound| sound == "ok"), "{sound:?}");
    connection.execute_batch("CREATE TABLE IF NOT EXISTS added_here(a)").ok();
    drop(connection);
    plane.destroy_database("a").expect("an imported database can be destroyed");
}

fuzz_target!(|data: &[u8]| {
    let key = EncryptionKey::from_bytes(&[7; 32]).expect("a key of that size");
    let encryption = RemoteEncryption::new(key, Cipher::Aegis256).expect("a key of that size");
    import(data, None);
    import(data, Some(&encryption));
});
