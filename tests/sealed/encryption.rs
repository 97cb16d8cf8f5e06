//! Helpers for encrypted databases.

use std::path::{Path, PathBuf};

use litefleet::{
    Cipher, ConnectOptions, CreateDatabaseInput, EncryptionKey, PageFormat, RemoteEncryption,
    rusqlite::Connection,
};

use crate::support::Fleet;

/// A text that is stored in rows and must not occur on disk.
pub(crate) const NEEDLE: &str = "needle-7f3a-in-the-clear";

/// The key of the right length for a cipher; always the same.
pub(crate) fn key(cipher: Cipher) -> EncryptionKey {
    EncryptionKey::from_bytes(&vec![0x5a; cipher.key_len()]).unwrap()
}

pub(crate) fn another_key(cipher: Cipher) -> EncryptionKey {
    EncryptionKey::from_bytes(&vec![0xa5; cipher.key_len()]).unwrap()
}

pub(crate) fn with_key(key: EncryptionKey) -> ConnectOptions {
    ConnectOptions::default().encryption_key(key)
}

/// The page formats that support a cipher.
pub(crate) fn formats(cipher: Cipher) -> Vec<PageFormat> {
    let mut formats = vec![PageFormat::Native];
    if cipher != Cipher::ChaCha20Poly1305 {
        formats.push(PageFormat::Turso);
    }
    formats
}

impl Fleet {
    pub(crate) fn create_sealed(&self, name: &str, cipher: Cipher, format: PageFormat) {
        let encryption = RemoteEncryption::new(key(cipher), cipher).unwrap().with_page_format(format);
        let input = CreateDatabaseInput::new(name, "default").with_encryption(encryption);
        self.plane.create_database(input).unwrap();
    }

    pub(crate) fn unlock(&self, name: &str, cipher: Cipher) -> Connection {
        self.plane.connect(name, with_key(key(cipher))).unwrap()
    }

    pub(crate) fn unlock_unfenced(&self, name: &str, cipher: Cipher) -> Connection {
        self.plane.connect(name, with_key(key(cipher)).unfenced()).unwrap()
    }

    pub(crate) fn database_dir(&self, name: &str) -> PathBuf {
        self.plane.database_path(name).unwrap().parent().unwrap().to_owned()
    }
}

/// Whether any file below a directory contains `needle`.
pub(crate) fn holds(dir: &Path, needle: &str) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        let bytes = std::fs::read(&path).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}

/// Copies the current files of a database, as a crash would leave them if every write had reached the disk.
pub(crate) fn copy_files(from: &Path, to: &Path, names: &[&str]) {
    std::fs::create_dir_all(to).unwrap();
    for name in names {
        // In another process, because closing a descriptor here would release SQLite's locks.
        let (from, to) = (from.join(name), to.join(name));
        if from.exists() {
            assert!(std::process::Command::new("cp").arg(from).arg(to).status().unwrap().success());
        }
    }
}
