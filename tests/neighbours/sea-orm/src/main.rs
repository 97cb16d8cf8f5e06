//! `sea-orm` opens a database of the fleet under a lease, through a pool of its sqlx.

#[path = "../../fleet.rs"]
mod fleet;

use sea_orm::{
    ConnectionTrait, DbBackend, SqlxSqliteConnector, Statement, TransactionTrait,
    sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let fleet = fleet::Fleet::new();
    let lease = fleet.lease();
    // `Database::connect` accepts no parameters that sqlx does not know.
    let options = SqliteConnectOptions::new().filename(lease.uri());
    let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options).await.unwrap();
    let database = SqlxSqliteConnector::from_sqlx_sqlite_pool(pool);

    database.execute_unprepared(fleet::TABLE).await.unwrap();
    let transaction = database.begin().await.unwrap();
    transaction.execute_unprepared(fleet::ITEM).await.unwrap();
    transaction.commit().await.unwrap();

    let foreign = format!("ATTACH '{}' AS x", fleet.foreign_file());
    database.execute_unprepared(&foreign).await.unwrap_err();
    fleet.block_writes(true);
    database.execute_unprepared(fleet::ITEM).await.unwrap_err();
    fleet.block_writes(false);

    let statement = Statement::from_string(DbBackend::Sqlite, fleet::VERSION);
    let row = database.query_one_raw(statement).await.unwrap().unwrap();
    fleet.check(&row.try_get_by_index::<String>(0).unwrap(), 1);
    fleet.check_history(2);
}
