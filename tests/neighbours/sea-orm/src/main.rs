//! `sea-orm` and the fleet share one SQLite.

#[path = "../../fleet.rs"]
mod fleet;

use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};

// LEASE: open the database through `Database::connect`, by the URI of a lease.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let fleet = fleet::Fleet::new();
    let own = fleet.connect().unwrap();
    own.execute_batch(fleet::TABLE).unwrap();
    own.execute_batch(fleet::ITEM).unwrap();

    let memory = Database::connect("sqlite::memory:").await.unwrap();
    let statement = Statement::from_string(DbBackend::Sqlite, fleet::VERSION);
    let row = memory.query_one_raw(statement).await.unwrap().unwrap();
    fleet.check(&row.try_get_by_index::<String>(0).unwrap(), 1);
}
