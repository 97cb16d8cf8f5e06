//! `sqlx` opens a database of the fleet under a lease, by a connection and by a pool.

#[path = "../../fleet.rs"]
mod fleet;

use sqlx::{
    ConnectOptions, Connection, Error, Row,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

/// sqlx formats SQLite's extended result code as a decimal number.
fn code(error: &Error) -> i32 {
    error.as_database_error().unwrap().code().unwrap().parse().unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let fleet = fleet::Fleet::new();
    let lease = fleet.lease();
    // `SqliteConnectOptions::from_str` accepts no parameters that sqlx does not know.
    let options = SqliteConnectOptions::new().filename(lease.uri());

    let mut one = options.connect().await.unwrap();
    sqlx::raw_sql(fleet::TABLE).execute(&mut one).await.unwrap();
    one.close().await.unwrap();

    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options.clone()).await.unwrap();
    for _ in 0..3 {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("INSERT INTO item VALUES (?)").bind("one").execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    }
    let mut undone = pool.begin().await.unwrap();
    sqlx::raw_sql(fleet::ITEM).execute(&mut *undone).await.unwrap();
    undone.rollback().await.unwrap();

    let foreign = format!("ATTACH '{}' AS x", fleet.foreign_file());
    sqlx::raw_sql(&*foreign.leak()).execute(&pool).await.unwrap_err();
    fleet.block_writes(true);
    fleet.check_blocked(code(&sqlx::raw_sql(fleet::ITEM).execute(&pool).await.unwrap_err()));
    fleet.block_writes(false);

    let row = sqlx::query(fleet::VERSION).fetch_one(&pool).await.unwrap();
    fleet.check(row.get(0), 3);
    fleet.check_history(4);
    // Open connections outlive the lease; new ones do not open.
    let mut kept = pool.acquire().await.unwrap();
    drop(lease);
    sqlx::raw_sql(fleet::ITEM).execute(&mut *kept).await.unwrap();
    options.connect().await.unwrap_err();
}
