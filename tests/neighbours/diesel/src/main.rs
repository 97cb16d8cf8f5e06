//! `diesel` and the fleet share one SQLite.

#[path = "../../fleet.rs"]
mod fleet;

use diesel::{Connection, RunQueryDsl, SqliteConnection, dsl::sql, sql_types::Text};

// LEASE: open the database through `SqliteConnection::establish`, by the URI of a lease.
fn main() {
    let fleet = fleet::Fleet::new();
    let own = fleet.connect().unwrap();
    own.execute_batch(fleet::TABLE).unwrap();
    own.execute_batch(fleet::ITEM).unwrap();

    let mut memory = SqliteConnection::establish(":memory:").unwrap();
    let version: String =
        diesel::select(sql::<Text>(&format!("({})", fleet::VERSION))).get_result(&mut memory).unwrap();
    fleet.check(&version, 1);
}
