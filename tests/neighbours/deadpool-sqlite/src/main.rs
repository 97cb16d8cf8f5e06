//! A pool of `deadpool-sqlite`, whose connections are to a database of the fleet under a lease.

#[path = "../../fleet.rs"]
mod fleet;

use deadpool_sqlite::{Config, Runtime};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let fleet = fleet::Fleet::new();
    let lease = fleet.lease();
    let pool = Config::new(lease.uri()).create_pool(Runtime::Tokio1).unwrap();
    let run = |sql: String| {
        let pool = pool.clone();
        async move {
            pool.get().await.unwrap().interact(move |connection| connection.execute_batch(&sql)).await.unwrap()
        }
    };
    run(fleet::TABLE.into()).await.unwrap();
    run(fleet::ITEM.into()).await.unwrap();

    run(format!("ATTACH '{}' AS x", fleet.foreign_file())).await.unwrap_err();
    fleet.block_writes(true);
    let blocked = run(fleet::ITEM.into()).await.unwrap_err();
    fleet.check_blocked(blocked.sqlite_error().unwrap().extended_code);
    fleet.block_writes(false);

    let connection = pool.get().await.unwrap();
    let version = connection.interact(|own| own.query_row(fleet::VERSION, [], |row| row.get::<_, String>(0)));
    fleet.check(&version.await.unwrap().unwrap(), 1);
    fleet.check_history(2);
}
