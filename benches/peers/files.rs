//! A peer whose databases are files in one directory, opened through `rusqlite` with statements of its own.

use std::path::{Path, PathBuf};

use crate::driver::{Connection as _, Outcome, Peer};
use crate::rusqlite;
use crate::sqlite::Sqlite;

pub struct Files {
    pub dir: PathBuf,
    /// Runs on each new connection before anything else: the key.
    pub key: &'static str,
    /// Runs on each new connection after that.
    pub settings: &'static str,
}

impl Files {
    /// Files in `dir` with the settings that a litefleet connection has.
    pub fn new(dir: &Path, key: &'static str) -> Self {
        Self { dir: dir.to_owned(), key, settings: "PRAGMA foreign_keys=ON; PRAGMA synchronous=NORMAL" }
    }
}

impl Peer for Files {
    type Connection = Sqlite;

    fn start(dir: &Path, variant: &str) -> Outcome<Self> {
        crate::configure(dir, variant)
    }

    fn create(&self, name: &str) -> Outcome<()> {
        let mut connection = Sqlite(rusqlite::Connection::open(self.path(name)?)?);
        connection.batch(self.key)?;
        connection.batch("PRAGMA page_size=4096; PRAGMA journal_mode=WAL")
    }

    fn open(&self, name: &str) -> Outcome<Sqlite> {
        self.open_file(&self.path(name)?)
    }

    fn open_file(&self, path: &Path) -> Outcome<Sqlite> {
        let mut connection = Sqlite(rusqlite::Connection::open(path)?);
        connection.batch(self.key)?;
        connection.batch(self.settings)?;
        Ok(connection)
    }

    fn path(&self, name: &str) -> Outcome<PathBuf> {
        Ok(self.dir.join(name).with_extension("db"))
    }
}
