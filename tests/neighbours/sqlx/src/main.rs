//! `sqlx` and the fleet share one SQLite.

#[path = "../../fleet.rs"]
mod fleet;

use sqlx::{Connection, SqliteConnection};

// LEASE: open the database through `SqliteConnection::connect` and `SqlitePool`, by the URI of a lease.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let fleet = fleet::Fleet::new();
    let own = fleet.connect().unwrap();
    own.execute_batch(fleet::TABLE).unwrap();
    own.execute_batch(fleet::ITEM).unwrap();

    let mut memory = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let version: String = sqlx::query_scalar(fleet::VERSION).fetch_one(&mut memory).await.unwrap();
    fleet.check(&version, 1);
}
