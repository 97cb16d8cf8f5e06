//! Shared by the tests: a fleet on the observed disk, and helpers.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, EncryptionKey, PageFormat, RemoteEncryption,
    rusqlite::{self, Batch, Connection, fallible_iterator::FallibleIterator},
};
use tempfile::TempDir;

use crate::fault_vfs;

/// A key that is easy to recognize on disk.
const KEY: &[u8; 32] = b"this-is-the-key-of-these-tests-!";

pub(crate) fn key(cipher: Cipher) -> EncryptionKey {
    EncryptionKey::from_bytes(key_bytes(cipher)).unwrap()
}

pub(crate) fn key_bytes(cipher: Cipher) -> &'static [u8] {
    &KEY[..cipher.key_len()]
}

/// Unnamed files cannot be attributed to a database, so a test that observes all of them excludes other tests while
/// it runs.
static TURNS: RwLock<()> = RwLock::new(());

pub(crate) fn exclusive_turn() -> RwLockWriteGuard<'static, ()> {
    TURNS.write().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn shared_turn() -> RwLockReadGuard<'static, ()> {
    TURNS.read().unwrap_or_else(PoisonError::into_inner)
}

/// A plane with a group `default` and a database `vault`, in a temporary directory.
pub(crate) struct Fleet {
    pub(crate) plane: ControlPlane,
    pub(crate) dir: TempDir,
    pub(crate) cipher: Option<Cipher>,
}

impl Fleet {
    /// Creates the database, encrypted under the cipher, or plain.
    pub(crate) fn new(cipher: Option<Cipher>, format: PageFormat) -> Self {
        fault_vfs::install();
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::open(dir.path().join("root")).unwrap();
        plane.create_group("default").unwrap();
        let mut input = CreateDatabaseInput::new("vault", "default");
        if let Some(cipher) = cipher {
            let encryption = RemoteEncryption::new(key(cipher), cipher).unwrap().with_page_format(format);
            input = input.with_encryption(encryption);
        }
        plane.create_database(input).unwrap();
        Self { plane, dir, cipher }
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        match self.cipher {
            Some(cipher) => ConnectOptions::default().encryption_key(key(cipher)),
            None => ConnectOptions::default(),
        }
    }

    /// Creates a second database that accepts the files of the first: a fork has the salt of its source.
    pub(crate) fn fork(&self, name: &str) {
        let mut input = CreateDatabaseInput::fork(name, "vault");
        if let Some(cipher) = self.cipher {
            input = input.with_encryption(RemoteEncryption::new(key(cipher), cipher).unwrap());
        }
        self.plane.create_database(input).unwrap();
    }

    pub(crate) fn connect(&self) -> Connection {
        self.plane.connect("vault", self.options()).unwrap()
    }

    /// A connection whose SQL may attach files by path.
    pub(crate) fn connect_unfenced(&self) -> Connection {
        self.plane.connect("vault", self.options().unfenced()).unwrap()
    }

    /// The directory of the database.
    pub(crate) fn database_dir(&self) -> PathBuf {
        self.database_dir_of("vault")
    }

    pub(crate) fn database_dir_of(&self, name: &str) -> PathBuf {
        self.plane.database_path(name).unwrap().parent().unwrap().to_owned()
    }
}

/// Runs statements to completion, and discards their rows.
pub(crate) fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    let mut batch = Batch::new(connection, sql);
    while let Some(mut statement) = batch.next()? {
        let mut rows = statement.raw_query();
        while rows.next()?.is_some() {}
    }
    Ok(())
}

pub(crate) fn query<T: rusqlite::types::FromSql>(connection: &Connection, sql: &str) -> rusqlite::Result<T> {
    connection.query_row(sql, [], |row| row.get(0))
}

/// Copies the current files of a database from another process: closing a descriptor here would release this
/// process's locks.
pub(crate) fn copy_files(from: &Path, to: &Path, names: &[&str]) {
    fs::create_dir_all(to).unwrap();
    for name in names {
        let (from, to) = (from.join(name), to.join(name));
        if from.exists() {
            assert!(std::process::Command::new("cp").arg(from).arg(to).status().unwrap().success());
        }
    }
}
