//! The side of litefleet in each of these programs: a fleet with one database.

#![allow(dead_code, reason = "not every program uses all of it")]

use litefleet::{ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, ErrorKind, Lease, rusqlite::Connection};

pub struct Fleet {
    plane: ControlPlane,
    dir: tempfile::TempDir,
}

impl Fleet {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::open(dir.path().join("fleet")).unwrap();
        plane.create_group("default").unwrap();
        plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
        Self { plane, dir }
    }

    /// A connection to the database, for a neighbour that takes one.
    pub fn connect(&self) -> litefleet::Result<Connection> {
        self.plane.connect("orders", ConnectOptions::default())
    }

    /// A lease of the database, for a neighbour that opens it by a URI.
    pub fn lease(&self) -> Lease {
        self.plane.lease("orders", ConnectOptions::default()).unwrap()
    }

    /// The path of another file, which SQL of a leased connection must not attach.
    pub fn foreign_file(&self) -> String {
        let path = self.dir.path().join("foreign.db");
        Connection::open(&path).unwrap().execute_batch(TABLE).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn block_writes(&self, block: bool) {
        self.plane.configure_database("orders", DatabaseChanges::default().block_writes(block)).unwrap();
    }

    /// Checks that a neighbour reports blocked writes by their extended result code.
    pub fn check_blocked(&self, code: i32) {
        assert_eq!(ErrorKind::from_sqlite_code(code), Some(ErrorKind::Blocked), "{code}");
    }

    /// Checks that each of `commits` commits is a recovery point.
    pub fn check_history(&self, commits: usize) {
        assert_eq!(self.plane.points("orders", ..).unwrap().points.len(), commits);
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
