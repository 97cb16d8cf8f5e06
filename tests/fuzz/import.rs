//! SQLite files from outside: taken whole or refused, as a plain and as an encrypted database.

#![no_main]

use std::{io::Cursor, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, EncryptionKey, RemoteEncryption, Upload,
};

/// The plane, and the directory that it is in.
static PLANE: LazyLock<(ControlPlane, tempfile::TempDir)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let plane = ControlPlane::open(dir.path()).expect("a root");
    plane.create_group("default").expect("a group");
    (plane, dir)
});

/// Takes a file in, and looks at what it has become.
fn import(data: &[u8], encryption: Option<&RemoteEncryption>) {
    let plane = &PLANE.0;
    let mut input = CreateDatabaseInput::new("a", "default");
    let mut options = ConnectOptions::default();
    if let Some(encryption) = encryption {
        input = input.with_encryption(encryption.clone());
        options = options.encryption_key(encryption.key().clone());
    }
    // Most are no databases, and are refused.
    if plane.import_database(input, Upload::Reader(&mut Cursor::new(data))).is_err() {
        return;
    }
    let connection = plane.connect("a", &options).expect("what was taken in can be opened");
    // Rows may violate a CHECK constraint: an import evaluates none.
    connection.execute_batch("PRAGMA ignore_check_constraints=ON").expect("a switch of the connection");
    let sound = connection.query_row("PRAGMA quick_check", [], |row| row.get::<_, String>(0));
    // It is an error where a collation or a function of another program is not known here.
    assert!(sound.as_ref().map_or(true, |sound| sound == "ok"), "{sound:?}");
    connection.execute_batch("CREATE TABLE IF NOT EXISTS added_here(a)").ok();
    drop(connection);
    plane.destroy_database("a").expect("what was taken in can be destroyed");
}

fuzz_target!(|data: &[u8]| {
    let key = EncryptionKey::from_bytes(&[7; 32]).expect("a key of that size");
    let encryption = RemoteEncryption::new(key, Cipher::Aegis256).expect("a key of that size");
    import(data, None);
    import(data, Some(&encryption));
});
