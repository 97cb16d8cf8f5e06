//! The side of litefleet in each of these programs: a fleet with one database.

use litefleet::{ConnectOptions, ControlPlane, CreateDatabaseInput, rusqlite::Connection};

pub struct Fleet {
    plane: ControlPlane,
    _dir: tempfile::TempDir,
}

impl Fleet {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::open(dir.path().join("fleet")).unwrap();
        plane.create_group("default").unwrap();
        plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
        Self { plane, _dir: dir }
    }

    /// A connection to the database, for a neighbour that takes one.
    pub fn connect(&self) -> litefleet::Result<Connection> {
        self.plane.connect("orders", ConnectOptions::default())
    }

    /// Checks that this process contains the SQLite that a neighbour reports, and that the database has `items` rows.
    pub fn check(&self, sqlite_version: &str, items: i64) {
        assert_eq!(sqlite_version, litefleet::rusqlite::version());
        let connection = self.connect().unwrap();
        let count: i64 = connection.query_row("SELECT count(*) FROM item", [], |row| row.get(0)).unwrap();
        assert_eq!(count, items);
    }
}

pub const TABLE: &str = "CREATE TABLE item(name TEXT NOT NULL)";
pub const ITEM: &str = "INSERT INTO item VALUES ('one')";
pub const VERSION: &str = "SELECT sqlite_version()";
