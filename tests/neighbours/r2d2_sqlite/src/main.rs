//! A pool of connections to the fleet's database, beside a pool of `r2d2_sqlite`.

#[path = "../../fleet.rs"]
mod fleet;

use std::{io, sync::Arc};

use fleet::Fleet;
use litefleet::rusqlite::Connection;
use r2d2::{ManageConnection, Pool};
use r2d2_sqlite::SqliteConnectionManager;

/// Opens connections through the fleet. `SqliteConnectionManager`, which opens by path, checks them.
struct Connections(Arc<Fleet>, SqliteConnectionManager);

impl ManageConnection for Connections {
    type Connection = Connection;
    type Error = io::Error;

    fn connect(&self) -> Result<Connection, Self::Error> {
        self.0.connect().map_err(io::Error::other)
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), Self::Error> {
        self.1.is_valid(connection).map_err(io::Error::other)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        self.1.has_broken(connection)
    }
}

// LEASE: open the database through `SqliteConnectionManager::file` and the URI of a lease.
fn main() {
    let fleet = Arc::new(Fleet::new());
    let connections = Connections(Arc::clone(&fleet), SqliteConnectionManager::memory());
    let pool = Pool::builder().max_size(2).test_on_check_out(true).build(connections).unwrap();
    let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
    first.execute_batch(fleet::TABLE).unwrap();
    second.execute_batch(fleet::ITEM).unwrap();

    let memory = Pool::builder().max_size(1).build(SqliteConnectionManager::memory()).unwrap();
    let version: String = memory.get().unwrap().query_row(fleet::VERSION, [], |row| row.get(0)).unwrap();
    fleet.check(&version, 1);
}
