//! litefleet: plain, with history, sealed, and with both.

#[path = "../driver/mod.rs"]
mod driver;
#[path = "../sqlite.rs"]
mod sqlite;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use driver::{Outcome, Peer};
use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, EncryptionKey,
    MaintainOptions, RemoteEncryption, Retention, rusqlite,
};
use sqlite::Sqlite;

/// As long as the keys of the other peers.
const CIPHER: Cipher = Cipher::Aegis256X2;
const GROUP: &str = "default";

struct Fleet {
    plane: ControlPlane,
    encryption: Option<RemoteEncryption>,
    window: Retention,
}

impl Fleet {
    fn input(&self, name: &str) -> CreateDatabaseInput {
        self.encrypted(CreateDatabaseInput::new(name, GROUP))
    }

    fn encrypted(&self, input: CreateDatabaseInput) -> CreateDatabaseInput {
        match &self.encryption {
            Some(encryption) => input.with_encryption(encryption.clone()),
            None => input,
        }
    }
}

impl Peer for Fleet {
    type Connection = Sqlite;

    fn start(dir: &Path, variant: &str) -> Outcome<Self> {
        let (sealed, window) = match variant {
            "litefleet" => (false, "off"),
            "litefleet-history" => (false, "1d"),
            "litefleet-sealed" => (true, "off"),
            "litefleet-sealed-history" => (true, "1d"),
            variant => return Err(format!("unknown variant: {variant}").into()),
        };
        let encryption = match sealed {
            true => Some(RemoteEncryption::new(EncryptionKey::from_bytes(&[0x2d; 32])?, CIPHER)?),
            false => None,
        };
        Ok(Self { plane: ControlPlane::open(dir.join("fleet"))?, encryption, window: window.parse()? })
    }

    fn create(&self, name: &str) -> Outcome<()> {
        if self.plane.list_groups()?.is_empty() {
            self.plane.create_group(GROUP)?;
        }
        self.plane.create_database(self.input(name))?;
        self.plane.configure_database(name, DatabaseChanges::default().history_window(self.window))?;
        Ok(())
    }

    fn open(&self, name: &str) -> Outcome<Sqlite> {
        let mut options = ConnectOptions::default();
        if let Some(encryption) = &self.encryption {
            options = options.encryption_key(encryption.key().clone());
        }
        Ok(Sqlite(self.plane.connect(name, options)?))
    }

    fn open_file(&self, path: &Path) -> Outcome<Sqlite> {
        self.plane.import_database(self.input("opened"), path)?;
        self.open("opened")
    }

    fn path(&self, name: &str) -> Outcome<PathBuf> {
        Ok(self.plane.database_path(name)?)
    }

    fn fork(&self, name: &str, copy: &str) -> Outcome<bool> {
        self.plane.create_database(self.encrypted(CreateDatabaseInput::fork(copy, name)))?;
        Ok(true)
    }

    fn restore(&self, name: &str, copy: &str, instant: i64) -> Outcome<bool> {
        if self.window.seconds() == 0 {
            return Ok(false);
        }
        let instant = UNIX_EPOCH + Duration::from_nanos(instant.cast_unsigned());
        self.plane.create_database(self.encrypted(CreateDatabaseInput::fork(copy, name).at(instant)))?;
        Ok(true)
    }

    fn maintained_history(&self, name: &str) -> Outcome<Option<u64>> {
        if self.window.seconds() == 0 {
            return Ok(None);
        }
        self.plane.maintain_database(name, MaintainOptions::default())?;
        Ok(Some(self.plane.history_size(name)?))
    }
}

fn main() -> ExitCode {
    driver::main::<Fleet>()
}
